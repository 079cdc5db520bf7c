"""Make examples, each with a name, of what is to be predicted: files, folders, patterns, tables, arrays, lists."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from tfkit.data.folders import IMAGES, TEXTS, files_below, splits_of
from tfkit.data.groups import text_digest
from tfkit.data.image_files import darkness
from tfkit.data.labels import LabelCleaner, split_labels
from tfkit.data.memory import as_array, from_dataset
from tfkit.data.pixels import as_pixels
from tfkit.data.records import is_records
from tfkit.data.splits import Skipped, example_digest, listed, no_such_path
from tfkit.data.tables import Row, Table, choose_columns, of_frame, open_table, read_rows, with_joined_columns
from tfkit.data.text_decoding import TABLE_ENDINGS, Cleaner, packed_ending, read_document
from tfkit.environment import files
from tfkit.errors import DataError
from tfkit.run import Run
from tfkit.tasks import CLASSES, Classes


@dataclass(slots=True)
class Example:
    """One image, text or row of numbers.

    Attributes:
      name: the path of a file, "mails.csv:17", or the place in what was given.
      value: the Path of an image, pixels uint8 or uint16 [h, w, c], a str, or numbers float32.
      truth: its class, where that is known.
      error: why it cannot be read; empty where it can.
      language: of a row of a table that says it; else empty.
    """

    name: str
    value: Any
    truth: str | None = None
    error: str = ""
    language: str = ""


class Data(NamedTuple):
    """Hold what was given, to be read once."""

    examples: Iterable[Example]
    """A list; of texts an iterator: a table may be larger than the memory."""

    labelled: bool = False
    """True where the true classes of some examples at least are known."""

    notes: Sequence[str] = ()
    """Assumptions, a sentence each; of texts complete when all are read."""


class Options(NamedTuple):
    """Say how the data are read."""

    class_names: Sequence[str]
    task: Classes = CLASSES
    text_column: str | None = None
    label_column: str | None = None
    image_column: str | None = None

    labels: bool = False
    """True where subfolders, or a column, are the true classes; else only where all are named like classes."""

    own_columns: Mapping[str, str | None] = MappingProxyType({})
    """Settings and columns of the run's own data, which hold where a table has them too."""

    def label(self, text: str | None) -> Any:
        """Return the label that a text says, as `Splits` have it; None where it is none of the run's."""
        return self.task.read(text, self.class_names, split_labels)


def open_data(data: Any, *, shape: Sequence[int], options: Options) -> Data:
    """Find out what was given, and refuse what it cannot be; no file but the head of a table is read yet.

    Args:
      data: see `tfkit.Run.predict`.
      shape: of one example in training: [] of a text, [s, s, 3] of an image, else of a row of numbers.
      options: how it is read.

    Raises:
      DataError: it is of another kind than the run was trained on, not there, or empty.
    """
    if len(shape) not in (0, 3):
        return Data(_from_rows(data, shape))
    if hasattr(data, "columns"):
        return _from_tables([of_frame(data)], options, is_image=bool(shape))
    data = data.numpy() if hasattr(data, "numpy") else data  # a tensor
    data = from_dataset(data) if hasattr(data, "element_spec") else data
    is_named = isinstance(data, Mapping) or not isinstance(data, Iterable)
    items: list[Any] = [Path(data)] if isinstance(data, str | Path) else [] if is_named else [*data]
    if not items and not is_named:
        raise DataError("There is nothing to predict: what was given is empty.")
    if items and all(isinstance(item, (str, Path) if shape else Path) for item in items):
        paths = [path for item in items for path in _expand(item, texts=not shape)]
        return _from_files(paths, options, is_image=bool(shape))
    if shape:
        examples = _from_arrays(data if isinstance(data, np.ndarray) else [*map(as_array, items)])
        return Data(
            examples,
            notes=[*darkness([example.value for example in examples if example.value.dtype == np.uint8])],
        )
    texts = ["" if pd.api.types.is_scalar(item) and pd.isna(item) else item for item in items]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise DataError("The run was trained on texts: give a list of strings, a DataFrame, tables or files.")
    refuse_names(texts)
    cleaner = Cleaner()
    names = data.index if isinstance(data, pd.Series) else range(len(texts))
    return Data(_to_example(str(name), cleaner(text)) for name, text in zip(names, texts, strict=True))


def refuse_names(texts: Sequence[str]) -> None:
    """Refuse texts all of which are names of files: what was meant is what is in them."""
    if all(map(os.path.isfile, texts)):  # which answers no where a text could be no name
        raise DataError(
            f"{texts[0]!r} is the name of a file, and a str is a text here: for what is in it give"
            f" pathlib.Path({texts[0]!r})."
        )


def in_data_of(run: Run, paths: Iterable[Path], *, test: bool) -> list[Path]:
    """Return those of the paths that are, are in, or hold the data of a run; its folder test/ counts with `test`."""
    config, data = run.config, run.provenance.get("data", {})
    # A config has whole paths; an origin is from the folder on in which the run was made.
    source = Path(str(config.get("data_dir") or config.get("data_file") or data.get("origin"))).resolve()
    files, real_paths = {source}, {path: path.resolve() for path in paths}
    is_near = any(path.is_relative_to(source.parent) for path in real_paths.values())
    if is_near and data.get("shape") and source.is_file() and packed_ending(source) in TABLE_ENDINGS:
        table = with_joined_columns(open_table(source), config.get("label_column"))
        columns = {name: config.get(name) for name in ("image_column", "label_column")}
        rows = table.rows((choose_columns(table, columns)[0]["image_column"],))
        files |= {(source.parent / (row.cells[0] or "")).resolve() for row in rows if isinstance(row, Row)}
    if source.exists():  # "digits" is no file
        files |= {folder for file in files for folder in file.parents}

    def is_inside(path: Path) -> bool:
        parts = path.relative_to(source).parts[:1] if path.is_relative_to(source) else ()
        return (path in files or bool(parts)) and (test or splits_of(parts) != ["test"])

    return [path for path in real_paths if is_inside(real_paths[path])]


def no_such_input(path: Path, what: str, *, texts: bool) -> DataError:
    """Return the error of what is not there, which for a run of texts may have been meant as one."""
    hint = "\n  For a text itself give a list: run.predict([text]), run.explain([text]); on the command line, a file."
    return DataError(f"{no_such_path(path, what)}{hint * texts}")


def _expand(word: str | Path, *, texts: bool) -> list[Path]:
    """Return the file or folder of that name, or all that a pattern matches."""
    path = str(Path(word).expanduser())
    names = glob.glob(glob.escape(path)) or sorted(glob.glob(path, recursive=True))  # noqa: PTH207
    if not names:
        raise no_such_input(Path(path), "file or folder", texts=texts)
    return [*map(Path, names)]


def _to_name(path: Path) -> str:
    """Return a path as text; as a Python literal where its name is no UTF-8, or holds control characters."""
    return str(path) if str(path).isprintable() else ascii(str(path))[1:-1]


def _from_files(paths: Sequence[Path], options: Options, *, is_image: bool) -> Data:
    """Return the rows of tables, or image or text files."""
    kind, notes, examples = IMAGES if is_image else TEXTS, list[str](), list[Example]()
    files_of = [path for path in paths if path.is_file() or is_records(path)]
    tables = [path for path in files_of if is_records(path) or packed_ending(path) in TABLE_ENDINGS]
    if len(tables) == len(paths):
        return _from_tables(
            [open_table(path, one_column=True) for path in tables], options, is_image=is_image
        )
    if tables or options.text_column or options.label_column or options.image_column:
        culprit = next(path for path in paths if path not in tables)
        raise DataError(f"{culprit} is no table: it has no columns, and is not read with one that has.")
    for path in paths:
        if not path.is_dir():
            examples.append(Example(_to_name(path), path))
            continue
        files, counts = files_below(path, kind)
        text = listed([f"{ending} {count}" for ending, count in counts.most_common()])
        if not files:
            endings = ", ".join(sorted(kind.suffixes))
            raise DataError(f"{path} holds no {kind.singular} ({endings}); it has: {text or 'nothing'}.")
        notes += [f"{path}: passed over, because hidden or no {kind.plural}: {text}."] if counts else []
        truths = _to_truths(path, files, options, notes)
        examples += [Example(_to_name(file), file, truth) for file, truth in zip(files, truths, strict=True)]
    labelled = any(example.truth for example in examples)
    return Data(examples if is_image else _read_documents(examples, notes), labelled, notes)


def _to_truths(folder: Path, files: Sequence[Path], options: Options, notes: list[str]) -> list[str | None]:
    """Return for each file its subfolder, where the subfolders are classes; else None."""
    parts = [file.relative_to(folder).parts for file in files]
    truths = [" ".join(part[0].split()) if len(part) > 1 else None for part in parts]
    other_names = {*truths}.difference(options.class_names)
    if options.labels or not other_names:
        notes.append(f"{folder}: its subfolders are taken for the true classes.")
        return truths
    if len(other_names) < len({*truths}):
        text = listed([repr(name) if name else "files beside them" for name in other_names], 3)
        notes.append(f"{folder}: some subfolders are classes, and not {text}; --labels takes all for such.")
    return [None] * len(files)


def _from_arrays(images: Any) -> list[Example]:
    if isinstance(images, np.ndarray) and images.ndim == 4:
        images = [*as_pixels(images)]  # floats of one array are in one range
    items = images if isinstance(images, list) else []
    axes = {image.ndim if isinstance(image, np.ndarray) else 0 for image in items}
    if not axes or axes - {2, 3}:
        advice = "One image: [image], or array[None]; grey: array[..., None]"
        expected = "paths alone, an array [n, height, width, channels], or a list of arrays [height, width, channels]"
        raise DataError(f"The run was trained on images: give {expected}, or of PIL.\n  {advice}.")
    colours = (image if image.ndim == 3 else image[..., np.newaxis] for image in images)
    return [Example(str(index), as_pixels(image)) for index, image in enumerate(colours)]


def _from_rows(data: Any, shape: Sequence[int]) -> list[Example]:
    try:
        rows = np.asarray(data, np.float32)
    except (ValueError, TypeError):
        rows = np.zeros(0, np.float32)
    if rows.shape[1:] != tuple(shape) or not len(rows):
        raise DataError(f"The run was trained on rows of numbers: give an array of shape {['n', *shape]}.")
    errors = ["" if np.isfinite(row).all() else "is not finite" for row in rows]
    return [Example(str(index), row, error=errors[index]) for index, row in enumerate(rows)]


def _to_example(name: str, text: str, truth: str | None = None) -> Example:
    return Example(name, text, truth, "" if text.strip() else "has no text")


def _read_documents(examples: Sequence[Example], notes: list[str]) -> Iterator[Example]:
    cleaner = Cleaner()
    for example in examples:
        try:
            yield _to_example(example.name, cleaner(read_document(example.value)[0]), example.truth)
        except DataError as err:
            yield Example(example.name, "", example.truth, str(err))
    notes.extend(cleaner.notes())


def _from_tables(tables: Sequence[Table], options: Options, *, is_image: bool) -> Data:
    """Return the rows of tables, each with a text or the path of an image, from the table's folder on."""
    notes: list[str] = []
    own_columns = [_find_own_columns(table, options) for table in tables]
    label_columns = [options.label_column or defaults.get("label_column") for defaults in own_columns]
    tables = [with_joined_columns(*pair) for pair in zip(tables, label_columns, strict=True)]
    column_lists = [
        _choose_columns(table, options, defaults, notes, is_image=is_image)
        for table, defaults in zip(tables, own_columns, strict=True)
    ]

    def read() -> Iterator[Example]:
        cleaner, as_label = Cleaner(), LabelCleaner()
        null = "" if options.label("") is not None else None  # of several labels none is an answer too
        for table, columns in zip(tables, column_lists, strict=True):
            start = f"{table.path.name}:" if table.path.suffix else ""  # a DataFrame has an index
            for row in table.rows(columns) if is_image else read_rows(table, columns, notes):
                if isinstance(row, Skipped):
                    yield Example(row.path, Path(row.path) if is_image else "", error=row.reason)
                    continue
                value, label, language, *_ = (*(cell or "" for cell in row.cells), "", "")
                truth = null if (truth := as_label(label)) == "" else truth
                if is_image:
                    path = table.path.parent / value.strip()
                    yield Example(_to_name(path), path, truth)
                else:
                    example = _to_example(f"{start}{row.line}", cleaner(value), truth)
                    example.language = language.strip()
                    yield example
        notes.extend(cleaner.notes())

    # How many images there are decides how they are computed.
    return Data([*read()] if is_image else read(), any(len(columns) > 1 for columns in column_lists), notes)


def _find_own_columns(table: Table, options: Options) -> dict[str, str]:
    """Return the columns of the run's own data that a table has too, where they are given for nothing else."""
    names, requested = {*table.columns}, (options.text_column, options.image_column, options.label_column)
    return {
        flag: name
        for flag, name in options.own_columns.items()
        if name and name not in requested and (name in names or {*map(str.strip, name.split(","))} <= names)
    }


def _choose_columns(
    table: Table, options: Options, defaults: Mapping[str, str], notes: list[str], *, is_image: bool
) -> tuple[int, ...]:
    """Return the number of the column of examples, and where they are there of the true classes and their languages."""
    flag, other_flag = ("image_column", "text_column") if is_image else ("text_column", "image_column")
    noun = "images" if is_image else "texts"
    if getattr(options, other_flag) is not None:
        raise DataError(f"The run was trained on {noun}: there is no {other_flag}.")
    request = {flag: getattr(options, flag) or defaults.get(flag)}
    for_language = {} if is_image else {"language_column": defaults.get("language_column")}
    label_column = {"label_column": options.label_column or defaults.get("label_column")}
    is_required, columns, labels = options.labels or options.label_column, tuple[int, ...](), set[str]()
    try:
        columns = _number_columns(table, request | label_column | for_language)
        labels = {label for label in map(LabelCleaner(), table.values(columns[1])) if label}
    except DataError:
        if is_required:
            raise
    # In the run's own column some may be new classes, which are said; elsewhere that is another column of that name.
    is_sure = any if "label_column" in defaults else all
    if not is_required and (not labels or not is_sure(options.label(label) is not None for label in labels)):
        columns = _number_columns(table, request)
    places = " and the true classes in ".join(f"{table.columns[column]!r:.80}" for column in columns[:2])
    notes += [*table.notes, f"{table.path.name}: the {noun} are in {places}."]
    return columns


def _number_columns(table: Table, flags: Mapping[str, str | None]) -> tuple[int, ...]:
    return tuple(choose_columns(table, flags)[0].values())


def content_digest(value: Any) -> int | None:
    """Return what `Splits.digests` has of a text or of the file of an image; None of arrays."""
    if isinstance(value, Path):
        return example_digest(files.sha256_of(value))
    is_text = isinstance(value, str)
    return example_digest(np.frombuffer(text_digest(value), "<u8").tolist()) if is_text else None

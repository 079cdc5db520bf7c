"""Make examples, each with a name, of what is to be predicted: files, folders, patterns, tables, arrays, lists."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from tfkit.data.folders import IMAGES, TEXTS, files_below, splits_of
from tfkit.data.image_files import darkness
from tfkit.data.labels import LabelCleaner, split_labels
from tfkit.data.memory import as_array, from_dataset
from tfkit.data.pixels import as_pixels
from tfkit.data.records import is_records
from tfkit.data.splits import Skipped, example_digest, listed, no_such_path
from tfkit.data.tables import Row, Table, choose, of_frame, open_table, read_rows, with_joined_columns
from tfkit.data.text_decoding import TABLE_ENDINGS, Cleaner, packed_ending, read_document
from tfkit.data.text_files import text_digest
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


class Asked(NamedTuple):
    """Say how the data are read."""

    class_names: Sequence[str]
    task: Classes = CLASSES
    text_column: str | None = None
    label_column: str | None = None
    image_column: str | None = None

    labels: bool = False
    """True where subfolders, or a column, are the true classes; else only where all are named like classes."""

    def label(self, text: str | None) -> Any:
        """Return the label that a text says, as `Splits` have it; None where it is none of the run's."""
        return self.task.read(text, self.class_names, split_labels)


def open_data(data: Any, *, shape: Sequence[int], asked: Asked) -> Data:
    """Find out what was given, and refuse what it cannot be; no file but the head of a table is read yet.

    Args:
      data: see `tfkit.Run.predict`.
      shape: of one example in training: [] of a text, [s, s, 3] of an image, else of a row of numbers.
      asked: how it is read.

    Raises:
      DataError: it is of another kind than the run was trained on, not there, or empty.
    """
    if len(shape) not in (0, 3):
        return Data(_of_rows(data, shape))
    if hasattr(data, "columns"):
        return _of_tables([of_frame(data)], asked, is_image=bool(shape))
    data = data.numpy() if hasattr(data, "numpy") else data  # a tensor
    data = from_dataset(data) if hasattr(data, "element_spec") else data
    named = isinstance(data, Mapping) or not isinstance(data, Iterable)
    items: list[Any] = [Path(data)] if isinstance(data, str | Path) else [] if named else [*data]
    if not items and not named:
        raise DataError("There is nothing to predict: what was given is empty.")
    if items and all(isinstance(item, (str, Path) if shape else Path) for item in items):
        return _of_files([path for item in items for path in _matches(item)], asked, is_image=bool(shape))
    if shape:
        found = _of_arrays(data if isinstance(data, np.ndarray) else [*map(as_array, items)])
        return Data(found, notes=[*darkness([one.value for one in found if one.value.dtype == np.uint8])])
    texts = ["" if pd.api.types.is_scalar(item) and pd.isna(item) else item for item in items]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise DataError("The run was trained on texts: give a list of strings, a DataFrame, tables or files.")
    refuse_names(texts)
    cleaner = Cleaner()
    places = data.index if isinstance(data, pd.Series) else range(len(texts))
    return Data(_of_text(str(place), cleaner(text)) for place, text in zip(places, texts, strict=True))


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
    files, real = {source}, {path: path.resolve() for path in paths}
    near = any(path.is_relative_to(source.parent) for path in real.values())
    if near and data.get("shape") and source.is_file() and packed_ending(source) in TABLE_ENDINGS:
        table = with_joined_columns(open_table(source), config.get("label_column"))
        asked = {name: config.get(name) for name in ("image_column", "label_column")}
        rows = table.rows(choose(table, asked)[0][:1])
        files |= {(source.parent / (row.cells[0] or "")).resolve() for row in rows if isinstance(row, Row)}
    if source.exists():  # "digits" is no file
        files |= {folder for file in files for folder in file.parents}

    def is_of_it(path: Path) -> bool:
        below = path.relative_to(source).parts[:1] if path.is_relative_to(source) else ()
        return (path in files or bool(below)) and (test or splits_of(below) != ["test"])

    return [path for path in real if is_of_it(real[path])]


def _matches(word: str | Path) -> list[Path]:
    """Return the file or folder of that name, or all that a pattern matches."""
    path = str(Path(word).expanduser())
    found = glob.glob(glob.escape(path)) or sorted(glob.glob(path, recursive=True))  # noqa: PTH207
    if not found:
        raise no_such_path(Path(path), "file or folder")
    return [*map(Path, found)]


def _named(path: Path) -> str:
    """Return a path as text; as a Python literal where its name is no UTF-8, or holds control characters."""
    return str(path) if str(path).isprintable() else ascii(str(path))[1:-1]


def _of_files(paths: Sequence[Path], asked: Asked, *, is_image: bool) -> Data:
    """Return the rows of tables, or image or text files."""
    kind, notes, found = IMAGES if is_image else TEXTS, list[str](), list[Example]()
    plain = [path for path in paths if path.is_file() or is_records(path)]
    tables = [path for path in plain if is_records(path) or packed_ending(path) in TABLE_ENDINGS]
    if len(tables) == len(paths):
        return _of_tables([open_table(path, one_column=True) for path in tables], asked, is_image=is_image)
    if tables or asked.text_column or asked.label_column or asked.image_column:
        other = next(path for path in paths if path not in tables)
        raise DataError(f"{other} is no table: it has no columns, and is not read with one that has.")
    for path in paths:
        if not path.is_dir():
            found.append(Example(_named(path), path))
            continue
        files, others = files_below(path, kind)
        passed = listed([f"{ending} {count}" for ending, count in others.most_common()])
        if not files:
            endings = ", ".join(sorted(kind.suffixes))
            raise DataError(f"{path} holds no {kind.singular} ({endings}); it has: {passed or 'nothing'}.")
        notes += [f"{path}: passed over, because hidden or no {kind.plural}: {passed}."] if others else []
        truths = _truths(path, files, asked, notes)
        found += [Example(_named(file), file, truth) for file, truth in zip(files, truths, strict=True)]
    labelled = any(example.truth for example in found)
    return Data(found if is_image else _documents(found, notes), labelled, notes)


def _truths(folder: Path, files: Sequence[Path], asked: Asked, notes: list[str]) -> list[str | None]:
    """Return for each file its subfolder, where the subfolders are classes; else None."""
    parts = [file.relative_to(folder).parts for file in files]
    truths = [" ".join(part[0].split()) if len(part) > 1 else None for part in parts]
    others = {*truths}.difference(asked.class_names)
    if asked.labels or not others:
        notes.append(f"{folder}: its subfolders are taken for the true classes.")
        return truths
    if len(others) < len({*truths}):
        shown = listed([repr(name) if name else "files beside them" for name in others], 3)
        notes.append(f"{folder}: some subfolders are classes, and not {shown}; --labels takes all for such.")
    return [None] * len(files)


def _of_arrays(images: Any) -> list[Example]:
    if isinstance(images, np.ndarray) and images.ndim == 4:
        images = [*as_pixels(images)]  # floats of one array are in one range
    several = images if isinstance(images, list) else []
    axes = {image.ndim if isinstance(image, np.ndarray) else 0 for image in several}
    if not axes or axes - {2, 3}:
        advice = "One image: [image], or array[None]; grey: array[..., None]"
        wanted = "paths alone, an array [n, height, width, channels], or a list of arrays [height, width, channels]"
        raise DataError(f"The run was trained on images: give {wanted}, or of PIL.\n  {advice}.")
    colours = (image if image.ndim == 3 else image[..., np.newaxis] for image in images)
    return [Example(str(place), as_pixels(image)) for place, image in enumerate(colours)]


def _of_rows(data: Any, shape: Sequence[int]) -> list[Example]:
    try:
        rows = np.asarray(data, np.float32)
    except (ValueError, TypeError):
        rows = np.zeros(0, np.float32)
    if rows.shape[1:] != tuple(shape) or not len(rows):
        raise DataError(f"The run was trained on rows of numbers: give an array of shape {['n', *shape]}.")
    errors = ["" if np.isfinite(row).all() else "is not finite" for row in rows]
    return [Example(str(place), row, error=errors[place]) for place, row in enumerate(rows)]


def _of_text(name: str, text: str, truth: str | None = None) -> Example:
    return Example(name, text, truth, "" if text.strip() else "has no text")


def _documents(found: Sequence[Example], notes: list[str]) -> Iterator[Example]:
    cleaner = Cleaner()
    for example in found:
        try:
            yield _of_text(example.name, cleaner(read_document(example.value)[0]), example.truth)
        except DataError as err:
            yield Example(example.name, "", example.truth, str(err))
    notes.extend(cleaner.notes())


def _of_tables(tables: Sequence[Table], asked: Asked, *, is_image: bool) -> Data:
    """Return the rows of tables, each with a text or the path of an image, from the table's folder on."""
    notes: list[str] = []
    tables = [with_joined_columns(table, asked.label_column) for table in tables]
    chosen = [_columns(table, asked, notes, is_image=is_image) for table in tables]

    def read() -> Iterator[Example]:
        cleaner, as_label = Cleaner(), LabelCleaner()
        none = "" if asked.label("") is not None else None  # of several labels none is an answer too
        for table, columns in zip(tables, chosen, strict=True):
            place = f"{table.path.name}:" if table.path.suffix else ""  # a DataFrame has an index
            for row in table.rows(columns) if is_image else read_rows(table, columns, notes):
                if isinstance(row, Skipped):
                    yield Example(row.path, Path(row.path) if is_image else "", error=row.reason)
                    continue
                value, label, language, *_ = (*(cell or "" for cell in row.cells), "", "")
                truth = none if (truth := as_label(label)) == "" else truth
                if is_image:
                    path = table.path.parent / value.strip()
                    yield Example(_named(path), path, truth)
                else:
                    example = _of_text(f"{place}{row.line}", cleaner(value), truth)
                    example.language = language.strip()
                    yield example
        notes.extend(cleaner.notes())

    # How many images there are decides how they are computed.
    return Data([*read()] if is_image else read(), any(len(columns) > 1 for columns in chosen), notes)


def _columns(table: Table, asked: Asked, notes: list[str], *, is_image: bool) -> tuple[int, ...]:
    """Return the number of the column of examples, and where they are there of the true classes and their languages."""
    columns_of = {"text_column": asked.text_column}, {"image_column": asked.image_column}
    for_language: dict[str, None] = {} if is_image else {"language_column": None}
    example, other = columns_of[::-1] if is_image else columns_of
    noun = "images" if is_image else "texts"
    if given := [name for name, column in other.items() if column is not None]:
        raise DataError(f"The run was trained on {noun}: there is no {given[0]}.")
    required, columns, found = asked.labels or asked.label_column, tuple[int, ...](), set[str]()
    try:
        columns = choose(table, example | {"label_column": asked.label_column} | for_language)[0]
        found = {label for label in map(LabelCleaner(), table.values(columns[1])) if label}
    except DataError:
        if required:
            raise
    if not required and (not found or any(asked.label(one) is None for one in found)):
        columns = choose(table, example)[0]
    taken = " and the true classes in ".join(f"{table.columns[column]!r:.80}" for column in columns[:2])
    notes += [*table.notes, f"{table.path.name}: the {noun} are in {taken}."]
    return columns


def content_digest(value: Any) -> int | None:
    """Return what `Splits.digests` has of a text or of the file of an image; None of arrays."""
    if isinstance(value, Path):
        return example_digest(files.sha256_of(value))
    is_text = isinstance(value, str)
    return example_digest(np.frombuffer(text_digest(value), "<u8").tolist()) if is_text else None

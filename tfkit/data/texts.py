"""load_texts: one call for whatever holds the texts."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from tfkit import files
from tfkit.data import columns, markup, textstore
from tfkit.data.cut import check_fractions, listed
from tfkit.data.splits import Skipped, Splits
from tfkit.data.tables import Row, Table, open_table
from tfkit.data.textsource import Groups, LineNames, TextSource, cut_texts
from tfkit.data.textstore import Example, TextStore
from tfkit.errors import DataError
from tfkit.process import watched

EMBEDDED = ("docstrings",)

NO_TEXT, NO_LABEL = "has no text", "has no label"
_MISSING = frozenset({"", "nan", "NaN", "NULL", "null", "<NA>", "#N/A"})
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_MANY_LABELS = 1000


def load_texts(
    source: str | Path,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    language_column: str | None = None,
    global_batch_size: int = 32,
    seed: int = 0,
    strict: bool = False,
    validation_fraction: float = 0.15,
    test_fraction: float = 0.15,
) -> Splits:
    """Splits of texts, each with one label.

    A table is read once, row by row, into a store in the cache; from then on a text is read when it is needed, so
    that a file may be larger than the memory. What had to be found out is in `Splits.notes`: the encoding where it
    is not UTF-8, the columns where they were not given, rows that cannot be used, texts that are there twice.

    Args:
      source: a .csv, .tsv, .jsonl or .parquet file; a folder with one subfolder a class and one .txt file a document,
        or with train/, validation/ and test/ of such folders; or an embedded set ("docstrings").
      text_column: of a table; left out, the one whose name says it.
      label_column: of a table; left out, the one whose name says it, or the other one of two.
      language_column: of a table; its values become `splits.source.languages`.
      global_batch_size: examples in a batch, over all replicas.
      seed: decides the splits and the order of training.
      strict: a row without text or label, or with a wrong number of fields, is an error, not skipped.
      validation_fraction: of each class.
      test_fraction: of each class.

    Returns:
      Splits of strings: (string [b], label int64 [b]). A text that is there several times, but for white space, is in
      one split.

    Raises:
      DataError: the texts cannot be found, or cannot serve to train a classifier.

    Example:
      >>> splits = load_texts("mails.csv", text_column="body", label_column="folder")  # doctest: +SKIP
      >>> splits.spec  # doctest: +SKIP
      TensorSpec(shape=(), dtype=tf.string, name=None)
    """
    options: dict[str, Any] = {
        "global_batch_size": global_batch_size,
        "seed": seed,
        "held_out": {"validation": validation_fraction, "test": test_fraction},
    }
    check_fractions(options["held_out"])
    path = Path(source)
    # A command line gives a Path, also for the name of a set; a file or folder of that name then goes first.
    if str(source) in EMBEDDED and (isinstance(source, str) or not path.exists()):
        from tfkit.data.docstrings import load_docstrings

        return load_docstrings(**options)
    if path.is_dir():
        if text_column or label_column or language_column:
            raise DataError(f"{path} is a folder: its subfolders are the classes, and it has no columns.")
        raise DataError(f"{path} is a folder.")
    return _load_table(
        open_table(path),
        text_column=text_column,
        label_column=label_column,
        language_column=language_column,
        strict=strict,
        **options,
    )


def _load_table(
    table: Table,
    *,
    text_column: str | None,
    label_column: str | None,
    language_column: str | None,
    strict: bool,
    global_batch_size: int,
    seed: int,
    held_out: Mapping[str, float],
) -> Splits:
    chosen = columns.choose(
        table, text_column=text_column, label_column=label_column, language_column=language_column
    )
    path, status = table.path, table.path.stat()
    key = files.digest(
        str(path.resolve()),
        status.st_size,
        status.st_mtime_ns,
        table.columns,
        chosen.wanted,
        textstore.RECIPE,
    )
    store = textstore.get(key, lambda: _TableReading(table, chosen), size=2 * status.st_size)
    skipped = skipped_text(store)
    if strict and skipped:
        raise DataError(f"{path} has {skipped}.\n  Without strict they are skipped.")
    check_classes(store, path, label_column=table.columns[chosen.label], hint=skipped)
    groups = Groups(store)
    indices = cut_texts(
        store,
        groups,
        held_out=held_out,
        seed=seed,
        where=f"{path}: ",
        hint=f"\n  It has {skipped}." if skipped else "",
    )
    return Splits(
        source=TextSource(
            store, LineNames(path.name, store.places), with_languages=chosen.language is not None
        ),
        indices=indices,
        class_names=store.class_names,
        global_batch_size=global_batch_size,
        seed=seed,
        origin=str(path),
        skipped=store.skipped,
        notes=(*table.notes, *chosen.notes, *notes(store, groups, str(path), skipped)),
    )


class _TableReading:
    """The rows of a table as examples; see `textstore.Reading`."""

    def __init__(self, table: Table, chosen: columns.Columns) -> None:
        self.notes: list[str] = []
        self._table, self._chosen = table, chosen

    def __iter__(self) -> Iterator[Example | Skipped]:
        name = self._table.path.name
        cleaner = Cleaner()
        known: set[str] = set()
        wrong = good = 0
        for row in tqdm(
            self._table.rows(self._chosen.wanted),
            desc="Reading texts",
            unit="text",
            delay=1,
            disable=not watched(),
        ):
            if not isinstance(row, Row):
                wrong += 1
                yield row
                continue
            good += 1
            text, label, *language = row.cells
            text, label = cleaner(text or ""), as_label(label or "")
            known.add(label)
            self._check_labels(known, good)
            if not text.strip() or not label:
                yield Skipped(f"{name}:{row.line}", NO_LABEL if text.strip() else NO_TEXT)
            else:
                yield Example(text, label, row.line, (language[0] or "").strip() if language else "")
        if wrong > good:
            raise DataError(
                f"{self._table.path}: {wrong} of {wrong + good} rows have another number of fields than the first line"
                f" ({len(self._table.columns)}).\n"
                "  A cell that holds the delimiter, a quote or a line break is written in quotes; "
                "pandas.DataFrame.to_csv does so."
            )
        self.notes += cleaner.notes()

    def _check_labels(self, known: set[str], rows: int) -> None:
        """Stop before the memory is full of labels that are none."""
        if len(known) > _MANY_LABELS and len(known) > rows / 2:
            raise no_classes(self._table.path, self._table.columns[self._chosen.label], len(known), rows)


class Cleaner:
    """Texts as they are stored; counts what it changes."""

    def __init__(self) -> None:
        self._html = self._control = 0

    def __call__(self, text: str) -> str:
        """Without control characters, which no tokenizer keeps; of HTML what its reader sees."""
        if _CONTROL.search(text):
            self._control += 1
            text = _CONTROL.sub("", text)
        if markup.is_html(text):
            self._html += 1
            text = markup.plain_text(text)
        return text

    def notes(self) -> Iterator[str]:
        """What was changed."""
        if self._html:
            yield (
                f"{self._html} texts are HTML: what a reader of them sees is taken. The model is to be given such text"
                " too: tfkit.data.plain_text(html)."
            )
        if self._control:
            yield f"Control characters are left out of {self._control} texts."


def as_label(value: str) -> str:
    """A label as it is compared; empty where it is missing."""
    label = unicodedata.normalize("NFC", " ".join(value.split()))
    return "" if label in _MISSING else label


def check_classes(store: TextStore, path: Path, *, label_column: str, hint: str) -> None:
    """Refuse labels that are no classes."""
    rows, names = len(store.labels), store.class_names
    if not rows:
        raise DataError(f"{path} has no text with a label: it has {hint or 'no rows'}.")
    if len(names) < 2:
        raise DataError(
            f"The label column '{label_column}' of {path} has one value, '{names[0]}', in all {rows} rows; "
            "a classifier needs two or more."
        )
    if len(names) > rows / 2 and len(names) > 10:
        raise no_classes(path, label_column, len(names), rows)
    if unprintable := [name for name in names if not name.isprintable()]:
        raise DataError(
            f"{path} has labels with characters that cannot be printed: "
            f"{listed([ascii(one) for one in unprintable])}.\n"
            "  Class names are written to labels.txt, one a line."
        )


def no_classes(path: Path, label_column: str, labels: int, rows: int) -> DataError:
    """A label column that is something else."""
    return DataError(
        f"The label column '{label_column}' of {path} has {labels} values in {rows} rows: it looks like an id or a "
        "text, not like a class.\n  Give another one: label_column (--label-column)."
    )


def skipped_text(store: TextStore) -> str:
    """How many examples cannot be used, with the first of each kind; empty if all can."""
    parts = []
    for reason, count in store.entry["reasons"].items():
        places = [one.path for one in store.skipped if one.reason == reason]
        parts.append(f"{count} that {_plural(reason, count)} ({listed(places, 3)})")
    return (
        f"{sum(store.entry['reasons'].values())} rows that cannot be used: {'; '.join(parts)}"
        if parts
        else ""
    )


def _plural(reason: str, count: int) -> str:
    return reason if count == 1 else reason.replace("has ", "have ", 1).replace("is ", "are ", 1)


def notes(store: TextStore, groups: Groups, where: str, skipped: str) -> Iterator[str]:
    """What there is to say about texts that were read."""
    if skipped:
        yield f"{where} has {skipped}."
    yield from store.entry["notes"]
    if groups.repeated:
        yield (
            f"{groups.repeated} rows have a text that is there more than once (but for white space): "
            f"those of one text are in one split."
        )
    if groups.contradicting:
        yield (
            f"{groups.contradicting} rows have a text that has another label in another row: "
            "no classifier can have both right."
        )
    folded: dict[str, list[str]] = {}
    for name in store.class_names:
        folded.setdefault(name.casefold(), []).append(name)
    if alike := [" and ".join(map(repr, names)) for names in folded.values() if len(names) > 1]:
        yield f"Classes that differ in upper and lower case only: {listed(alike)}."

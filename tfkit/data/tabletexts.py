"""A table as Splits of texts: its rows are read once, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from tqdm.auto import tqdm

from tfkit import files
from tfkit.data import columns, textstore
from tfkit.data.cleaning import Cleaner, as_label
from tfkit.data.cut import listed
from tfkit.data.rows import Row, Table
from tfkit.data.splitnames import doubts
from tfkit.data.splits import Skipped, Splits
from tfkit.data.tables import open_table
from tfkit.data.textnotes import notes, skipped_text
from tfkit.data.textsource import Groups, LineNames, TextSource, cut_texts
from tfkit.data.textstore import Example, TextStore
from tfkit.errors import DataError
from tfkit.process import watched

_MANY_LABELS = 1000


def load_table(
    path: Path,
    *,
    text_column: str | None,
    label_column: str | None,
    language_column: str | None,
    strict: bool,
    global_batch_size: int,
    seed: int,
    held_out: Mapping[str, float],
) -> Splits:
    """Splits of a table; see `load_texts`."""
    table = open_table(path)
    chosen = columns.choose(
        table, text_column=text_column, label_column=label_column, language_column=language_column
    )
    status = path.stat()
    key = files.digest(
        str(path.resolve()),
        status.st_size,
        status.st_mtime_ns,
        table.columns,
        chosen.wanted,
        textstore.RECIPE,
    )
    # What is not in UTF-8 may grow by half.
    store = textstore.get(key, lambda: _TableReading(table, chosen), size=2 * status.st_size)
    skipped = skipped_text(store, "rows")
    if strict and skipped:
        raise DataError(f"{path} has {skipped}.\n  Without strict they are skipped.")
    _check_classes(store, path, label_column=table.columns[chosen.label], skipped=skipped)
    groups = Groups(store.digests, store.labels)
    indices = cut_texts(
        groups,
        store.class_names,
        held_out=held_out,
        seed=seed,
        where=f"{path}: ",
        hint=f"\n  It has {skipped}." if skipped else "",
    )
    names = LineNames(path.name, store.places)
    return Splits(
        source=TextSource(
            store, names, with_languages=chosen.language is not None, columns=chosen.named(table)
        ),
        indices=indices,
        class_names=store.class_names,
        global_batch_size=global_batch_size,
        seed=seed,
        origin=str(path),
        skipped=store.skipped,
        notes=(
            *table.notes,
            *chosen.notes,
            *notes(store, groups, str(path), "rows"),
            *doubts(store.class_names),
        ),
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
                yield Skipped(f"{name}:{row.line}", "has no label" if text.strip() else "has no text")
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
            raise _no_classes(self._table.path, self._table.columns[self._chosen.label], len(known), rows)


def _check_classes(store: TextStore, path: Path, *, label_column: str, skipped: str) -> None:
    """Refuse labels that are no classes."""
    rows, names = len(store.labels), store.class_names
    if not rows:
        raise DataError(f"{path} has no text with a label: it has {skipped or 'no rows'}.")
    if len(names) < 2:
        raise DataError(
            f"The label column '{label_column}' of {path} has one value, '{names[0]}', in all {rows} rows; "
            "a classifier needs two or more."
        )
    if len(names) > rows / 2 and len(names) > 10:
        raise _no_classes(path, label_column, len(names), rows)
    if unprintable := [name for name in names if not name.isprintable()]:
        raise DataError(
            f"{path} has labels with characters that cannot be printed: "
            f"{listed([ascii(one) for one in unprintable])}.\n"
            "  Class names are written to labels.txt, one a line."
        )


def _no_classes(path: Path, label_column: str, labels: int, rows: int) -> DataError:
    """A label column that is something else."""
    return DataError(
        f"The label column '{label_column}' of {path} has {labels} values in {rows} rows: it looks like an id or a "
        "text, not like a class.\n  Give another one: label_column (--label-column)."
    )

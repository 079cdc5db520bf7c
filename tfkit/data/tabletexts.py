"""A table as Splits of texts: its rows are read once, one after the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from tfkit import files
from tfkit.data import columns, textstore
from tfkit.data.cleaning import Cleaner
from tfkit.data.cut import listed
from tfkit.data.labels import LabelCleaner, check_labels
from tfkit.data.rows import Nested, Remarks, Row, Table, short
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
    store = textstore.get(key, lambda: _TableReading(table, chosen), size=2 * max(status.st_size, table.size))
    skipped = skipped_text(store, "rows")
    if strict and skipped:
        raise DataError(f"{path} has {skipped}.\n  Without strict they are skipped.")
    of_labels = _check_classes(store, table, label_column=table.columns[chosen.label], skipped=skipped)
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
            *of_labels,
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
        name, columns_ = self._table.path.name, self._table.columns
        cleaner, as_label, remarks = Cleaner(), LabelCleaner(), Remarks(name)
        known: Counter[str] = Counter()
        languages: set[str | None] = set()
        wrong = good = numbers = 0
        for row in tqdm(
            self._table.rows(self._chosen.wanted),
            desc="Reading texts",
            unit="text",
            delay=1,
            disable=not watched(),
        ):
            if not isinstance(row, Row):
                wrong += row.reason.startswith("has ")
                yield row
                continue
            good += 1
            remarks.add(row)
            text, cell, *language = row.cells
            if isinstance(text, Nested):
                yield Skipped(f"{name}:{row.line}", "has a list or an object for a text")
                continue
            text, label = cleaner(text or ""), as_label(cell or "")
            known[label] += 1
            if len(known) > _MANY_LABELS and len(known) > good / 2:  # before the memory is full of them
                check_labels(known, where=_column(self._table.path, columns_[self._chosen.label]))
            if not text.strip() or not label:
                what = f"has no label ({short(cell)!r})" if cell and cell.strip() else "has no label"
                yield Skipped(f"{name}:{row.line}", what if text.strip() else "has no text")
                continue
            languages.update(language)
            if len(languages) > _MANY_LABELS:
                raise DataError(
                    f"The language column '{short(columns_[self._chosen.language or 0])}' of {self._table.path}"
                    f" has more than {_MANY_LABELS} values: it holds no languages.\n"
                    "  Give another one (--language-column), or call it otherwise."
                )
            numbers += len(text) < 30 and columns.is_number(text)
            yield Example(text, label, row.line, (language[0] or "").strip() if language else "")
        columns.check_text(self._table, self._chosen.text, numbers, good)
        if wrong > good:
            raise DataError(
                f"{self._table.path}: {wrong} of {wrong + good} rows have another number of fields than the first line"
                f" ({len(columns_)}).\n"
                "  A cell that holds the delimiter, a quote or a line break is written in quotes; "
                "pandas.DataFrame.to_csv does so."
            )
        if (first := columns_[self._chosen.label]) in known and not first.startswith("column "):
            self.notes.append(
                f"{name}: Its first line is taken for names, but {short(first)!r} is the label of {known[first]} rows"
                " too: if it is a row, write a line of names above it."
            )
        self.notes += [*as_label.notes(), *remarks.notes(), *cleaner.notes()]


def _column(path: Path, label_column: str) -> str:
    return f"The label column '{short(label_column)}' of {path}"


def _check_classes(store: TextStore, table: Table, *, label_column: str, skipped: str) -> list[str]:
    """Refuse labels that are no classes; notes on those that may be none."""
    rows, names = len(store.labels), store.class_names
    path = table.path
    said = "".join(f"\n  {note}" for note in (*table.notes, *store.entry["notes"]))
    if not rows:
        raise DataError(f"{path} has no text with a label: it has {skipped or 'no rows'}.{said}")
    if len(names) < 2:
        raise DataError(
            f"{_column(path, label_column)} has one value, {short(names[0])!r}, in all {rows} rows that can be used; "
            f"a classifier needs two or more.{f' It has {skipped}.' if skipped else ''}{said}"
        )
    counts = np.bincount(store.labels, minlength=len(names)).tolist()
    found = check_labels(dict(zip(names, counts, strict=True)), where=_column(path, label_column))
    if unprintable := [name for name in names if not name.isprintable()]:
        raise DataError(
            f"{path} has labels with characters that cannot be printed: "
            f"{listed([ascii(short(one)) for one in unprintable])}.\n"
            f"  Class names are written to labels.txt, one a line.{said}"
        )
    return found

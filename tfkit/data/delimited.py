"""CSV and TSV by the csv module, with what a file leaves unsaid found out: delimiter, quotes, a first line of names."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tfkit.data import encodings
from tfkit.data.rows import SAMPLE_CHARACTERS, SAMPLE_ROWS, Row, Rows, Table
from tfkit.data.splits import Skipped
from tfkit.errors import DataError

_DELIMITERS = {",": "','", ";": "';'", "\t": "tab", "|": "'|'"}
_HEAD = 256 * 1024
_LONGEST_FIELD = 1 << 26
"""Characters. What is longer is the rest of a file behind a quote that is not closed."""


class _Dialect(NamedTuple):
    delimiter: str
    quoting: int

    def reader(self, lines: Iterator[str] | io.StringIO) -> Iterator[tuple[int, list[str]]]:
        """Each row that is not blank, and the line on which it begins."""
        # Of the whole process, so it is only ever raised.
        csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_FIELD))
        rows = csv.reader(lines, delimiter=self.delimiter, quoting=self.quoting)  # type: ignore[arg-type]
        begin = 1
        for cells in rows:
            if cells:
                yield begin, cells
            begin = rows.line_num + 1


def open_delimited(path: Path) -> Table:
    """Look at the first rows of a CSV or TSV file."""
    encoding = encodings.of_file(path)
    notes = [f"{path.name}: {encoding.note}"] if encoding.note else []
    with path.open(encoding=encoding.name, errors=encoding.errors, newline="") as file:
        head = file.read(_HEAD)
    dialect = _sniff(head, path)
    usual = "," if path.suffix.lower() == ".csv" else "\t"
    if dialect.delimiter != usual:
        notes.append(f"{path.name}: Its columns are separated by {_DELIMITERS[dialect.delimiter]}.")
    if dialect.quoting == csv.QUOTE_NONE:
        notes.append(f"{path.name}: Quotes in it are taken as they are, since they do not enclose cells.")

    first = _parse(head, dialect, whole=len(head) < _HEAD)
    names = [name.strip() for name in first[0]]
    headed = not _is_row(names, first[1:])
    if not headed:
        names = [f"column {number}" for number in range(1, len(names) + 1)]
        notes.append(
            f"{path.name}: Its first line is no line of names, but a row: columns go by their number."
        )

    def rows(wanted: tuple[int, ...]) -> Rows:
        with path.open(encoding=encoding.name, errors=encoding.errors, newline="") as file:
            read = dialect.reader(file)
            if headed:
                next(read)
            line = 0
            try:
                for line, cells in read:
                    if len(cells) != len(names):
                        yield Skipped(
                            f"{path.name}:{line}", f"has {len(cells)} fields instead of {len(names)}"
                        )
                    else:
                        yield Row(line, tuple(cells[column] for column in wanted))
            except csv.Error as err:
                raise DataError(
                    f"{path}: after line {line} the rows cannot be told apart: {err}.\n"
                    "  A quote that is opened and not closed does this. In a cell, a quote is written twice."
                ) from err

    sample = [
        tuple(cell[:SAMPLE_CHARACTERS] for cell in cells)
        for cells in first[headed : SAMPLE_ROWS + headed]
        if len(cells) == len(names)
    ]
    return Table(path=path, columns=tuple(names), sample=sample, rows=rows, notes=notes)


def _sniff(head: str, path: Path) -> _Dialect:
    """The delimiter and the use of quotes under which most rows have as many cells as the first."""
    possible = [*_DELIMITERS] if path.suffix.lower() == ".csv" else ["\t"]
    best, best_score = None, (0.0, 0, False)
    for delimiter in possible:
        for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_NONE):
            dialect = _Dialect(delimiter, quoting)
            rows = _parse(head, dialect, whole=len(head) < _HEAD)
            width = len(rows[0]) if rows else 0
            if width < 2:
                continue
            agreeing = sum(len(row) == width for row in rows) / len(rows)
            score = (round(agreeing, 2), width, _is_strict(head, dialect))
            if score > best_score:
                best, best_score = dialect, score
    if best is None:
        first = head.strip().splitlines()[0][:60]
        raise DataError(
            f"{path} has one column: its first line is {first!r}.\n"
            f"  Columns are separated by {' or '.join(_DELIMITERS[one] for one in possible)};"
            " a text and its label are two."
        )
    return best


def _is_strict(head: str, dialect: _Dialect) -> bool:
    """Whether every quote that begins a cell is closed at the end of one."""
    try:
        for _ in csv.reader(
            io.StringIO(head, newline=""),
            delimiter=dialect.delimiter,
            quoting=dialect.quoting,  # type: ignore[arg-type]
            strict=True,
        ):
            pass
    except csv.Error as err:
        return "unexpected end" in str(err)  # of the head, that is
    return True


def _parse(head: str, dialect: _Dialect, *, whole: bool) -> list[list[str]]:
    """The rows at the beginning of a file, without one that is cut off."""
    rows = []
    try:
        rows = [cells for _, cells in dialect.reader(io.StringIO(head, newline=""))]
    except csv.Error:
        return rows
    return rows if whole or len(rows) < 2 else rows[:-1]


def _is_row(first: Sequence[str], rest: Sequence[Sequence[str]]) -> bool:
    """Whether the first line is a row like the others: one of its cells is a value that its column repeats."""
    for column, value in enumerate(first):
        below = Counter(row[column].strip() for row in rest if len(row) == len(first))
        few = 1 < len(below) <= max(2, len(rest) // 4)
        if value and few and below[value] > 1:
            return True
    return False

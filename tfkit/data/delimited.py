"""CSV and TSV, with what a file leaves unsaid found out: delimiter, quotes, a first line of names."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tfkit.data import encodings, packed, quotes
from tfkit.data.quotes import Dialect, Known
from tfkit.data.rows import SAMPLE_CHARACTERS, SAMPLE_ROWS, Row, Rows, Table, short
from tfkit.data.splits import Skipped
from tfkit.errors import DataError

_DELIMITERS = {",": "','", ";": "';'", "\t": "tab", "|": "'|'"}
_HEAD = 256 * 1024
_LONGEST_NAME = 100
_SEPARATOR = re.compile(r"sep=(.)\r?\n?$", re.IGNORECASE)


def open_delimited(path: Path) -> Table:
    """Look at the first rows of a CSV or TSV file."""
    ending = packed.ending(path)
    encoding = encodings.of_file(path)
    notes = [f"{path.name}: {encoding.note}"] if encoding.note else []
    with packed.open_text(path, encoding.name, encoding.errors, newline="") as file:
        said = _SEPARATOR.match(file.readline(_HEAD))
    with packed.open_text(path, encoding.name, encoding.errors, newline="") as file:
        if said:  # a line for Excel
            file.readline()
        head = file.read(_HEAD)
    whole = len(head) < _HEAD
    dialect, first, known = _sniff(head, path, [said[1]] if said else _possible(ending), whole=whole)
    if dialect.delimiter != ("," if ending == ".csv" else "\t"):
        named = _DELIMITERS.get(dialect.delimiter, repr(dialect.delimiter))
        notes.append(f"{path.name}: Its columns are separated by {named}.")
    if dialect.quotechar != '"':
        notes.append(f"{path.name}: Its cells are enclosed by {dialect.quotechar}.")

    names = [name.strip("\ufeff \t\r\n") for name in first[0]]
    folded = [name.casefold() for name in names]
    headed = not _is_row(names, first[1:])
    if not headed:
        names = [f"column {number}" for number in range(1, len(names) + 1)]
        notes.append(
            f"{path.name}: Its first line is no line of names, but a row: columns go by their number."
        )

    def rows(wanted: tuple[int, ...]) -> Rows:
        with packed.open_text(path, encoding.name, encoding.errors, newline="") as file:
            if said:
                file.readline()
            reading = quotes.Rows(file, dialect, width=len(names), known=known)
            read = iter(reading)
            if headed:
                next(read)
            for number, cells, remark in read:
                line = number + bool(said)
                if remark == quotes.PIECE:
                    yield Skipped(f"{path.name}:{line}", remark)
                    continue
                # Programs that close each line with a delimiter have one cell too many.
                if len(cells) > len(names) and not any(map(str.strip, cells[len(names) :])):
                    cells = cells[: len(names)]
                if len(cells) != len(names):
                    last = reading.last_line + bool(said)
                    lines = str(line) if last == line else f"{line}-{last}"
                    yield Skipped(f"{path.name}:{lines}", f"has {len(cells)} fields instead of {len(names)}")
                elif headed and [cell.strip("\ufeff \t\r\n").casefold() for cell in cells] == folded:
                    yield Skipped(f"{path.name}:{line}", "repeats the line of names")
                else:
                    yield Row(line, tuple(cells[column] for column in wanted), remark)

    sample = [
        tuple(cell[:SAMPLE_CHARACTERS] for cell in cells)
        for cells in first[headed : SAMPLE_ROWS + headed]
        if len(cells) == len(names)
    ]
    return Table(path=path, columns=tuple(names), sample=sample, rows=rows, size=encoding.size, notes=notes)


def _possible(ending: str) -> list[str]:
    return list(_DELIMITERS) if ending == ".csv" else ["\t"]


def _sniff(
    head: str, path: Path, possible: Sequence[str], *, whole: bool
) -> tuple[Dialect, list[list[str]], Known]:
    """The dialect under which most rows have as many cells as the first, the rows, and what their columns hold."""
    best, best_score = None, (0.0, 0, False, 0.0)
    for delimiter in possible:
        for quotechar in ('"', "'"):
            if quotechar == "'" and not _encloses(quotechar, head, delimiter):
                continue
            found = _parse(head, Dialect(delimiter, quotechar), whole=whole)
            _, rows, _, odd = found
            width = len(rows[0]) if rows else 0
            if width < 2:
                continue
            agreeing = sum(len(row) == width for row in rows) / len(rows)
            score = (round(agreeing, 2), width, quotechar == "'", -odd / len(rows))
            if score > best_score:
                best, best_score = found, score
    if best is None:
        first = short(head.strip().splitlines()[0])
        if set(possible) != set(_DELIMITERS):
            return _sniff(head, path, list(_DELIMITERS), whole=whole)
        raise DataError(
            f"{path} has one column: its first line is {first!r}.\n"
            f"  Columns are separated by {' or '.join(_DELIMITERS.values())}; a text and its label are two."
        )
    dialect, rows, known, _ = best
    later = [cell for row in rows for cell in row[1:]]
    if all(cell.startswith(" ") for cell in later):
        dialect, rows, known, _ = _parse(head, dialect._replace(skipinitialspace=True), whole=whole)
    return dialect, rows, known


def _encloses(quotechar: str, head: str, delimiter: str) -> bool:
    """Return whether half of the lines have a cell that begins and ends with it."""
    cell = re.compile(
        rf"(?:^|{re.escape(delimiter)}){quotechar}[^\r\n]*{quotechar}(?:{re.escape(delimiter)}|\r|$)"
    )
    lines = head.splitlines()[1:1000]
    return 2 * sum(bool(cell.search(line)) for line in lines) > len(lines)


def _parse(head: str, dialect: Dialect, *, whole: bool) -> tuple[Dialect, list[list[str]], Known, int]:
    """The rows at the beginning of a file, without one that is cut off, and how many of them are odd."""
    reading = quotes.Rows(io.StringIO(head, newline=""), dialect, cut=not whole)
    rows = [cells for _, cells, _ in reading]
    if len(rows) < 2 and not whole:  # a quote near the beginning that is closed far away, if at all
        lines = [dialect.as_written(line) for line in head.splitlines(keepends=True)]
        return dialect, [cells for cells in lines[:-1] if cells], Known(), 0
    return dialect, rows if whole else rows[:-1], reading.known, reading.remarks


def _is_row(first: Sequence[str], rest: Sequence[Sequence[str]]) -> bool:
    """Whether the first line is a row like the others: one of its cells is a value that its column repeats."""
    if any(len(name) > _LONGEST_NAME or "\n" in name for name in first):
        return True
    same = [row for row in rest if len(row) == len(first) and [cell.strip() for cell in row] != list(first)]
    for column, value in enumerate(first):
        below = Counter(row[column].strip() for row in same)
        few = 1 < len(below) <= max(2, len(rest) // 4)
        if value and few and below[value] > 1:
            return True
    return False

"""What a table is, whatever file it is stored in: named columns, and rows that are read one after the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tfkit.data.splits import Skipped

SAMPLE_ROWS = 200
SAMPLE_CHARACTERS = 300
"""Of a cell that is looked at."""


class Row(NamedTuple):
    """Some cells of one row."""

    line: int
    """Where it begins in its file, from 1; in Parquet its number."""

    cells: tuple[str | None, ...]
    """None where there is nothing."""

    remark: str = ""
    """What is odd about it, as a part of a sentence on several rows; empty for most."""


Rows = Iterator[Row | Skipped]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A file with named columns."""

    path: Path
    columns: tuple[str, ...]
    sample: Sequence[tuple[str | None, ...]]
    """The first rows, each cell cut off after `SAMPLE_CHARACTERS`."""

    rows: Callable[[tuple[int, ...]], Rows]
    """Begins to read the columns with these numbers; Skipped stands for a row that cannot be used."""

    size: int = 0
    """Bytes of it as text, where that is not the size of the file."""

    notes: list[str] = field(default_factory=list)
    """How it is read, where that is not plain."""

    def values(self, column: int) -> list[str]:
        """What the first rows have in a column, without what is missing."""
        return [value for row in self.sample if (value := row[column]) is not None]


class Nested(str):
    """A list or an object in a cell, as JSON."""

    __slots__ = ()


def short(value: str, length: int = 60) -> str:
    """A value for a message, on one line."""
    line = " ".join(value[: 4 * length].split())
    return line if len(line) <= length and len(value) <= 4 * length else f"{line[:length]}..."


class Remarks:
    """Counts what is odd about rows."""

    def __init__(self, file: str) -> None:
        """Take the name of the file."""
        self._file = file
        self._places: dict[str, list[int]] = {}
        self._counts: Counter[str] = Counter()

    def add(self, row: Row) -> None:
        """Take the remark on a row, if there is one."""
        if row.remark:
            self._counts[row.remark] += 1
            if self._counts[row.remark] <= 3:
                self._places.setdefault(row.remark, []).append(row.line)

    def notes(self) -> Iterator[str]:
        """A sentence on each kind, with the first rows."""
        for remark, places in self._places.items():
            shown, count = ", ".join(f"{self._file}:{line}" for line in places), self._counts[remark]
            yield f"{count} rows {remark} ({shown}{', ...' if count > 3 else ''})."

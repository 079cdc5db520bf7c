"""What a table is, whatever file it is stored in: named columns, and rows that are read one after the other."""

from __future__ import annotations

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

    notes: list[str] = field(default_factory=list)
    """How it is read, where that is not plain."""

    def values(self, column: int) -> list[str]:
        """What the first rows have in a column, without what is missing."""
        return [value for row in self.sample if (value := row[column]) is not None]

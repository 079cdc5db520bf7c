"""The rows of a CSV file by the csv module, such that a quote that is never closed takes no other row with it."""

from __future__ import annotations

import csv
import itertools
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TextIO

LONGEST_ROW = 1 << 24
"""Characters. A quote that is open for longer is none."""

STRAY = "begin a cell with a quote that encloses nothing: it is taken as a character"
PIECE = "belongs to a row whose quotes do not fit"
BARE = "have quotes within quotes that are not doubled: they are taken as part of the cell"
LONG = "are far longer than the others and have line breaks: look whether a quote is open that takes rows with it"
_LONGEST_LATER = 1 << 12
"""Likewise, once there were many such quotes."""

_LONG_ROWS, _LONG_LINES, _LONG_CHARACTERS, _LONG_TIMES = 20, 10, 5_000, 50
_MOST_VALUES, _LONGEST_VALUE = 1000, 60


class Dialect(NamedTuple):
    """How a file separates and encloses its cells."""

    delimiter: str
    quotechar: str = '"'
    skipinitialspace: bool = False

    def reader(self, lines: Iterable[str], *, strict: bool) -> Iterator[list[str]]:
        """The csv module's rows; with strict, csv.Error where a quote is closed within a cell or not at all."""
        # Of the whole process, so it is only ever raised.
        csv.field_size_limit(max(csv.field_size_limit(), 4 * LONGEST_ROW))
        return csv.reader(lines, strict=strict, **self._asdict())

    def as_written(self, line: str) -> list[str]:
        """The cells of one line whose quotes enclose nothing."""
        return next(csv.reader([line], delimiter=self.delimiter, quoting=csv.QUOTE_NONE), [])


class Known:
    """The values of columns that repeat a few, such as labels: they tell a row from a line of a text."""

    def __init__(self) -> None:
        self.rows = 0
        self._values: list[set[str] | None] = []

    def add(self, cells: Sequence[str]) -> None:
        """Take the values of a row."""
        self.rows += 1
        self._values += [set() for _ in range(len(cells) - len(self._values))]
        for column, value in enumerate(cells):
            values = self._values[column]
            if values is not None:
                values.add(value.strip()) if len(value) <= _LONGEST_VALUE else None
                if len(value) > _LONGEST_VALUE or len(values) > _MOST_VALUES:
                    self._values[column] = None

    def have(self, cells: Sequence[str]) -> bool:
        """Return whether these can be the cells of a row: what repeats is known; False while nothing repeats."""
        return bool(self._few()) and self.allow(cells)

    def allow(self, cells: Sequence[str]) -> bool:
        """Return whether nothing that repeats says otherwise."""
        return all(
            column < len(cells) and cells[column].strip() in (self._values[column] or ())
            for _, column in self._few()
        )

    def _few(self) -> list[tuple[int, int]]:
        """The two columns with the fewest values, where they are few."""
        few = [
            (len(values), column)
            for column, values in enumerate(self._values)
            if values and values != {""} and self.rows >= 10 and len(values) <= max(2, self.rows // 4)
        ]
        return sorted(few)[:2]


class _Lines:
    """The lines of a file; those of the row that is being read can be read again."""

    def __init__(self, file: TextIO) -> None:
        self.held: list[str] = []
        self.size = 0
        self.longest = LONGEST_ROW
        self._file, self._again = file, deque[str]()

    def __iter__(self) -> Iterator[str]:
        again, held, readline = self._again, self.held, self._file.readline
        while True:
            if self.size > self.longest:
                raise csv.Error("a cell without an end")
            line = again.popleft() if again else readline(4 * LONGEST_ROW)
            if not line:
                return
            held.append(line)
            self.size += len(line)
            yield line

    def begin(self) -> None:
        self.held.clear()
        self.size = 0

    def again(self, keep: int) -> None:
        """Give the lines after the first `keep` of the row once more."""
        self._again.extendleft(reversed(self.held[keep:]))
        del self.held[keep:]
        self.size = sum(map(len, self.held))


class Rows:
    """Goes through the rows of a file, one after the other.

    The csv module reads them strictly. Where it meets a quote that cannot be right, or one that encloses lines which
    are rows themselves, the row is read again: with its inner quotes doubled, or its first line alone as it is written.
    """

    def __init__(
        self, file: TextIO, dialect: Dialect, *, width: int = 0, known: Known | None = None, cut: bool = False
    ) -> None:
        """Begin at the next line of the file.

        Args:
          file: opened with newline="".
          dialect: of its cells.
          width: cells of a row; 0 for as many as the first has.
          known: what the columns hold, from another reading.
          cut: the file is the beginning of a longer one: a cell without an end is left out.
        """
        self.known = known or Known()
        self.width, self.remarks, self._wasted = width, 0, 0
        self.last_line = 0
        """On which the row ends that was read last."""
        self._lines, self._dialect, self._cut = _Lines(file), dialect, cut
        quote, end = re.escape(dialect.quotechar), re.escape(dialect.delimiter) + r"\r\n" + dialect.quotechar
        self._inner = re.compile(rf"(?<=[^{end}]){quote}(?=[^{end}])")

    def __iter__(self) -> Iterator[tuple[int, list[str], str]]:
        """The line on which a row begins, its cells, and what is odd about it; blank lines are left out."""
        lines, begin, characters, count, lost = self._lines, 1, 0, 0, False
        rows = self._dialect.reader(lines, strict=True)
        while True:
            lines.begin()
            remark = ""
            try:
                cells = next(rows)
                if len(lines.held) > 1 and (self._are_rows(lines.held) or self._next_is_better(cells)):
                    cells, remark = self._first_line(), STRAY
            except StopIteration:
                return
            except csv.Error as err:
                line = self._dialect.as_written(lines.held[0])
                if self._cut and "unexpected end" in str(err) and not self.known.have(line):
                    return
                self._wasted += lines.size
                cells, remark = self._mended()
                # What is read in vain must not grow with the square of the file.
                if self._wasted > 4 * characters + LONGEST_ROW:
                    lines.longest = _LONGEST_LATER
            lost = (lost or remark == STRAY) and not self._fits(cells)
            if remark:
                rows = self._dialect.reader(lines, strict=True)
            elif (
                count >= _LONG_ROWS
                and len(lines.held) >= _LONG_LINES
                and lines.size > max(_LONG_CHARACTERS, _LONG_TIMES * characters / count)
            ):
                remark = LONG
            remark = PIECE if lost else remark
            if len(cells) > 1 or (cells and cells[0].strip()):
                self.width = self.width or len(cells)
                characters, count = characters + lines.size, count + 1
                if len(cells) == self.width:
                    self.known.add(cells)
                self.remarks += bool(remark)
                self.last_line = begin + len(lines.held) - 1
                yield begin, cells, remark
            begin += len(lines.held)

    def _mended(self) -> tuple[list[str], str]:
        """The row in whose quotes the csv module finds an error."""
        first = self._lines.held[0]
        if cells := self._strictly([self._doubled(first)]):
            self._lines.again(1)
            return cells, BARE
        if not self.known.have(self._dialect.as_written(first)):
            self._lines.again(0)
            cells = self._strictly(map(self._doubled, self._lines))
            if cells and self._fits(cells) and not self._are_rows(self._lines.held, damaged=True):
                return cells, BARE
            self._wasted += self._lines.size
        cells = self._first_line()
        if len(cells) != self.width:
            loose = next(self._dialect.reader([first], strict=False), [])
            cells = loose if len(loose) == self.width else cells
        return cells, STRAY

    def _strictly(self, lines: Iterable[str]) -> list[str] | None:
        """One row of as many cells as there should be, or None."""
        try:
            cells = next(self._dialect.reader(lines, strict=True), [])
        except csv.Error:
            return None
        return cells if len(cells) == (self.width or len(cells)) else None

    def _fits(self, cells: Sequence[str]) -> bool:
        return len(cells) == (self.width or len(cells)) and self.known.allow(cells)

    def _next_is_better(self, cells: Sequence[str]) -> bool:
        """Return whether a row of several lines does not fit, and what follows its first line does."""
        if self._fits(cells):
            return False
        lines, held = self._lines, self._lines.held.copy()
        lines.again(1)
        lines.begin()
        try:
            after = next(self._dialect.reader(lines, strict=True), [])
        except csv.Error:
            after = []
        lines.again(0)
        lines.begin()
        lines.held.append(held[0])
        deque(itertools.islice(lines, len(held) - 1), maxlen=0)
        lines.size += len(held[0])
        return self._fits(after)

    def _first_line(self) -> list[str]:
        self._lines.again(1)
        return self._dialect.as_written(self._lines.held[0])

    def _doubled(self, line: str) -> str:
        r"""The line with its inner quotes, bare or written as \", doubled."""
        quote = self._dialect.quotechar
        return self._inner.sub(2 * quote, line.replace(f"\\{quote}", 2 * quote))

    def _are_rows(self, lines: Sequence[str], *, damaged: bool = False) -> bool:
        """Return whether a quote encloses what are rows by themselves, as half of its lines at least.

        Where nothing repeats and a row is damaged, a line with as many cells is taken for one.
        """

        def could_be(line: str) -> bool:
            cells = self._dialect.as_written(line)
            return len(cells) == self.width and (self.known.allow if damaged else self.known.have)(cells)

        rest = [line for line in lines[1:] if line.strip()]
        return could_be(lines[0]) and 2 * sum(map(could_be, rest)) >= max(1, len(rest))

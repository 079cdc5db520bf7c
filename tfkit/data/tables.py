"""Tables row by row, whatever they are stored in: never more than a few rows in memory.

The rows of a CSV file by the csv module, such that a quote that is never closed takes no other row with it.

CSV and TSV, with what a file leaves unsaid found out: delimiter, quotes, a first line of names.

JSON as rows: one object a line, or a whole document in one of the forms that pandas and Hugging Face write.

Which columns of a table hold the text, the label and the language.
"""

from __future__ import annotations

import ast
import csv
import difflib
import functools
import importlib.util
import io
import itertools
import json
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from tfkit.data import text_decoding
from tfkit.data.splits import Skipped, listed
from tfkit.data.text_decoding import (
    ENDINGS,
    SAMPLE_CHARACTERS,
    SAMPLE_ROWS,
    Encoding,
    Nested,
    Row,
    Rows,
    Table,
    decode,
    of_file,
    open_text,
    packed_ending,
    short,
)
from tfkit.errors import DataError

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


class QuotedRows:
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


_DELIMITERS = {",": "','", ";": "';'", "\t": "tab", "|": "'|'"}
_HEAD = 256 * 1024
_LONGEST_NAME = 100
_SEPARATOR = re.compile(r"sep=(.)\r?\n?$", re.IGNORECASE)


def open_delimited(path: Path) -> Table:
    """Look at the first rows of a CSV or TSV file."""
    ending = packed_ending(path)
    encoding = of_file(path)
    notes = [f"{path.name}: {encoding.note}"] if encoding.note else []
    with open_text(path, encoding.name, encoding.errors, newline="") as file:
        said = _SEPARATOR.match(file.readline(_HEAD))
    with open_text(path, encoding.name, encoding.errors, newline="") as file:
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
        with open_text(path, encoding.name, encoding.errors, newline="") as file:
            if said:
                file.readline()
            reading = QuotedRows(file, dialect, width=len(names), known=known)
            read = iter(reading)
            if headed:
                next(read)
            for number, cells, remark in read:
                line = number + bool(said)
                if remark == PIECE:
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
    reading = QuotedRows(io.StringIO(head, newline=""), dialect, cut=not whole)
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


Found = Iterator[tuple[int, dict[str, Any] | str, str]]
"""The line of an object, or its number in a document, from 1; the object, or what is wrong; what is odd about it."""

PYTHON = "are Python's dicts, not JSON: they are read as such"
_COMMA = re.compile(r'("[^"\\]*(?:\\.[^"\\]*)*")|,(?=\s*[\]}])')
_LONGEST_LINE = 1 << 24
_LARGEST_DOCUMENT = 1 << 27
_LONGEST_LITERAL = 1 << 23


def objects(path: Path, encoding: Encoding) -> Found:
    """The objects of a file.

    Raises:
      DataError: it is a document of a form that has no rows, damaged, or too large for the memory.
    """
    lines = (line.strip() for _, line in _lines(path, encoding) if line.strip())
    first, second = next(lines, ""), next(lines, "")
    # An array with one object a line is read like lines, whatever its size.
    one = _parsed((second if first == "[" else first).removesuffix(","))[0]
    by_line = isinstance(one, dict) and bool(second or not (_rows(one) or any(map(_rows, one.values()))))
    if one is None and first != "[":  # the first line is damaged, or the first of many of a document
        by_line = isinstance(_parsed(second.removesuffix(","))[0], dict)
    return _of_lines(path, encoding) if by_line else _of_document(path, encoding)


def _lines(path: Path, encoding: Encoding) -> Iterator[tuple[int, str]]:
    # A line ends with \n alone: a JSON string may hold the other ends.
    with open_text(path, encoding.name, encoding.errors, newline="\n") as file:
        number = 0
        while line := file.readline(_LONGEST_LINE):
            number += 1
            yield number, line


def _of_lines(path: Path, encoding: Encoding) -> Found:
    for number, line in _lines(path, encoding):
        content = line.strip()
        if content in ("", "[", "]", "],"):
            continue
        found, what = _parsed(content.removesuffix(","))
        if isinstance(found, dict):
            yield number, found, what
        else:
            yield number, what or f"is no object, but of type {type(found).__name__}", ""


def _of_document(path: Path, encoding: Encoding) -> Found:
    if encoding.size > _LARGEST_DOCUMENT:
        raise DataError(
            f"{path} is one JSON document of {encoding.size:,} bytes, which would have to be in memory as a whole.\n"
            f"  Write one object a line: jq -c '.[]' {path.name} > {path.stem}.jsonl"
        )
    with open_text(path, encoding.name, encoding.errors, newline="\n") as file:
        found, what = _parsed(file.read())
    if found is None:
        raise DataError(
            f"{path} {what}: neither as a whole nor line by line.\n"
            "  Write one object a line: pandas.DataFrame(records).to_json('NAME.jsonl', orient='records', lines=True)"
        )
    rows = _rows(found)
    if rows is None:
        raise DataError(
            f"{path} is JSON without rows: it is {_form(found)}.\n"
            "  Rows are objects with the same names, as a list or one a line: "
            "pandas.DataFrame(records).to_json('NAME.jsonl', orient='records', lines=True)"
        )
    return (
        (number, row if isinstance(row, dict) else f"is no object, but of type {type(row).__name__}", what)
        for number, row in enumerate(rows, 1)
    )


def _parsed(text: str) -> tuple[Any, str]:
    """Return what a text is as JSON, or as a Python literal; a remark on that, or why it is neither."""
    reason = ""
    for content in (text, None):
        if content is None:
            content = _COMMA.sub(lambda match: match[1] or "", text)
        try:
            return _values(content), ""
        except (ValueError, RecursionError) as err:
            reason = reason or f"is no JSON ({str(err).split(':')[0][:80]})"
    if len(text) <= _LONGEST_LITERAL and text.lstrip()[:1] in ("{", "["):
        try:
            # Once through JSON, since names may be numbers there.
            return json.loads(json.dumps(ast.literal_eval(text.strip()), default=str)), PYTHON
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            pass
    return None, reason


def _values(text: str) -> Any:
    """The one value of a text, or the list of several that follow each other."""
    decoder, place = json.JSONDecoder(), 0
    found: list[Any] = []
    while True:
        while place < len(text) and text[place] in " \t\r\n":
            place += 1
        if place == len(text) and found:
            return found[0] if len(found) == 1 else found
        value, place = decoder.raw_decode(text, place)
        found.append(value)


def _rows(found: Any) -> list[Any] | None:
    """The rows of a document; None where it has no rows, or is one row."""
    if isinstance(found, list):
        return found if any(isinstance(row, dict) for row in found) else None
    if not isinstance(found, dict) or not found:
        return None
    names, data = found.get("columns"), found.get("data")
    if isinstance(names, list) and isinstance(data, list) and all(isinstance(row, list) for row in data):
        return [dict(zip(map(str, names), row, strict=False)) for row in data]
    lists = [value for value in found.values() if isinstance(value, list) and _rows(value)]
    if lists:
        return lists[0] if len(lists) == 1 else None
    values = list(found.values())
    if all(isinstance(value, list) for value in values):
        same = len({len(value) for value in values}) == 1 and len(values) > 1
        return [dict(zip(found, row, strict=True)) for row in zip(*values, strict=True)] if same else None
    if all(isinstance(value, dict) for value in values) and values[0]:
        inner = set(values[0])
        if (
            len(values) > 1
            and all(key.isdecimal() for key in inner)
            and all(set(one) == inner for one in values)
        ):
            return [{name: column[key] for name, column in found.items()} for key in values[0]]
        if len({frozenset(value) for value in values}) <= max(1, len(values) // 2):
            return values
    return None


def _form(found: Any) -> str:
    if isinstance(found, list):
        kinds = sorted({type(one).__name__ for one in found[:1000]})
        return f"a list of {len(found)} ({', '.join(kinds)})"
    if isinstance(found, dict):
        return f"an object with the keys {listed([repr(short(key)) for key in found])}"
    return f"the {type(found).__name__} {short(str(found))!r}"


# Names that say it, the likeliest first, between spaces.
_TEXTS = (
    "text body message content review comment sentence description mail email e-mail tweet post document utterance "
    "question headline abstract title subject"
)
_LABELS = "label labels class category folder target sentiment topic intent tag type"
_LANGUAGES = "language lang locale"
_MOST_LANGUAGES = 100


class Columns(NamedTuple):
    """Numbers of columns."""

    text: int
    label: int
    language: int | None
    notes: tuple[str, ...] = ()

    @property
    def wanted(self) -> tuple[int, ...]:
        """Those to read: text, label, and language if there is one."""
        return (self.text, self.label) if self.language is None else (self.text, self.label, self.language)

    def named(self, table: Table) -> dict[str, str | None]:
        """The settings that choose these columns."""
        language = None if self.language is None else table.columns[self.language]
        return {
            "text_column": table.columns[self.text],
            "label_column": table.columns[self.label],
            "language_column": language,
        }


def choose(
    table: Table, *, text_column: str | None, label_column: str | None, language_column: str | None
) -> Columns:
    """The columns that are asked for, and for those left out the ones that are obvious.

    Raises:
      DataError: a column is not there, is not obvious, or cannot be what it is taken for.
    """
    if not table.sample:
        raise DataError(f"{table.path} has columns ({listed([*map(short, table.columns)])}), but no rows.")
    text = _named(table, text_column, "text_column")
    label = _named(table, label_column, "label_column")
    language = _named(table, language_column, "language_column")
    taken = [column for column in (text, label, language) if column is not None]
    if len(set(taken)) < len(taken):
        raise DataError(
            f"One column of {table.path}, '{short(table.columns[taken[0]])}', is given for two things; the text, its"
            f" label and its language are columns of their own.\n{_listing(table)}"
        )
    notes = []
    if text is None:
        text = _obvious(table, _TEXTS, taken)
        if text is None and label is not None:
            text = _only_other(table, label, taken)
    if label is None:
        label = _obvious(table, _LABELS, [*taken, *([] if text is None else [text])])
        if label is None and text is not None:
            label = _only_other(table, text, taken)
    if text is None and label is not None:
        text = _only_other(table, label, taken)
    if text is None and label is None and len(table.columns) == 2:
        text = max((0, 1), key=lambda column: sum(map(len, table.values(column))))
        label = 1 - text
    if text is None or label is None:
        lacking = [
            flag for flag, column in (("text_column", text), ("label_column", label)) if column is None
        ]
        raise DataError(
            f"Which columns of {table.path} to take is not obvious: give {' and '.join(lacking)}"
            f" ({' '.join('--' + flag.replace('_', '-') for flag in lacking)}).\n{_listing(table)}{_hints(table)}"
        )
    if text_column is None or label_column is None:
        names = f"'{short(table.columns[text])}' is taken as the text, '{short(table.columns[label])}' as the label"
        notes.append(f"{table.path.name}: The column {names}.")
    if language is None:
        language = _obvious(table, _LANGUAGES, [text, label])
        if language is not None and len(set(table.values(language))) > _MOST_LANGUAGES:
            language = None
        if language is not None:
            notes.append(
                f"{table.path.name}: The column '{short(table.columns[language])}' is taken as the language."
            )
    return Columns(text, label, language, tuple(notes))


def choose_text(table: Table, *, text_column: str | None) -> int:
    """The column of the texts alone, for a use that needs no labels; see `choose`.

    Raises:
      DataError: it is not there, or none is obvious.
    """
    if not table.sample:
        raise DataError(f"{table.path} has columns ({listed([*map(short, table.columns)])}), but no rows.")
    text = _named(table, text_column, "text_column")
    if text is None:
        text = 0 if len(table.columns) == 1 else _obvious(table, _TEXTS, [])
    if text is None:
        raise DataError(
            f"Which column of {table.path} holds the texts is not obvious: give text_column (--text-column).\n"
            f"{_listing(table)}"
        )
    return text


def _named(table: Table, name: str | None, flag: str) -> int | None:
    if name is None:
        return None
    found = [number for number, column in enumerate(table.columns) if column == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(f"{table.path} has {len(found)} columns '{name}' ({flag}): rename all but one.")
    near = difflib.get_close_matches(name, table.columns, n=1, cutoff=0.5)
    raise DataError(
        f"{table.path} has no column '{name}' ({flag})."
        + (f" Did you mean '{near[0]}'?" if near else "")
        + f"\n{_listing(table)}"
    )


def _obvious(table: Table, names: str, taken: Sequence[int]) -> int | None:
    """The column that bears the first of these names."""
    of_name = {column.lower(): number for number, column in reversed([*enumerate(table.columns)])}
    numbers = (of_name[name] for name in names.split() if name in of_name)
    return next((number for number in numbers if number not in taken), None)


def _only_other(table: Table, one: int, taken: Sequence[int]) -> int | None:
    others = [number for number in range(len(table.columns)) if number != one and number not in taken]
    return others[0] if len(others) == 1 else None


def check_text(table: Table, text: int, numbers: int, rows: int) -> None:
    """Refuse a column of texts that are numbers in all of its rows.

    Raises:
      DataError: there is nothing to read.
    """
    if rows and numbers == rows:
        values = [value for value in table.values(text) if value.strip()]
        raise DataError(
            f"The text column '{short(table.columns[text])}' of {table.path} holds numbers"
            f" ({', '.join(values[:3])}, ...): there is nothing to read.\n{_listing(table)}"
        )


def is_number(value: str) -> bool:
    """Return whether a cell holds a number and nothing else."""
    try:
        float(value.replace(",", "."))
    except ValueError:
        return False
    return True


def _hints(table: Table) -> str:
    """Where the labels may be if no column is called so."""
    hints = []
    marks = [
        short(name)
        for number, name in enumerate(table.columns)
        if {value.strip().lower() for value in table.values(number)} in ({"0", "1"}, {"true", "false"})
    ]
    if len(marks) > 1:
        hints.append(
            f"{len(marks)} columns say yes or no ({listed(marks)}): each of them can be the label of a training of its"
            " own."
        )
    beside = sorted(
        path.name
        for path in table.path.parent.iterdir()
        if "label" in path.name.lower() and path != table.path
    )
    if beside:
        hints.append(
            f"{listed(beside, 3)} lies beside it: if the labels are there, join them first (pandas.merge, on their id)."
        )
    return "".join(f"\n  {hint}" for hint in hints)


def _listing(table: Table) -> str:
    """The columns, each with a value."""
    lines = []
    for number, name in enumerate(table.columns[:20]):
        values = [value for value in table.values(number) if value.strip()]
        shown = " ".join(values[0].split()) if values else ""
        shown = shown if len(shown) <= 50 else f"{shown[:50]}..."
        lines.append(f"  {short(name)}: {shown!r}" if values else f"  {short(name)}: (empty)")
    more = len(table.columns) - 20
    return "\n".join(
        ["  Its columns, with a value of each:", *lines, *([f"  ... ({more} more)"] if more > 0 else [])]
    )


_MOST_COLUMNS = 1000
_INSTEAD = {
    ".xlsx": "pandas.read_excel(PATH)",
    ".xls": "pandas.read_excel(PATH)",
    ".ods": "pandas.read_excel(PATH)",
    ".feather": "pandas.read_feather(PATH)",
    ".arrow": "datasets.Dataset.from_file(PATH)",
    ".pkl": "pandas.read_pickle(PATH)",
    ".sas7bdat": "pandas.read_sas(PATH)",
    ".dta": "pandas.read_stata(PATH)",
}
"""How a file of another kind is read."""


def open_table(path: Path) -> Table:
    """Look at the first rows of a table.

    Raises:
      DataError: there is no such file, it is of no known kind, empty, or not what its ending says.
    """
    kinds: dict[str, Callable[[Path], Table]] = {
        ".csv": open_delimited,
        ".tsv": open_delimited,
        ".tab": open_delimited,
        ".jsonl": _json,
        ".ndjson": _json,
        ".json": _json,
        ".parquet": _parquet,
        ".pq": _parquet,
    }
    _check_file(path)
    ending = packed_ending(path)
    kind = kinds.get(ending)
    if kind is _parquet and ending != path.suffix.lower():
        raise DataError(f"{path} is a packed Parquet file, which is packed by itself: unpack it first.")
    if kind is not None:
        return kind(path)
    if read := _INSTEAD.get(ending):
        raise DataError(
            f"{path} is no table that is read here: {', '.join(kinds)}.\n"
            f"  Convert it: {read.replace('PATH', repr(path.name))}.to_csv('{path.stem}.csv'"
            f"{', index=False' if 'pandas' in read else ''})"
        )
    with path.open("rb") as file:
        text_decoding.check_text(file.read(1 << 16), str(path))
    raise DataError(
        f"{path} has the ending '{ending}'; tables end in {', '.join(kinds)}, or in one of these and"
        f" {', '.join(ENDINGS)}.\n"
        "  Rename it to what it holds: .csv with a first line of column names, .jsonl with one object a line."
    )


def _check_file(path: Path) -> None:
    if not path.exists():
        siblings = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, siblings, n=1)
        raise DataError(
            f"There is no file {path} (from {Path.cwd()})."
            + (f"\n  Did you mean {path.parent / near[0]}?" if near else "")
        )
    if not path.is_file():
        raise DataError(f"{path} is neither a file nor a folder.")
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise DataError(f"{path} is empty.")
    except PermissionError as err:
        raise DataError(f"{path} cannot be read: permission denied.\n  chmod u+r {path}") from err


def _json(path: Path) -> Table:
    """JSON: one object a line, or a document."""
    encoding = of_file(path)
    columns: dict[str, None] = {}
    sample: list[dict[str, Any]] = []
    # To the end: a name may be there in later objects only.
    for _, found, _ in objects(path, encoding):
        if isinstance(found, dict):
            columns.update(dict.fromkeys(found))
            if len(sample) < SAMPLE_ROWS:
                sample.append(found)
        if len(columns) > _MOST_COLUMNS:
            raise DataError(
                f"The objects of {path} have more than {_MOST_COLUMNS} names:"
                f" {listed([*map(short, columns)])}.\n"
                "  Rows are objects with the same names."
            )
    if not columns:
        raise DataError(f"{path} has no line that is a JSON object.")

    def rows(wanted: tuple[int, ...]) -> Rows:
        names = [list(columns)[column] for column in wanted]
        for number, found, remark in objects(path, encoding):
            if isinstance(found, str):
                yield Skipped(f"{path.name}:{number}", found)
            else:
                yield Row(number, tuple(_text(found.get(name)) for name in names), remark)

    return Table(
        path=path,
        columns=tuple(columns),
        sample=[tuple(_short(_text(found.get(name))) for name in columns) for found in sample],
        rows=rows,
        size=encoding.size,
        notes=[f"{path.name}: {encoding.note}"] if encoding.note else [],
    )


def _parquet(path: Path) -> Table:
    if importlib.util.find_spec("pyarrow") is None:
        raise DataError(f"{path} is read by pyarrow, which is not installed: pip install pyarrow")
    from pyarrow import ArrowException, parquet

    def rows(wanted: tuple[int, ...]) -> Rows:
        names = [columns[column] for column in wanted]
        number = 0
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256, columns=names):
                values = [map(known.get(name, _text), batch.column(name).to_pylist()) for name in names]
                for cells in zip(*values, strict=True):
                    number += 1
                    yield Row(number, cells)

    try:
        with parquet.ParquetFile(path) as file:
            columns = tuple(file.schema_arrow.names)
            known = _class_labels((file.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
    except (ArrowException, OSError) as err:
        raise DataError(
            f"{path} is no Parquet file that pyarrow can read: {str(err).splitlines()[0]}"
        ) from err
    if twice := sorted({name for name in columns if columns.count(name) > 1}):
        raise DataError(
            f"{path} has more than one column {listed([*map(short, twice)])}: rename all but one."
        )
    first = zip(rows(tuple(range(len(columns)))), range(SAMPLE_ROWS), strict=False)
    sample = [tuple(map(_short, row.cells)) for row, _ in first if isinstance(row, Row)]
    return Table(path=path, columns=columns, sample=sample, rows=rows)


def _class_labels(content: bytes) -> dict[str, Callable[[Any], str | None]]:
    """Return how the numbers of a column are named that Hugging Face's datasets wrote as ClassLabel; -1 is none."""
    try:
        features = dict(json.loads(content).get("info", {}).get("features", {}))
        names = {column: [*map(str, one["names"])] for column, one in features.items() if "names" in one}
    except (ValueError, TypeError, AttributeError):
        return {}
    return {column: functools.partial(_column_index, of) for column, of in names.items()}


def _column_index(names: list[str], value: Any) -> str | None:
    if isinstance(value, int) and -1 <= value < len(names):
        return None if value < 0 else names[value]
    return _text(value)


def _text(value: Any) -> str | None:
    """What a cell says: numbers as they are written, lists and objects as JSON, None and NaN as nothing."""
    if value is None or value != value:
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return decode(value)[0]
    # Whole numbers become floats in a column where some are missing.
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, (list, tuple, dict)):
        return Nested(json.dumps(value, ensure_ascii=False, default=str))
    return str(value)


def _short(value: str | None) -> str | None:
    return value if value is None else value[:SAMPLE_CHARACTERS]

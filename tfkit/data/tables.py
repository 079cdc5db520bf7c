"""Tables row by row, whatever they are stored in: CSV, TSV, JSON, Parquet, TFRecords; few rows are in memory at a time.

A row that cannot be used is named by its line (in a JSON document and in Parquet by its number, from 1).
"""

from __future__ import annotations

import csv
import dataclasses
import difflib
import functools
import itertools
import json
import re
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tfkit.data.folders import IMAGES, splits_of
from tfkit.data.records import as_table, is_records
from tfkit.data.splits import Skipped, listed, no_such_path
from tfkit.data.text_decoding import (
    TABLE_ENDINGS,
    Encoding,
    check_text,
    decode,
    detect_encoding,
    open_text,
    packed_ending,
    short,
)
from tfkit.environment.process import counted
from tfkit.errors import DataError
from tfkit.tasks import as_number

SAMPLE_ROWS = 200
SAMPLE_CHARACTERS = 300
"""Of a cell that is looked at."""

LONGEST_ROW = 1 << 24
"""Characters. A quote that is open for longer is none."""

STRAY = (
    "begin a cell with a quote that encloses nothing: it is taken as a character, and the next lines as rows"
)
OPEN = "have several lines, and may hold other rows: look whether a quote is open that takes rows with it"

_HEAD_ROWS, _HEAD_CHARACTERS = 1000, 1 << 18
_MAX_VALUES = 1000
_LONGEST_NAME = 100
_LARGEST_DOCUMENT = 1 << 27
_DELIMITERS = {",": "','", ";": "';'", "\t": "tab", "|": "'|'"}


class Row(NamedTuple):
    """Some cells of one row."""

    line: int
    """Line of its file on which it begins, from 1; in Parquet its number."""

    cells: tuple[str | None, ...]
    """None where there is nothing."""

    remark: str = ""
    """A doubt about it, as a part of a sentence on several rows; empty for most."""


Rows = Iterator[Row | Skipped]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A file with named columns."""

    path: Path
    columns: tuple[str, ...]
    rows: Callable[[tuple[int, ...]], Rows]
    """Begins to read the columns with these numbers; Skipped stands for a row that cannot be used."""

    size: int = 0
    """Bytes of it as text, where that is not the size of the file."""

    notes: list[str] = field(default_factory=list)
    """Assumptions in reading it, a sentence each."""

    is_joined: bool = False
    """True where its last column was joined from several, each of which says yes or no to one label."""

    @functools.cached_property
    def sample(self) -> list[tuple[str | None, ...]]:
        """Return the first rows, each cell cut off after `SAMPLE_CHARACTERS`."""
        rows = (row for row in self.rows(tuple(range(len(self.columns)))) if isinstance(row, Row))
        first_rows = itertools.islice(rows, SAMPLE_ROWS)
        return [tuple(cell and cell[:SAMPLE_CHARACTERS] for cell in row.cells) for row in first_rows]

    def values(self, column: int) -> list[str]:
        """Return what the first rows have in a column, without what is missing."""
        return [value for row in self.sample if (value := row[column]) is not None]


class Nested(str):
    """A list or an object in a cell, as JSON."""

    __slots__ = ()


def read_rows(table: Table, columns: tuple[int, ...], notes: list[str]) -> Rows:
    """Yield the rows of some columns, the first of which has the texts; a note is appended on what is odd about them.

    Raises:
      DataError: the texts are numbers in all rows: there is nothing to read.
    """
    remarks: defaultdict[str, list[int]] = defaultdict(list)
    rows = numbers = 0
    for row in table.rows(columns):
        if isinstance(row, Row):
            rows += 1
            text = row.cells[0] or ""
            numbers += as_number(text.strip()) is not None
            if row.remark:
                remarks[row.remark].append(row.line)
            if isinstance(text, Nested):
                row = Skipped(f"{table.path.name}:{row.line}", "has a list or an object for a text")
        yield row
    if rows and numbers == rows:
        values = [value for value in table.values(columns[0]) if value.strip()]
        raise DataError(
            f"The text column '{short(table.columns[columns[0]])}' of {table.path} holds numbers"
            f" ({', '.join(values[:3])}, ...): there is nothing to read.\n{_list_columns(table)}"
        )
    for remark, lines in remarks.items():
        places = listed([f"{table.path.name}:{line}" for line in lines], 3)
        notes.append(f"{counted(len(lines), 'row')} {remark} ({places}).")


def open_table(path: Path, *, one_column: bool = False) -> Table:
    """Look at the first rows of a table.

    Args:
      path: of the file; of TFRecords also a folder or a pattern, whose table is a file of the cache.
      one_column: whether a .csv or .tsv may have no more than one: texts without labels.

    Raises:
      DataError: there is no such file, it is of no known kind, empty, or not what its ending says.
    """
    if is_records(path):
        path, notes = as_table(path)
        table = _open_json(path)
        table.notes[:0] = notes
        return table
    if not path.exists():
        raise no_such_path(path, "file")
    if not path.is_file():
        raise DataError(f"{path} is neither a file nor a folder.")
    try:
        with path.open("rb") as file:
            head = file.read(1 << 16)
    except PermissionError as err:
        raise DataError(f"{path} cannot be read: permission denied.\n  chmod u+r {path}") from err
    if not head:
        raise DataError(f"{path} is empty.")
    ending = packed_ending(path)
    if ending in (".parquet", ".pq"):
        if ending != path.suffix.lower():
            raise DataError(f"{path} is a packed Parquet file, which is packed by itself: unpack it first.")
        return _open_parquet(path)
    if ending in TABLE_ENDINGS:
        return _open_json(path) if "js" in ending else _open_delimited(path, one_column=one_column)
    check_text(head, str(path))
    raise DataError(
        f"{path} has the ending '{ending}'; tables end in {', '.join(TABLE_ENDINGS)}, packed or not.\n"
        "  Rename it to what it holds: .csv with a first line of column names, .jsonl with one object a line."
    )


def _read_rows(
    path: Path, encoding: Encoding, delimiter: str, sets: list[set[str]]
) -> Iterator[tuple[int, int, list[str], str]]:
    """Yield the first and the last line of each row, its cells, and what is odd about it; blank lines are left out.

    The csv module reads strictly. Where it meets a quote that cannot be right, or one that encloses lines of which the
    first is a row by itself, that line is taken as it is written, but for quotes that enclose a cell, and the others
    are read again: a quote that is never closed takes no other row with it.

    Args:
      path: of the file.
      encoding: of the file.
      delimiter: of its cells.
      sets: the values of each column, a thousand at most, from an earlier reading too: those of a column that repeats
        a few, such as labels, tell a row from a line of a text.
    """
    queue, lines, is_damaged, line = deque[str](), list[str](), False, 1
    quoted_cell = re.compile('"[^"]*"')
    # Of the whole process, so it is only ever raised.
    csv.field_size_limit(max(csv.field_size_limit(), 2 * LONGEST_ROW))

    def read_lines() -> Iterator[str]:
        size = 0
        while text := queue.popleft() if queue else file.readline(LONGEST_ROW):
            lines.append(text)
            size += len(text)
            if size > LONGEST_ROW and len(lines) > 1:
                raise csv.Error("a cell without an end")
            yield text

    def as_written(text: str) -> list[str]:
        cells = [cell.lstrip(" ") for cell in text.rstrip("\r\n").split(delimiter)]
        return [cell[1:-1] if quoted_cell.fullmatch(cell) else cell for cell in cells]

    def is_row(cells: list[str], *, surely: bool = True) -> bool:
        label_set = min(sets, key=len)
        if len(cells) != len(sets) or 4 * len(label_set) > max(map(len, sets)):
            return not surely
        value = cells[sets.index(label_set)].strip()[:_LONGEST_NAME]
        return value in label_set or not (value or surely)

    def has_rows(cells: list[str]) -> bool:
        if len(cells) == len(sets) or is_row(as_written(lines[0])):
            return is_row(as_written(lines[0]))
        return 2 * sum(is_row(as_written(text)) for text in lines[1:]) >= len(lines) - 1

    def may_have_rows(cells: list[str]) -> bool:
        matches = sum(text.count(delimiter) == len(sets) - 1 for text in lines[1:-1])
        return (len(lines) > 3 and 2 * matches >= len(lines) - 2) or not is_row(cells, surely=False)

    with open_text(path, encoding, newline="") as file:
        while True:
            lines.clear()
            remark = ""
            try:
                reader = csv.reader(read_lines(), delimiter=delimiter, skipinitialspace=True, strict=True)
                cells = next(reader)
                is_multiline = len(lines) > 1 and bool(sets)
                is_stray = is_multiline and has_rows(cells)
            except StopIteration:
                return
            except csv.Error:
                is_stray = True
            if is_stray:
                queue.extendleft(reversed(lines[1:]))
                del lines[1:]
                cells, remark, is_damaged = as_written(lines[0]), STRAY, True
            elif is_multiline and may_have_rows(cells):
                remark = OPEN
            is_excel_hint = line == 1 and cells[:1] and cells[0].lower().startswith("sep=")
            if not is_excel_hint and (len(cells) > 1 or (cells and cells[0].strip())):
                sets += [set() for _ in cells if not sets]
                for value, values in zip(cells, sets, strict=False):
                    if not (remark and is_damaged) and len(values) < _MAX_VALUES and value.strip():
                        values.add(value.strip()[:_LONGEST_NAME])
                yield line, line + len(lines) - 1, cells, remark
            line += len(lines)


def _open_delimited(path: Path, *, one_column: bool) -> Table:
    """Look at the first rows of a CSV or TSV file: its delimiter, and whether its first line has names."""
    encoding = detect_encoding(path)
    notes = encoding.notes_on(path)
    default = "," if packed_ending(path) == ".csv" else "\t"
    delimiter, head, sets = _sniff(path, encoding, default, one_column=one_column)
    if delimiter != default:
        notes.append(f"{path.name}: Its columns are separated by {_DELIMITERS[delimiter]}.")
    names = [name.strip("\ufeff \t\r\n") for name in head[0]]
    folded_names = [name.casefold() for name in names]
    has_header = not _is_row(names, head[1:])
    if not has_header:
        names = [f"column {number}" for number in range(1, len(names) + 1)]
        notes.append(f"{path.name}: Its first line has no names, but is a row: columns go by their number.")

    def iterate(numbers: tuple[int, ...]) -> Rows:
        raw_rows = _read_rows(path, encoding, delimiter, sets)
        for first, last, cells, remark in itertools.islice(raw_rows, int(has_header), None):
            # Programs that close each line with a delimiter have one cell too many.
            if not any(map(str.strip, cells[len(names) :])):
                cells = cells[: len(names)]
            if len(cells) != len(names):
                lines = str(first) if first == last else f"{first}-{last}"
                yield Skipped(f"{path.name}:{lines}", f"has {len(cells)} fields instead of {len(names)}")
            elif has_header and [cell.strip("\ufeff \t\r\n").casefold() for cell in cells] == folded_names:
                yield Skipped(f"{path.name}:{first}", "repeats the line of names")
            else:
                yield Row(first, tuple(cells[column] for column in numbers), remark)

    return Table(path=path, columns=tuple(names), rows=iterate, size=encoding.size, notes=notes)


def _sniff(
    path: Path, encoding: Encoding, default: str, *, one_column: bool
) -> tuple[str, list[list[str]], list[set[str]]]:
    """Return the delimiter by which most rows have as many cells as the first, the first rows, and their values."""
    results = []
    for delimiter in dict.fromkeys((default, *_DELIMITERS)):
        sets: list[set[str]] = []
        head, odd_count, size = [], 0, 0
        for _, _, cells, remark in itertools.islice(_read_rows(path, encoding, delimiter, sets), _HEAD_ROWS):
            head.append(cells)
            odd_count += bool(remark)
            size += sum(map(len, cells))
            if size > _HEAD_CHARACTERS:
                break
        width = len(head[0]) if head else 0
        if width > 1 and delimiter == default != ",":
            return delimiter, head, sets
        if width > 1 or (width == 1 and one_column and delimiter == default):
            agreement = round(sum(len(cells) == width for cells in head) / len(head), 2)
            results.append(((width > 1, agreement, width, -odd_count), delimiter, head, sets))
    if not results:
        first = "".join(head[0]) if head else ""
        raise DataError(
            f"{path} has one column: its first line is {short(first)!r}.\n"
            f"  Columns are separated by {' or '.join(_DELIMITERS.values())}; a text and its label are two."
        )
    return max(results, key=lambda result: result[0])[1:]


def _is_row(first: Sequence[str], body: Sequence[Sequence[str]]) -> bool:
    """Return whether the first line is a row like the others: one of its cells is a value that its column repeats."""
    if any(len(name) > _LONGEST_NAME or "\n" in name for name in first):
        return True
    rows = [row for row in body if len(row) == len(first) and [cell.strip() for cell in row] != list(first)]
    for column, value in enumerate(first):
        counts = Counter(row[column].strip() for row in rows)
        if value and 1 < len(counts) <= max(2, len(body) // 4) and counts[value] > 1:
            return True
    return False


def _open_json(path: Path) -> Table:
    """Look at all objects of a JSON file, one a line or in a document: a name may be there in later ones only."""
    encoding = detect_encoding(path)
    records = (record for _, record in _read_json(path, encoding) if isinstance(record, dict))
    columns = tuple(dict.fromkeys(itertools.chain.from_iterable(records)))
    if not columns:
        raise DataError(f"{path} has no line that is a JSON object.")
    return _build_table(path, columns, lambda _: _read_json(path, encoding), encoding)


def _build_table(
    path: Path,
    columns: tuple[str, ...],
    read_records: Callable[[list[str]], Iterator[tuple[int, dict[str, Any] | str]]],
    encoding: Encoding,
) -> Table:
    """Return a table of objects; `read_records` is given the names that are wanted."""

    def iterate(numbers: tuple[int, ...]) -> Rows:
        names = [columns[column] for column in numbers]
        for number, record in read_records(names):
            if isinstance(record, str):
                yield Skipped(f"{path.name}:{number}", record)
            else:
                yield Row(number, tuple(as_text(record.get(name)) for name in names))

    return Table(path=path, columns=columns, rows=iterate, size=encoding.size, notes=encoding.notes_on(path))


def _read_json(path: Path, encoding: Encoding) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield the line of an object, or its number in a document, and the object, or what is wrong with it.

    Raises:
      DataError: it is a document without rows, damaged, or too large for the memory.
    """
    # An array with one object a line is read like lines, whatever its size.
    with open_text(path, encoding, newline="\n") as file:  # a JSON string may hold the other ends of lines
        pieces = enumerate(iter(lambda: file.readline(LONGEST_ROW), ""), 1)
        lines = ((number, line.strip().removesuffix(",")) for number, line in pieces)
        lines = ((number, line) for number, line in lines if line not in ("", "[", "]"))
        first = list(itertools.islice(lines, 2))
        if len(first) == 2 and any(isinstance(_parse_json(line), dict) for _, line in first):
            yield from ((number, _parse_json(line)) for number, line in itertools.chain(first, lines))
            return
    if encoding.size > _LARGEST_DOCUMENT:
        raise DataError(
            f"{path} is one JSON document of {encoding.size:,} bytes, which would have to be in memory as a whole.\n"
            f"  Write one object a line: jq -c '.[]' {path.name} > {path.stem}.jsonl"
        )
    with open_text(path, encoding, newline="\n") as file:
        document = _parse_json(file.read(), (dict, list))
    records = _find_records(document)
    if records is None:
        keys = f": {listed([repr(short(key)) for key in document])}" if isinstance(document, dict) else ""
        form = f"is JSON without rows ({type(document).__name__}{keys})"
        raise DataError(
            f"{path} {document if isinstance(document, str) else form}.\n"
            "  Rows are objects with the same names, as a list or one a line: "
            "pandas.DataFrame(records).to_json('NAME.jsonl', orient='records', lines=True)"
        )
    for number, record in enumerate(records, 1):
        yield number, record if isinstance(record, dict) else _describe_type(record)


def _parse_json(text: str, kinds: Any = dict) -> Any:
    """Return an object, or what is wrong with the text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as err:
        return f"is no JSON ({str(err).split(':')[0][:80]})"
    return value if isinstance(value, kinds) else _describe_type(value)


def _describe_type(value: Any) -> str:
    return f"is no object, but of type {type(value).__name__}"


def _find_records(document: Any) -> list[Any] | None:
    """Return the rows of a document: a list of objects, the one such list in an object, or pandas' columns."""
    if isinstance(document, list):
        return document if any(isinstance(record, dict) for record in document) else None
    if not isinstance(document, dict):
        return None
    lists = [value for value in document.values() if isinstance(value, list) and _find_records(value)]
    if lists:
        return lists[0] if len(lists) == 1 else None
    if not any(isinstance(value, list | dict) for value in document.values()):
        return [document]
    from pandas import DataFrame

    try:
        return DataFrame(document, dtype=object).to_dict("records")
    except ValueError:
        return None


def _open_parquet(path: Path) -> Table:
    from pyarrow import ArrowException, parquet

    def read(names: list[str]) -> Iterator[tuple[int, dict[str, Any] | str]]:
        with parquet.ParquetFile(path) as file:
            batches = file.iter_batches(batch_size=256, columns=names)
            for number, record in enumerate((record for batch in batches for record in batch.to_pylist()), 1):
                for name, labels in class_names.items():
                    value = record.get(name)
                    is_list = isinstance(value, list)
                    record[name] = [labels.get(v, v) for v in value] if is_list else labels.get(value, value)
                yield number, record

    try:
        with parquet.ParquetFile(path) as file:
            columns = tuple(file.schema_arrow.names)
            class_names = _read_class_labels((file.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
    except (ArrowException, OSError) as err:
        raise DataError(f"{path} is no Parquet file that pyarrow reads: {str(err).splitlines()[0]}") from err
    if repeats := sorted({name for name in columns if columns.count(name) > 1}):
        raise DataError(f"{path} has more than one column {listed([*map(short, repeats)])}: rename them.")
    return _build_table(path, columns, read, Encoding("utf-8"))


def of_frame(frame: Any) -> Table:
    """Return the table of a DataFrame, of pandas or with a method `to_pandas`; its index numbers the rows."""
    frame = frame.to_pandas() if hasattr(frame, "to_pandas") else frame
    columns = tuple(map(str, frame.columns))

    def read(names: list[str]) -> Iterator[tuple[int, dict[str, Any] | str]]:
        part = frame.iloc[:, [columns.index(name) for name in names]]
        part = part.astype(object).where(part.notna(), None)
        for index, *values in part.itertuples(name=None):
            yield index, dict(zip(names, values, strict=True))

    return _build_table(Path(type(frame).__name__), columns, read, Encoding("utf-8"))


_YES_OR_NO = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def with_joined_columns(table: Table, name: str | None) -> Table:
    """Return the table with one more column, of the labels of each row, where `name` lists several: "even,prime".

    Args:
      table: it; each of these columns has 1 or 0, yes or no, true or false.
      name: of a label column, as it was asked for.

    Raises:
      DataError: one of the columns is not there.
    """
    names = [] if name is None or name in table.columns else [part.strip() for part in name.split(",")]
    if len(names) < 2:
        return table
    parts = [_find_column(table, part, "label_column") for part in names]

    def iterate(numbers: tuple[int, ...]) -> Rows:
        columns = tuple(column for column in numbers if column < len(table.columns))
        for row in table.rows((*columns, *parts)):  # type: ignore[arg-type]  # all are there
            if isinstance(row, Row):
                cells = row.cells[len(columns) :]
                bits = [_YES_OR_NO.get((cell or "").strip().casefold().removesuffix(".0")) for cell in cells]
                labels = json.dumps([*itertools.compress(names, bits)])
                cell_of = {**dict(zip(columns, row.cells, strict=False)), len(table.columns): Nested(labels)}
                if None in bits:
                    pos = bits.index(None)
                    reason = f"has {short(cells[pos] or '')!r} in '{short(names[pos])}', neither 1 nor 0"
                    row = Skipped(f"{table.path.name}:{row.line}", reason)
                else:
                    row = row._replace(cells=tuple(cell_of[column] for column in numbers))
            yield row

    return dataclasses.replace(table, columns=(*table.columns, str(name)), rows=iterate, is_joined=True)


def _read_class_labels(content: bytes) -> dict[str, dict[int, str | None]]:
    """Return how the numbers of a column are named that Hugging Face's datasets wrote as ClassLabel; -1 is none.

    A column of lists of these is a feature that holds one.
    """
    try:
        features = json.loads(content)["info"]["features"]
        inner = {column: feature.get("feature", feature) for column, feature in features.items()}
        names = {column: feature["names"] for column, feature in inner.items() if "names" in feature}
        return {column: {-1: None, **dict(enumerate(map(str, labels)))} for column, labels in names.items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}


def as_text(value: Any) -> str | None:
    """Return what a cell says, as pandas writes it; lists and objects as JSON, None and NaN as nothing."""
    if value is None or value != value:
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return decode(value)[0]
    # Whole numbers become floats in a column where some are missing.
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, (list, tuple, dict)):
        return Nested(json.dumps(value, ensure_ascii=False, default=str))
    return str(value)


# Names that say it, the likeliest first, between spaces.
_COLUMN_NAMES = {
    "text_column": "text body message content review comment sentence description mail email e-mail tweet post document"
    " utterance question headline abstract title subject",
    "image_column": "image file filename file_name path image_path filepath file_path image_file img",
    "label_column": "label labels class category folder target sentiment topic intent tag type",
    "language_column": "language lang locale",
}
OPTIONAL_FLAGS = ("language_column", "group_column", "split_column")
FLAGS = ("text_column", "label_column", *OPTIONAL_FLAGS)
MOST_LANGUAGES = 100
_SPLIT_NAMES = {"split", "subset", "partition", "set", "usage"}
_SPLITS = {"train", "training", "validation", "valid", "val", "dev", "test"}
_PERSONS = {
    "patient",
    "subject",
    "person",
    "user",
    "customer",
    "client",
    "sender",
    "author",
    "speaker",
    "group",
}


def choose_columns(table: Table, flags: Mapping[str, str | None]) -> tuple[dict[str, int], list[str]]:
    """Return the columns that are asked for, and for those left out the ones that are obvious.

    Args:
      table: it.
      flags: for each of `FLAGS` the name of a column, or None, "image_column" in place of the text; "text_column" alone
        for a use that needs no labels. A language, a group and a split may be missing.

    Returns:
      The number of each that is read, under its flag, in the order of `flags`; and notes on what was taken for granted.

    Raises:
      DataError: a column is not there, is not obvious, or cannot be what it is taken for.
    """
    kind = "image" if "image_column" in flags else "text"
    columns = {flag: _find_column(table, name, flag) for flag, name in flags.items()}
    given_columns = [column for column in columns.values() if column is not None]
    if repeated_columns := [column for column in given_columns if given_columns.count(column) > 1]:
        raise DataError(
            f"One column of {table.path}, '{short(table.columns[repeated_columns[0]])}', is given for two things.\n"
            f"{_list_columns(table)}"
        )
    needed_flags = [flag for flag in columns if flag not in OPTIONAL_FLAGS]
    for flag in needed_flags:
        if columns[flag] is None:
            columns[flag] = _guess_column(table, flag, columns)
    other_columns = [column for column in range(len(table.columns)) if column not in columns.values()]
    missing_flags = [flag for flag in needed_flags if columns[flag] is None]
    if len(missing_flags) == len(table.columns) == 2:
        text_number = max((0, 1), key=lambda column: sum(map(len, table.values(column))))
        columns |= dict(zip(needed_flags, (text_number, 1 - text_number), strict=True))
    elif len(missing_flags) == len(other_columns) == 1:
        columns[missing_flags[0]] = other_columns[0]
    elif missing_flags:
        options = " ".join("--" + name.replace("_", "-") for name in missing_flags)
        raise DataError(
            f"Which columns of {table.path} to take is not obvious: give {' and '.join(missing_flags)} ({options}).\n"
            f"{_list_columns(table)}"
        )
    notes: list[str] = []
    numbers = tuple(column for flag in needed_flags if (column := columns[flag]) is not None)
    first, endings = (
        table.columns[numbers[0]],
        {Path(value).suffix.lower() for value in table.values(numbers[0])},
    )
    if endings and endings <= IMAGES.suffixes and flags.get("text_column", "") is None:
        raise DataError(
            f"The column '{short(first)}' of {table.path} holds names of images, and no texts. For the images: "
            f"image_column='{first}' (--image-column, of recipes.transfer_image and train_private)."
        )
    if len(numbers) == 1:
        return dict(zip(needed_flags, numbers, strict=True)), notes
    text, label = (f"'{short(table.columns[number])}'" for number in numbers)
    if None in (flags[flag] for flag in needed_flags):
        notes.append(f"{table.path.name}: The column {text} is taken as the {kind}, {label} as the label.")
    for column, name in enumerate(table.columns):
        values = {value.strip().lower() for value in table.values(column)}
        if column in columns.values():
            continue
        if name.lower() in _SPLIT_NAMES and values and values <= _SPLITS:
            notes.append(
                f"{table.path.name}: The column '{name}' is not read: all rows are cut anew. For the splits that it"
                f" says: split_column='{name}' (--split-column)."
            )
        repeats = 2 < len(values) < len(table.values(column))
        if repeats and name.lower().removesuffix("id").rstrip("_ ") in _PERSONS:
            notes.append(
                f"{table.path.name}: The rows of one '{name}' may be in training and in the test: where new ones are to"
                f" be predicted, the result looks too good. Together: group_column='{name}' (--group-column)."
            )
    if columns.get("language_column", 0) is None:
        columns["language_column"] = language = _guess_column(table, "language_column", columns)
        if language is not None and len(set(table.values(language))) <= MOST_LANGUAGES:
            notes.append(
                f"{table.path.name}: The column '{short(table.columns[language])}' is taken as the language."
            )
        else:
            columns["language_column"] = None
    return {flag: column for flag, column in columns.items() if column is not None}, notes


def as_split(cell: str | None, *, column: str, path: Path) -> str:
    """Return the split that a cell names.

    Raises:
      DataError: it names none.
    """
    (split,) = splits_of([(cell or "").strip().lower()])
    if split is None:
        raise DataError(
            f"The split_column '{short(column)}' of {path} has {short(cell or '')!r}: expected train, validation or"
            " test.\n  Leave the other rows out, or the column (--split-column)."
        )
    return split


def _find_column(table: Table, name: str | None, flag: str) -> int | None:
    if not table.sample:
        row = next(table.rows(()), None)
        cause = f"no row that can be used: {row.path} {row.reason}" if isinstance(row, Skipped) else "no rows"
        raise DataError(f"{table.path} has columns ({listed([*map(short, table.columns)])}), but {cause}.")
    if name is None:
        return None
    if (count := table.columns.count(name)) > 1:
        raise DataError(f"{table.path} has {count} columns '{name}' ({flag}): rename all but one.")
    if count:
        return table.columns.index(name)
    matches = difflib.get_close_matches(name, table.columns, n=1, cutoff=0.5)
    hint = f" Did you mean '{matches[0]}'?" if matches else ""
    raise DataError(f"{table.path} has no column '{name}' ({flag}).{hint}\n{_list_columns(table)}")


def _guess_column(table: Table, flag: str, columns: Mapping[str, int | None]) -> int | None:
    """Return the column that bears the first of the names that say it, and is not chosen for another thing."""
    number_by_name = {column.lower(): number for number, column in reversed([*enumerate(table.columns)])}
    numbers = (number_by_name[name] for name in _COLUMN_NAMES[flag].split() if name in number_by_name)
    return next((number for number in numbers if number not in columns.values()), None)


def _list_columns(table: Table) -> str:
    """Return the columns, each with a value."""
    lines = ["  Its columns, with a value of each:"]
    for number, name in enumerate(table.columns[:20]):
        value = next(filter(str.strip, table.values(number)), "")
        lines.append(f"  {short(name)}: {short(value, 50)!r}")
    if (more_count := len(table.columns) - 20) > 0:
        lines.append(f"  ... ({more_count} more)")
    return "\n".join(lines)

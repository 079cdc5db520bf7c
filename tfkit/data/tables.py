"""Tables row by row, whatever they are stored in: never more than a few rows in memory."""

from __future__ import annotations

import difflib
import functools
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tfkit.data import encodings, jsonrows, packed
from tfkit.data.cut import listed
from tfkit.data.delimited import open_delimited
from tfkit.data.rows import SAMPLE_CHARACTERS, SAMPLE_ROWS, Nested, Row, Rows, Table, short
from tfkit.data.splits import Skipped
from tfkit.errors import DataError

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
    ending = packed.ending(path)
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
        encodings.check_text(file.read(1 << 16), str(path))
    raise DataError(
        f"{path} has the ending '{ending}'; tables end in {', '.join(kinds)}, or in one of these and"
        f" {', '.join(packed.ENDINGS)}.\n"
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
    encoding = encodings.of_file(path)
    columns: dict[str, None] = {}
    sample: list[dict[str, Any]] = []
    # To the end: a name may be there in later objects only.
    for _, found, _ in jsonrows.objects(path, encoding):
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
        for number, found, remark in jsonrows.objects(path, encoding):
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
    return {column: functools.partial(_named, of) for column, of in names.items()}


def _named(names: list[str], value: Any) -> str | None:
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
        return encodings.decode(value)[0]
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

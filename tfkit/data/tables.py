"""Tables row by row, whatever they are stored in: never more than a few rows in memory."""

from __future__ import annotations

import difflib
import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tfkit.data import encodings
from tfkit.data.delimited import open_delimited
from tfkit.data.rows import SAMPLE_CHARACTERS, SAMPLE_ROWS, Row, Rows, Table
from tfkit.data.splits import Skipped
from tfkit.errors import DataError


def open_table(path: Path) -> Table:
    """Look at the first rows of a table.

    Raises:
      DataError: there is no such file, it is of no known kind, empty, or not what its ending says.
    """
    kinds: dict[str, Callable[[Path], Table]] = {
        ".csv": open_delimited,
        ".tsv": open_delimited,
        ".tab": open_delimited,
        ".jsonl": _json_lines,
        ".ndjson": _json_lines,
        ".json": _json_lines,
        ".parquet": _parquet,
        ".pq": _parquet,
    }
    _check_file(path)
    kind = kinds.get(path.suffix.lower())
    if kind is None:
        with path.open("rb") as file:
            encodings.check_text(file.read(1 << 16), str(path))
        raise DataError(
            f"{path} has the ending '{path.suffix}'; tables end in {', '.join(kinds)}.\n"
            "  Rename it to what it holds: .csv with a first line of column names, .jsonl with one object a line."
        )
    return kind(path)


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


def _json_lines(path: Path) -> Table:
    """One JSON object a line."""
    encoding = encodings.of_file(path)

    def objects() -> Iterator[tuple[int, dict[str, Any] | str]]:
        # A line ends with \n alone: a JSON string may hold the other ends.
        with path.open(encoding=encoding.name, errors=encoding.errors, newline="\n") as file:
            for number, line in enumerate(file, 1):
                if line.isspace():
                    continue
                try:
                    found = json.loads(line)
                except (ValueError, RecursionError) as err:
                    yield number, f"is no JSON ({str(err).split(':')[0]})"
                else:
                    yield (
                        number,
                        found if isinstance(found, dict) else f"is no object, but {line[:20].strip()!r}",
                    )

    columns: dict[str, int] = {}
    sample = []
    for (number, found), _ in zip(objects(), range(SAMPLE_ROWS), strict=False):
        if isinstance(found, dict):
            for name in found:
                columns.setdefault(name, len(columns))
            sample.append(found)
        elif number == 1:
            raise DataError(
                f"{path} is no JSON with one object a line: its first line {found}.\n  A JSON array becomes it by: "
                f"pandas.read_json('{path}').to_json('{path.stem}.jsonl', orient='records', lines=True)"
            )

    def rows(wanted: tuple[int, ...]) -> Rows:
        names = [list(columns)[column] for column in wanted]
        for number, found in objects():
            if isinstance(found, str):
                yield Skipped(f"{path.name}:{number}", found)
            else:
                yield Row(number, tuple(_text(found.get(name)) for name in names))

    return Table(
        path=path,
        columns=tuple(columns),
        sample=[tuple(_short(_text(found.get(name))) for name in columns) for found in sample],
        rows=rows,
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
                values = [batch.column(name).to_pylist() for name in names]
                for cells in zip(*values, strict=True):
                    number += 1
                    yield Row(number, tuple(map(_text, cells)))

    try:
        with parquet.ParquetFile(path) as file:
            columns = tuple(file.schema_arrow.names)
    except (ArrowException, OSError) as err:
        raise DataError(
            f"{path} is no Parquet file that pyarrow can read: {str(err).splitlines()[0]}"
        ) from err
    first = zip(rows(tuple(range(len(columns)))), range(SAMPLE_ROWS), strict=False)
    sample = [tuple(map(_short, row.cells)) for row, _ in first if isinstance(row, Row)]
    return Table(path=path, columns=columns, sample=sample, rows=rows)


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
    if isinstance(value, (list, dict, bool)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def _short(value: str | None) -> str | None:
    return value if value is None else value[:SAMPLE_CHARACTERS]

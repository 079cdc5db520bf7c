"""JSON as rows: one object a line, or a whole document in one of the forms that pandas and Hugging Face write."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tfkit.data import encodings, packed
from tfkit.data.cut import listed
from tfkit.data.rows import short
from tfkit.errors import DataError

Found = Iterator[tuple[int, dict[str, Any] | str, str]]
"""The line of an object, or its number in a document, from 1; the object, or what is wrong; what is odd about it."""

PYTHON = "are Python's dicts, not JSON: they are read as such"
_COMMA = re.compile(r'("[^"\\]*(?:\\.[^"\\]*)*")|,(?=\s*[\]}])')
_LONGEST_LINE = 1 << 24
_LARGEST_DOCUMENT = 1 << 27
_LONGEST_LITERAL = 1 << 23


def objects(path: Path, encoding: encodings.Encoding) -> Found:
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


def _lines(path: Path, encoding: encodings.Encoding) -> Iterator[tuple[int, str]]:
    # A line ends with \n alone: a JSON string may hold the other ends.
    with packed.open_text(path, encoding.name, encoding.errors, newline="\n") as file:
        number = 0
        while line := file.readline(_LONGEST_LINE):
            number += 1
            yield number, line


def _of_lines(path: Path, encoding: encodings.Encoding) -> Found:
    for number, line in _lines(path, encoding):
        content = line.strip()
        if content in ("", "[", "]", "],"):
            continue
        found, what = _parsed(content.removesuffix(","))
        if isinstance(found, dict):
            yield number, found, what
        else:
            yield number, what or f"is no object, but of type {type(found).__name__}", ""


def _of_document(path: Path, encoding: encodings.Encoding) -> Found:
    if encoding.size > _LARGEST_DOCUMENT:
        raise DataError(
            f"{path} is one JSON document of {encoding.size:,} bytes, which would have to be in memory as a whole.\n"
            f"  Write one object a line: jq -c '.[]' {path.name} > {path.stem}.jsonl"
        )
    with packed.open_text(path, encoding.name, encoding.errors, newline="\n") as file:
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

"""JSON in the forms in which people have it: each row is read, or named; messages stay short."""

from __future__ import annotations

import json
import time

import pytest

from tfkit.data import load_texts, tables
from tfkit.data.tables import Row, open_table
from tfkit.errors import DataError

ROWS = [{"text": f'it\'s text {n}, "so"', "label": "ab"[n % 2]} for n in range(30)]
COLUMNS = {name: [row[name] for row in ROWS] for name in ("text", "label")}


def read(path):
    table = open_table(path)
    rows = list(table.rows((table.columns.index("text"), table.columns.index("label"))))
    return [
        dict(zip(("text", "label"), row.cells, strict=True)) for row in rows if isinstance(row, Row)
    ], rows


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize(
    "content",
    [
        "\n".join(map(json.dumps, ROWS)),
        json.dumps(ROWS),
        json.dumps(ROWS, indent=2),
        "[\n" + ",\n".join(map(json.dumps, ROWS)) + "\n]\n",
        "[\n" + ",\n".join(map(json.dumps, ROWS)) + ",\n]\n",
        ",\n".join(map(json.dumps, ROWS)),
        json.dumps({"version": 1, "data": ROWS}),
        json.dumps({"schema": {"fields": ["text", "label"]}, "data": ROWS}, indent=1),
        json.dumps(COLUMNS),
        json.dumps({name: {str(n): one for n, one in enumerate(column)} for name, column in COLUMNS.items()}),
    ],
)
def test_forms(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content)
    found, rows = read(path)
    assert found == ROWS
    assert len(rows) == len(ROWS)


def test_damaged_lines_are_named(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [*map(json.dumps, ROWS), str({"text": "x", "label": "a"}), '{"text": "cut', "7", '"words"']
    path.write_text("\n".join(lines))
    splits = load_texts(path)
    assert len(splits.source.names) == 30
    assert [name for name, _ in splits.skipped] == [f"a.jsonl:{line}" for line in (31, 32, 33, 34)]
    assert [reason.split(" (")[0] for _, reason in splits.skipped] == [
        "is no JSON",
        "is no JSON",
        "is no object, but of type int",
        "is no object, but of type str",
    ]


def test_a_name_that_comes_late_is_a_column(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [{"text": f"text {n}", "type": "x"} for n in range(400)]
    rows += [{"text": f"more {n}", "type": "x", "label": "ab"[n % 2]} for n in range(40)]
    path.write_text("\n".join(map(json.dumps, rows)))
    splits = load_texts(path)
    assert splits.class_names == ("a", "b")
    assert len(splits.skipped) == 400


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"train": [{"text": "a"}], "test": [{"text": "b"}]}', "keys 'train', 'test'"),
        ('[["text", "label"], ["a", "b"]]', "without rows .* list"),
        ('["a", "b"]', "without rows .* list"),
        ("7", "without rows .* int"),
        ('"' + "x" * 5_000_000 + '"', "str"),
        ("x" * 5_000_000, "is no JSON"),
        ('[{"text": "' + "x" * 5_000_000, "is no JSON"),
        ("[" * 200_000, "is no JSON"),
        (str(ROWS), "is no JSON"),
        (" ".join(map(json.dumps, ROWS)), "is no JSON"),
        (json.dumps({"columns": ["text", "label"], "data": [list(row.values()) for row in ROWS]}), "columns"),
        (json.dumps({f"id {n}": row for n, row in enumerate(ROWS)}), "--text-column"),
        ("\n".join(f'{{"id {n}": {{"text": "a"}}, "x{n}": 1}}' for n in range(3000)), "more than 1000 names"),
    ],
)
def test_what_has_no_rows(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_text(content)
    begin = time.perf_counter()
    with pytest.raises(DataError, match=message) as raised:
        load_texts(path)
    assert len(str(raised.value)) < 2500
    assert time.perf_counter() - begin < 20


def test_a_large_document_is_not_read_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "_LARGEST_DOCUMENT", 1000)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(ROWS))
    with pytest.raises(DataError, match="jq -c"):
        load_texts(path)

"""What a table says is read as it was meant, in whatever form it was written."""

from __future__ import annotations

import csv
import json

import pandas
import pyarrow
import pytest
from pyarrow import parquet

from tfkit.data import Skipped, load_texts, tables
from tfkit.data.tables import Row, choose, open_table
from tfkit.errors import DataError

ROWS = [["hello, you\nthere", "a"], ['she said "no"', "b"], ["שלום; 你好 😀", "a"], ["Größe\tM | L", "b"]]


def everything(path):
    table = open_table(path)
    rows = list(table.rows(tuple(range(len(table.columns)))))
    return table, [list(row.cells) for row in rows if isinstance(row, Row)], rows


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_csv_is_what_was_written(tmp_path, delimiter, encoding, end):
    path = tmp_path / "a.csv"
    with path.open("w", newline="", encoding=encoding) as file:
        # Quotes around all: with \r alone the writer takes \n for an ordinary character.
        table = csv.writer(file, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
        table.writerows([["text", "label"], *ROWS])
    table, found, rows = everything(path)
    assert table.columns == ("text", "label")
    assert found == ROWS
    assert [row.line for row in rows] == [2, 4, 5, 6]
    said = " ".join(table.notes)
    assert ("separated by" in said) == (delimiter != ",")
    assert ("UTF-" in said) == (encoding in ("utf-16", "utf-32"))


def test_quotes_of_a_tsv_that_enclose_nothing(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("text\tlabel\n" + '"Oh, he said\ta\n5" pipe\tb\n' * 20)
    _, found, rows = everything(path)
    assert found == [['"Oh, he said', "a"], ['5" pipe', "b"]] * 20
    assert [bool(row.remark) for row in rows] == [True, False] * 20


def test_a_first_line_that_is_a_row(tmp_path):
    path = tmp_path / "sms.tsv"
    path.write_text("".join(f"{'ham' if n % 3 else 'spam'}\tmessage {n}, or more of it\n" for n in range(40)))
    table, found, _ = everything(path)
    assert table.columns == ("column 1", "column 2")
    assert len(found) == 40
    chosen = choose(table, text_column=None, label_column=None, language_column=None)
    assert (chosen.text, chosen.label) == (1, 0)


def test_a_quote_that_is_open_to_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "LONGEST_ROW", 1 << 17)
    path = tmp_path / "a.csv"
    path.write_text(
        "text,label\n" + f"hello {'hello' * 20},a\nhello,b\n" * 2_500 + '"never closed,b\n' + "x" * 200_000
    )
    _, found, rows = everything(path)
    assert found[5000] == ['"never closed', "b"]
    assert all(row.path.startswith("a.csv:500") for row in rows[5001:])


def test_json_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"text": text, "label": label, "n": 1}) for text, label in ROWS]
    lines += ["{broken", "[1]", "", json.dumps({"text": "half of a pair: \ud800", "more": [1, True]})]
    lines += [json.dumps({"text": 5.0, "label": None, "more": {"é": 1}})]
    path.write_text("\n".join(lines) + "\n")
    table, found, rows = everything(path)
    assert table.columns == ("text", "label", "n", "more")
    assert [cells[:2] for cells in found[:4]] == ROWS
    assert found[5] == ["5", None, None, '{"é": 1}']
    assert [row for row in rows if isinstance(row, Skipped)] == [
        ("a.jsonl:5", "is no JSON (Expecting property name enclosed in double quotes)"),
        ("a.jsonl:6", "is no object, but of type list"),
    ]


def test_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    frame = pandas.DataFrame(ROWS, columns=["text", "label"])
    frame["label"] = frame["label"].astype("category")
    frame["stars"] = [1.0, 2.0, None, 4.5]
    frame.to_parquet(path)
    table, found, rows = everything(path)
    assert table.columns == ("text", "label", "stars")
    assert found == [[*row, stars] for row, stars in zip(ROWS, ["1", "2", None, "4.5"], strict=True)]
    assert [row.line for row in rows] == [1, 2, 3, 4]
    parquet.write_table(pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 2, names=["x", "x"]), path)
    with pytest.raises(DataError, match="more than one column x"):
        open_table(path)
    path.write_bytes(b"PAR1 and nothing else")
    with pytest.raises(DataError, match="is no Parquet file"):
        open_table(path)


def chosen(tmp_path, header, rows=(("1", "some words", "x", "y"), ("2", "more words", "x", "z")), **names):
    path = tmp_path / "c.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *(row[: len(header)] for row in rows)])
    options = {"text_column": None, "label_column": None, "language_column": None, **names}
    found = choose(open_table(path), **options)
    return [None if number is None else header[number] for number in found[:3]], found.notes


def test_obvious_columns_are_taken_and_said(tmp_path):
    found, notes = chosen(tmp_path, ["id", "Body", "Folder", "lang"])
    assert found == ["Body", "Folder", "lang"]
    assert notes[0] == "c.csv: The column 'Body' is taken as the text, 'Folder' as the label."
    assert chosen(tmp_path, ["q", "what"], [("a", "some words")] * 3)[0][:2] == ["what", "q"]
    assert chosen(tmp_path, ["q", "text"], [("a", "some words")] * 3)[0][:2] == ["text", "q"]
    assert chosen(tmp_path, ["a", "b", "label", "c"], text_column="b")[0][:2] == ["b", "label"]
    assert chosen(tmp_path, ["a", "b", "c"], text_column="b", label_column="c")[1] == ()


def test_columns_that_are_not_obvious_are_listed(tmp_path):
    with pytest.raises(DataError, match=r"(?s)text_column.*--label-column.*b: 'some words'\n  c: 'x'"):
        chosen(tmp_path, ["a", "b", "c", "d"])
    with pytest.raises(DataError, match=r"not obvious: give label_column \(--label-column\)"):
        chosen(tmp_path, ["a", "text", "c", "d"])
    with pytest.raises(DataError, match="has 2 columns 'b'"):
        chosen(tmp_path, ["a", "b", "b", "d"], text_column="b")


@pytest.mark.parametrize(
    "content",
    [
        "sep=;\ntext;label\n{0};a\n{1};b\n",
        "text,label,\n{0},a,\n{1},b,,,\n",
        "text,label\n\n{0},a\n \n{1},b\n,,\n",
        'text,label\n{0},a\n{1},b\ntext,label\n"text",label\n',
    ],
)
def test_forms_of_csv(tmp_path, content):
    path = tmp_path / "a.csv"
    body = content.splitlines(keepends=True)
    begin = 2 if content.startswith("sep") else 1
    path.write_text(
        "".join(body[:begin]) + "".join("".join(body[begin:]).format(f"x {n}", f"y {n}") for n in range(20))
    )
    table, found, _ = everything(path)
    assert table.columns[:2] == ("text", "label")
    expected = [cells for n in range(20) for cells in ([f"x {n}", "a"], [f"y {n}", "b"])]
    assert [cells[:2] for cells in found if any(cells)] == expected


def test_a_table_of_commas_that_is_called_tsv(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("text,label\nx,a\ny,b\n")
    assert everything(path)[1] == [["x", "a"], ["y", "b"]]


def test_a_first_line_that_may_be_a_row_is_said(tmp_path):
    """Sorted by class, with the first row's class nowhere in the head."""
    path = tmp_path / "a.csv"
    rows = ["first text,b", *(f"text {n},a" for n in range(30_000)), *(f"more {n},b" for n in range(900))]
    path.write_text("\n".join(rows) + "\n")
    splits = load_texts(path)
    assert any("'b' is the label of 900 rows" in note and "line of names" in note for note in splits.notes)


def test_numbers_in_the_head_of_a_column_of_texts(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(
        "text,label\n"
        + "".join(
            f"{n if n < 500 else 'words'} {n},{'ab'[n % 2]}\n".replace(" ", "" if n < 500 else " ")
            for n in range(600)
        )
    )
    assert len(load_texts(path).source.names) == 600


@pytest.mark.parametrize(
    "content", ["x" * 5_000_000, f"{'x' * 5_000_000},{'y' * 5_000_000}\na,b\n", "text," * 1_000_000]
)
def test_messages_are_short(tmp_path, content):
    path = tmp_path / "a.csv"
    path.write_text(content)
    with pytest.raises(DataError) as raised:
        load_texts(path)
    assert len(str(raised.value)) < 3000

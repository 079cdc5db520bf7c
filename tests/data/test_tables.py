"""Tables are read as they were meant, whatever they are stored in: each row is used, or named."""

from __future__ import annotations

import csv
import io
import json
import random
import re
import time
from collections import Counter

import pandas
import pyarrow
import pytest
from pyarrow import parquet

from tests.data.mails import numbered, write
from tfkit.data import Skipped, load_texts, tables
from tfkit.data.tables import FLAGS, OPEN, STRAY, Row, choose_columns, open_table
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


def test_a_first_line_that_is_a_row(tmp_path):
    path = tmp_path / "sms.tsv"
    path.write_text("".join(f"{'ham' if n % 3 else 'spam'}\tmessage {n}, or more of it\n" for n in range(40)))
    table, found, _ = everything(path)
    assert table.columns == ("column 1", "column 2")
    assert len(found) == 40
    assert choose_columns(table, dict.fromkeys(FLAGS))[0] == {"text_column": 1, "label_column": 0}


def test_json_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"text": text, "label": label, "n": 1}) for text, label in ROWS]
    lines += ["{broken", "[1]", "7", '"words"', str({"text": "x"}), ""]
    lines += [json.dumps({"text": "half of a pair: \ud800", "more": [1, True]})]
    lines += [json.dumps({"text": 5.0, "label": None, "more": {"é": 1}})]
    path.write_text("\n".join(lines) + "\n")
    table, found, rows = everything(path)
    assert table.columns == ("text", "label", "n", "more")
    assert [cells[:2] for cells in found[:4]] == ROWS
    assert found[5] == ["5", None, None, '{"é": 1}']
    skipped = [f"{row.path} {row.reason.split(' (')[0]}" for row in rows if isinstance(row, Skipped)]
    kinds = enumerate(("list", "int", "str"), 6)
    no_object = [f"a.jsonl:{line} is no object, but of type {kind}" for line, kind in kinds]
    assert skipped == ["a.jsonl:5 is no JSON", *no_object, "a.jsonl:9 is no JSON"]


def test_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    frame = pandas.DataFrame(ROWS, columns=["text", "label"])
    frame["label"] = frame["label"].astype("category")
    frame["stars"] = [1.0, 2.0, None, 4.5]
    frame["seen"] = frame["stars"] > 1
    frame.to_parquet(path)
    table, found, rows = everything(path)
    assert table.columns == ("text", "label", "stars", "seen")
    more = [("1", "False"), ("2", "True"), (None, "False"), ("4.5", "True")]
    assert found == [[*row, *others] for row, others in zip(ROWS, more, strict=True)]
    frame.to_csv(tmp_path / "a.csv", index=False)
    assert [cells[3] for cells in everything(tmp_path / "a.csv")[1]] == [seen for _, seen in more]
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
    numbers, notes = choose_columns(open_table(path), dict.fromkeys(FLAGS) | names)
    return [header[number] for number in numbers.values()], notes


def test_obvious_columns_are_taken_and_said(tmp_path):
    found, notes = chosen(tmp_path, ["id", "Body", "Folder", "lang"])
    assert found == ["Body", "Folder", "lang"]
    assert notes[0] == "c.csv: The column 'Body' is taken as the text, 'Folder' as the label."
    assert chosen(tmp_path, ["q", "what"], [("a", "some words")] * 3)[0][:2] == ["what", "q"]
    assert chosen(tmp_path, ["q", "text"], [("a", "some words")] * 3)[0][:2] == ["text", "q"]
    assert chosen(tmp_path, ["a", "b", "label", "c"], text_column="b")[0][:2] == ["b", "label"]
    assert chosen(tmp_path, ["a", "b", "c"], text_column="b", label_column="c")[1] == []


def test_names_of_images_are_no_texts(tmp_path):
    """As of a table of images that is given without --image-column: their names would be learnt."""
    (tmp_path / "images.csv").write_text("file,label\na.png,cat\nb.JPG,dog\n")
    table = open_table(tmp_path / "images.csv")
    with pytest.raises(DataError, match=r"column 'file' .* names of images.*image_column='file'"):
        choose_columns(table, {"text_column": None, "label_column": None, "language_column": None})
    assert choose_columns(table, {"text_column": "file", "label_column": None, "language_column": None})[
        0
    ] == {
        "text_column": 0,
        "label_column": 1,
    }


def test_a_column_of_splits_is_said_to_be_left(tmp_path):
    rows = [(*row, ["train", "Test"][place > 250]) for place, row in enumerate(numbered(300))]
    path = write(tmp_path / "a.csv", rows, header=("text", "label", "split"))
    (note,) = [note for note in load_texts(path).notes if "cut anew" in note]
    assert "'split'" in note
    others = [(*row, "train station") for row in numbered(60)]
    path = write(tmp_path / "b.csv", others, header=("text", "label", "set"))
    assert not [note for note in load_texts(path).notes if "cut anew" in note]


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
@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_forms_of_csv(tmp_path, content, ending):
    path = tmp_path / f"a.{ending}"
    body = content.splitlines(keepends=True)
    begin = 2 if content.startswith("sep") else 1
    rows = ("".join(body[begin:]).format(f"x {n}", f"y {n}") for n in range(20))
    path.write_text("".join(body[:begin]) + "".join(rows))
    table, found, _ = everything(path)
    assert table.columns[:2] == ("text", "label")
    expected = [cells for n in range(20) for cells in ([f"x {n}", "a"], [f"y {n}", "b"])]
    assert [cells[:2] for cells in found if any(cells)] == expected


def test_a_first_line_that_may_be_a_row_is_said(tmp_path):
    """Sorted by class, with the first row's class nowhere in the head."""
    path = tmp_path / "a.csv"
    rows = ["first text,b", *(f"text {n},a" for n in range(30_000)), *(f"more {n},b" for n in range(900))]
    path.write_text("\n".join(rows) + "\n")
    splits = load_texts(path)
    assert any("'b' is the label of 900 rows" in note and "line of names" in note for note in splits.notes)


def test_numbers_in_the_head_of_a_column_of_texts(tmp_path):
    path = tmp_path / "a.csv"
    texts = [str(n) if n < 500 else f"words {n}" for n in range(600)]
    path.write_text("text,label\n" + "".join(f"{text},{'ab'[n % 2]}\n" for n, text in enumerate(texts)))
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


RECORDS = [{"text": f'it\'s text {n}, "so"', "label": "ab"[n % 2]} for n in range(30)]
COLUMNS = {name: [row[name] for row in RECORDS] for name in ("text", "label")}


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize(
    "content",
    [
        "\n".join(map(json.dumps, RECORDS)),
        json.dumps(RECORDS),
        json.dumps(RECORDS, indent=2),
        "[\n" + ",\n".join(map(json.dumps, RECORDS)) + "\n]\n",
        "[\n" + ",\n".join(map(json.dumps, RECORDS)) + ",\n]\n",
        ",\n".join(map(json.dumps, RECORDS)),
        json.dumps({"version": 1, "data": RECORDS}),
        json.dumps({"schema": {"fields": ["text", "label"]}, "data": RECORDS}, indent=1),
        json.dumps(COLUMNS),
        json.dumps({name: {str(n): one for n, one in enumerate(column)} for name, column in COLUMNS.items()}),
    ],
)
def test_forms(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content)
    table, found, rows = everything(path)
    places = [table.columns.index(column) for column in COLUMNS]
    assert [[cells[place] for place in places] for cells in found] == [[*row.values()] for row in RECORDS]
    assert len(rows) == len(RECORDS)


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
        ('{"train": [{"text": "a"}], "test": [{"text": "b"}]}', "dict: 'train', 'test'"),
        ('[["text", "label"], ["a", "b"]]', "without rows .*list"),
        ('["a", "b"]', "without rows .*list"),
        ("7", "of type int"),
        ('"' + "x" * 5_000_000 + '"', "str"),
        ("x" * 5_000_000, "is no JSON"),
        ('[{"text": "' + "x" * 5_000_000, "is no JSON"),
        ("[" * 200_000, "is no JSON"),
        (str(RECORDS), "is no JSON"),
        (" ".join(map(json.dumps, RECORDS)), "is no JSON"),
        (json.dumps({"columns": ["text"], "data": [[*row.values()] for row in RECORDS]}), "columns"),
        (json.dumps({f"id {n}": row for n, row in enumerate(RECORDS)}), "--text-column"),
        ("\n".join(f'{{"id {n}": {{"text": "a"}}, "x{n}": 1}}' for n in range(3000)), r"more\)"),
    ],
)
def test_what_has_no_rows(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_text(content)
    begin = time.process_time()
    with pytest.raises(DataError, match=message) as raised:
        load_texts(path)
    assert len(str(raised.value)) < 2500
    assert time.process_time() - begin < 20


def test_a_large_document_is_not_read_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "_LARGEST_DOCUMENT", 1000)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(RECORDS))
    with pytest.raises(DataError, match="jq -c"):
        load_texts(path)


WORDS = (
    "good", "film", "über", 'he said "no"', "well, so", "a; b", "line\nbreak", "tab\there", "it's", "שלום", "|", ""
)  # fmt: skip


def written(chance, *, count, delimiter, end, damage):
    """The text of a file, and for each row its line, what csv would read (None if damaged), and its number."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end)
    writer.writerow(["id", "text", "label"])
    rows, line = [], 2
    for number in range(count):
        words = [f"#{number}#", *chance.choices(WORDS, k=chance.randrange(1, 9))]
        chance.shuffle(words)
        cells = [str(number), " ".join(words), chance.choice(["pos", "neg", "so so"])]
        start = text.tell()
        if chance.random() >= damage:
            writer.writerow(cells)
            rows.append((line, cells, number))
        else:
            plain = re.sub(rf'["\n{re.escape(delimiter)}]', " ", cells[1])
            cells[1] = chance.choice(['"' + plain, f'"{plain}" more', f'5" {plain}'])
            kind = chance.random()
            if kind < 0.2:
                cells = cells[:2]
            elif kind < 0.4:
                cells.append("more")
            text.write(delimiter.join(cells) + end)
            rows.append((line, cells if len(cells) == 3 else None, number))
        line += len(text.getvalue()[start:].splitlines()) if end != "\r" else 1
        if chance.random() < 0.02:
            text.write(end)
            line += 1
    return text.getvalue(), rows


@pytest.mark.parametrize("seed", range(24))
def test_no_row_is_lost(tmp_path, seed):
    """Each row is used once, or named; what is used wrongly stands beside a row that is named."""
    chance = random.Random(seed)
    delimiter, end = ",;\t|"[seed % 4], ("\n", "\r\n")[seed // 4 % 2]
    damage = (0, 0.02, 0.1)[seed % 3]
    text, rows = written(chance, count=600, delimiter=delimiter, end=end, damage=damage)
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode())
    table = open_table(path)
    assert table.columns == ("id", "text", "label")
    found = list(table.rows((0, 1, 2)))
    if damage == 0:
        plain = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
        assert [list(row.cells) for row in found] == [cells for cells in plain if cells][1:]
        assert [row.line for row in found] == [line for line, _, _ in rows]
        assert not any(row.remark for row in found)
    named = set()
    used = Counter()
    cells_of = {}
    for row in found:
        if isinstance(row, Row):
            used.update(map(int, re.findall(r"#(\d+)#", row.cells[1])))
            cells_of[row.line] = row.cells
            named |= {row.line} if row.remark else set()
        else:
            first, *last = map(int, row.path.removeprefix("a.csv:").split("-"))
            named |= set(range(first, (last or [first])[0] + 1))
    for line, cells, number in rows:
        # A quote that takes a row with it is named at the row where it is open.
        assert used[number] == 1 or line in named or max(at for at in cells_of if at <= line) in named
        if line in cells_of and cells is not None and line not in named:
            assert [cells_of[line][0], cells_of[line][2]] == [cells[0], cells[2]]
    assert sum(count > 1 for count in used.values()) == 0
    assert sum(used.values()) >= (1 - 1.2 * damage) * len(rows)


PLAIN = "".join(f"text {n},{'ab'[n % 2]}\n" for n in range(40))


def rows_of(tmp_path, text):
    """Cells and remark of each row, or the lines and the reason of what is skipped."""
    path = tmp_path / "a.csv"
    path.write_text(text, newline="")
    table = open_table(path)
    return [
        (row.line, list(row.cells), row.remark) if isinstance(row, Row) else tuple(row)
        for row in table.rows(tuple(range(len(table.columns))))
    ]


@pytest.mark.parametrize(
    ("line", "text", "remark"),
    [
        (r'"he said \"hi\" to me",a', r'"he said \"hi\" to me"', STRAY),
        ('"he said "hi" to me",a', '"he said "hi" to me"', STRAY),
        ('"he said "hi" to me","a"', '"he said "hi" to me"', STRAY),
        ('  "Dear all, he said ""hi""", "a"', 'Dear all, he said "hi"', ""),
        ('"Best" film,a', '"Best" film', STRAY),
        ('"never closed,a', '"never closed', STRAY),
        ('5" pipe,a', '5" pipe', ""),
        ('"Dear all,\nhe said ""hi"" and\nleft",a', 'Dear all,\nhe said "hi" and\nleft', ""),
        ('"O Captain, my\nour, trip\nis, done",a', "O Captain, my\nour, trip\nis, done", ""),
    ],
)
def test_a_quote_that_does_not_fit_takes_no_row_with_it(tmp_path, line, text, remark):
    found = rows_of(tmp_path, f"text,label\n{PLAIN}{line}\n{PLAIN}")
    assert len(found) == 81
    assert found[40] == (42, [text, "a"], remark)


def test_a_table_without_a_row_that_can_be_used_says_why(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "'well, yes','a'\n" * 9)
    with pytest.raises(DataError, match=r"no row that can be used: a.csv:2 has 3 fields instead of 2"):
        choose_columns(open_table(path), {"text_column": None})


def test_a_missing_label_makes_no_line_of_a_text_a_row(tmp_path):
    missing = '"Dear all,\nnothing is here",\nno label,\n'
    found = rows_of(tmp_path, f"text,label\n{PLAIN}{missing}" + '"Dear all,\nleft",a\n' * 3)
    assert [row[1] for row in found[40:]] == [
        ["Dear all,\nnothing is here", ""],
        ["no label", ""],
        *[["Dear all,\nleft", "a"]] * 3,
    ]
    assert not any(row[2] for row in found)


def test_the_parts_of_a_broken_row_stand_behind_one_that_is_named(tmp_path):
    broken = '"Dear all,\nhe said "hi" to you and\nthe rest, or so"\nleft",c\n'
    found = rows_of(tmp_path, f"text,label\n{PLAIN}{broken}{PLAIN}")
    assert found[40] == (42, ['"Dear all', ""], STRAY)
    assert found[41] == ("a.csv:43", "has 1 fields instead of 2")
    assert [row[0] for row in found[42:45]] == [44, 45, 46]
    assert len(found) == 84


def test_a_quote_that_is_closed_by_another_rows_quote(tmp_path):
    """The csv module finds nothing wrong here."""
    found = rows_of(tmp_path, f'text,label\n{PLAIN}"open,a\n{PLAIN}a pipe of 5",b\n{PLAIN}')
    assert len(found) == 3 * 40 + 2
    assert found[40] == (42, ['"open', "a"], STRAY)


def test_a_cell_that_may_have_taken_rows_is_named(tmp_path):
    """No column repeats its values, so nothing tells a row from a line of a text."""
    inner = "".join(f"id {n},words\n" for n in range(800))
    text = "text,id\n" + "".join(f"{n},text {n}\n" for n in range(40)) + f'50,"open\n{inner}pipe of 5"\n'
    assert [row[2] for row in rows_of(tmp_path, text)] == [""] * 40 + [OPEN]


def test_time_does_not_grow_with_the_square_of_stray_quotes(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "LONGEST_ROW", 1 << 16)
    begin = time.process_time()
    assert len(rows_of(tmp_path, "a,b,c\n" + '"a "" x,"b"y,c\n' * 20_000)) == 20_000
    assert time.process_time() - begin < 20

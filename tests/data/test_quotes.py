"""Every row that was written is read as it was meant, or named; one that is damaged takes no other with it."""

from __future__ import annotations

import csv
import io
import random
import re
import time

import pytest

from tfkit.data import tables
from tfkit.data.tables import BARE, LONG, PIECE, STRAY, Dialect, QuotedRows, open_delimited
from tfkit.data.text_decoding import Row

WORDS = [
    "good",
    "film",
    "über",
    'he said "no"',
    "well, so",
    "a; b",
    "line\nbreak",
    "tab\there",
    "it's",
    "שלום",
    "|",
    "",
]


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


@pytest.mark.parametrize("head", [2_000, 256 * 1024])
@pytest.mark.parametrize("seed", range(12))
def test_no_row_is_lost(tmp_path, monkeypatch, seed, head):
    monkeypatch.setattr(tables, "_HEAD", head)
    chance = random.Random(seed)
    delimiter, end = ",;\t|"[seed % 4], ("\n", "\r\n")[seed // 4 % 2]
    damage = (0, 0.02, 0.2)[seed % 3]
    text, rows = written(chance, count=600, delimiter=delimiter, end=end, damage=damage)
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode())
    table = open_delimited(path)
    assert table.columns == ("id", "text", "label")
    found = list(table.rows((0, 1, 2)))
    places = {row.line if isinstance(row, Row) else int(re.split("[:-]", row.path)[1]): row for row in found}
    assert len(places) == len(found)
    for line, cells, number in rows:
        row = places.pop(line)
        if isinstance(row, Row):
            assert re.findall(r"#(\d+)#", row.cells[1]) == [str(number)]
            if cells is not None:
                assert [row.cells[0], row.cells[2]] == [cells[0], cells[2]]
        if damage == 0:
            assert list(row.cells) == cells
            assert row.remark == ""
    assert not places
    if damage == 0:
        plain = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        assert [list(row.cells) for row in found] == [cells for cells in plain if cells][1:]


def rows_of(text, **options):
    return list(QuotedRows(io.StringIO(text, newline=""), Dialect(",", **options)))


PLAIN = "".join(f"text {n},{'ab'[n % 2]}\n" for n in range(40))


def test_quotes_that_are_written_otherwise():
    lines = [
        (r'"he said \"hi\" to me",a', 'he said "hi" to me', BARE),
        ('"he said "hi" to me",a', 'he said "hi" to me', BARE),
        ('"Best" film,a', '"Best" film', STRAY),
        ('"never closed,a', '"never closed', STRAY),
        ('"with, one" ,a', "with, one ", STRAY),
        ('5" pipe,a', '5" pipe', ""),
    ]
    for line, text, remark in lines:
        found = rows_of(f"text,label\n{PLAIN}{line}\n{PLAIN}")
        assert len(found) == 82
        assert found[41] == (42, [text, "a"], remark)
    whole = '"Dear all,\nhe said "hi" and\nleft",a\n'
    found = rows_of(f"text,label\n{PLAIN}{whole}{PLAIN}")
    assert found[41] == (42, ['Dear all,\nhe said "hi" and\nleft', "a"], BARE)
    broken = '"Dear all,\nhe said "hi", and\nleft",a\n'  # a quote and a comma may end the cell
    found = rows_of(f"text,label\n{PLAIN}{broken}{PLAIN}")
    assert [remark for _, _, remark in found[41:44]] == [PIECE, PIECE, ""]


def test_a_quote_that_is_closed_by_another_rows_quote():
    """The csv module finds nothing wrong here."""
    found = rows_of(f'text,label\n{PLAIN}"open,a\n{PLAIN}a pipe of 5",b\n{PLAIN}')
    assert len(found) == 1 + 3 * 40 + 2
    assert found[41][1:] == (['"open', "a"], STRAY)
    poem = '"O Captain, my\nour, trip\nis, done",a\n'
    assert rows_of(f"text,label\n{PLAIN}{poem}")[41][1:] == (["O Captain, my\nour, trip\nis, done", "a"], "")


def test_a_cell_that_may_have_taken_rows_is_said():
    inner = "".join(f"id {n},words\n" for n in range(800))
    found = rows_of("".join(f"{n},text {n}\n" for n in range(40)) + f'50,"open\n{inner}pipe of 5"\n')
    assert [remark for _, _, remark in found] == [""] * 40 + [LONG]


def test_time_does_not_grow_with_the_square_of_stray_quotes(monkeypatch):
    monkeypatch.setattr(tables, "LONGEST_ROW", 1 << 16)
    text = "a,b,c\n" + '"a "" x,"b"y,c\n' * 20_000
    begin = time.perf_counter()
    assert len(rows_of(text)) == 20_001
    assert time.perf_counter() - begin < 20

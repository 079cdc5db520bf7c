"""Every row that was written is read as it was meant, or named; one that is damaged takes no other with it."""

from __future__ import annotations

import csv
import io
import random
import re
import time
from collections import Counter

import pytest

from tfkit.data import tables
from tfkit.data.tables import OPEN, PIECE, STRAY, Row, open_table

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
        plain = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
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


def test_the_parts_of_a_broken_row_are_named(tmp_path):
    broken = '"Dear all,\nhe said "hi" to you and\nthe rest, or so"\nleft",c\n'
    found = rows_of(tmp_path, f"text,label\n{PLAIN}{broken}{PLAIN}")
    assert found[40:44] == [(f"a.csv:{line}", PIECE) for line in (42, 43, 44, 45)]
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
    begin = time.perf_counter()
    assert len(rows_of(tmp_path, "a,b,c\n" + '"a "" x,"b"y,c\n' * 20_000)) == 20_000
    assert time.perf_counter() - begin < 20

"""Tables become Splits of strings: nothing is lost, misread or leaked without a word, and memory stays small."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.data.mails import numbered, texts, write, write_mails
from tfkit.data import load_texts
from tfkit.data.groups import fold_text
from tfkit.environment.stack import tf
from tfkit.errors import ConfigError, DataError

SCRIPTS = (
    "plain ASCII", "Grüße, naïve café", "שלום עולם", "مرحبا بالعالم", "你好，世界", "こんにちは", "👩‍👩‍👧 😀",
    "e\u0301 \u202eabc\u202c",
)  # fmt: skip


def split_of(splits):
    return {splits.source.raw(int(i)): split for split, rows in splits.indices.items() for i in rows}


def test_every_script_comes_through_the_pipeline_as_it_was_written(tmp_path):
    rows = [(f"{text} {number}", f"class {number % 2}") for number in range(30) for text in SCRIPTS]
    splits = load_texts(write(tmp_path / "all.csv", rows), global_batch_size=16)
    assert splits.spec == tf.TensorSpec((), tf.string)
    assert splits.train.element_spec == (tf.TensorSpec([None], tf.string), tf.TensorSpec([None], tf.int64))
    assert texts(splits) == [text for text, _ in rows]
    assert splits.source.lengths.tolist() == [len(text) for text, _ in rows]
    expected = dict(rows)
    for split in ("train", "validation", "test"):
        found = [
            (text.decode(), splits.class_names[label])
            for batch in getattr(splits, split).as_numpy_iterator()
            for text, label in zip(*batch, strict=True)
        ]
        assert len(found) == len(splits.indices[split])
        assert all(expected[text] == label for text, label in found)
    read = splits.source.read(np.arange(3))
    assert read.dtype == object
    assert all(isinstance(text, bytes) for text in read)


def test_a_text_is_in_one_split_however_often_it_is_there(tmp_path):
    rows = numbered(200)
    again = [(f"  message\tnumber\n{number} ", f"class {number % 2}") for number in range(0, 200, 2)]
    composed = [("caf\u00e9 au lait", "class 0"), ("cafe\u0301 au  lait", "class 0")]
    splits = load_texts(write(tmp_path / "a.csv", [*rows, *again, *composed]))
    of_text = {}
    for split, indices in splits.indices.items():
        for index in indices:
            of_text.setdefault(fold_text(splits.source.raw(int(index))), set()).add(split)
    assert len(of_text) == 201
    assert all(len(where) == 1 for where in of_text.values())
    assert sum(map(len, splits.indices.values())) == 302
    assert splits.duplicates == 0
    assert any(note.startswith("202 rows have a text that is there more than once") for note in splits.notes)
    assert not any("another label" in note for note in splits.notes)


def test_contradicting_labels_are_said_and_in_one_split(tmp_path):
    rows = [*numbered(100), *[(f"message number {number}", "class 1") for number in range(0, 20, 2)]]
    splits = load_texts(write(tmp_path / "a.csv", rows))
    assert any(
        note.startswith("20 rows have a text that is there with another label") for note in splits.notes
    )
    where = split_of(splits)
    for split, indices in splits.indices.items():
        assert {where[splits.source.raw(int(index))] for index in indices} == {split}


@pytest.mark.parametrize("seed", range(3))
def test_a_growing_or_shuffled_file_keeps_its_splits(tmp_path, seed):
    rows = numbered(400)
    before = split_of(load_texts(write(tmp_path / "a.csv", rows), seed=seed))
    chance = np.random.default_rng(seed)
    shuffled = [rows[i] for i in chance.permutation(400)]
    assert split_of(load_texts(write(tmp_path / "b.csv", shuffled), seed=seed)) == before
    after = split_of(load_texts(write(tmp_path / "a.csv", [*numbered(5, text="new {}"), *rows]), seed=seed))
    assert sum(after[text] != split for text, split in before.items()) <= 5
    assert split_of(load_texts(tmp_path / "b.csv", seed=seed + 7)) != before


def test_rows_that_cannot_be_used_are_counted_and_named(tmp_path):
    odd = [("two\nlines", "class 0"), ("", "class 1"), (" \n", "class 1"), ("x", ""), ("y", "NaN"), ("z",)]
    path = write(tmp_path / "a.csv", [*numbered(40), *odd])
    splits = load_texts(path)
    assert sorted(tuple(one) for one in splits.skipped) == [
        ("a.csv:44", "has no text"),
        ("a.csv:45", "has no text"),
        ("a.csv:47", "has no label"),
        ("a.csv:48", "has no label ('NaN')"),
        ("a.csv:49", "has 1 fields instead of 2"),
    ]
    assert (splits.source.names[-1], splits.source.raw(40)) == ("a.csv:42", "two\nlines")
    assert any("5 rows cannot be used: has no text: 2 (a.csv:44, a.csv:45)" in note for note in splits.notes)
    with pytest.raises(DataError, match=r"5 rows cannot be used.*has 1 fields instead of 2: 1 \(a.csv:49\)"):
        load_texts(path, strict=True)


def test_another_label_column_has_other_texts_and_another_fingerprint(tmp_path):
    """What is computed from texts is stored under it: features of those with a topic are not of those with a date."""
    rows = [
        (text, topic if n % 9 else "", topic if n % 7 else "") for n, (text, topic) in enumerate(numbered(60))
    ]
    path = write(tmp_path / "a.csv", rows, header=("text", "topic", "urgency"))
    sources = [load_texts(path, label_column=column).source for column in ("topic", "urgency", "topic")]
    for source, column in zip(sources, (1, 2, 1), strict=True):
        assert [source.raw(n) for n in range(len(source.labels))] == [row[0] for row in rows if row[column]]
    assert sources[0].fingerprint == sources[2].fingerprint != sources[1].fingerprint


def test_languages_are_those_of_a_column(tmp_path):
    rows = [(*row, ("de", "fr", "")[number % 3]) for number, row in enumerate(numbered(30))]
    path = write(tmp_path / "a.csv", rows, header=("body", "folder", "written in"))
    assert load_texts(path).source.languages is None
    splits = load_texts(path, language_column="written in")
    assert splits.source.languages == tuple(row[2] for row in rows)
    found = load_texts(write(tmp_path / "b.csv", rows, header=("body", "folder", "lang")))
    assert found.source.languages == splits.source.languages
    assert any("'lang' is taken as the language" in note for note in found.notes)


def test_numbers_as_classes_are_in_their_order(tmp_path):
    rows = [(text, label.removeprefix("class ")) for text, label in numbered(60, classes=12)]
    splits = load_texts(write(tmp_path / "b.csv", rows))
    assert splits.class_names == tuple(map(str, range(12)))
    assert splits.source.labels.tolist() == [number % 12 for number in range(60)]


def test_mails_come_through(tmp_path):
    path = write_mails(tmp_path / "mails.csv", count=400)
    splits = load_texts(path, text_column="body", label_column="folder")
    assert set(splits.source.languages) == {"en", "de", "fr", "es"}
    everything = "".join(texts(splits))
    # No control characters, no marks of HTML, no UTF-8 that was read as Latin-1, nothing that was not read.
    assert not [sign for sign in ("\x00", "<td>", "Ã¼", "\ufffd") if sign in everything]
    assert "“quoted”, with commas; and semicolons" in everything
    for part in ("lines with other letters", "has no label", "HTML texts", "more than once"):
        assert any(part in note for note in splits.notes)


def test_it_does_not_start_tensorflow(tmp_path):
    path = write(tmp_path / "a.csv", numbered(20))
    program = "import sys, tfkit; tfkit.load_texts(sys.argv[1]); print('tensorflow' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", program, path], text=True) == "False\n"


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (
            [(f"text {n}", f"id {n}") for n in range(50)],
            {},
            "has 50 values in 50 rows .*: it looks like an id",
        ),
        (
            [(str(n), f"class {n % 2}") for n in range(50)],
            {},
            r"(?s)'text'.*numbers \(0, 1, 2.*label: 'class 0'",
        ),
        ([(f"text {n}", "only") for n in range(50)], {}, "has 'only' in all 50 rows"),
        (
            [("", "a"), ("", "b")],
            {},
            r"(?s)no value in all 0 rows.*2 rows cannot be used: has no text: 2",
        ),
        ([], {}, "has columns .text, label., but no rows"),
        ([("same text", "ab"[n % 2]) for n in range(50)], {}, r"fewer than 3 different texts"),
        (
            [*numbered(20), ("x", "rare"), ("y", "rare")],
            {},
            r"1 of 3 classes .* different texts: 'rare' \(2\)",
        ),
        (numbered(20), {"text_column": "label", "label_column": "label"}, "'label', is given for two things"),
        (numbered(20), {"text_column": "txt"}, "no column 'txt' .text_column.. Did you mean 'text'"),
        ([*numbered(20), *((text, "a\x07b") for text in "xyz")], {}, "cannot be printed: 'a.x07b'"),
        ([*numbered(20), *[("a", "b", "c")] * 30], {}, "30 of 50 rows have another number of fields"),
    ],
)
def test_tables_that_cannot_serve(tmp_path, rows, options, message):
    with pytest.raises(DataError, match=message):
        load_texts(write(tmp_path / "a.csv", rows), **options)


def test_a_source_that_is_no_table(tmp_path):
    (tmp_path / "mails.xyz").write_text("text,label\na,b\n")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "blank.csv").write_text(" \n\n")
    (tmp_path / "image.csv").write_bytes(bytes(range(256)) * 20)
    (tmp_path / "sheet.xlsx").write_bytes(b"PK\x03\x04" + bytes(100))
    (tmp_path / "one.csv").write_text("text\nhello\n")
    for name, message in {
        "mails.xyz": "ending '.xyz'; tables end in .csv, .tsv",
        "empty.csv": "is empty",
        "blank.csv": "has one column",
        "image.csv": "is no text, but a binary file",
        "sheet.xlsx": r"(?s)sheet\.xlsx.*read_excel",
        "one.csv": "has one column: its first line is 'text'",
        "mailz.csv": r"There is no file .*mailz\.csv",
        "emty.csv": r"Did you mean .*/empty\.csv",
    }.items():
        with pytest.raises(DataError, match=message):
            load_texts(tmp_path / name)
    with pytest.raises(DataError, match=r"is no table.*leave out text_column"):
        load_texts(tmp_path, text_column="body")
    with pytest.raises(DataError, match=r"a DataFrame, a pair[\s\S]*not a object"):
        load_texts(object())
    with pytest.raises(ConfigError, match="cannot be cut"):
        load_texts(Path("a.csv"), test_fraction=0.9)


def write_folder(folder, *, each=20, classes=("good", "bad"), encodings=("utf-8", "latin-1", "utf-16")):
    for name in classes:
        (folder / name / "below").mkdir(parents=True)
        for number in range(each):
            text = f"Ein schöner {name} Text, Nummer {number}"
            place = folder / name / ("below" if number % 2 else "") / f"{number}.txt"
            place.write_bytes(text.encode(encodings[number % len(encodings)]))
    return folder


def test_each_document_has_an_encoding_of_its_own(tmp_path):
    splits = load_texts(write_folder(tmp_path / "reviews"))
    assert splits.class_names == ("bad", "good")
    found = {splits.source.names[row]: splits.source.raw(row) for row in range(40)}
    assert found["good/0.txt"] == "Ein schöner good Text, Nummer 0"
    assert found["good/below/1.txt"] == "Ein schöner good Text, Nummer 1"
    assert found["bad/2.txt"] == "Ein schöner bad Text, Nummer 2"
    for row, name in enumerate(splits.source.names):
        assert splits.class_names[splits.source.labels[row]] == name.split("/")[0]
    assert any("cp1252 (Windows, Latin-1): 14 files (bad/" in note for note in splits.notes)
    assert any("utf-16: 12 files" in note for note in splits.notes)


def test_what_is_no_text_is_skipped_and_said(tmp_path):
    folder = write_folder(tmp_path / "reviews")
    (folder / "bad/empty.txt").write_text("")
    (folder / "bad/blank.txt").write_text(" \n")
    (folder / "bad/image.txt").write_bytes(b"\x89PNG" + bytes(99))
    (folder / "bad/photo.jpg").write_bytes(b"x")
    (folder / "bad/page.html").write_text("<html><style>p{}</style><p>Read &amp; seen</p>")
    splits = load_texts(folder)
    assert dict(splits.skipped) == {
        "bad/empty.txt": "empty file",
        "bad/blank.txt": "has no text",
        "bad/image.txt": "is no text, but a binary file",
    }
    assert splits.other_files == 1
    assert splits.source.raw(list(splits.source.names).index("bad/page.html")) == "Read & seen"
    with pytest.raises(DataError, match="3 texts cannot be used"):
        load_texts(folder, strict=True)


def test_splits_of_the_folder_are_kept_and_leaks_counted(tmp_path):
    write_folder(tmp_path / "reviews/train")
    write_folder(tmp_path / "reviews/test", each=5)
    splits = load_texts(tmp_path / "reviews")
    assert sum(splits.counts["test"].values()) == 10
    assert sum(map(len, splits.indices.values())) == 50
    assert all(splits.source.names[row].startswith("test/") for row in splits.indices["test"])
    assert not any(splits.source.names[row].startswith("test/") for row in splits.indices["validation"])
    assert splits.duplicates == 10
    assert any(note.startswith("Validation or test texts") and "split: 10." in note for note in splits.notes)


def test_a_document_that_is_there_twice_is_in_one_split(tmp_path):
    folder = write_folder(tmp_path / "reviews")
    for number in range(20):
        (folder / f"good/copy{number}.txt").write_text(f"Ein  schöner good Text,\nNummer {number}\n")
    splits = load_texts(folder)
    where = {splits.source.names[row]: split for split, rows in splits.indices.items() for row in rows}
    for number in range(20):
        original = f"good/{'below/' if number % 2 else ''}{number}.txt"
        assert where[f"good/copy{number}.txt"] == where[original]


def test_folders_without_classes(tmp_path):
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat/a.txt").write_text("text")
    with pytest.raises(
        DataError, match=r"(?s)0 class folders with texts.*<class>/<text>.*Texts outside a class folder \(1\)"
    ):
        load_texts(tmp_path / "flat")
    folder = write_folder(tmp_path / "reviews")
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match=r"(?s)1 without.*'empty'"):
        load_texts(folder)
    (folder / "empty/blank.txt").write_text("  ")
    with pytest.raises(DataError, match=r"(?s)'empty' \(0\).*has no text: 1"):
        load_texts(folder)

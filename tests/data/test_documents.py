"""A folder of documents: a class each subfolder, whatever each document was written with."""

from __future__ import annotations

import pytest

from tfkit.data import load_texts
from tfkit.errors import DataError


def write(folder, *, each=20, classes=("good", "bad"), encodings=("utf-8", "latin-1", "utf-16")):
    for name in classes:
        (folder / name / "below").mkdir(parents=True)
        for number in range(each):
            text = f"Ein schöner {name} Text, Nummer {number}"
            place = folder / name / ("below" if number % 2 else "") / f"{number}.txt"
            place.write_bytes(text.encode(encodings[number % len(encodings)]))
    return folder


def test_each_document_has_an_encoding_of_its_own(tmp_path):
    splits = load_texts(write(tmp_path / "reviews"))
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
    folder = write(tmp_path / "reviews")
    (folder / "bad/empty.txt").write_text("")
    (folder / "bad/blank.txt").write_text(" \n")
    (folder / "bad/image.txt").write_bytes(b"\x89PNG" + bytes(99))
    (folder / "bad/photo.jpg").write_bytes(b"x")
    (folder / "bad/page.html").write_text("<html><style>p{}</style><p>Read &amp; seen</p>")
    splits = load_texts(folder)
    assert dict(splits.skipped) == {
        "bad/empty.txt": "empty file",
        "bad/blank.txt": "has no text",
        "bad/image.txt": "is no text, but a PNG image",
    }
    assert splits.other_files == 1
    assert splits.source.raw(list(splits.source.names).index("bad/page.html")) == "Read & seen"
    with pytest.raises(DataError, match="3 files that cannot be used"):
        load_texts(folder, strict=True)


def test_splits_of_the_folder_are_kept_and_leaks_counted(tmp_path):
    write(tmp_path / "reviews/train")
    write(tmp_path / "reviews/test", each=5)
    splits = load_texts(tmp_path / "reviews")
    assert sum(splits.counts["test"].values()) == 10
    assert sum(map(len, splits.indices.values())) == 50
    assert all(splits.source.names[row].startswith("test/") for row in splits.indices["test"])
    assert not any(splits.source.names[row].startswith("test/") for row in splits.indices["validation"])
    assert splits.duplicates == 10
    assert any(
        note.startswith("10 validation or test texts have the content of one in an earlier split")
        for note in splits.notes
    )


def test_a_document_that_is_there_twice_is_in_one_split(tmp_path):
    folder = write(tmp_path / "reviews")
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
        DataError, match=r"(?s)no class folder with texts.*<class>/<text>.*Texts outside a class folder: 1"
    ):
        load_texts(tmp_path / "flat")
    folder = write(tmp_path / "reviews")
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match="1 of 3 class folders without texts"):
        load_texts(folder)
    (folder / "empty/blank.txt").write_text("  ")
    with pytest.raises(DataError, match=r"(?s)'empty' \(0\).*has no text: 1"):
        load_texts(folder)


def test_a_class_folder_without_texts_asks_for_texts(tmp_path):
    for name in ("good", "bad", "pictures"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_bytes(b"x")
    for name in ("good", "bad"):
        (tmp_path / name / "1.txt").write_text(f"a {name} text")
    with pytest.raises(DataError, match=r"'pictures'") as raised:
        load_texts(tmp_path)
    assert "Add texts to them" in str(raised.value)

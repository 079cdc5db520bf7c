"""A packed table is the table; what cannot be read says so before the disk or the memory is full."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zipfile

import pytest

from tfkit.data import load_texts, text_decoding
from tfkit.errors import DataError

CONTENT = ("text,label\n" + "".join(f"Größe {n},{'ab'[n % 2]}\n" for n in range(40))).encode()


def zipped(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def packed_as(path):
    if path.suffix == ".zip":
        return zipped(path, {"data/a.csv": CONTENT, "__MACOSX/data/._a.csv": b"x", "data/README.txt": b"x"})
    compress = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}[path.suffix]
    path.write_bytes(compress(CONTENT))
    return path


@pytest.mark.parametrize("name", ["a.csv.gz", "a.csv.bz2", "a.csv.xz", "a.csv.zip", "archive.zip"])
def test_one_table(tmp_path, name):
    splits = load_texts(packed_as(tmp_path / name))
    assert [splits.source.raw(n) for n in range(40)] == [f"Größe {n}" for n in range(40)]
    assert splits.source.names[3] == f"{name}:5"


def test_what_cannot_be_read(tmp_path, monkeypatch):
    zipped(tmp_path / "two.zip", {"train.csv": CONTENT, "test.csv": CONTENT})
    zipped(tmp_path / "none.zip", {"a/1.jpg": b"x"})
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(CONTENT)[:-20])
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04" + bytes(100))
    (tmp_path / "not.csv.xz").write_bytes(CONTENT)
    (tmp_path / "hidden.csv").write_bytes(gzip.compress(CONTENT))
    (tmp_path / "sheet.ods").write_bytes(b"PK\x03\x04" + bytes(100))
    for name, message in {
        "two.zip": r"holds 2 tables: 'train\.csv', 'test\.csv'(?s:.*)unzip",
        "none.zip": r"holds no tables: 'a/1\.jpg'",
        "cut.csv.gz": "cannot be unpacked",
        "broken.zip": "no zip archive",
        "not.csv.xz": "cannot be unpacked",
        "hidden.csv": "gunzip",
        "sheet.ods": "read_excel",
    }.items():
        with pytest.raises(DataError, match=message):
            load_texts(tmp_path / name)
    monkeypatch.setattr(text_decoding, "_UNPACKED", 1 << 20)
    bomb = zipped(tmp_path / "bomb.zip", {"a.csv": b"text,label\n" + b"a,b\n" * (5 << 20)})
    with pytest.raises(DataError, match="no table does"):
        load_texts(bomb)

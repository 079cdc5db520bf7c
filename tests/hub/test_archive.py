"""Hostile archives that a server test does not cover: bombs, and odd headers."""

import gzip
import io
import tarfile

import pytest

from tfkit.errors import HubError
from tfkit.hub import fetch


def extract(tmp_path, content, **limits):
    path = tmp_path / "model.tar.gz"
    path.write_bytes(content)
    fetch.extract(path, tmp_path / "out", name="the model", **limits)
    return tmp_path / "out"


def test_contents_come_out(tmp_path, tools):
    out = extract(tmp_path, tools.tar([("./", None), ("a/b", b"1"), ("c", b"")]))
    assert {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()} == {
        "b": b"1",
        "c": b"",
    }


def test_more_bytes_than_allowed(tmp_path, tools):
    bomb = tools.tar([("zeros", bytes(2_000_000))])
    assert len(bomb) < 10_000
    with pytest.raises(HubError, match="unpacks to more than 1,000,000 bytes"):
        extract(tmp_path, bomb, max_bytes=1_000_000)
    assert not (tmp_path / "out" / "zeros").exists()


def test_more_members_than_allowed(tmp_path, tools):
    with pytest.raises(HubError, match="10 members"):
        extract(tmp_path, tools.tar([(f"{i}", b"") for i in range(11)]), max_files=10)


def test_a_bomb_in_an_extended_header(tmp_path):
    """Such a header is read into memory as a whole, before any member is seen."""
    info = tarfile.TarInfo("header")
    info.type, info.size = tarfile.XHDTYPE, 64 << 20
    stream = io.BytesIO()
    with gzip.open(stream, "wb") as file:
        file.write(info.tobuf(tarfile.USTAR_FORMAT))
        file.write(bytes(64 << 20))
    with pytest.raises(HubError, match="a header of 67,108,864 bytes"):
        extract(tmp_path, stream.getvalue())


def test_a_bomb_behind_the_end(tmp_path, tools):
    plain = tools.tar([("a", b"1")], mode="w")
    with pytest.raises(HubError, match="unpacks to more than"):
        extract(tmp_path, gzip.compress(plain + bytes(3 << 20)), max_bytes=1000, max_files=10)


def test_one_name_twice(tmp_path, tools):
    with pytest.raises(HubError, match="'a' is in it twice"):
        extract(tmp_path, tools.tar([("a", b"1"), ("a", b"2")]))


def test_a_file_where_a_folder_is_needed(tmp_path, tools):
    with pytest.raises(HubError, match="not safe"):
        extract(tmp_path, tools.tar([("a", b"1"), ("a/b", b"2")]))


def test_checksum_behind_the_last_member_counts(tmp_path, tools):
    content = bytearray(tools.tar([("a", b"1" * 5000)]))
    content[-6] ^= 1  # in the CRC-32 of the gzip trailer
    with pytest.raises(HubError, match="damaged"):
        extract(tmp_path, bytes(content))


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b", b"\x1f\x8bgarbage", b"garbage" * 100])
def test_no_archive_at_all(tmp_path, content):
    with pytest.raises(HubError, match="the model"):
        extract(tmp_path, content)

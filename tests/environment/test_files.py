"""Files that are whole or absent."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tfkit.environment import files
from tfkit.errors import RunError, UsageError


def test_a_block_that_fails_leaves_what_was_there(tmp_path):
    path, folder = tmp_path / "file", tmp_path / "folder"
    files.write_text(path, "old")
    with files.new_folder(folder) as new:
        (new / "a").write_text("old")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), files.new_file(path) as file:
            file.write(b"half")
            raise ZeroDivisionError
        with pytest.raises(ZeroDivisionError), files.new_folder(folder) as new:
            (new / "a").write_text("half")
            raise ZeroDivisionError
    assert path.read_text() == "old"
    assert (folder / "a").read_text() == "old"
    assert sorted(found.name for found in tmp_path.iterdir()) == ["file", "folder"]


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    for name in ("a", "b"):
        with files.new_folder(tmp_path / "folder") as new:
            (new / name).write_text(name)
    assert [found.name for found in (tmp_path / "folder").iterdir()] == ["b"]
    assert [found.name for found in tmp_path.iterdir()] == ["folder"]


def test_json_holds_what_other_readers_read(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert not (tmp_path / "a.json").exists()


def test_a_lock_is_held_against_others_and_released_by_the_kernel(tmp_path):
    path = tmp_path / "lock"
    program = (
        "from tfkit.environment import files; from pathlib import Path\n"
        f"with files.lock(Path({str(path)!r}), wait=False) as free: print(free)"
    )

    def other() -> str:
        command = [sys.executable, "-c", program]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    with files.lock(path) as free:
        assert free
        assert other() == "False"
    assert other() == "True"


def test_digests_tell_contents_and_order_apart(tmp_path):
    (tmp_path / "a").write_text("same")
    (tmp_path / "b").write_text("same")
    assert files.digest_of(tmp_path / "a") == files.digest_of(tmp_path / "b")
    assert (
        len(
            {
                files.digest_of("ab", "c"),
                files.digest_of("a", "bc"),
                files.digest_of("abc"),
                files.digest_of("c", "ab"),
            }
        )
        == 4
    )


def test_a_cache_that_cannot_be_is_named(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(files.CACHE_VARIABLE, str(tmp_path / "file" / "cache"))
    with pytest.raises(UsageError, match=r"file/cache[\s\S]*TFKIT_CACHE="):
        files.cache_dir("images")


def test_what_was_written_with_its_digest_is_read_back_or_refused(tmp_path):
    path = tmp_path / "backup" / "vocab.txt"
    files.write_hashed(path, b"one\ntwo\n")
    assert files.read_hashed(path) == b"one\ntwo\n"
    path.write_bytes(b"one\ntwp\n")
    with pytest.raises(RunError, match="--overwrite") as caught:
        files.read_hashed(path)
    assert str(path) in str(caught.value)


def test_a_cache_that_cannot_be_made_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(files.CACHE_VARIABLE, str(tmp_path / "file"))
    with pytest.raises(UsageError, match=files.CACHE_VARIABLE):
        files.cache_dir("images")

"""Files that are whole or absent, and the cache under several processes and under failure."""

from __future__ import annotations

import os
import stat
import subprocess
import sys

import pytest

from tests.distribution import processes
from tfkit.environment import files
from tfkit.environment.files import Cache
from tfkit.errors import RunError


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
    with files.new_folder(folder) as new:  # it is replaced as a whole
        (new / "b").write_text("new")
    assert [found.name for found in folder.iterdir()] == ["b"]
    (tmp_path / "link").symlink_to(folder)
    with files.new_folder(tmp_path / "link"):
        pass
    assert sorted(found.name for found in tmp_path.iterdir()) == ["file", "folder", "link"]
    assert (folder / "b").is_file()


@pytest.mark.parametrize(("mask", "of_file", "of_folder"), [(0o077, 0o600, 0o700), (0o002, 0o664, 0o775)])
def test_who_may_read_is_the_umasks_to_say(tmp_path, mask, of_file, of_folder):
    """Predictions of private texts, or a folder that a group shares."""
    before = os.umask(mask)
    try:
        files.write_text(tmp_path / "file", "text")
        with files.new_folder(tmp_path / "folder") as new:
            files.write_text(new / "file", "text")
    finally:
        os.umask(before)
    for path, mode in (("file", of_file), ("folder/file", of_file), ("folder", of_folder)):
        assert stat.S_IMODE((tmp_path / path).stat().st_mode) == mode


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
    parts = [("ab", "c"), ("a", "bc"), ("abc",), ("c", "ab")]
    assert len({files.digest_of(*each) for each in parts}) == len(parts)


def test_what_was_written_with_its_digest_is_read_back_or_refused(tmp_path):
    path = tmp_path / "backup" / "vocab.txt"
    files.write_hashed(path, b"one\ntwo\n")
    assert files.read_hashed(path) == b"one\ntwo\n"
    path.write_bytes(b"one\ntwp\n")
    with pytest.raises(RunError, match="--overwrite") as caught:
        files.read_hashed(path)
    assert str(path) in str(caught.value)


MAKER = """
import os, sys, time
from tfkit.environment.files import Cache

def make(folder):
    with open(sys.argv[1], "a") as log:
        log.write("made\\n")
    time.sleep(0.3)
    (folder / "saved_model.pb").write_text(str(os.getpid()))
    return {}

print((Cache("hub").get("key", make).path / "saved_model.pb").read_text())
"""


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TFKIT_CACHE", str(tmp_path / "cache"))


def whole(folder):
    (folder / "saved_model.pb").write_text("whole")
    return {"sha256": "1" * 64}


def test_processes_that_ask_at_a_time_make_it_once(tmp_path):
    log = tmp_path / "log"
    command = [sys.executable, "-c", MAKER, str(log)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    contents = {process.communicate(timeout=600)[0] for process in started}
    assert len(contents) == 1
    assert contents != {""}
    assert log.read_text() == "made\n"


def test_a_killed_maker_leaves_nothing_in_the_way(tmp_path):
    log = tmp_path / "log"
    process = subprocess.Popen([sys.executable, "-c", MAKER.replace("0.3", "60"), str(log)])
    processes.until(log.exists, 30)
    process.kill()
    process.wait()
    entry = Cache("hub").get("key", whole)
    assert (entry.path / "saved_model.pb").read_text() == "whole"
    assert {path.name for path in entry.path.parent.iterdir()} == {"key", "key.lock"}


def test_a_failed_replacement_keeps_what_was_there():
    def fail(folder):
        (folder / "saved_model.pb").write_text("half")
        raise ValueError

    cache = Cache("hub")
    assert not cache.get("key", whole).reused
    with pytest.raises(ValueError):  # noqa: PT011  made above
        cache.get("key", fail, accept=lambda info: info["sha256"] == "2" * 64)
    kept = cache.get("key", fail)
    assert (kept.info, kept.reused) == ({"sha256": "1" * 64}, True)
    assert (kept.path / "saved_model.pb").read_text() == "whole"


@pytest.mark.parametrize("damage", ["content", "gone", "name", "note", "more"])
def test_what_is_not_as_it_was_written_is_made_again(damage):
    path = Cache("hub").get("key", whole).path
    if damage == "content":
        (path / "saved_model.pb").write_text("whale")
    elif damage == "gone":
        (path / "saved_model.pb").unlink()
    elif damage == "name":
        (path / "saved_model.pb").rename(path / "other.pb")
    elif damage == "note":
        (path / "entry.json").write_text("{")
    else:
        (path / "another").touch()
    again = Cache("hub").get("key", whole)
    assert not again.reused
    assert sorted(file.name for file in again.path.iterdir()) == ["entry.json", "saved_model.pb"]
    assert Cache("hub").get("key", whole).reused

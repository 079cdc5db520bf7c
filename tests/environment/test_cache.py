"""The cache under several processes and under failure."""

import subprocess
import sys
import time

import pytest

from tfkit.environment.files import Cache, folder_digest

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
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TFKIT_CACHE", str(tmp_path / "cache"))


def whole(folder):
    (folder / "saved_model.pb").write_text("whole")
    return {"sha256": "1" * 64}


def test_processes_that_ask_at_a_time_make_it_once(tmp_path):
    log = tmp_path / "log"
    command = [sys.executable, "-c", MAKER, str(log)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    contents = {process.communicate(timeout=60)[0] for process in started}
    assert len(contents) == 1
    assert contents != {""}
    assert log.read_text() == "made\n"


def test_a_killed_maker_leaves_nothing_in_the_way(tmp_path):
    log = tmp_path / "log"
    process = subprocess.Popen([sys.executable, "-c", MAKER.replace("0.3", "60"), str(log)])
    for _ in range(600):
        if log.exists():
            break
        time.sleep(0.05)
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


@pytest.mark.parametrize("damage", ["content", "gone", "note", "more"])
def test_what_is_not_as_it_was_written_is_made_again(damage):
    path = Cache("hub").get("key", whole).path
    if damage == "content":
        (path / "saved_model.pb").write_text("whale")
    elif damage == "gone":
        (path / "saved_model.pb").unlink()
    elif damage == "note":
        (path / "entry.json").write_text("{")
    else:
        (path / "another").touch()
    again = Cache("hub").get("key", whole)
    assert not again.reused
    assert sorted(file.name for file in again.path.iterdir()) == ["entry.json", "saved_model.pb"]
    assert Cache("hub").get("key", whole).reused


def test_the_digest_is_of_names_and_contents(tmp_path):
    def digest(**contents):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        for name, content in contents.items():
            (folder / name).write_text(content)
        return folder_digest(folder)

    assert digest(a="1", b="2") == digest(b="2", a="1")
    assert len({digest(a="1"), digest(a="2"), digest(b="1"), digest(a="1", b=""), digest()}) == 5

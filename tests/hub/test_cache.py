"""The cache under several processes and under failure."""

import subprocess
import sys
import time

import pytest

from tfkit.hub.fetch import folder_digest, get

pytestmark = pytest.mark.usefixtures("empty_cache")

MAKER = """
import os, sys, time
from tfkit.hub import fetch as cache

def make(folder):
    with open(sys.argv[1], "a") as log:
        log.write("made\\n")
    time.sleep(0.3)
    (folder / "saved_model.pb").write_text(str(os.getpid()))

print(cache.get("a/handle", make).digest)
"""


def test_processes_that_ask_at_a_time_make_it_once(tmp_path):
    log = tmp_path / "log"
    command = [sys.executable, "-c", MAKER, str(log)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    digests = {process.communicate(timeout=60)[0] for process in started}
    assert len(digests) == 1
    assert digests != {""}
    assert log.read_text() == "made\n"


def test_a_killed_maker_leaves_neither_an_entry_nor_a_lock(tmp_path):
    log = tmp_path / "log"
    process = subprocess.Popen([sys.executable, "-c", MAKER.replace("0.3", "60"), str(log)])
    for _ in range(600):
        if log.exists():
            break
        time.sleep(0.05)
    process.kill()
    process.wait()
    entry = get("a/handle", lambda folder: (folder / "saved_model.pb").write_text("whole") and None)
    assert (entry.path / "saved_model.pb").read_text() == "whole"
    assert {path.name for path in entry.path.parents[1].iterdir()} == {".locks", entry.path.parent.name}


def test_a_failed_replacement_keeps_what_was_there():
    def whole(folder):
        (folder / "saved_model.pb").write_text("old")
        return "1" * 64

    def fail(folder):
        (folder / "saved_model.pb").write_text("half")
        raise ValueError

    entry = get("a/handle", whole)
    with pytest.raises(ValueError):  # noqa: PT011  made above
        get("a/handle", fail, sha256="2" * 64)
    assert get("a/handle", fail) == entry


@pytest.mark.parametrize("handle", ["https://tfhub.dev/a/b/1", "../../x", ".hidden", "a b/ü", "x" * 500])
def test_an_entry_stays_in_the_cache_whatever_the_handle(handle, tmp_path):
    entry = get(handle, lambda folder: (folder / "saved_model.pb").write_text("x") and None)
    assert entry.path.parents[1] == tmp_path / "cache" / "hub"
    assert not entry.path.parent.name.startswith(".")


def test_the_digest_is_of_names_and_contents(tmp_path):
    def digest(**contents):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        for name, content in contents.items():
            (folder / name).write_text(content)
        return folder_digest(folder)

    assert digest(a="1", b="2") == digest(b="2", a="1")
    assert len({digest(a="1"), digest(a="2"), digest(b="1"), digest(a="1", b=""), digest()}) == 5

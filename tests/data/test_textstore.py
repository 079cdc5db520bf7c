"""Texts are read once, into a store that is whole or made anew, with little memory."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tracemalloc

import pytest

from tfkit.data import load_texts, text_files
from tfkit.environment import files


def write(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return path


def numbered(count, *, text="message number {}"):
    return [(text.format(number), f"class {number % 2}") for number in range(count)]


def texts(splits):
    return [splits.source.raw(index) for index in range(len(splits.source.labels))]


def test_the_second_run_reads_the_store(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(files.CACHE_VARIABLE, str(tmp_path / "cache"))
    path = write(tmp_path / "a.csv", [*numbered(40), ("", "class 1")])
    first = load_texts(path)
    monkeypatch.setattr(text_files, "_write", lambda *_: pytest.fail("it was read again"))
    second = load_texts(path, seed=0)
    assert second.notes == first.notes
    assert second.skipped == first.skipped
    assert second.source.fingerprint == first.source.fingerprint
    assert texts(second) == texts(first)
    monkeypatch.undo()
    monkeypatch.setenv(files.CACHE_VARIABLE, str(tmp_path / "cache"))
    (store,) = [folder for folder in files.cache_dir("texts").iterdir() if folder.is_dir()]
    with (store / "content").open("r+b") as file:
        file.truncate(10)
    assert texts(load_texts(path)) == [text for text, _ in numbered(40)]
    for name in ("content", "rows.npz", "entry.json"):
        content = bytearray((store / name).read_bytes())
        content[len(content) // 2] ^= 0x01
        (store / name).write_bytes(content)
        assert texts(load_texts(path)) == [text for text, _ in numbered(40)]
        said = capsys.readouterr().err
        assert "damaged" in said
        assert str(store) in said
    write(path, numbered(40, text="other {}"))
    assert texts(load_texts(path))[0] == "other 0"


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """40 MB in 800 rows."""
    filler = 'naïve words, "and" more;\n' * 1900
    rows = ((f"{number} {filler}", "ab"[number % 2]) for number in range(800))
    path = write(tmp_path_factory.mktemp("data") / "large.csv", rows)
    assert path.stat().st_size > 38e6
    return path


def test_memory_does_not_grow_with_the_texts(tmp_path, large):
    load_texts(write(tmp_path / "warm.csv", numbered(20)))  # imports and caches of the standard library
    tracemalloc.start()
    splits = load_texts(large)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert splits.source.lengths.sum() > 35e6
    assert peak < 12e6


LIMITED = """
import resource, sys
from tfkit.data import load_texts
load_texts(sys.argv[1])  # small: everything is imported
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 30 * 2**20,) * 2)
splits = load_texts(sys.argv[2])
print(len(splits.source.read(splits.indices["test"][:5])[4]) > 40_000, len(splits.source.labels))
"""


def test_a_file_larger_than_the_memory_that_is_left(tmp_path, large):
    small = write(tmp_path / "small.csv", numbered(20))
    os.utime(large, (0, 0))  # so that the store of another test is not taken
    command = [sys.executable, "-c", LIMITED, str(small), str(large)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == "True 800\n"

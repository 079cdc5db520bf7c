"""Prepared examples are made once, whole or absent, with little memory, and never outgrow their room."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from tests.data.mails import numbered, texts, write
from tfkit.data import load_texts, text_files
from tfkit.data import store as stores
from tfkit.data.folders import TEXTS, scan
from tfkit.data.image_files import FolderSource, prepare_images
from tfkit.environment import files
from tfkit.errors import DataError


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.setenv("TFKIT_CACHE", str(tmp_path / "cache"))
    for number in range(30):
        noise = np.random.default_rng(number).integers(0, 256, (24, 20 + number, 3), dtype=np.uint8)
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise).save(path)
    return tmp_path / "photos"


def made(root, size=16):
    found = scan(root)
    store = prepare_images(root, found.files, image_size=size)
    return store, FolderSource(root, found.files, store, image_size=size)


def everything(source):
    return source.read(np.arange(len(source.names)))


def test_the_second_run_decodes_nothing(photos):
    first, source = made(photos)
    inode = (first.folder / "content").stat().st_ino
    # The same size and time, but no image any more: to notice, one would have to read it.
    path = photos / "a/0.png"
    status = path.stat()
    path.write_bytes(b"x" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    second, again = made(photos)
    assert (second.folder / "content").stat().st_ino == inode
    np.testing.assert_array_equal(everything(source), everything(again))
    assert source.fingerprint == again.fingerprint


def test_what_could_not_be_opened_is_tried_again(photos, tmp_path):
    """A permission that is given changes neither size nor time of a file; here it is away for a while."""
    found, away = scan(photos).files, tmp_path / "away.png"
    (photos / "a/0.png").rename(away)
    damaged = photos / "b/1.png"
    damaged.write_bytes(b"x")
    missing, again = (prepare_images(photos, found, image_size=16) for _ in range(2))
    assert os.path.sameopenfile(missing.descriptor, again.descriptor), "nothing is copied while it stays away"
    missing = FolderSource(photos, found, missing, image_size=16)
    away.rename(photos / "a/0.png")
    there = FolderSource(photos, found, prepare_images(photos, found, image_size=16), image_size=16)
    assert [*{*there.names} - {*missing.names}] == ["a/0.png"]
    np.testing.assert_array_equal(everything(there)[1:], everything(missing))
    assert "b/1.png" not in there.names


def test_a_document_that_could_not_be_opened_is_tried_again(photos, tmp_path):
    folder, away = tmp_path / "letters", tmp_path / "away.txt"
    for number in range(4):
        (folder / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        (folder / "ab"[number % 2] / f"{number}.txt").write_text(f"letter {number}")
    found = scan(folder, TEXTS)

    def read():
        texts = functools.partial(text_files._read_folder, found)
        return text_files.read_texts("letters", texts, size=100, root=folder)

    (folder / "a/0.txt").rename(away)
    first, second = read(), read()
    assert [*map(tuple, first.skipped)] == [("a/0.txt", "cannot be read (No such file or directory)")]
    assert os.path.sameopenfile(first._store.descriptor, second._store.descriptor)
    away.rename(folder / "a/0.txt")
    source = read()
    assert not source.skipped
    assert [source.raw(number) for number in range(4)] == [f"letter {number}" for number in (0, 2, 1, 3)]


def test_only_what_changed_is_read_again(photos):
    _, before = made(photos)
    path = photos / "a/0.png"
    status = path.stat()
    path.write_bytes(b"x" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    Image.new("RGB", (9, 9), "red").save(photos / "b/1.png")
    Image.new("RGB", (9, 9), "blue").save(photos / "b/new.png")
    (photos / "a/4.png").unlink()
    _, after = made(photos)
    assert len(after.names) == 30
    for name in ("a/0.png", "b/3.png"):
        one, other = before.names.index(name), after.names.index(name)
        np.testing.assert_array_equal(before.read(np.asarray([one])), after.read(np.asarray([other])))
    assert tuple(after.read(np.asarray([after.names.index("b/1.png")]))[0, 0, 0]) == (255, 0, 0)
    assert tuple(after.read(np.asarray([after.names.index("b/new.png")]))[0, 0, 0]) == (0, 0, 255)


def test_without_room_the_same_pixels_come_from_the_files(photos, monkeypatch):
    _, stored = made(photos)
    (photos / "a/2.png").touch()
    with monkeypatch.context() as full:
        full.setattr(stores, "DISK_RESERVE", 1 << 60)
        store, decoded = made(photos)
    assert store.descriptor is None
    assert not (store.folder / "content").exists()
    np.testing.assert_array_equal(everything(stored), everything(decoded))
    assert stored.fingerprint == decoded.fingerprint
    store, again = made(photos)  # the disk has room again, and no file has changed
    assert store.descriptor is not None
    np.testing.assert_array_equal(everything(stored), everything(again))


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 0x10
    path.write_bytes(content)


def test_a_flipped_byte_is_not_used(photos, capsys):
    store, source = made(photos)
    expected = everything(source)
    flip(store.folder / "content", 5 * 16 * 16 * 3 + 17)
    with pytest.raises(DataError, match=str(store.folder)) as caught:
        everything(made(photos)[1])
    assert ".png" not in str(caught.value)  # of a private training nothing is named
    np.testing.assert_array_equal(everything(made(photos)[1]), expected)  # prepared anew
    flip(store.folder / "entry.json", 40)
    np.testing.assert_array_equal(everything(made(photos)[1]), expected)
    error = capsys.readouterr().err
    assert str(store.folder) in error
    assert ".png" not in error


def test_the_least_recently_used_make_room(photos, monkeypatch):
    three = [made(photos, size)[0] for size in (10, 11, 12)]
    for age, store in enumerate(reversed(three)):
        os.utime(store.folder, (time.time() - 100 * age - 50,) * 2)
    made(photos, 10)
    pixels = everything(made(photos, 11)[1])
    assert pixels.shape == (30, 11, 11, 3)
    monkeypatch.setattr(stores, "CACHE_LIMIT", 30 * 3 * (13**2 + 11**2 + 10**2) + 20_000)
    made(photos, 13)
    sizes = sorted(int((len(p.read_bytes()) / 90) ** 0.5) for p in files.cache_dir("images").rglob("content"))
    assert sizes == [10, 11, 13]


def test_who_reads_a_store_keeps_it_when_it_is_replaced(photos):
    _, source = made(photos)
    expected = everything(source)
    Image.new("RGB", (9, 9), "red").save(photos / "b/1.png")
    made(photos)
    np.testing.assert_array_equal(everything(source), expected)


PREPARE = """
import sys
from pathlib import Path
from tfkit.data.folders import scan
from tfkit.data.image_files import prepare_images
root = Path(sys.argv[1])
print("ready", flush=True)
store = prepare_images(root, scan(root).files, image_size=400)
print(len(store), store.descriptor is not None)
"""


def start(root):
    return subprocess.Popen([sys.executable, "-c", PREPARE, str(root)], stdout=subprocess.PIPE, text=True)


def test_two_processes_at_once(photos):
    both = [start(photos), start(photos)]
    assert [process.communicate()[0].split("\n")[1] for process in both] == ["30 True"] * 2
    assert not [path for path in files.cache_dir("images").iterdir() if path.name.startswith(".")]


def test_a_killed_preparation_leaves_nothing_under_the_final_name(photos):
    for number in range(40):
        Image.effect_noise((900, 900), 90).convert("RGB").save(photos / f"a/large{number}.bmp")
    process = start(photos)
    shelf = files.cache_dir("images")
    while not list(shelf.glob(".*/content")) and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not list(shelf.glob("[!.]*/content"))
    store, source = made(photos, 400)
    assert len(everything(source)) == 70
    assert [path for path in shelf.iterdir() if path.is_dir()] == [store.folder]


def test_the_second_run_reads_the_store(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(files.CACHE_VARIABLE, str(tmp_path / "cache"))
    path = write(tmp_path / "a.csv", [*numbered(40), ("", "class 1")])
    first = load_texts(path)
    monkeypatch.setattr(text_files, "_write_texts", lambda *_: pytest.fail("it was read again"))
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
        if name == "content":  # found when it is read
            with pytest.raises(DataError, match="is damaged"):
                texts(load_texts(path))
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

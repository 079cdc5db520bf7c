"""Prepared pixels are made once, whole or absent, and never outgrow their room."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from tfkit.data import store as stores
from tfkit.data.folders import scan
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
    (photos / "a/2.png").touch()
    store, again = made(photos)
    assert store.descriptor is not None
    np.testing.assert_array_equal(everything(stored), everything(again))


def test_a_damaged_store_is_made_anew(photos):
    store, source = made(photos)
    expected = everything(source)
    with (store.folder / "content").open("r+b") as file:
        file.truncate(1000)
    np.testing.assert_array_equal(everything(made(photos)[1]), expected)
    (store.folder / "entry.json").write_text('{"half": ')
    np.testing.assert_array_equal(everything(made(photos)[1]), expected)


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 0x10
    path.write_bytes(content)


def test_a_flipped_byte_is_not_used(photos, capsys):
    store, source = made(photos)
    expected = everything(source)
    flip(store.folder / "content", 5 * 16 * 16 * 3 + 17)
    flip(store.folder / "content", 9 * 16 * 16 * 3)
    np.testing.assert_array_equal(everything(made(photos)[1]), expected)
    said = capsys.readouterr().err
    assert said.count("damaged") == 1
    assert str(store.folder) in said
    assert ".png" not in said  # of a private training nothing is named
    np.testing.assert_array_equal(everything(made(photos)[1]), expected)
    assert not capsys.readouterr().err  # it was mended in its place
    for name in ("entry.json", "content"):
        flip(store.folder / name, 40)
    np.testing.assert_array_equal(everything(made(photos)[1]), expected)


def test_a_damaged_row_of_a_changed_image_is_refused(photos):
    store, _ = made(photos)
    path = photos / "a/0.png"
    status = path.stat()
    path.write_bytes(b"x" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    flip(store.folder / "content", 3)
    with pytest.raises(DataError, match="damaged") as caught:
        everything(made(photos)[1])
    assert str(photos) in str(caught.value)
    assert len(made(photos)[1].names) == 29  # prepared anew, without what is no image any more


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

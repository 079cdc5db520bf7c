"""Prepared images: every file is hashed, decoded and resized once, and read back as plain bytes ever after."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from tqdm.auto import tqdm

from tfkit import files
from tfkit.data import pixels
from tfkit.data.decode import Unreadable, read_image
from tfkit.data.scan import FoundFile
from tfkit.data.shelf import CACHE_LIMIT, DISK_RESERVE, make_room, remove_leftovers
from tfkit.process import watched

THREADS = max(2, len(os.sched_getaffinity(0)))

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Entry(NamedTuple):
    """What is known about one file."""

    name: str
    size: int
    mtime_ns: int
    digest: str
    """Of its bytes; empty when it cannot be read."""

    reason: str
    """Why it cannot be read; empty when it can."""


@dataclass(frozen=True, eq=False)
class Store:
    """The prepared images of one folder at one size."""

    folder: Path
    entries: tuple[Entry, ...]
    row_bytes: int
    descriptor: int | None
    """Of the open file of pixels: one row for each readable entry. None when the disk had no room for it."""

    def __post_init__(self) -> None:
        """Close the file when nobody reads it any more."""
        if self.descriptor is not None:
            weakref.finalize(self, os.close, self.descriptor)

    def row(self, number: int) -> bytes:
        """The pixels of the readable entry with this number, uint8 [s * s * 3]."""
        assert self.descriptor is not None
        return os.pread(self.descriptor, self.row_bytes, number * self.row_bytes)


def prepare(
    root: Path,
    images: Sequence[FoundFile],
    *,
    image_size: int,
    pixel_range: tuple[int, int] = pixels.FULL_RANGE,
    reserve: int = DISK_RESERVE,
    limit: int = CACHE_LIMIT,
) -> Store:
    """The store of these images: an earlier one if nothing changed, else a new one with what did not change.

    A file is known by its name, size and modification time. The new store replaces the old one when it is
    complete; whoever reads the old one keeps it. Another process that prepares the same folder is waited for.

    Args:
      root: the folder that the names are relative to.
      images: what to prepare, in this order.
      image_size: side of the square.
      pixel_range: what becomes 0 and 255 of 16-bit values.
      reserve: bytes to leave free on the disk; without them the pixels are not stored.
      limit: bytes that all stores together may take; others are removed for it.
    """
    shelf = files.cache_dir("images")
    key = files.digest(str(root.resolve()), image_size, pixel_range, pixels.RECIPE)
    row_bytes = image_size * image_size * 3
    with files.lock_or_wait(shelf / f"{key}.lock", another="prepares the same images"):
        remove_leftovers(shelf, key)
        old = _open(shelf / key, row_bytes)
        if old and [entry[:3] for entry in old.entries] == [(i.name, i.size, i.mtime_ns) for i in images]:
            os.utime(shelf / key)
            return old
        needed = len(images) * row_bytes
        make_room(shelf, keep=key, limit=limit - needed)
        keep_pixels = shutil.disk_usage(shelf).free - needed >= reserve
        with files.new_folder(shelf / key) as folder:
            _write(
                folder,
                root,
                images,
                image_size=image_size,
                pixel_range=pixel_range,
                old=old,
                keep_pixels=keep_pixels,
            )
        store = _open(shelf / key, row_bytes)
        assert store is not None
        return store


def _write(
    folder: Path,
    root: Path,
    images: Sequence[FoundFile],
    *,
    image_size: int,
    pixel_range: tuple[int, int],
    old: Store | None,
    keep_pixels: bool,
) -> None:
    known = _rows(old) if old else {}

    def one(image: FoundFile) -> tuple[Entry, bytes]:
        stamp = (image.name, image.size, image.mtime_ns)
        if old and stamp in known:
            entry, number = known[stamp]
            if not keep_pixels or entry.reason:
                return entry, b""
            if old.descriptor is not None:
                return entry, old.row(number)
        return _read(root / image.name, stamp, image_size, pixel_range)

    entries = []
    with contextlib.ExitStack() as stack:
        file = stack.enter_context((folder / "pixels").open("wb")) if keep_pixels else None
        for entry, row in tqdm(
            in_parallel(one, images),
            total=len(images),
            desc="Preparing images",
            unit="image",
            delay=1,
            disable=not watched(),
        ):
            entries.append(entry)
            if file is not None:
                file.write(row)
    (folder / "index.json").write_text(json.dumps(entries))


def _read(
    path: Path, stamp: tuple[str, int, int], image_size: int, pixel_range: tuple[int, int]
) -> tuple[Entry, bytes]:
    try:
        image = read_image(path, at_least=2 * image_size, pixel_range=pixel_range)
        row = pixels.resize(image, image_size).tobytes()
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except Unreadable as err:
        return Entry(*stamp, "", str(err)), b""
    return Entry(*stamp, digest, ""), row


def _rows(store: Store) -> dict[tuple[str, int, int], tuple[Entry, int]]:
    """Name, size and time -> the entry and the number of its row."""
    number = 0
    found = {}
    for entry in store.entries:
        found[entry.name, entry.size, entry.mtime_ns] = entry, number
        number += not entry.reason
    return found


def _open(folder: Path, row_bytes: int) -> Store | None:
    """The store in the folder if it is there and whole."""
    try:
        entries = tuple(Entry(*values) for values in json.loads((folder / "index.json").read_text()))
        descriptor = os.open(folder / "pixels", os.O_RDONLY) if (folder / "pixels").exists() else None
    except (OSError, ValueError, TypeError):
        return None
    rows = sum(not entry.reason for entry in entries)
    if descriptor is not None and os.fstat(descriptor).st_size != rows * row_bytes:
        os.close(descriptor)
        return None
    return Store(folder, entries, row_bytes, descriptor)


def in_parallel(function: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """`map` over threads, in order, with no more results waiting than threads times four."""
    waiting: deque[Future[_Result]] = deque()
    with ThreadPoolExecutor(THREADS) as pool:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 4 * THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

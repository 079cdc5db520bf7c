"""Prepared images: every file is hashed, decoded and resized once, and read back as plain bytes ever after."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

from tqdm.auto import tqdm

from tfkit import files
from tfkit.data import pixels
from tfkit.data.decode import Unreadable, read_image
from tfkit.data.scan import FoundFile
from tfkit.data.shelf import CACHE_LIMIT, DISK_RESERVE, make_room, remove_leftovers
from tfkit.errors import DataError
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

    row_digest: str
    """Of its prepared pixels; empty when it cannot be read."""


@dataclass(frozen=True, eq=False)
class Store:
    """The prepared images of one folder at one size."""

    folder: Path
    root: Path
    """The folder of the images."""

    image_size: int
    pixel_range: tuple[int, int]
    """What became 0 and 255 of 16-bit values."""

    entries: tuple[Entry, ...]
    descriptor: int | None
    """Of the open file of pixels: one row for each readable entry. None when the disk had no room for it."""

    unchecked: set[int] = field(default_factory=set)
    """The rows whose digest nobody has compared yet: each is when it is first read."""

    said: list[bool] = field(default_factory=list)
    """Whether it was said that some are damaged."""

    def __post_init__(self) -> None:
        """Close the file when nobody reads it any more."""
        if self.descriptor is not None:
            weakref.finalize(self, os.close, self.descriptor)

    @property
    def row_bytes(self) -> int:
        """Of one image."""
        return self.image_size * self.image_size * 3

    @functools.cached_property
    def readable(self) -> list[Entry]:
        """The entries of the rows."""
        return [entry for entry in self.entries if not entry.reason]

    def row(self, number: int) -> bytes:
        """The pixels of the readable entry with this number, uint8 [s * s * 3]; made anew where they are damaged.

        Raises:
          DataError: they are damaged, and so is the image, or it is gone or another one.
        """
        assert self.descriptor is not None
        row = os.pread(self.descriptor, self.row_bytes, number * self.row_bytes)
        if number in self.unchecked:
            if _digest(row) != self.readable[number].row_digest:
                row = self._again(number)
            self.unchecked.discard(number)
        return row

    def _again(self, number: int) -> bytes:
        entry = self.readable[number]
        if not self.said:
            # No names: this may be private training, and its output may be kept.
            files.say_damaged(self.folder)
            self.said.append(True)
        made, row = _read(self.root / entry.name, entry[:3], self.image_size, self.pixel_range)
        if made != entry:
            (self.folder / "index.json").unlink(missing_ok=True)
            raise DataError(
                f"An image below {self.root} has changed since this run began to read it, and its copy in\n"
                f"  {self.folder} is damaged. Run again: it is prepared anew."
            )
        assert self.descriptor is not None
        os.pwrite(self.descriptor, row, number * self.row_bytes)
        return row


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
        old = _open(shelf / key, root, image_size, pixel_range)
        if old and [entry[:3] for entry in old.entries] == [(i.name, i.size, i.mtime_ns) for i in images]:
            os.utime(shelf / key)
            return old
        needed = len(images) * row_bytes
        make_room(shelf, keep=key, limit=limit - needed)
        keep_pixels = shutil.disk_usage(shelf).free - needed >= reserve
        with files.new_folder(shelf / key) as folder:
            _write(
                folder, root, images, image_size=image_size, pixel_range=pixel_range, old=old,
                keep_pixels=keep_pixels,
            )  # fmt: skip
        store = _open(shelf / key, root, image_size, pixel_range)
        assert store is not None
        store.unchecked.clear()  # it was written just now
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
    (folder / "index.json").write_text(json.dumps([files.digest(entries), entries]))


def _read(
    path: Path, stamp: tuple[str, int, int], image_size: int, pixel_range: tuple[int, int]
) -> tuple[Entry, bytes]:
    try:
        image = read_image(path, at_least=2 * image_size, pixel_range=pixel_range)
        row = pixels.resize(image, image_size).tobytes()
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except Unreadable as err:
        return Entry(*stamp, "", str(err), ""), b""
    return Entry(*stamp, digest, "", _digest(row)), row


def _digest(row: bytes) -> str:
    return hashlib.sha256(row).hexdigest()[:32]


def _rows(store: Store) -> dict[tuple[str, int, int], tuple[Entry, int]]:
    """Name, size and time -> the entry and the number of its row."""
    number = 0
    found = {}
    for entry in store.entries:
        found[entry.name, entry.size, entry.mtime_ns] = entry, number
        number += not entry.reason
    return found


def _open(folder: Path, root: Path, image_size: int, pixel_range: tuple[int, int]) -> Store | None:
    """The store in the folder if it is there and whole; its pixels are compared with their digests as they are read."""
    if not folder.is_dir():
        return None
    descriptor = None
    try:
        written, found = json.loads((folder / "index.json").read_text())
        entries = [Entry(*values) for values in found]
        # For writing too: a damaged row is mended in its place.
        descriptor = os.open(folder / "pixels", os.O_RDWR) if (folder / "pixels").exists() else None
        store = Store(folder, root, image_size, pixel_range, tuple(entries), descriptor)
        size = len(store.readable) * store.row_bytes
        if written == files.digest(entries) and (descriptor is None or os.fstat(descriptor).st_size == size):
            store.unchecked.update(range(len(store.readable)))
            return store
    except (OSError, ValueError, TypeError):
        pass
    files.say_damaged(folder)
    return None


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

"""The store of prepared examples: images and texts are decoded once and read back one by one as plain bytes.

<cache>/<kind>/<key>/content      the examples, one after the other
<cache>/<kind>/<key>/rows.npz     where each begins, its digest, and other numbers of each
<cache>/<kind>/<key>/entry.json   what else is known of them, and a digest of both
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import weakref
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tfkit.environment import files
from tfkit.environment.files import CACHE_LIMIT, DISK_RESERVE
from tfkit.errors import DataError


class Store:
    """Examples that were prepared; nothing that differs from what was written is ever returned.

    Attributes:
      folder: where they are.
      entry: what was written about all of them.
      rows: what was written about each: name to array [n, ...].
      descriptor: of the open file of examples; None where the disk had no room for it.
    """

    def __init__(self, folder: Path) -> None:
        """Open a store; ValueError, OSError, KeyError or TypeError where it is damaged."""
        document = json.loads((folder / "entry.json").read_text())
        if document["digest"] != files.digest_of(document["entry"], folder / "rows.npz"):
            raise ValueError("what is known of the examples is not what was written")
        self.folder, self.entry = folder, json.loads(document["entry"])
        with np.load(folder / "rows.npz") as rows:
            self.rows = dict(rows)
        self.descriptor: int | None = None
        self._is_checked = np.zeros(len(self), bool)
        if (folder / "content").exists():
            self.descriptor = os.open(folder / "content", os.O_RDWR)
            weakref.finalize(self, os.close, self.descriptor)
            if os.fstat(self.descriptor).st_size != self.rows["offsets"][-1]:
                raise ValueError("the file of examples has another size")

    def __len__(self) -> int:
        return len(self.rows["offsets"]) - 1

    def read(self, number: int) -> bytes:
        """Return one example.

        Raises:
          DataError: it is damaged; the next run prepares all of them again.
        """
        assert self.descriptor is not None
        start, stop = self.rows["offsets"][number : number + 2].tolist()
        content = os.pread(self.descriptor, stop - start, start)
        if not self._is_checked[number]:
            if _compute_digest(content) != self.rows["digests"][number].tobytes():
                (self.folder / "entry.json").unlink(missing_ok=True)
                # No names: this may be private training, and its output may be kept.
                raise DataError(f"{self.folder} is damaged. Run again: it is prepared anew.")
            self._is_checked[number] = True
        return content


class Writer:
    """Writes the examples of a store, one after the other.

    Attributes:
      has_room: whether the disk has room for them; if not, only what is known of them is written.
    """

    def __init__(self, folder: Path, *, has_room: bool) -> None:
        self.has_room = has_room
        self._folder = folder
        self._file = (folder / "content").open("wb", buffering=1 << 20) if has_room else None
        self._offsets, self._digests = array("q", [0]), bytearray()

    def add(self, content: bytes) -> None:
        """Write the next example."""
        self._offsets.append(self._offsets[-1] + len(content))
        self._digests += _compute_digest(content)
        if self._file:
            self._file.write(content)

    def finish(self, entry: dict[str, Any], **rows: np.ndarray) -> None:
        """Write what is known of all of them, and of each."""
        if self._file:
            self._file.close()
        digests = np.frombuffer(bytes(self._digests), "<u8").reshape(-1, 2)
        rows |= {"offsets": np.asarray(self._offsets), "digests": digests}
        np.savez(self._folder / "rows.npz", allow_pickle=False, **rows)
        text = json.dumps(entry)
        digest = files.digest_of(text, self._folder / "rows.npz")
        (self._folder / "entry.json").write_text(json.dumps({"digest": digest, "entry": text}))


def prepare(
    kind: str, key: str, write: Callable[[Writer, Store | None], None], *, size: int, stamp: str = ""
) -> Store:
    """Return the store under a key: an earlier one if it is whole and of the same stamp, else a new one.

    A new one is made too where a file can be read now that could not: a permission changes no size and no time; and
    where the disk has room again for examples that had none.

    The new one replaces the old one when it is complete; whoever reads the old one keeps it. Another process that
    prepares the same is waited for. What `write` raises leaves nothing behind.

    Args:
      kind: "images" or "texts": the folder of the cache.
      key: digest of what the examples are prepared from and how.
      write: prepares the examples; it is given the old store, if there is one, for what did not change.
      size: bytes that they will take at most.
      stamp: of the state of the files; `write` keeps it as entry["stamp"], and in entry["unread"] the paths of those
        that could not be read.
    """
    cache = files.cache_dir(kind)
    with files.lock(cache / f"{key}.lock", another=f"prepares the same {kind}"):
        files.remove_leftovers(cache, key)
        old = None
        if (cache / key).is_dir():
            try:
                old = Store(cache / key)
            except (OSError, ValueError, TypeError, KeyError):
                files.warn_damaged(cache / key)
        if old is not None and old.entry.get("stamp", "") == stamp and not _could_have_more(old, size):
            os.utime(cache / key)
            return old
        files.make_room(cache, keep=key, limit=CACHE_LIMIT - size)
        with files.new_folder(cache / key) as folder:
            write(Writer(folder, has_room=has_room(cache, size)), old)
        store = Store(cache / key)
        store._is_checked[:] = True  # it was written just now
        return store


def has_room(cache: Path, size: int) -> bool:
    """Return whether the disk of a folder has room for so many bytes, and a reserve."""
    return shutil.disk_usage(cache).free - size >= DISK_RESERVE


def _could_have_more(store: Store, size: int) -> bool:
    """Return whether there is room now for examples that had none, or a file can be read that could not."""
    if store.descriptor is None and has_room(store.folder, size):
        return True
    return any(map(_is_readable, store.entry.get("unread", ())))


def _is_readable(path: str) -> bool:
    try:
        with Path(path).open("rb") as file:
            while file.read(1 << 20):
                pass
    except OSError:
        return False
    return True


def _compute_digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()

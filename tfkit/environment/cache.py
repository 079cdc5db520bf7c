"""The content-addressed cache: an entry is whole and what was written there, or it is made anew."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tfkit.environment import files

ENTRY = "entry.json"


class Entry(NamedTuple):
    """An entry of the cache.

    Attributes:
      path: its folder; the files in it are those that were made, and `entry.json`.
      info: what its maker returned.
      reused: whether it was there already.
    """

    path: Path
    info: dict[str, Any]
    reused: bool


class Cache:
    """A folder of the cache, with an entry for each key.

    <cache>/<name>/<key>/            the files of an entry
    <cache>/<name>/<key>/entry.json  their digest, and what is known of them
    <cache>/<name>/<key>.lock        held while the entry is read or made
    """

    def __init__(self, name: str) -> None:
        """Open the folder, or create it.

        Raises:
          UsageError: it cannot be written.
        """
        self.name = name
        self.folder = files.cache_dir(name)

    def get(
        self,
        key: str,
        make: Callable[[Path], Mapping[str, Any]],
        *,
        accept: Callable[[Mapping[str, Any]], bool] = lambda info: True,
    ) -> Entry:
        """Return the entry of `key`; make it where it is absent, damaged or not accepted.

        Processes that ask for one key at a time wait for the first, and take what it made.

        Args:
          key: a file name; a digest of all that the entry depends on is in it.
          make: fills an empty folder, and returns what is to be known of it, as JSON has it. What it raises leaves
            the cache as it was.
          accept: whether an entry with this information will do.
        """
        folder = self.folder / key
        with files.lock_or_wait(self.folder / f"{key}.lock", another=f"makes the same entry of {self.name}"):
            info = _read(folder)
            if info is not None and accept(info):
                return Entry(folder, info, True)
            files.remove_leftovers(self.folder, key)  # of a process that was killed: the lock is ours
            with files.new_folder(folder) as new:
                info = dict(make(new))
                files.write_json(new / ENTRY, {"content": folder_digest(new), **info})
            return Entry(folder, info, False)


def folder_digest(folder: Path) -> str:
    """Return the digest of the names and contents of all files below a folder, but for the entry's own."""
    parts: list[object] = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / ENTRY):
        parts += [path.relative_to(folder).as_posix(), path]
    return files.digest_of(*parts)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(folder: Path) -> dict[str, Any] | None:
    if not folder.is_dir():
        return None
    try:
        info = dict(json.loads((folder / ENTRY).read_text()))
        if info.pop("content") == folder_digest(folder):
            return info
    except (OSError, ValueError, KeyError, TypeError):
        pass
    files.say_damaged(folder)
    return None

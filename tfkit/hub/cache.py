"""The cache of resolved models: an entry is whole, or it is not there.

<cache>/hub/<name>-<key>/model/      the SavedModel
<cache>/hub/<name>-<key>/entry.json  its handle, digest, and the SHA-256 of the archive that it came in
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tfkit import files

ENTRY = "entry.json"
MODEL = "model"


@dataclass(frozen=True)
class Entry:
    """A model in the cache."""

    path: Path
    digest: str
    sha256: str | None


def get(
    handle: str, make: Callable[[Path], str | None], *, sha256: str | None = None, version: object = 1
) -> Entry:
    """The cached model of `handle`, made when it is absent, damaged, or not of this SHA-256.

    Args:
      handle: what it is cached under.
      make: fills an empty folder with a whole SavedModel, and returns the SHA-256 of the archive that it
        came in, if it came in one. What it raises leaves the cache as it was.
      sha256: what the archive must have.
      version: part of the key.

    Returns:
      The entry. Processes that ask for one handle at a time wait for the first, and take what it made.
    """
    root = files.cache_dir("hub")
    name = f"{_slug(handle)}-{files.digest(handle, version)[:16]}"
    with files.lock(root / ".locks" / name):
        entry = _read(root / name)
        if entry is None or (sha256 is not None and entry.sha256 != sha256):
            for left_over in root.glob(f".{name}.*"):  # of a process that was killed: the lock is ours
                shutil.rmtree(left_over, ignore_errors=True)
            with files.new_folder(root / name) as folder:
                (folder / MODEL).mkdir()
                found = make(folder / MODEL)
                content = {"handle": handle, "sha256": found, "digest": folder_digest(folder / MODEL)}
                files.write_json(folder / ENTRY, content)
            entry = Entry(root / name / MODEL, str(content["digest"]), found)
        return entry


def folder_digest(folder: Path) -> str:
    """Digest of a folder: the names and contents of all files below it."""
    parts: list[object] = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        parts += [path.relative_to(folder).as_posix(), path]
    return files.digest(*parts)


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(folder: Path) -> Entry | None:
    """The entry in `folder`, or None if there is none, or its content is not what was put there."""
    if not folder.is_dir():
        return None
    try:
        content = json.loads((folder / ENTRY).read_text())
        entry = Entry(folder / MODEL, content["digest"], content["sha256"])
        if folder_digest(entry.path) == entry.digest:
            return entry
    except (OSError, ValueError, KeyError, TypeError):
        pass
    files.say_damaged(folder)
    return None


def _slug(handle: str) -> str:
    """The readable part of an entry's name: the last parts of the handle."""
    return (
        re.sub(r"[^A-Za-z0-9.]+", "-", handle.split("://")[-1].split("?")[0]).strip("-.")[-60:].lstrip("-.")
    )

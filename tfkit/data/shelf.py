"""A folder of the cache that holds stores: the least recently used ones make room for new ones."""

from __future__ import annotations

import shutil
from pathlib import Path

from tfkit import files

DISK_RESERVE = 2 * 2**30
"""Bytes that preparing leaves free on the disk of the cache."""

CACHE_LIMIT = 20 * 2**30
"""Bytes of stores of one kind that are kept; the least recently used go first."""


def remove_leftovers(shelf: Path, key: str) -> None:
    """Remove what killed processes left behind of the store `key`; its lock must be held."""
    for leftover in shelf.glob(f".{key}.*"):
        shutil.rmtree(leftover)


def make_room(shelf: Path, *, keep: str, limit: int) -> None:
    """Remove the least recently used stores until the rest fits, and what killed processes left behind.

    Args:
      shelf: folder of the stores; beside each is its lock, KEY.lock.
      keep: the store that stays.
      limit: bytes that the others may take together.
    """
    stores = [path for path in shelf.iterdir() if path.is_dir() and path.name != keep]
    by_use = sorted(stores, key=lambda path: path.stat().st_mtime, reverse=True)
    total = 0
    for path in by_use:
        total += sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        leftover = path.name.startswith(".")
        if not leftover and total <= limit:
            continue
        key = path.name.lstrip(".").split(".")[0]
        # A store that another process works on stays: it holds the lock.
        with files.lock(shelf / f"{key}.lock", wait=False) as free:
            if free and path.exists():
                shutil.rmtree(path)

"""Stored features: whole and what they were, or not used; and the source that reads them.

<cache>/features/<key>/features.npy   float32 [n, d]
<cache>/features/<key>/entry.json     its SHA-256, and how it was computed
"""

from __future__ import annotations

import json
import os
import shutil
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfkit import files
from tfkit.data import Source
from tfkit.hub.cache import sha256

IN_MEMORY = 256 * 2**20
"""Bytes of features that are kept in memory; more are read from the file as they are asked for."""

_FEATURES, _ENTRY = "features.npy", "entry.json"

Writer = Callable[[Iterable[np.ndarray]], None]


class FeatureSource:
    """Features in the place of the images that they were computed from; see `tfkit.data.Source`."""

    def __init__(
        self, path: Path, images: Source, *, size: int, fingerprint: str, in_memory: int = IN_MEMORY
    ) -> None:
        """Open the file.

        Args:
          path: a .npy of float32 [n, size], in the order of the images.
          images: where labels, names and raw examples come from.
          size: numbers in a feature vector.
          fingerprint: of the features.
          in_memory: bytes up to which the file is read as a whole.
        """
        self.labels: np.ndarray = images.labels
        self.names: Sequence[str] = images.names
        self.shape = (size,)
        self.fingerprint = fingerprint
        self._images = images
        self._row_bytes = 4 * size
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)
        content = len(self.labels) * self._row_bytes
        self._start = path.stat().st_size - content
        self.rows: np.ndarray | None = np.load(path) if content <= in_memory else None

    def read(self, indices: np.ndarray) -> np.ndarray:
        """float32 [b, d]."""
        if self.rows is not None:
            return np.asarray(self.rows[indices])
        rows = b"".join(
            os.pread(self._descriptor, self._row_bytes, self._start + int(index) * self._row_bytes)
            for index in indices
        )
        return np.frombuffer(rows, np.float32).reshape(len(indices), *self.shape)

    def raw(self, index: int) -> np.ndarray:
        """The image that the features are of, as the user has it."""
        return self._images.raw(index)


def get(
    key: str, make: Callable[[Writer], Mapping[str, Any]], *, shape: tuple[int, int]
) -> tuple[Path, dict[str, Any], bool]:
    """The features stored under `key`, made when they are absent, damaged or of another shape.

    Processes that ask for one key at a time wait for the first, and take what it made.

    Args:
      key: digest of all that they depend on.
      make: gives batches of float32 [b, d] to the function that it gets, and returns how they were computed.
        What it raises leaves nothing behind.
      shape: [n, d].

    Returns:
      The .npy file, how it was computed, and whether it was there already.
    """
    shelf = files.cache_dir("features")
    with files.lock_or_wait(shelf / f"{key}.lock", another="computes the same features"):
        entry = _read(shelf / key, shape)
        if entry is not None:
            return shelf / key / _FEATURES, entry, True
        for leftover in shelf.glob(f".{key}.*"):  # of a process that was killed: the lock is ours
            shutil.rmtree(leftover, ignore_errors=True)
        with files.new_folder(shelf / key) as folder:
            path = folder / _FEATURES
            entry = dict(make(lambda batches: _write(path, batches, shape)))
            files.write_json(folder / _ENTRY, {"sha256": sha256(path), **entry})
        return shelf / key / _FEATURES, entry, False


def _write(path: Path, batches: Iterable[np.ndarray], shape: tuple[int, int]) -> None:
    """One .npy of all batches, with one of them in memory."""
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        start = file.tell()
        for batch in batches:
            file.write(np.ascontiguousarray(batch, "<f4").tobytes())
        assert file.tell() - start == 4 * shape[0] * shape[1]


def _read(folder: Path, shape: tuple[int, int]) -> dict[str, Any] | None:
    """How the features in `folder` were computed, or None if they are not there as they were written."""
    if not folder.is_dir():
        return None
    try:
        entry = dict(json.loads((folder / _ENTRY).read_text()))
        whole = entry.pop("sha256") == sha256(folder / _FEATURES)
        if whole and np.load(folder / _FEATURES, mmap_mode="r").shape == shape:
            return entry
    except (OSError, ValueError, KeyError, TypeError):
        pass
    files.say_damaged(folder)
    return None

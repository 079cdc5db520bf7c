"""Texts that were read once: one file of all of them, and small numbers about each, read back by place.

<cache>/texts/<key>/texts        the texts in UTF-8, one after the other
<cache>/texts/<key>/rows.npz     where each begins, its label, language, length, digest and place
<cache>/texts/<key>/entry.json   class names, languages, what was skipped, what there is to say, and a digest of all
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import unicodedata
import weakref
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from tfkit import files
from tfkit.data.shelf import CACHE_LIMIT, DISK_RESERVE, make_room, remove_leftovers
from tfkit.data.splits import Skipped
from tfkit.errors import DataError

RECIPE = 2
"""Part of the key of every store: raise it when the same file gives other texts."""

SKIPPED_LISTED = 10_000
"""So many examples that cannot be used are listed by name; all are counted."""


class Example(NamedTuple):
    """One text as it was found."""

    text: str
    label: str
    place: int
    """Its line in a table, or the number of its file."""

    language: str = ""
    name: str = ""
    """What it is called, where its place does not say."""


class Reading(Protocol):
    """Goes through the examples once."""

    notes: list[str]
    """What there is to say, once it has gone through them."""

    def __iter__(self) -> Iterator[Example | Skipped]:
        """The examples in their order; Skipped for one that cannot be used."""


@dataclass(frozen=True, eq=False)
class TextStore:
    """The texts of one table or folder."""

    folder: Path
    offsets: np.ndarray
    """int64 [n + 1]."""

    lengths: np.ndarray
    """int32 [n], characters."""

    labels: np.ndarray
    """int64 [n], into `class_names`."""

    language: np.ndarray
    """int16 [n], into `language_names`."""

    digests: np.ndarray
    """uint64 [n, 2]: of the text, composed and with its white space folded."""

    places: np.ndarray
    """int64 [n]."""

    entry: dict[str, Any] = field(repr=False)
    descriptor: int = field(repr=False)

    def __post_init__(self) -> None:
        """Close the file when nobody reads it any more."""
        weakref.finalize(self, os.close, self.descriptor)

    def content(self, number: int) -> bytes:
        """One text, UTF-8."""
        start = int(self.offsets[number])
        return os.pread(self.descriptor, int(self.offsets[number + 1]) - start, start)

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of the labels."""
        return tuple(self.entry["class_names"])

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """The first ones that could not be used."""
        return tuple(Skipped(*one) for one in self.entry["skipped"])


def get(key: str, read: Callable[[], Reading], *, size: int, class_names: tuple[str, ...] = ()) -> TextStore:
    """The store under `key`, made when it is absent or damaged.

    Processes that ask for one key at a time wait for the first. What `read` raises leaves nothing behind.

    Args:
      key: digest of all that the texts depend on.
      read: begins to read the examples.
      size: bytes that the texts will take at most, by the size of their file.
      class_names: where they are known beforehand.

    Raises:
      DataError: the disk of the cache has no room.
    """
    shelf = files.cache_dir("texts")
    with files.lock_or_wait(shelf / f"{key}.lock", another="reads the same texts"):
        remove_leftovers(shelf, key)
        if store := _open(shelf / key):
            os.utime(shelf / key)
            return store
        make_room(shelf, keep=key, limit=CACHE_LIMIT - size)
        if shutil.disk_usage(shelf).free - size < DISK_RESERVE:
            raise DataError(
                f"The disk of {shelf} has no room for a copy of the texts ({size / 1e9:.1f} GB).\n"
                f"  Give another folder: export {files.CACHE_VARIABLE}=/some/folder"
            )
        with files.new_folder(shelf / key) as folder:
            _write(folder, read(), class_names)
        store = _open(shelf / key)
        assert store is not None
        return store


def folded(text: str) -> str:
    """What makes two texts the same one: composed characters, and white space of one kind."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _write(folder: Path, reading: Reading, class_names: tuple[str, ...]) -> None:
    offsets, places = array("q", [0]), array("q")
    lengths, labels, languages = array("i"), array("i"), array("h")
    digests, names = bytearray(), []
    skipped: list[Skipped] = []
    counts: dict[str, int] = {}
    codes = {name: code for code, name in enumerate(class_names)}
    language_codes: dict[str, int] = {}
    contents = hashlib.sha256()
    with (folder / "texts").open("wb", buffering=1 << 20) as file:
        for one in reading:
            if isinstance(one, Skipped):
                counts[one.reason] = counts.get(one.reason, 0) + 1
                if len(skipped) < SKIPPED_LISTED:
                    skipped.append(one)
                continue
            # A lone half of a pair, which JSON can hold, has no UTF-8.
            content = one.text.encode("utf-8", "replace")
            file.write(content)
            offsets.append(offsets[-1] + len(content))
            contents.update(len(content).to_bytes(8, "little") + content)
            digests += hashlib.blake2b(folded(one.text).encode("utf-8", "replace"), digest_size=16).digest()
            lengths.append(len(one.text))
            labels.append(codes.setdefault(one.label, len(codes)))
            languages.append(language_codes.setdefault(one.language, len(language_codes)))
            places.append(one.place)
            if one.name:
                names.append(one.name)
    order = list(class_names) or sorted(codes, key=_by_value(codes))
    rank = np.empty(max(1, len(order)), np.int64)
    rank[[codes[name] for name in order]] = np.arange(len(order))
    np.savez(
        folder / "rows.npz",
        offsets=np.asarray(offsets, np.int64),
        lengths=np.asarray(lengths, np.int32),
        labels=rank[np.asarray(labels, np.int64)],
        language=np.asarray(languages, np.int16),
        digests=np.frombuffer(bytes(digests), "<u8").reshape(-1, 2),
        places=np.asarray(places, np.int64),
    )
    entry = {
        "class_names": order,
        "languages": list(language_codes),
        "names": names,
        "fingerprint": contents.hexdigest()[:32],
        "skipped": skipped,
        "reasons": counts,
        "notes": list(reading.notes),
    }
    described = json.dumps(entry)
    digest = files.digest(described, folder / "rows.npz", folder / "texts")
    (folder / "entry.json").write_text(json.dumps({"digest": digest, "entry": described}))


def _by_value(names: dict[str, int]) -> Callable[[str], Any]:
    """Order of class names: as numbers where all are."""
    return int if all(name.isascii() and name.isdecimal() for name in names) else str


def _open(folder: Path) -> TextStore | None:
    """The store in the folder if it is there and whole: all of it is read for that."""
    if not folder.is_dir():
        return None
    try:
        written = json.loads((folder / "entry.json").read_text())
        content = written["entry"]
        if written["digest"] == files.digest(content, folder / "rows.npz", folder / "texts"):
            with np.load(folder / "rows.npz") as stored:
                rows = {name: stored[name] for name in stored.files}
            descriptor = os.open(folder / "texts", os.O_RDONLY)
            return TextStore(folder, **rows, entry=json.loads(content), descriptor=descriptor)
    except (OSError, ValueError, TypeError, KeyError):
        pass
    files.say_damaged(folder)
    return None

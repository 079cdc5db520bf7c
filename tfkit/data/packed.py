"""Files of text as they are, or packed: .gz, .bz2, .xz, and .zip with one table in it."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from tfkit.data.cut import listed
from tfkit.errors import DataError

_OPENERS: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
ENDINGS = (*_OPENERS, ".zip")
_PIECE = 1 << 20
_UNPACKED = 1 << 30
_TIMES = 100
_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    RuntimeError,  # of zipfile, for a password
    NotImplementedError,
)


def ending(path: Path) -> str:
    """The ending, in lower case, of what is in the file: of mails.csv.gz it is ".csv".

    Raises:
      DataError: it is a .zip without a table, or with several.
    """
    last = path.suffix.lower()
    if last == ".zip":
        return PurePosixPath(_member(path)).suffix.lower()
    return Path(path.stem).suffix.lower() if last in _OPENERS else last


def open_bytes(path: Path) -> IO[bytes]:
    """The file, unpacked as it is read."""
    last = path.suffix.lower()
    if last == ".zip":
        member = _member(path)
        return zipfile.ZipFile(path).open(member)
    opener = _OPENERS.get(last)
    return opener(path) if opener else path.open("rb")


def open_text(path: Path, encoding: str, errors: str, *, newline: str) -> io.TextIOWrapper:
    """The file as text; see `open`."""
    return io.TextIOWrapper(open_bytes(path), encoding=encoding, errors=errors, newline=newline)


def pieces(path: Path) -> Iterator[bytes]:
    """All bytes, a megabyte at a time.

    Raises:
      DataError: it cannot be unpacked, or unpacks to far more than a table would.
    """
    packed = path.suffix.lower() in ENDINGS
    limit = max(_UNPACKED, _TIMES * path.stat().st_size) if packed else None
    total = 0
    try:
        with open_bytes(path) as file:
            while piece := file.read(_PIECE):
                total += len(piece)
                if limit is not None and total > limit:
                    break
                yield piece
    except _ERRORS as err:
        raise DataError(f"{path} cannot be unpacked: {str(err)[:100] or type(err).__name__}.") from err
    if limit is not None and total > limit:
        raise DataError(
            f"{path} ({path.stat().st_size:,} bytes) unpacks to more than {limit:,} bytes: no table does.\n"
            "  If it is right, unpack it first and give what is in it."
        )


def _member(path: Path) -> str:
    """The one table in an archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [one.filename for one in archive.infolist() if not one.is_dir()]
    except _ERRORS as err:
        raise DataError(f"{path} is no zip archive that can be read: {str(err)[:100]}.") from err
    own = [
        name
        for name in names
        if not name.startswith("__MACOSX/") and not PurePosixPath(name).name.startswith(".")
    ]
    tables = [
        name
        for name in own
        if name.lower().endswith((".csv", ".tsv", ".tab", ".jsonl", ".ndjson", ".json", ".parquet", ".pq"))
    ]
    if len(tables) == 1:
        return tables[0]
    shown = listed([repr(name[:80]) for name in tables or own])
    raise DataError(
        f"{path} holds {len(tables) or 'no'} tables: {shown or 'nothing'}.\n"
        "  Unpack it (unzip) and give one table, or the folder of texts or images that is in it."
    )

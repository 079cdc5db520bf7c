"""Unpacks a model's .tar.gz or .tar without trusting a byte of it.

Only regular files and folders below the target come out: links, devices, absolute names and `..` are refused, and
so is an archive that unpacks to more than `MAX_BYTES` or to more than `MAX_FILES` members. Owners, modes and times
in it are ignored.
"""

from __future__ import annotations

import gzip
import io
import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath

from tfkit.errors import HubError
from tfkit.hub import formats

MAX_BYTES = 16 << 30
MAX_FILES = 10_000
MAX_HEADER_BYTES = 1 << 20
_CHUNK = 1 << 20


def extract(
    archive: Path, folder: Path, *, name: str, max_bytes: int = MAX_BYTES, max_files: int = MAX_FILES
) -> None:
    """Unpack `archive` into the empty `folder`.

    Args:
      archive: a .tar.gz or .tar file.
      folder: where to.
      name: what the errors call the archive.
      max_bytes: how much it may unpack to.
      max_files: how many members it may have.

    Raises:
      HubError: it is no such archive, not whole, not safe, or too large. `folder` may hold a part of it.
    """
    try:
        with _open(archive) as stream:
            bounded = _Bounded(stream, max_bytes=max_bytes + (1 << 20) + max_files * 2048)
            with tarfile.open(fileobj=bounded, mode="r:") as tar:  # type: ignore[call-overload]
                _extract(tar, folder, max_bytes=max_bytes, max_files=max_files)
            while bounded.read(_CHUNK):  # the checksum of a .gz stands at its very end
                pass
    except _Refused as error:
        raise HubError(
            f"{name}: its archive is not safe to unpack: {error}.\n"
            "  A SavedModel needs nothing of the kind. Take the model from another place, or unpack it yourself "
            "and give the folder."
        ) from error
    except (EOFError, zlib.error, gzip.BadGzipFile, tarfile.TarError) as error:
        if not is_archive(archive):
            raise HubError(f"{name} {formats.describe(archive)}") from error
        raise HubError(
            f"{name}: its archive is cut short or damaged ({error}).\n"
            "  Nothing of it was kept. Try again; if it stays so, the copy at the source is damaged."
        ) from error
    except OSError as error:
        raise HubError(
            f"{name} cannot be unpacked into {folder.parent}: {error.strerror or error}."
        ) from error


def is_archive(path: Path) -> bool:
    """Whether the file starts like a .gz or a .tar."""
    return _is_gzip(path) or tarfile.is_tarfile(path)


class _Refused(Exception):
    """The archive holds what no model's archive holds."""


class _Bounded:
    """A stream that ends in an error rather than in a full disk or memory."""

    def __init__(self, stream: gzip.GzipFile | io.BufferedReader, *, max_bytes: int) -> None:
        self._stream, self._max_bytes = stream, max_bytes

    def read(self, size: int = -1) -> bytes:
        # Contents are read in chunks, so a longer read is tarfile taking in an extended header at once.
        if not 0 <= size <= max(_CHUNK, MAX_HEADER_BYTES):
            raise _Refused(f"a header of {size:,} bytes")
        self._check()
        return self._stream.read(size)

    def seek(self, position: int) -> int:
        self._stream.seek(position)
        self._check()
        return position

    def tell(self) -> int:
        return self._stream.tell()

    def _check(self) -> None:
        if self._stream.tell() > self._max_bytes:
            raise _Refused(f"it unpacks to more than {self._max_bytes:,} bytes")


def _open(archive: Path) -> gzip.GzipFile | io.BufferedReader:
    return gzip.open(archive) if _is_gzip(archive) else archive.open("rb")


def _is_gzip(archive: Path) -> bool:
    with archive.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _extract(tar: tarfile.TarFile, folder: Path, *, max_bytes: int, max_files: int) -> None:
    total = 0
    for count, member in enumerate(tar, start=1):
        total += member.size
        if count > max_files:
            raise _Refused(f"it has more than {max_files:,} members")
        if total > max_bytes:
            raise _Refused(f"it unpacks to more than {max_bytes:,} bytes")
        target = folder / _safe_name(member)
        try:
            if member.isdir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                shutil.copyfileobj(tar.extractfile(member), file, _CHUNK)  # type: ignore[arg-type]
        except (FileExistsError, NotADirectoryError) as error:
            raise _Refused(f"{member.name!r} is in it twice, or is a file and a folder") from error


def _safe_name(member: tarfile.TarInfo) -> PurePosixPath:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or "\0" in member.name:
        raise _Refused(f"the member {member.name!r} leaves the folder")
    if member.issym() or member.islnk():
        raise _Refused(f"the member {member.name!r} is a link to {member.linkname!r}")
    if not (member.isreg() or member.isdir()):
        raise _Refused(f"the member {member.name!r} is neither a file nor a folder")
    return name

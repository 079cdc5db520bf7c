"""Write files that are whole or absent, and the content-addressed cache, whose entries are whole or made anew."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from tfkit.errors import RunError, UsageError

CACHE_VARIABLE = "TFKIT_CACHE"


def nearest(path: Path) -> str:
    """Return a line that asks whether the most similar name beside this path was meant; "" where none is similar."""
    import difflib  # `--help` needs none

    siblings: list[str] = []
    with contextlib.suppress(OSError):  # a text of any length may stand in the place of a path
        siblings = [] if path.exists() else [sibling.name for sibling in path.parent.iterdir()]
    matches = difflib.get_close_matches(path.name, siblings, n=1)
    return f"\n  Did you mean {path.parent / matches[0]}?" if matches else ""


def cache_root() -> Path:
    """Return where the cache is or will be: `$TFKIT_CACHE`, else `~/.cache/tfkit`."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "tfkit").expanduser()


def cache_dir(*parts: str) -> Path:
    """Return a folder below the cache, created if absent.

    Raises:
      UsageError: it cannot be made or written.
    """
    folder = cache_root().joinpath(*parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "it is read-only, or yours to read alone")
    except OSError as err:
        fix = f"Give another one: export {CACHE_VARIABLE}=/some/folder"
        raise UsageError(f"The cache folder {folder} cannot be written: {err.strerror}.\n  {fix}") from err
    return folder


def warn_damaged(path: Path) -> None:
    """Say that an entry of the cache is not what was written there, and is not used: what needs it makes it anew."""
    print(f"{path} is damaged, or was written by another version of tfkit. It is made anew.", file=sys.stderr)


def _to_hidden_path(path: Path) -> Path:
    """Return a new hidden path beside this one, whose folder is made if absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


@contextlib.contextmanager
def new_file(path: Path, *, mode: int = 0o666) -> Iterator[BinaryIO]:
    """Open a file under a temporary name in the same folder, renamed to `path` when the block ends well.

    A reader of `path` sees all of it or none; an error or a kill leaves what was there before. Who may read it is the
    umask's to say, as of any file: `mode` is what that takes from.
    """
    hidden_path = _to_hidden_path(path)
    try:
        with os.fdopen(os.open(hidden_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        hidden_path.replace(path)
    except BaseException:
        hidden_path.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Write all of `content` to `path`, or leave what was there before."""
    with new_file(path) as file:
        file.write(content)


def write_text(path: Path, content: str) -> None:
    """Do as `write_bytes`, in UTF-8."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON; NaN and infinity are refused, since other readers would be."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_hashed(path: Path, content: bytes) -> None:
    """Write `content`, and beside it the digest by which `read_hashed` knows it."""
    write_text(path.with_name(f"{path.name}.sha256"), hashlib.sha256(content).hexdigest())
    write_bytes(path, content)


def read_hashed(path: Path) -> bytes:
    """Return what `write_hashed` wrote.

    Raises:
      RunError: it is something else.
    """
    content, digest_path = path.read_bytes(), path.with_name(f"{path.name}.sha256")
    if digest_path.is_file() and digest_path.read_text() != hashlib.sha256(content).hexdigest():
        advice = "Start this run again from its beginning with --overwrite."
        raise RunError(f"{path} is damaged: it is not what was written.\n  {advice}")
    return content


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Make a temporary folder beside `path`, renamed to it when the block ends well, removed when it does not.

    A folder that stands at `path` already is replaced only then.
    """
    new_path, old_path = _to_hidden_path(path), _to_hidden_path(path)
    new_path.mkdir()
    try:
        yield new_path
        if path.exists():
            old_path.mkdir()
            path.rename(old_path / path.name)  # a folder, a file or a link
        new_path.rename(path)
        shutil.rmtree(old_path, ignore_errors=True)
    except BaseException:
        shutil.rmtree(new_path, ignore_errors=True)
        raise


@contextlib.contextmanager
def lock(path: Path, *, wait: bool = True, another: str = "") -> Iterator[bool]:
    """Hold an exclusive lock on `path` (made if absent); yields whether it was obtained.

    The kernel releases it when the process ends, however it ends.

    Args:
      path: of the lock.
      wait: whether to wait where another process holds it.
      another: what that process does, to be said before waiting: "Waiting for another process that ...".
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        obtained = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            obtained = wait
            if wait and another:
                print(f"Waiting for another process that {another}.", file=sys.stderr)
            if wait:
                fcntl.flock(file, fcntl.LOCK_EX)
        yield obtained


def forget_dates(folder: Path) -> None:
    """Give a folder and all that is in it one date, that of now: theirs told what was made when."""
    now = time.time_ns()
    for path in (folder, *folder.rglob("*")):
        os.utime(path, ns=(now, now))


def digest_of(*parts: object) -> str:
    """Return the first 32 hex digits of SHA-256 over the parts: paths by their content, all else by its text."""
    total = hashlib.sha256()
    for part in parts:
        total.update(
            bytes.fromhex(sha256_of(part)) if isinstance(part, Path) else repr(part).encode() + b"\0"
        )
    return total.hexdigest()[:32]


DISK_RESERVE = 2 * 2**30
"""Bytes that preparing leaves free on the disk of the cache."""

CACHE_LIMIT = 20 * 2**30
"""Bytes of stores of one kind that are kept; the least recently used go first."""


def remove_leftovers(folder: Path, key: str) -> None:
    """Remove what killed processes left behind of the store `key`; its lock must be held."""
    for leftover in folder.glob(f".{key}.*"):
        shutil.rmtree(leftover)


def make_room(folder: Path, *, keep: str, limit: int) -> None:
    """Remove the least recently used stores until the rest fits, and what killed processes left behind.

    Args:
      folder: folder of the stores; beside each is its lock, KEY.lock.
      keep: the store that stays.
      limit: bytes that the others may take together.
    """
    stores, total = {}, 0
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process has just finished or removed it
            if path.is_dir() and path.name != keep:
                size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
                stores[path] = (path.stat().st_mtime, size)
    for path, (_, size) in sorted(stores.items(), key=lambda store: store[1], reverse=True):
        total += size
        if not path.name.startswith(".") and total <= limit:
            continue
        key = path.name.lstrip(".").split(".")[0]
        # A store that another process works on stays: it holds the lock.
        with lock(folder / f"{key}.lock", wait=False) as is_free:
            if is_free and path.exists():
                shutil.rmtree(path)


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
        self.folder = cache_dir(name)

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
        with lock(self.folder / f"{key}.lock", another=f"makes the same entry of {self.name}"):
            info = _read(folder)
            if info is not None and accept(info):
                return Entry(folder, info, True)
            return Entry(folder, self._fill(key, make), False)

    def offer(
        self, key: str, make: Callable[[Path], Mapping[str, Any]], *, unless: Callable[[], bool]
    ) -> bool:
        """Make the entry of `key` where it is absent and no other process makes it now; nobody is waited for.

        Args:
          key: see `get`.
          make: see `get`.
          unless: is asked while the entry is locked: whether it is not needed any more.

        Returns:
          Whether it was made.
        """
        with lock(self.folder / f"{key}.lock", wait=False) as is_free:
            if not is_free or unless() or (self.folder / key).is_dir():
                return False
            self._fill(key, make)
            return True

    def _fill(self, key: str, make: Callable[[Path], Mapping[str, Any]]) -> dict[str, Any]:
        remove_leftovers(self.folder, key)  # of a process that was killed: the lock is ours
        with new_folder(self.folder / key) as path:
            info = dict(make(path))
            write_json(path / ENTRY, {"content": folder_digest(path), **info})
        return info


def folder_digest(folder: Path) -> str:
    """Return the digest of the names and contents of all files below a folder, but for the entry's own."""
    parts: list[object] = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / ENTRY):
        parts += [path.relative_to(folder).as_posix(), path]
    return digest_of(*parts)


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
    warn_damaged(folder)
    return None

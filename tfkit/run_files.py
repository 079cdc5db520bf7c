"""Files of a run folder, read with care: the folder may be a stranger's.

Nothing outside of the folder is read, whatever its links say; nothing is read without a bound on its bytes; and what is
malformed is a RunError that names the file. `Run` and all that reads a run folder do it by these functions.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import stat
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from tfkit.errors import RunError

if TYPE_CHECKING:
    import numpy as np

SMALL, USUAL, LARGE = 64 * 1024, 2**20, 8 * 2**20
"""Bytes that config.yaml may have, whose reader is slow; any other text; a JSON file that lists files or classes."""

MOST_LISTED = 500
"""Entries of a list that a report draws."""

UNPACKED, RATIO = 64 * 2**20, 40
"""Bytes that the arrays of a .npz may have, and so many more for each byte of the file."""

MOST_ARRAYS = 64
LARGEST_INTEGER = 2**63
DEEPEST = 20
"""Levels of nesting in a YAML file."""

_KINDS = "biufU"  # of NumPy's types: none that holds objects

Shape = Any
"""What a JSON value must be: types, or [shape of each], {"name": shape, "optional?": shape}, {"*": shape of each}."""


@contextlib.contextmanager
def opened(folder: Path, name: str) -> Iterator[BinaryIO | None]:
    """Open a regular file of the folder; None where there is none.

    Raises:
      RunError: the file is a link out of the folder, no regular file, or not readable.
    """
    path = folder / name
    try:
        real = inside(folder, name)
        # Before it is opened: that alone would wait for the other end of a pipe, or wind a tape.
        if not stat.S_ISREG(real.stat().st_mode):
            raise damaged(path, "it is not a regular file")
        file = os.fdopen(os.open(real, os.O_RDONLY | os.O_NONBLOCK), "rb")
    except (FileNotFoundError, NotADirectoryError):
        yield None
        return
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}.") from error
    with file:
        yield file


def read_bytes(folder: Path, name: str, *, most: int = USUAL, cut: bool = False) -> bytes | None:
    """Return the content of `opened`; None where there is no file.

    Args:
      folder: of a run.
      name: of the file, below it.
      most: bytes that it may have.
      cut: whether more than that are left out and not refused.

    Raises:
      RunError: as of `opened`, or it is larger.
    """
    with opened(folder, name) as file:
        content = None if file is None else file.read(most + 1)
    if content is not None and len(content) > most and not cut:
        raise damaged(folder / name, f"it has more than {most:,} bytes, which no run writes there")
    return content and content[:most]


def read_text(folder: Path, name: str, *, most: int = USUAL) -> str | None:
    """Return `read_bytes` in UTF-8."""
    content = read_bytes(folder, name, most=most)
    try:
        return None if content is None else content.decode()
    except UnicodeDecodeError as error:
        raise damaged(folder / name, f"byte {error.start} of it is no UTF-8") from error


def read_json(folder: Path, name: str, shape: Shape = dict, *, most: int = USUAL) -> dict[str, Any]:
    """Return the object of a JSON file with finite numbers; an empty one where there is no file.

    Raises:
      RunError: as of `read_bytes`, or it is not such an object, or not of that shape.
    """
    text = read_text(folder, name, most=most)
    if text is None:
        return {}
    try:
        content = json.loads(text, parse_constant=_number, parse_float=_number, parse_int=_integer)
    except (ValueError, RecursionError) as error:
        raise damaged(folder / name, _first_line(error)) from error
    if fault := fault_of(content, shape if isinstance(shape, dict) else dict):
        raise damaged(folder / name, fault)
    return dict(content)


def read_yaml(folder: Path, name: str) -> dict[str, Any]:
    """Return the settings of a YAML file; none where there is no file.

    Raises:
      RunError: as of `read_bytes`, or it does not hold plain settings.
    """
    text = read_text(folder, name, most=SMALL)
    try:
        return {} if text is None else parse_yaml(text)
    except ValueError as error:
        raise damaged(folder / name, str(error)) from error


def parse_yaml(text: str) -> dict[str, Any]:
    """Return the settings of a YAML text: names to plain values, no tags, no aliases, no nesting without end.

    Raises:
      ValueError: it holds anything else.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        depth = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            # A few lines of aliases of aliases stand for 10^9 values.
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("it has an alias (*name): write the value out")
            if self.depth > DEEPEST:
                raise RecursionError
            self.depth += 1
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

    try:
        content = yaml.load(text, Loader) or {}
        if isinstance(content, dict):
            json.dumps(content, default=str)  # which goes through all of it
    except Exception as error:  # its constructors raise whatever int(), datetime() and dict() do
        raise ValueError(f"it is not YAML: {_first_line(error)}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ValueError(f"it must hold `name: value` lines; it holds a {type(content).__name__}")
    return content


def read_arrays(folder: Path, name: str) -> dict[str, np.ndarray]:
    """Return the arrays of a .npz of numbers and strings; none where there is no file.

    Raises:
      RunError: as of `read_bytes`, or it is no such file, or its arrays would take far more memory than the file.
    """
    arrays: dict[str, np.ndarray] = {}
    with opened(folder, name) as packed:
        if packed is None:
            return arrays
        try:
            arrays.update(_unpacked(packed))
        except Exception as error:  # of a damaged archive: BadZipFile, zlib.error, EOFError, ...
            raise damaged(folder / name, _first_line(error)) from error
    return arrays


def _unpacked(packed: BinaryIO) -> Iterator[tuple[str, np.ndarray]]:
    import numpy as np

    room = UNPACKED + RATIO * os.fstat(packed.fileno()).st_size
    with zipfile.ZipFile(packed) as archive:
        if len(archive.infolist()) > MOST_ARRAYS:
            raise ValueError(f"it has {len(archive.infolist()):,} arrays")
        for entry in archive.infolist():
            with archive.open(entry) as file:
                size = _array_bytes(file)
            if size > room or entry.file_size > room:
                raise ValueError(f"{entry.filename} would take {max(size, entry.file_size):,} bytes")
            room -= size
            with archive.open(entry) as file:
                array = np.lib.format.read_array(file, allow_pickle=False)
                if file.read(1):  # at the end, where the checksum is compared
                    raise ValueError(f"{entry.filename} goes on behind its array")
            yield entry.filename.removesuffix(".npy"), array


def _array_bytes(file: Any) -> int:
    """The size of an array, by its header."""
    import numpy as np

    version = np.lib.format.read_magic(file)
    read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}[version[0]]
    shape, _, dtype = read(file)
    if dtype.kind not in _KINDS or any(size < 0 for size in shape):
        raise ValueError(f"an array of {dtype} {shape}, which no run writes")
    return math.prod(shape) * dtype.itemsize


def inside(folder: Path, name: str) -> Path:
    """Return where a name in the folder leads, links followed.

    Raises:
      RunError: out of the folder, or in a circle.
      FileNotFoundError: nowhere.
    """
    path = folder / name
    try:
        real = path.resolve(strict=True)
    except (FileNotFoundError, NotADirectoryError):
        real = path.resolve()
        if real.is_relative_to(folder.resolve()):
            raise
    except (OSError, RuntimeError) as error:  # a circle: RuntimeError before Python 3.13
        raise damaged(path, "its links lead in a circle") from error
    if not real.is_relative_to(folder.resolve()):
        raise RunError(
            f"{path} is a link out of the run folder, to {real}: nothing there is read or written.\n"
            "  If the run is yours, put what it leads to in its place; if it came from somebody else, remove the link."
        )
    return real


def check_links(folder: Path, names: Iterable[str]) -> None:
    """Refuse files and subfolders of a run, at any depth, that are links out of its folder, pipes or devices.

    For what is read by TensorFlow, and where files will be written: `read_bytes` looks for itself.

    Raises:
      RunError: the first one.
    """
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        try:
            mode = inside(folder, name).stat().st_mode
            if stat.S_ISDIR(mode) and not (folder / name).is_symlink():
                waiting += [f"{name}/{entry.name}" for entry in os.scandir(folder / name)]
            elif not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise damaged(folder / name, "it is not a regular file")
        except OSError:  # it is not there, or no longer
            continue


def damaged(path: Path, why: str) -> RunError:
    """Return the error of a file that no run wrote like this."""
    return RunError(
        f"{path} is damaged: {why}.\n"
        "  Copy the run again from where it was made; a run of your own is made anew by its command with --overwrite."
    )


def fault_of(content: Any, shape: Shape, where: str = "it") -> str | None:
    """Return what of a JSON value is not of the shape, in words; None where all is."""
    found = f"{where} is {content!r:.40}"
    if isinstance(shape, list):
        if not isinstance(content, list):
            return f"{found} and not a list"
        return _first(fault_of(one, shape[0], f"{where}[{place}]") for place, one in enumerate(content))
    if isinstance(shape, dict):
        if not isinstance(content, dict):
            return f"{found} and not an object"
        if "*" in shape:
            return _first(fault_of(one, shape["*"], f"{where}[{key!r:.80}]") for key, one in content.items())
        if missing := [key for key in shape if not key.endswith("?") and key not in content]:
            return f"{where} has no {missing[0]!r}"
        known = {key.removesuffix("?"): inner for key, inner in shape.items()}
        return _first(
            fault_of(content[key], inner, f"{where}[{key!r}]")
            for key, inner in known.items()
            if key in content
        )
    for kind in shape if isinstance(shape, tuple) else (shape,):
        # Of several, one that is no type may be a shape: an object, or nothing.
        if isinstance(kind, dict | list):
            found = fault_of(content, kind, where) or ""
            if not found:
                return None
        elif isinstance(content, kind):
            return None
    return found


def _first(faults: Iterable[str | None]) -> str | None:
    return next(filter(None, faults), None)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"it holds {text[:40]}, which is no finite number")
    return value


def _integer(text: str) -> int:
    if len(text) > 20 or abs(int(text)) >= LARGEST_INTEGER:
        raise ValueError(f"it holds an integer of {len(text)} digits")
    return int(text)


def _first_line(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip()[:200]

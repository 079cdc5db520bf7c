"""Files of a run folder, read with care: the folder may be a stranger's.

Nothing outside of the folder is read, whatever its links say; nothing is read without a bound on its bytes; and what is
malformed is a RunError that names the file. `Run` and all that reads a run folder do it by these functions.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from tfkit.environment.packages import first_line
from tfkit.errors import RunError

if TYPE_CHECKING:
    import numpy as np

SMALL, USUAL, LARGE = 64 * 1024, 2**20, 8 * 2**20
"""Bytes that config.yaml may have, whose reader is slow; any other text; a JSON file, which may list all files."""

MOST_LISTED = 500
"""Entries of a list that a report draws."""

UNPACKED, RATIO = 64 * 2**20, 40
"""Bytes that the arrays of a .npz may have, and so many more for each byte of the file."""

_KINDS = "biufU"  # of NumPy's types: none that holds objects

Shape = Any
"""The shape of a JSON value: types, or [shape of each], {"name": shape, "optional?": shape}, {"*": shape of each}."""


@contextlib.contextmanager
def opened(folder: Path, name: str) -> Iterator[BinaryIO | None]:
    """Open a regular file of the folder; None where there is none.

    Raises:
      RunError: the file is a link out of the folder, no regular file, or not readable.
    """
    path = folder / name
    try:
        target = inside(folder, name)
        # Before it is opened: that alone would wait for the other end of a pipe, or wind a tape.
        if not stat.S_ISREG(target.stat().st_mode):
            raise damaged(path, "it is not a regular file")
        file = os.fdopen(os.open(target, os.O_RDONLY | os.O_NONBLOCK), "rb")
    except (FileNotFoundError, NotADirectoryError):
        yield None
        return
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}.") from error
    with file:
        yield file


def read_text(folder: Path, name: str, *, most: int = USUAL) -> str | None:
    """Return the UTF-8 text of `opened`; None where there is no file.

    Args:
      folder: of a run.
      name: of the file, below it.
      most: bytes that it may have.

    Raises:
      RunError: as of `opened`, or it is larger, or no UTF-8.
    """
    with opened(folder, name) as file:
        if file is None:
            return None
        content = file.read(most + 1)
    if len(content) > most:
        raise damaged(folder / name, f"it has more than {most:,} bytes, which no run writes there")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise damaged(folder / name, f"byte {error.start} of it is no UTF-8") from error


def read_json(folder: Path, name: str, shape: Shape = dict) -> dict[str, Any]:
    """Return the object of a JSON file with finite numbers; an empty one where there is no file.

    Raises:
      RunError: as of `read_text`, or it is not such an object, or not of that shape.
    """
    text = read_text(folder, name, most=LARGE)
    if text is None:
        return {}
    try:
        content = json.loads(text, parse_constant=_to_number, parse_float=_to_number, parse_int=_to_integer)
    except (ValueError, RecursionError) as error:
        raise damaged(folder / name, first_line(error)) from error
    if fault := fault_of(content, shape):
        raise damaged(folder / name, fault)
    return dict(content)


def read_yaml(folder: Path, name: str) -> dict[str, Any]:
    """Return the settings of a YAML file; none where there is no file.

    Raises:
      RunError: as of `read_text`, or it does not hold plain settings.
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
            self.depth += 1
            if self.depth > 20:  # before Python's own limit, at which it takes a minute
                raise yaml.YAMLError("it is nested too deeply")
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

    try:
        content = yaml.load(text, Loader) or {}
        if isinstance(content, dict):
            json.dumps(content, default=str)  # which goes through all of it
    except Exception as error:  # its constructors raise whatever int(), datetime() and dict() do
        raise ValueError(f"it is not YAML: {first_line(error)}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ValueError(f"it must hold `name: value` lines; it holds a {type(content).__name__}")
    return content


def read_arrays(folder: Path, name: str) -> dict[str, np.ndarray]:
    """Return the arrays of a .npz of numbers and strings; none where there is no file.

    Raises:
      RunError: as of `read_text`, or it is no such file, or its arrays would take far more memory than the file.
    """
    with opened(folder, name) as file:
        try:
            return {} if file is None else dict(_read_npz(file))
        except Exception as error:  # of a damaged archive: BadZipFile, zlib.error, EOFError, ...
            raise damaged(folder / name, first_line(error)) from error


def _read_npz(file: BinaryIO) -> Iterator[tuple[str, np.ndarray]]:
    import zipfile

    import numpy as np
    from numpy.lib import format

    room = UNPACKED + RATIO * os.fstat(file.fileno()).st_size
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            with archive.open(entry) as stream:
                content = io.BytesIO(stream.read(room + 1))  # to its end, where the checksum is compared
            room -= content.getbuffer().nbytes
            if room < 0:
                raise ValueError(f"{entry.filename} takes more memory than the arrays of a run do")
            major, _ = format.read_magic(content)
            read_header = {1: format.read_array_header_1_0, 2: format.read_array_header_2_0}[major]
            shape, is_fortran, dtype = read_header(content)
            if dtype.kind not in _KINDS or any(size < 0 for size in shape):
                raise ValueError(f"an array of {dtype} {shape}, which no run writes")
            # Not NumPy's reader, which makes room for the shape before it looks for the numbers.
            values = np.frombuffer(content.read(), dtype)
            yield entry.filename.removesuffix(".npy"), values.reshape(shape, order="F" if is_fortran else "C")


def inside(folder: Path, name: str) -> Path:
    """Return where a name in the folder leads, links followed.

    Raises:
      RunError: out of the folder, or in a circle.
      FileNotFoundError: nowhere.
    """
    path = folder / name
    try:
        target = path.resolve(strict=True)
    except (FileNotFoundError, NotADirectoryError):
        target = path.resolve()
        if target.is_relative_to(folder.resolve()):
            raise
    except (OSError, RuntimeError) as error:  # a circle: RuntimeError before Python 3.13
        raise damaged(path, "its links lead in a circle") from error
    if not target.is_relative_to(folder.resolve()):
        raise RunError(
            f"{path} is a link out of the run folder, to {target}: nothing there is read or written.\n"
            "  If the run is yours, put what it leads to in its place; if it came from somebody else, remove the link."
        )
    return target


def check_links(folder: Path, names: Iterable[str]) -> None:
    """Refuse files and subfolders of a run, at any depth, that are links out of its folder, pipes or devices.

    For what is read by TensorFlow, and where files will be written: `read_text` looks for itself.

    Raises:
      RunError: the first one.
    """
    queue = list(names)
    while queue:
        name = queue.pop()
        try:
            mode = inside(folder, name).stat().st_mode
            if stat.S_ISDIR(mode) and not (folder / name).is_symlink():
                queue += [f"{name}/{entry.name}" for entry in os.scandir(folder / name)]
            elif not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise damaged(folder / name, "it is not a regular file")
        except OSError:  # it is not there, or no longer
            continue


def damaged(path: Path, why: str) -> RunError:
    """Return the error of a file that no run wrote like this."""
    return RunError(
        f"{path} is damaged: {why:.300}.\n"
        "  Copy the run again from where it was made; a run of your own is made anew by its command with --overwrite."
    )


def fault_of(content: Any, shape: Shape, where: str = "it") -> str | None:
    """Return what of a JSON value is not of the shape, in words; None where all is."""
    if isinstance(shape, tuple):
        faults = [fault_of(content, kind, where) for kind in shape]
        return None if None in faults else faults[0]
    kind: Any = shape if isinstance(shape, type) else type(shape)
    if not isinstance(content, kind):
        return f"{where} is {content!r:.40}, and no {kind.__name__}"
    if isinstance(shape, list):
        items = [(f"{where}[{place}]", value, shape[0]) for place, value in enumerate(content)]
    elif isinstance(shape, dict) and "*" in shape:
        items = [(f"{where}[{key!r:.80}]", value, shape["*"]) for key, value in content.items()]
    elif isinstance(shape, dict):
        if missing_keys := [key for key in shape if not key.endswith("?") and key not in content]:
            return f"{where} has no {missing_keys[0]!r}"
        shapes = {key.removesuffix("?"): expected for key, expected in shape.items()}
        items = [(f"{where}[{key!r}]", content[key], shapes[key]) for key in shapes if key in content]
    else:
        return None
    return next((fault for name, item, expected in items if (fault := fault_of(item, expected, name))), None)


def _to_number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"it holds {text[:40]}, which is no finite number")
    return value


def _to_integer(text: str) -> int:
    if len(text) > 18:
        raise ValueError(f"it holds an integer of {len(text)} digits")
    return int(text)

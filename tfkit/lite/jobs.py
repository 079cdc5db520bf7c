"""Conversions in a process of their own: a converter that crashes is an error here, and not the end of the session.

The process stays for the jobs that follow: it takes longer to import TensorFlow than to convert most models.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfkit.errors import CheckError, TfkitError, UsageError
from tfkit.lite.source import Source

JOB, EXAMPLES, LOG = "job.json", "examples.npz", "log.txt"
_LAST_LINES = 5
_OF_LOOPS = (
    "The model has a loop, which a GRU or SimpleRNN layer becomes, and TensorFlow's converter crashes as it measures"
    " the ranges inside of one; select_tf_ops does not help. Build the layer with unroll=True (a fixed length; the same"
    " weights fit), take an LSTM, whose loop becomes one operation, or take variant='dynamic' or 'float16'."
)
_OF_ANY = (
    "It is TensorFlow's converter that crashed. Try variant='dynamic' or 'float16', select_tf_ops=True, or the model"
    " without its last layers, to find the one that it cannot take. A SIGKILL is mostly a lack of memory."
)


@dataclass(frozen=True, kw_only=True)
class Request:
    """One .tflite file that is wanted of a model.

    Attributes:
      name: what the file is called here.
      variant: of `tfkit.lite.VARIANTS`.
      inference_input_type: "float32", or for a quantized variant "uint8", "int8", "int16".
      inference_output_type: likewise.
      keep_float: names of operations that stay in float32 where the others are quantized.
      select_tf_ops: whether operations that TFLite lacks stay TensorFlow's.
    """

    name: str
    variant: str
    inference_input_type: str = "float32"
    inference_output_type: str = "float32"
    keep_float: tuple[str, ...] = ()
    select_tf_ops: bool = False


def run(
    source: Source, requests: Sequence[Request], *, examples: Mapping[str, np.ndarray] | None = None
) -> dict[str, bytes | TfkitError]:
    """Convert a model in several ways.

    Args:
      source: see `tfkit.lite.source.saved`.
      requests: what is wanted.
      examples: representative inputs by name, [n, ...]; needed by int8 and int16x8.

    Returns:
      For the name of each request the content of a .tflite file, or what was in the way of it.
    """
    with tempfile.TemporaryDirectory(prefix="tfkit-") as name:
        folder = Path(name)
        job = {
            "saved_model": str(source.folder),
            "inputs": source.inputs,
            "cuts_text": source.cuts_text,
            "requests": [asdict(request) for request in requests],
        }
        (folder / JOB).write_text(json.dumps(job))
        if examples is not None:
            # Strings as numpy's own: a file of objects could run code when it is read.
            arrays: dict[str, Any] = {
                name: values.astype(bytes) if values.dtype == object else values
                for name, values in examples.items()
            }
            np.savez(folder / EXAMPLES, **arrays)
        ended = dict(_crashes(folder, requests, loops=source.loops))
        return {
            request.name: ended.get(request.name) or _result(folder, place)
            for place, request in enumerate(requests)
        }


def _crashes(folder: Path, requests: Sequence[Request], *, loops: bool) -> Iterator[tuple[str, TfkitError]]:
    """Ask children until every request has its result or its error; yields those at which one died."""
    while (code := _converted(folder)) is not None:
        place = next((place for place in range(len(requests)) if not _is_done(folder, place)), None)
        if place is None:
            return
        died = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        words = [line for line in (folder / LOG).read_text(errors="replace").splitlines() if line.strip()]
        last = "".join(f"\n    {line}" for line in words[-_LAST_LINES:]) or " none"
        what = f"The converter {died} at {requests[place].name} ({requests[place].variant})."
        advice = _OF_LOOPS if loops and requests[place].variant in ("int8", "int16x8") else _OF_ANY
        _fail(folder, place, f"{what} Nothing else is lost.\n  {advice}\n  Its last words:{last}")
        yield requests[place].name, _error(folder, place)


_waiting: list[subprocess.Popen[bytes]] = []
"""Children that have nothing to do; they end by themselves after a while (`child.IDLE_SECONDS`)."""

os.register_at_fork(after_in_child=_waiting.clear)  # they are the other process's


def _converted(folder: Path) -> int | None:
    """Have a child do what is left to do in a folder; the exit code of one that died of it."""
    while child := _taken():
        if _answers(child, folder):
            return None
        if child.wait() != 0:
            return child.returncode
        # It had waited long enough and ended just now.
    with (folder / LOG).open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "tfkit.lite.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
        )
    return None if _answers(child, folder) else child.wait()


def _taken() -> subprocess.Popen[bytes] | None:
    """A child that waits for a job, if one does; it is the caller's alone."""
    with contextlib.suppress(IndexError):
        while (child := _waiting.pop()).poll() is not None:
            pass
        return child
    return None


def _answers(child: subprocess.Popen[bytes], folder: Path) -> bool:
    """Whether a child, which is asked here, is there when it is through; it waits for another job then."""
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdin.write(os.fsencode(folder.resolve()) + b"\n")
        child.stdin.flush()
        answered = bool(child.stdout.readline())
    except BrokenPipeError:
        answered = False
    except BaseException:
        child.kill()
        child.wait()
        raise
    if answered:
        _waiting.append(child)
    return answered


@atexit.register
def end_children() -> None:
    """End those that wait, and free their memory; the next job starts another."""
    while child := _taken():
        child.kill()
        child.wait()


def _is_done(folder: Path, place: int) -> bool:
    return result_path(folder, place).is_file() or error_path(folder, place).is_file()


def _result(folder: Path, place: int) -> bytes | TfkitError:
    path = result_path(folder, place)
    return path.read_bytes() if path.is_file() else _error(folder, place)


def _error(folder: Path, place: int) -> TfkitError:
    said = json.loads(error_path(folder, place).read_text())
    return (UsageError if said["usage"] else CheckError)(said["message"])


def _fail(folder: Path, place: int, message: str, *, usage: bool = False) -> None:
    error_path(folder, place).write_text(json.dumps({"message": message, "usage": usage}))


def result_path(folder: Path, place: int) -> Path:
    """Where the child puts what it made."""
    return folder / f"{place}.tflite"


def error_path(folder: Path, place: int) -> Path:
    """Where the child says why it could not."""
    return folder / f"{place}.error.json"

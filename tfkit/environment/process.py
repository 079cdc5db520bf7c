"""Set up the process that tfkit runs in: glibc's allocator, and what goes to stdout and stderr."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

# The environment variable of a process, mallopt's number for it, and the value. By default glibc gives every
# big tensor back to the system as soon as an op is done with it, and the next op faults its pages in again.
_MALLOC = (
    ("MALLOC_MMAP_THRESHOLD_", -3, 1 << 30),
    ("MALLOC_TRIM_THRESHOLD_", -1, (1 << 31) - 1),
    ("MALLOC_TOP_PAD_", -2, 256 << 20),
)

# What TensorFlow's native code says on every start. Each is dropped inside `quiet` and nowhere else.
_NOISE = (
    r"^WARNING: All log messages before absl::InitializeLog",
    r"^I[0-9]{4} ",
    r"^[0-9-]{10} [0-9:.]+: I ",
    r"^To enable the following instructions:",
    r"Unable to register cu(FFT|DNN|BLAS) factory",
    r"computation placer already registered",
    r"TF-TRT Warning: Could not find TensorRT",
    r"tf_tfl_flatbuffer_helpers.cc:[0-9]+\] Ignored (output_format|drop_control_dependency)\.",
    r"^INFO: Created TensorFlow Lite XNNPACK delegate for CPU\.",
    r"oneDNN supports DT_INT64 only on platforms with AVX-512",
    r"Input of GeneratorDatasetOp::Dataset will not be optimized",
    r"^Gym has been unmaintained|^Please upgrade to Gymnasium|^See the migration guide at .*gymnasium",
)
# On a machine without an accelerator these are no news; with one they are the reason why it is not used.
_NOISE_WITHOUT_ACCELERATOR = (r"Could not find cuda drivers on your machine", r"failed call to cuInit")

_ACCELERATORS = ("nvidia[0-9]*", "nvidiactl", "dxg", "kfd", "accel[0-9]*", "vfio/[0-9]*")

said_at = 0.0
"""Time of the last message, in seconds of `time.monotonic()`."""

_is_filtering = False
_is_muted = False


def usable_cores() -> list[int]:
    """Return the cores that this process may use, by number."""
    has_affinity = hasattr(os, "sched_getaffinity")
    return sorted(os.sched_getaffinity(0)) if has_affinity else list(range(os.cpu_count() or 1))


def watched() -> bool:
    """Return whether somebody sees progress on stderr as it happens: in a terminal, no file, pipe or notebook."""
    return not _is_muted and sys.stderr is not None and sys.stderr.isatty()


def counted(count: int, noun: str) -> str:
    """Return a number of things in words.

    >>> counted(1, "image"), counted(2000, "image"), counted(2, "class")
    ('1 image', '2,000 images', '2 classes')
    """
    ending = "" if count == 1 else "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{ending}"


def rounded_up(value: float, digits: int = 4) -> str:
    """Return a number in so many significant digits, and never a smaller one: an epsilon that is printed must hold.

    >>> rounded_up(2.9962), rounded_up(3.0), rounded_up(8.001, 3), rounded_up(1e-5)
    ('2.997', '3', '8.01', '1e-05')
    """
    text = f"{value:.{digits}g}"
    if float(text) < value:
        text = f"{float(text) + 10.0 ** (math.floor(math.log10(value)) + 1 - digits):.{digits}g}"
    return text


def say(text: str) -> None:
    """Print what a job does, as it does it; nothing while `muted`."""
    global said_at
    if not _is_muted:
        said_at = time.monotonic()
        if "tqdm" in sys.modules:  # it knows of bars that are drawn
            sys.modules["tqdm"].tqdm.write(text)
            sys.stdout.flush()
        else:
            print(text, flush=True)


def is_verbose() -> bool:
    """Return whether a job tells what it does."""
    return not _is_muted


@contextlib.contextmanager
def muted() -> Iterator[None]:
    """Let a job print, while the block runs, no more than warnings, and draw no progress."""
    global _is_muted
    was_muted, _is_muted = _is_muted, True
    try:
        yield
    finally:
        _is_muted = was_muted


@contextlib.contextmanager
def stdout_for_programs() -> Iterator[None]:
    """Send all that is printed while the block runs to stderr, also what native code and child processes print."""
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


def has_accelerator() -> bool:
    """Return whether a GPU or TPU is attached and not hidden, as far as /dev tells: TensorFlow is not asked."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    return any(any(Path("/dev").glob(pattern)) for pattern in _ACCELERATORS)


@functools.cache
def _get_noise_pattern() -> str:
    return "|".join(_NOISE if has_accelerator() else _NOISE + _NOISE_WITHOUT_ACCELERATOR)


def is_noise(line: str) -> bool:
    """Return whether a line of another process is native code's that tells nothing; with TFKIT_QUIET=0 none is."""
    return os.environ.get("TFKIT_QUIET") != "0" and re.search(_get_noise_pattern(), line) is not None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop, while the block runs, the lines of native code that tell nothing; all others reach stderr.

    The file descriptor is filtered, by `grep` in a process of its own: what native code says as it brings
    this process down still gets through. With TFKIT_QUIET=0, or inside another such block, it does nothing.

    Returns:
      A context; nothing is bound by `as`.
    """
    global _is_filtering
    grep = shutil.which("grep")
    if _is_filtering or grep is None or sys.stderr is None or os.environ.get("TFKIT_QUIET") == "0":
        yield
        return
    sys.stderr.flush()
    stderr = os.dup(2)
    # A session of its own, so that Ctrl-C in a terminal ends this process and not its filter.
    grep_process = subprocess.Popen(
        [grep, "--line-buffered", "--text", "-E", "-v", _get_noise_pattern()],
        stdin=subprocess.PIPE,
        stdout=stderr,
        env={"LC_ALL": "C"},
        start_new_session=True,
    )
    assert grep_process.stdin is not None
    os.dup2(grep_process.stdin.fileno(), 2)
    grep_process.stdin.close()
    _is_filtering = True
    try:
        yield
    finally:
        _is_filtering = False
        sys.stderr.flush()
        os.dup2(stderr, 2)
        os.close(stderr)
        # It ends with its input; a process that was started in the block and lives on keeps that open.
        with contextlib.suppress(subprocess.TimeoutExpired):
            grep_process.wait(timeout=1)


def tune_malloc() -> bool:
    """Let glibc keep the memory of tensors for the next op; returns whether this process is tuned.

    Only on Linux with glibc and without an accelerator, and not with TFKIT_MALLOC=0 or where variables of
    glibc are set. Measured on two cores: a convolutional net trains 1.2 times as fast.
    """
    variables = malloc_environment()
    if not variables or any(name in os.environ for name in variables):
        return bool(variables) and variables.items() <= os.environ.items()
    library = ctypes.CDLL(None)
    return all(library.mallopt(option, value) == 1 for _, option, value in _MALLOC)


def malloc_environment() -> dict[str, str]:
    """Return the environment variables that do in a process to be started what `tune_malloc` does in this one.

    Returns:
      Empty where this machine is not to be tuned.
    """
    is_enabled = os.environ.get("TFKIT_MALLOC") != "0" and not has_accelerator()
    is_glibc = sys.platform.startswith("linux") and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")
    return {name: str(value) for name, _, value in _MALLOC} if is_enabled and is_glibc else {}

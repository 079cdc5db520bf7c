"""The allocator and the filter of stderr; none of it needs TensorFlow."""

import os
import subprocess
import sys

import pytest

from tfkit.environment import process

pytestmark = pytest.mark.stack

TOUCH = """
import ctypes, os
library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.memset.argtypes, library.free.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t], [ctypes.c_void_p]
block = library.malloc(200 << 20)
library.memset(block, 1, 200 << 20)
library.free(block)
pages = int(open("/proc/self/statm").read().split()[1])
print(pages * os.sysconf("SC_PAGE_SIZE") >> 20)
"""
TUNE = "from tfkit.environment import process; print(process.tune_malloc())\n"


def python(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a program, by default with all GPUs hidden: malloc is tuned where there is none."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "TFKIT_"))}
    environment = kept | {"CUDA_VISIBLE_DEVICES": "-1"} | variables
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)


@pytest.mark.parametrize(
    ("variables", "tuned"),
    [({}, True), ({"TFKIT_MALLOC": "0"}, False), ({"MALLOC_TRIM_THRESHOLD_": "131072"}, False)],
    ids=["tuned", "left alone on request", "the user's own variables win"],
)
def test_tuned_malloc_keeps_the_memory_of_a_freed_tensor(variables, tuned):
    found, megabytes = python(TUNE + TOUCH, **variables).stdout.split()
    assert found == str(tuned)
    assert int(megabytes) > 200 if tuned else int(megabytes) < 100


def test_the_environment_tunes_a_worker_as_the_call_does(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert int(python(TOUCH, **process.malloc_environment()).stdout) > 200
    assert python(TUNE, **process.malloc_environment()).stdout == "True\n"
    monkeypatch.setenv("TFKIT_MALLOC", "0")
    assert process.malloc_environment() == {}


NOISE = "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR"
NEWS = "E0000 00:00:1 1 gpu.cc:1] out of memory"


def in_quiet(*lines: str) -> str:
    """A program that writes these lines to stderr as native code does, inside `quiet`."""
    writes = "".join(f"    os.write(2, {(line + chr(10)).encode()!r})\n" for line in lines)
    return f"import os\nfrom tfkit.environment.process import quiet\nwith quiet():\n{writes}"


def test_noise_is_dropped_and_news_is_not():
    code = in_quiet(NOISE, NEWS, NOISE) + f"os.write(2, {NOISE.encode()!r})"
    assert python(code).stderr == f"{NEWS}\n{NOISE}"


def test_a_line_of_a_worker_is_noise_by_the_same_patterns(monkeypatch):
    rebatched = (
        "W0000 00:00:1796004745.956191    9912 dataset.cc:997] Input of GeneratorDatasetOp::Dataset will not be"
        " optimized because the dataset does not implement the AsGraphDefInternal() method."
    )
    assert process.is_noise(rebatched)
    assert not process.is_noise("W0000 00:00:1796004745.956191 9912 dataset.cc:1] Something new")
    monkeypatch.setenv("TFKIT_QUIET", "0")
    assert not process.is_noise(rebatched)


def test_the_filter_can_be_switched_off():
    assert python(in_quiet(NOISE), TFKIT_QUIET="0").stderr == f"{NOISE}\n"


def test_the_last_words_of_a_crash_get_through():
    done = python(in_quiet(NOISE, NEWS) + "    os.abort()")
    assert done.returncode < 0
    assert done.stderr.startswith(NEWS)


def test_blocks_can_be_nested_and_an_exception_passes():
    """What Python prints keeps its place, and stderr comes back."""
    code = f"""
import os, sys
from tfkit.environment.process import quiet
def say(text): print(text, file=sys.stderr)
say(1)
try:
    with quiet():
        say(2)
        with quiet(): say(3)
        raise KeyError
except KeyError: say(4)
os.write(2, {NOISE.encode()!r})
"""
    assert python(code).stderr == f"1\n2\n3\n4\n{NOISE}"


@pytest.mark.parametrize("hidden", [True, False])
def test_why_no_gpu_is_used_is_noise_only_where_none_is(hidden):
    """On a machine with a GPU the same line is the one that matters."""
    code = "from tfkit.environment import process; print(process.has_accelerator())\n"
    code += in_quiet("E0000 00:00:1 1 cuda_platform.cc:52] failed call to cuInit: INTERNAL: CUDA error")
    done = python(code, CUDA_VISIBLE_DEVICES="-1" if hidden else "0")
    assert (done.stdout == "True\n") is ("cuInit" in done.stderr)
    assert not (hidden and done.stderr)

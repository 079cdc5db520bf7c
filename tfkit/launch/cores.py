"""Which cores, threads and GPUs of this machine a worker gets."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path


def allowed() -> tuple[int, ...]:
    """The cores that this process may use, by number."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def shares(items: Sequence[int], count: int) -> tuple[tuple[int, ...], ...]:
    """The items in `count` runs of neighbours, as even as can be; none where there are fewer items than that.

    >>> shares(range(5), 2)
    ((0, 1, 2), (3, 4))
    >>> shares([0], 2)
    ()
    """
    if len(items) < count:
        return ()
    each, more = divmod(len(items), count)
    starts = [place * each + min(place, more) for place in range(count + 1)]
    return tuple(tuple(items[start:end]) for start, end in itertools.pairwise(starts))


def threads_environment(cores: int, *, within: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables that give TensorFlow and OpenMP as many threads as cores; what is set in `within` stays.

    Operations that run side by side get two threads at least: one that waits for the other workers must not
    keep the next from being started. One was measured to be no faster (`benchmarks/scaling.py`).
    """
    wanted = {
        "TF_NUM_INTRAOP_THREADS": str(cores),
        "TF_NUM_INTEROP_THREADS": str(max(cores, 2)),
        "OMP_NUM_THREADS": str(cores),
    }
    return {name: value for name, value in wanted.items() if name not in within}


def gpu_shares(count: int) -> tuple[tuple[int, ...], ...]:
    """The GPUs by number, shared out; nothing where there are none, or one worker alone.

    Where there are fewer than workers, nobody gets one: two workers on one GPU would fail in their first all-reduce.
    """
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        names = [path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*")]
    else:
        names = [name.strip() for name in chosen.split(",")]
    numbers = sorted(int(name) for name in names if name.isdecimal())
    if count < 2 or not numbers:
        return ()
    return shares(numbers, count) or ((),) * count


@contextlib.contextmanager
def inherited(cores: Sequence[int] | None) -> Iterator[None]:
    """A process that is started in the block may use these cores alone: it has its starter's from birth."""
    if not cores or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def named(cores: Sequence[int]) -> str:
    """For a person: "core 3", "cores 0-3", "cores 0, 2, 5"."""
    if len(cores) == 1:
        return f"core {cores[0]}"
    if list(cores) == list(range(cores[0], cores[-1] + 1)):
        return f"cores {cores[0]}-{cores[-1]}"
    return "cores " + ", ".join(map(str, cores))

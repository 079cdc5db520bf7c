"""Progress of this process, printed every few seconds, and the time that each of its stages took.

    with doing("Converting the model"):                     # "Converting the model: 10 s so far."
        content = converter.convert()
    for image in track(images, "Decoding", unit="image"):   # "Decoding: 300 of 1,000 images, about 12 s left."
        ...
    with Timeline() as times:
        with stage("features", "Computing features"):       # both: said, and measured
            ...
    times.metrics()                                         # {"time/features_seconds": 6.2, ...}

In a terminal one line is rewritten by tqdm. Everywhere else, in a log or a notebook, a line is written to stderr
whenever nothing was said for `EVERY` seconds. A thread does both; for native code that keeps Python's lock,
`doing_locked`. Of several workers the chief alone speaks, and nobody does while `process.muted`.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tfkit.environment import cluster, process

T = TypeVar("T")

EVERY = 4.0
"""Seconds of silence after which a line is written: a thread that waits for Python's lock is late by up to one."""

OTHER = "other"
"""The stage of all that no stage has named."""

_SAMPLE_DELAY, _BAR_DELAY = 0.25, 1.0  # seconds between looks at the memory; until a line is drawn


class Activity:
    """Something that takes its time, and how far it is.

    Attributes:
      text: what it is, for a person: "Computing features".
      total: how much there is of it; None where nobody knows.
      unit: what is counted, in the singular; "" where nothing is.
      done: how much of it is done.
    """

    def __init__(self, text: str, total: int | None, unit: str, **bar: Any) -> None:
        self.text, self.total, self.unit, self.done = text, total, unit, 0
        self.start = time.monotonic()
        self._count_start: tuple[float, int] | None = (self.start, 0) if unit else None
        self.is_said_elsewhere = False
        has_bar = unit and process.watched()
        self._bar = _open_bar(desc=text, total=total, unit=unit, delay=_BAR_DELAY, **bar) if has_bar else None

    def advance(self, count: int = 1) -> None:
        """Count what was done since the last call."""
        self.done += count
        if self._bar is not None:
            self._bar.update(count)

    def report(self, done: int, total: int | None, text: str) -> None:
        """Say where it is, of something whose beginning another process may have done."""
        if self._count_start is None:
            self._count_start = time.monotonic(), done
            with _lock:
                self.close()
        self.done, self.total, self.unit, self.text = done, total, "step", text

    def line(self) -> str:
        """Return how far it is, and how long it takes still where that can be known."""
        now = time.monotonic()
        so_far = f"{now - self.start:.0f} s so far"
        if self._count_start is None:
            return f"{self.text}: {so_far}." if now - self.start >= 1 else f"{self.text} ..."
        if not self.total:
            return f"{self.text}: {self.done:,} {self.unit}s, {so_far}."
        start, first = self._count_start
        seconds = (now - start) / max(self.done - first, 1) * (self.total - self.done)
        remaining = f"about {seconds:.0f} s" if seconds < 100 else f"about {seconds / 60:.0f} min"
        counts = f"{self.done:,} of {self.total:,} {self.unit}s"
        return f"{self.text}: {counts}, {f'{remaining} left' if self.done > first else so_far}."

    def draw(self) -> bool:
        """Draw it in a terminal; returns whether somebody sees how far it is."""
        if not sys.stderr.isatty():
            return self.is_said_elsewhere or self._bar is not None
        if time.monotonic() - self.start > _BAR_DELAY:
            if self._bar is None and self._count_start is None:
                self._bar = _open_bar(desc=self.text, bar_format="{desc}: {elapsed}", leave=False)
            elif self._bar is not None:
                self._bar.refresh()
        return True  # what counts without a bar is drawn by others, as training by Keras

    def close(self) -> None:
        """Take it off the screen, or leave its bar as it is."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _open_bar(**options: Any) -> Any:
    from tqdm import tqdm

    return tqdm(**options, dynamic_ncols=True)


_activities: list[Activity] = []
_timelines: list[Timeline] = []
_lock = threading.Lock()
_thread: threading.Thread | None = None
_printed_at = 0.0
_begins_with_process: bool | None = None
_STARTUP_SECONDS = 60.0
"""Seconds within which a program comes to its first line, on a slow disk too."""

quiet_about_steps = False
"""True where a launcher prints the progress of the training."""


@contextlib.contextmanager
def doing(text: str, *, total: int | None = None, unit: str = "", **bar: Any) -> Iterator[Activity]:
    """Say what the block does, while it lasts: the innermost of several is said.

    Args:
      text: what it does, for a person: "Computing features".
      total: how much there is to do, in units.
      unit: what `Activity.advance` counts, in the singular; "": nothing is counted.
      bar: further options of tqdm.

    Yields:
      The activity, for its `advance`.
    """
    _start()
    activity = Activity(text, total, unit, **bar)
    _activities.append(activity)
    try:
        yield activity
    finally:
        with _lock:
            _activities.remove(activity)
            activity.close()


_SHELL = """n=$3
while sleep "$4" >&- 2>&-; kill -0 "$5" 2>&-; do
    echo "$1: $n s so far." >&2
    set -- "$1" "$2" "$3" "$2" "$5"; n=$((n + $2))
done"""


@contextlib.contextmanager
def doing_locked(text: str) -> Iterator[None]:
    """Say what native code does that keeps Python's lock for long: in a log a shell says it, for no thread can.

    Args:
      text: see `doing`.
    """
    with doing(text) as activity:
        shell = shutil.which("sh")
        if not shell or not _is_speaking() or sys.stderr.isatty():
            yield
            return
        activity.is_said_elsewhere = True
        period = max(1, round(EVERY))
        first = max(1, min(period, round(EVERY - _get_silence())))
        command = [shell, "-c", _SHELL, "sh", text, *map(str, (period, first, first, os.getpid()))]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL) as shell_process:
            try:
                yield
            finally:
                shell_process.terminate()


def track(
    items: Iterable[T], text: str, *, unit: str, total: int | None = None, leave: bool = True
) -> Iterator[T]:
    """Yield the items, and say how many were taken.

    Args:
      items: with a length, or `total`, the time left is said too.
      text: see `doing`.
      unit: see `doing`.
      total: how many there are.
      leave: whether a bar in a terminal stays there.
    """
    total = getattr(items, "__len__", lambda: None)() if total is None else total
    with doing(text, total=total, unit=unit, leave=leave) as activity:
        for item in items:
            yield item
            activity.advance()


def report(step: int, steps: int, text: str) -> None:
    """Say how far the innermost activity is: `step` of `steps`, 0 where nobody knows how many."""
    if _activities:
        _activities[-1].report(step, steps or None, text)


@contextlib.contextmanager
def stage(name: str, text: str) -> Iterator[None]:
    """Measure the block as a stage of this thread's innermost timeline, if it has one, and say what it does.

    Args:
      name: in metrics.json it becomes time/NAME_seconds.
      text: see `doing`.
    """
    thread = threading.get_ident()
    times = next((timeline for timeline in reversed(_timelines) if timeline.thread == thread), None)
    with times.stage(re.sub(r"\W", "_", name)) if times else contextlib.nullcontext(), doing(text):
        yield


@dataclass(frozen=True)
class Usage:
    """The time and memory that a stage took.

    Attributes:
      seconds: by the clock on the wall.
      cpu_seconds: of this process, user and system, and of its child processes that have ended.
      peak_bytes: the most memory that this process had resident during the stage, with what its allocator kept for
        later; 0 where /proc does not tell. It is exact where the stage had more than all before it (VmHWM); else the
        largest of four looks a second. VmHWM is not set back between stages: GNU time and schedulers read it too.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_bytes: float = 0

    def __add__(self, later: Usage) -> Usage:
        peak = max(self.peak_bytes, later.peak_bytes)
        return Usage(self.seconds + later.seconds, self.cpu_seconds + later.cpu_seconds, peak)


_METRICS = {
    "seconds": "time/{}_seconds",
    "cpu_seconds": "time/{}_cpu_seconds",
    "peak_bytes": "memory/{}_peak_bytes",
}


def usage_in(metrics: Mapping[str, float]) -> dict[str, Usage]:
    """Return the stages that stand in metrics.json, in their order there, `OTHER` last."""
    names = [match[1] for name in metrics if (match := re.fullmatch(r"time/(\w+)_cpu_seconds", name))]
    return {
        name: Usage(**{field: metrics.get(form.format(name), 0) for field, form in _METRICS.items()})
        for name in sorted(names, key=lambda name: name == OTHER)
    }


def is_detail(metric: str) -> bool:
    """Return whether a metric is the CPU seconds or the memory of a stage, which tables of metrics leave out."""
    return metric.endswith("_cpu_seconds") or metric.startswith("memory/")


def in_words(usage: Mapping[str, Usage]) -> str:
    """Return where the time went: "import 4 s, features 6, head 2, other 1"; what took under half a second is left out.

    Example:
      >>> in_words({"import": Usage(4.2), OTHER: Usage(1.0), "data": Usage(0.1), "features": Usage(6.4)})
      'import 4 s, features 6, other 1'
    """
    names = sorted(usage, key=lambda name: name == OTHER)
    parts = [f"{name} {usage[name].seconds:.0f}" for name in names if usage[name].seconds >= 0.5]
    return ", ".join([f"{first} s" for first in parts[:1]] + parts[1:])


class Timeline(contextlib.AbstractContextManager["Timeline"]):
    """Measure the stages of a block: all of its time is in one of them, or in `OTHER`.

    A stage within a stage interrupts it: no second is counted twice. Stages of one name are added.

    Attributes:
      usage: by stage, in the order in which they began.
      thread: whose stages are measured: what others do meanwhile is theirs.
    """

    def __init__(
        self, earlier: Mapping[str, Usage] | None = None, *, ended: Callable[[], object] = lambda: None
    ) -> None:
        """Go on with what an earlier process used, if any, from `with` on; `ended` is called after each stage."""
        self.usage, self.thread = dict(earlier or {}), threading.get_ident()
        self._names, self._on_end, self._peak = [OTHER], ended, 0
        self._time, self._cpu, (_, self._record) = time.monotonic(), _get_cpu_seconds(), _read_memory()

    def __enter__(self) -> Timeline:
        """Begin: a program's first timeline has had a stage "import", from the start of the process."""
        global _begins_with_process
        _start()
        if _begins_with_process:
            self._time, self._cpu, _begins_with_process = time.monotonic() - _get_age(), 0.0, False
            self._book("import")
        _timelines.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._book(OTHER)
        _timelines.remove(self)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the block as a stage."""
        self._book(self._names[-1])
        self._names.append(name)
        self.usage.setdefault(name, Usage())
        try:
            yield
        finally:
            self._book(self._names.pop())
            self._on_end()

    @property
    def seconds(self) -> float:
        """Return the seconds of all stages, until the end of the last one or the last call of `metrics`."""
        return sum(usage.seconds for usage in self.usage.values())

    def metrics(self, before: str = "") -> dict[str, float]:
        """Return flat names to numbers; `before` stands in front of the names of stages."""
        self._book(self._names[-1])
        return {
            form.format(before + name): getattr(usage, field)
            for name, usage in self.usage.items()
            for field, form in _METRICS.items()
            if field != "peak_bytes" or usage.peak_bytes
        }

    def look(self) -> None:
        """Take note of the memory that this process has now."""
        at, memory = self._time, _read_memory()[0]
        if at == self._time:  # no stage ended meanwhile, in another thread
            self._peak = max(self._peak, memory)

    def _book(self, name: str) -> None:
        """Book what was used since the last call."""
        self.look()
        now, cpu, (_, highest) = time.monotonic(), _get_cpu_seconds(), _read_memory()
        usage = Usage(now - self._time, cpu - self._cpu, highest if highest > self._record else self._peak)
        self.usage[name] = self.usage.get(name, Usage()) + usage
        self._time, self._cpu, self._record, self._peak = now, cpu, highest, 0


def _read_memory() -> tuple[int, int]:
    """Return the bytes that this process has resident, and the most that it ever had; 0 where /proc is not."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0, 0
    sizes = {name: int(line.split()[1]) << 10 for line in lines if (name := line[:6]) in ("VmRSS:", "VmHWM:")}
    return sizes.get("VmRSS:", 0), sizes.get("VmHWM:", 0)


def _get_cpu_seconds() -> float:
    return sum(os.times()[:4])


def _get_age() -> float:
    """Return the seconds since this process began; where /proc does not tell, those that it has computed."""
    try:
        ticks = float(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, LookupError, AttributeError):
        return time.process_time()


def begin_with_process() -> None:
    """Let the first timeline of this process begin where the process did: what a program does first.

    A process that has done other things for long, such as a test suite, is none.
    """
    global _begins_with_process
    _begins_with_process = _begins_with_process is None and _get_age() < _STARTUP_SECONDS


def _start() -> None:
    """Start the thread, once in a process."""
    global _thread
    if _thread is None:
        _thread = threading.Thread(target=_watch, name="tfkit-timeline", daemon=True)
        _thread.start()


def _reset_after_fork() -> None:
    """Forget, in a fork, what its parent does: it has the parent's memory and not its threads."""
    global _thread, _lock, _begins_with_process
    _thread, _lock, _begins_with_process = None, threading.Lock(), None
    _activities.clear()
    _timelines.clear()


os.register_at_fork(after_in_child=_reset_after_fork)


def _watch() -> None:
    global _printed_at
    while True:
        time.sleep(_SAMPLE_DELAY)
        for timeline in [*_timelines]:
            timeline.look()
        with _lock, contextlib.suppress(OSError, ValueError):  # a closed terminal ends no training
            if not _activities or not _is_speaking():
                continue
            now = time.monotonic()
            # What is counted tells more than what its parts do, once it has lasted; before it tells nothing.
            counters = [item for item in _activities if item.unit and now - item.start >= EVERY]
            plain_items = [item for item in _activities if not item.unit]
            current = (counters or plain_items or _activities)[-1]
            if quiet_about_steps or current.draw():
                continue
            if _get_silence() >= EVERY:
                _printed_at = now
                print(current.line(), file=sys.stderr, flush=True)


def _get_silence() -> float:
    """Return how long nothing was said, since the outermost activity began."""
    return time.monotonic() - max(_printed_at, process.said_at, _activities[0].start)


def _is_speaking() -> bool:
    """Return whether this process says what it does."""
    return process.is_verbose() and sys.stderr is not None and cluster.or_alone().is_chief

"""One process of a job, from its start to its end.

Which cores, threads and GPUs of this machine a worker gets.

What the workers print, line by line, and one bar of progress below it.

What the launcher is told from outside: to stop, and to stop at once.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, Any, TextIO

from tfkit.distribution.job import Task
from tfkit.environment import heartbeat, process
from tfkit.environment.heartbeat import VARIABLE, Pulse


def allowed() -> tuple[int, ...]:
    """The cores that this process may use, by number."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def core_shares(items: Sequence[int], count: int) -> tuple[tuple[int, ...], ...]:
    """The items in `count` runs of neighbours, as even as can be; none where there are fewer items than that.

    >>> core_shares(range(5), 2)
    ((0, 1, 2), (3, 4))
    >>> core_shares([0], 2)
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
    return core_shares(numbers, count) or ((),) * count


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


_LONGEST = 1 << 16
_CARRIAGE_SECONDS = 10.0
_REPORT_SECONDS = 30.0


class Lines:
    """Bytes in, whole lines of text out.

    What is overwritten by a carriage return in the same line is dropped, except once in ten seconds.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._shown = time.monotonic()

    def feed(self, data: bytes) -> list[str]:
        """The lines that `data` completes."""
        *whole, rest = (self._rest + data).split(b"\n")
        if len(rest) > _LONGEST:
            whole, rest = [*whole, rest], b""
        lines = [_visible(line) for line in whole]
        before, carriage, after = rest.rpartition(b"\r")
        if carriage and after:
            # The last piece is still being written; the one before it is complete.
            rest = after
            if time.monotonic() - self._shown > _CARRIAGE_SECONDS:
                lines.append(_visible(before))
        if lines:
            self._shown = time.monotonic()
        self._rest = rest
        return lines

    def close(self) -> list[str]:
        """What came after the last end of a line."""
        rest, self._rest = self._rest, b""
        return [_visible(rest)] if rest else []


def _visible(line: bytes) -> str:
    last = line.rstrip(b"\r").rpartition(b"\r")[2]
    return last.decode(errors="replace").lstrip("\b")


class Screen:
    """Where the lines of the workers, the launcher's own and the progress go.

    A closed terminal or pipe does not end a training: what cannot be shown is dropped.
    """

    def __init__(self, *, prefixed: bool = True, only_first: bool = False) -> None:
        """Show the lines of every worker with its name, or of the first alone as they are."""
        self._prefixed = prefixed
        self._only_first = only_first
        self._bar: Any = None
        self._reported = time.monotonic()
        self._reported_step = -1

    def line(self, name: str, text: str, *, first: bool, error: bool) -> None:
        """A line that a worker has printed, to stdout or to stderr."""
        if first or not self._only_first:
            stream = sys.stderr if error else sys.stdout
            self._write(f"[{name}] {text}" if self._prefixed else text, stream)

    def say(self, text: str) -> None:
        """A line of the launcher's own."""
        self._write(text, sys.stderr)

    def progress(self, found: Pulse, *, restarts: int) -> None:
        """Show how far the training is: a bar where somebody watches, else a line now and then."""
        if found.trained is None:
            return
        if process.watched():
            self._draw(found, restarts)
        elif time.monotonic() - self._reported > _REPORT_SECONDS and found.step != self._reported_step:
            self._reported, self._reported_step = time.monotonic(), found.step
            total = f" of {found.steps}" if found.steps else ""
            again = f", restarts: {restarts}" if restarts else ""
            self.say(f"Step {found.step}{total}{', ' * bool(found.text)}{found.text}{again}")

    def _draw(self, found: Pulse, restarts: int) -> None:
        from tqdm.auto import tqdm

        with contextlib.suppress(OSError, ValueError):
            if self._bar is None:
                # A resumed training is not as fast as if it had made the earlier steps now.
                self._bar = tqdm(
                    unit="step", initial=found.step, total=found.steps or None, dynamic_ncols=True
                )
            self._bar.total = found.steps or None
            self._bar.n = found.step
            # After the last step it exports and reports, for as long as that takes.
            doing = found.text if found.phase == "training" else found.phase
            self._bar.set_description_str(doing, refresh=False)
            if restarts:
                self._bar.set_postfix_str(f"restarts: {restarts}", refresh=False)
            self._bar.refresh()

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            with contextlib.suppress(OSError, ValueError):
                self._bar.close()
            self._bar = None

    def _write(self, text: str, stream: TextIO | None) -> None:
        if stream is None:
            return
        encoding = getattr(stream, "encoding", None) or "utf-8"
        shown = text.encode(encoding, "replace").decode(encoding)
        try:
            if self._bar is not None:
                self._bar.clear()
            stream.write(shown + "\n")
            stream.flush()
            if self._bar is not None:
                self._bar.refresh()
        except OSError:
            # Nobody reads any more. What Python would still try to write as it ends must not be an error either.
            with contextlib.suppress(OSError, ValueError), Path(os.devnull).open("w") as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno())


# One Ctrl-C may arrive twice: from the terminal and from the program in front of this one.
_SAME_SECONDS = 1.0


class Signals:
    """How often this process was told to stop, and by what."""

    def __init__(self) -> None:
        self.count = 0
        self.name = ""
        self._last = 0.0

    def take(self, number: int, frame: FrameType | None = None) -> None:
        """The handler."""
        now = time.monotonic()
        if now - self._last > _SAME_SECONDS or not self.count:
            self.count += 1
            self._last = now
        self.name = self.name or signal.Signals(number).name


@contextlib.contextmanager
def listening() -> Iterator[Signals]:
    """In the block, SIGTERM, SIGINT and SIGHUP are only taken note of; the handlers from before return after it.

    Outside of the main thread Python cannot do so, and nothing is changed. A SIGHUP that is ignored (nohup)
    stays so.
    """
    signals = Signals()
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, signals.take)
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


SAVED = 3
LOST_A_PEER = 4
_LAST_LINES = 20


class Worker:
    """A process that was started, what it printed last and what it last said of itself.

    Attributes:
      said: its last pulse; None before the first.
      ended: when its end was seen, in seconds of `time.monotonic()`; None while it runs.
      last_lines: the last 20 that it printed.
    """

    def __init__(
        self,
        task: Task,
        *,
        environment: Mapping[str, str],
        own_cores: Sequence[int] | None,
        folder: Path,
    ) -> None:
        self.task = task
        self.name = task.name
        self.said: Pulse | None = None
        self.ended: float | None = None
        self.last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._pulse = folder / f"{task.role}-{task.index}.json"
        self.started = time.monotonic()
        with inherited(own_cores):
            # A session of its own: Ctrl-C in the terminal reaches it through the launcher alone.
            self.process = subprocess.Popen(
                [sys.executable, *task.words],
                env={**environment, VARIABLE: str(self._pulse)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.pipes: dict[IO[bytes], Lines] = {self.process.stdout: Lines(), self.process.stderr: Lines()}
        for pipe in self.pipes:
            os.set_blocking(pipe.fileno(), False)

    @property
    def code(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self.process.returncode

    @property
    def phase(self) -> str:
        """What it says that it does; `starting` before it says anything."""
        return self.said.phase if self.said else "starting"

    @property
    def gave_up(self) -> str:
        """Why it says that a restart would not help, if that is how it ended."""
        return self.said.gave_up if self.said and self.code in (1, 2) else ""

    def look(self) -> None:
        """Take note of its end and of its pulse."""
        if self.ended is None and self.process.poll() is not None:
            self.ended = time.monotonic()
        # After its end too: what it wrote last counts.
        self.said = heartbeat.read(self._pulse) or self.said

    def read(self, pipe: IO[bytes], show: Callable[[str], None]) -> bool:
        """Pass on what is in one of its pipes; returns whether more can come."""
        try:
            data = os.read(pipe.fileno(), 1 << 16)
        except BlockingIOError:
            return True
        lines = self.pipes[pipe].feed(data) if data else self.pipes[pipe].close()
        for line in lines:
            if line.strip():
                self.last_lines.append(line)
            show(line)
        return bool(data)

    def tell(self, number: int) -> None:
        """Send a signal to the process alone: what it has started lives while it saves."""
        if self.ended is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)

    def how_it_ended(self) -> str:
        """For a person: "SIGKILL", "exit code 7"."""
        code = self.code
        assert code is not None
        if code == LOST_A_PEER:
            return f"exit code {LOST_A_PEER}: it lost another worker"
        if code >= 0:
            return f"exit code {code}"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return name

    def quoted(self) -> str:
        """Its last lines, for an error."""
        if not self.last_lines:
            return f"{self.name} printed nothing."
        return "\n    ".join([f"The last that {self.name} printed:", *self.last_lines])

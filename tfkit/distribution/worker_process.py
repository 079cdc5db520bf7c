"""One process of a job: its cores and threads, what it prints, and how it ended."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, Any, NamedTuple, TypeVar

from tfkit.environment import heartbeat, process
from tfkit.environment.heartbeat import PEER_LOST, Heartbeat

T = TypeVar("T")
_LAST_LINES = 20
_LONGEST_LINE = 1 << 16
# One Ctrl-C may arrive twice: from the terminal and from the program in front of this one.
_SAME_SIGNAL_SECONDS = 1.0
_REPORT_SECONDS = 5.0


def shares(items: Sequence[T], count: int) -> tuple[tuple[T, ...], ...]:
    """Return the items in `count` runs of neighbours, as even as can be; none where there are fewer items than that.

    >>> shares(range(5), 2)
    ((0, 1, 2), (3, 4))
    >>> shares([0], 2)
    ()
    """
    if len(items) < count:
        return ()
    size, remainder = divmod(len(items), count)
    starts = [place * size + min(place, remainder) for place in range(count + 1)]
    return tuple(tuple(items[start:end]) for start, end in itertools.pairwise(starts))


def threads_environment(cores: int) -> dict[str, str]:
    """Return the variables that give TensorFlow and OpenMP as many threads as cores.

    Operations that run side by side get two threads at least: one that waits for the other workers must not
    keep the next from being started. One was measured to be no faster (`benchmarks/scaling.py`).
    """
    inter = {"TF_NUM_INTEROP_THREADS": str(max(cores, 2))}
    return dict.fromkeys(("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS"), str(cores)) | inter


def gpu_shares(count: int) -> tuple[tuple[str, ...], ...]:
    """Return the GPUs by number or UUID, shared out; nothing where there are none, or one worker alone.

    Where there are fewer than workers, nobody gets one: two workers on one GPU would fail in their first all-reduce.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        # CUDA counts from 0, whatever their names are: a container that was given two may have nvidia2 and nvidia5.
        names = [str(number) for number, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]
    else:  # CUDA itself stops at the first that is none, such as -1 or NoDevFiles
        entries = (name.strip() for name in visible.split(","))
        names = list(itertools.takewhile(re.compile(r"\d+$|GPU-|MIG-").match, entries))
    return (shares(names, count) or ((),) * count) if count > 1 and names else ()


class Signals:
    """Count how often this process was asked to stop, and keep the name of the first signal."""

    def __init__(self) -> None:
        self.count, self.name, self._last = 0, "", 0.0

    def handle(self, number: int, frame: FrameType | None = None) -> None:
        """Take note of a signal."""
        now = time.monotonic()
        if not self.count or now - self._last > _SAME_SIGNAL_SECONDS:
            self.count, self._last = self.count + 1, now
        self.name = self.name or signal.Signals(number).name


@contextlib.contextmanager
def counting_signals() -> Iterator[Signals]:
    """Take note of SIGTERM, SIGINT and SIGHUP instead of obeying them. A SIGHUP that is ignored (nohup) stays so."""
    is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    signals = Signals()
    hangup = () if is_ignored else (signal.SIGHUP,)
    with heartbeat.handling(signals.handle, signal.SIGTERM, signal.SIGINT, *hangup):
        yield signals


class Screen:
    """Show the lines of the workers, the launcher's own and the progress.

    A closed terminal or pipe does not end a training: what cannot be shown is dropped.
    """

    def __init__(self, *, only_first: bool = False) -> None:
        """Show the lines of every worker with its name, or of the first alone as they are."""
        self.only_first = only_first
        self._bar: Any = None
        self._reported = time.monotonic()
        self._lock = threading.RLock()

    def report(self, text: str) -> None:
        """Show a line of the launcher's own."""
        self.write(text, sys.stderr)

    def progress(self, beat: Heartbeat, *, restarts: int) -> None:
        """Show how far the training is: a bar where somebody watches, else a line now and then."""
        if beat.trained is None:
            return
        if not process.watched():
            # Before and after training the workers themselves say what they do.
            if beat.phase == "training" and time.monotonic() - self._reported > _REPORT_SECONDS:
                self._reported = time.monotonic()
                steps = beat.steps or "an unknown number"
                self.report(f"Training: step {beat.step} of {steps} ({beat.text})")
            return
        from tqdm import tqdm

        with self._lock, contextlib.suppress(OSError, ValueError):
            if self._bar is None:
                # A resumed training is not as fast as if it had made the earlier steps now.
                self._bar = tqdm(unit="step", initial=beat.step, dynamic_ncols=True)
            self._bar.n, self._bar.total = beat.step, beat.steps or None
            # After the last step it exports and reports, for as long as that takes.
            text = beat.text if beat.phase == "training" else beat.phase
            self._bar.set_description_str(text + f", restart {restarts}" * (restarts > 0))

    def close(self) -> None:
        """Leave the bar as it is."""
        bar, self._bar = self._bar, None
        if bar is not None:
            with contextlib.suppress(OSError, ValueError):
                bar.close()

    def write(self, text: str, stream: IO[str] | None) -> None:
        """Show a line there, above the bar."""
        from tqdm import tqdm

        if stream is None:
            return
        encoding = getattr(stream, "encoding", None) or "utf-8"
        with self._lock:
            try:
                tqdm.write(text.encode(encoding, "replace").decode(encoding), file=stream)
                stream.flush()
            except OSError:
                # Nobody reads any more. What Python would still write as it ends must not be an error either.
                with contextlib.suppress(OSError, ValueError), Path(os.devnull).open("w") as nowhere:
                    os.dup2(nowhere.fileno(), stream.fileno())


class Task(NamedTuple):
    """Describe what a process of a job is to do.

    Attributes:
      name: for a person: "worker 1", "chief".
      address: "host:port" where it listens.
      words: what follows `python`.
      environment: with its TF_CONFIG; empty where it is alone.
      serves: whether it only serves the chief, which runs the user's program.
    """

    name: str
    address: str
    words: tuple[str, ...]
    environment: dict[str, str]
    serves: bool


class Worker:
    """A process that was started, the last lines that it printed and its last heartbeat.

    Attributes:
      beat: its last heartbeat; before the first its `beat` is infinite, so that it is never an old one.
      ended: when its end was seen, in seconds of `time.monotonic()`; None while it runs.
      signal_phase: its phase when a signal was sent to it; None before.
      last_lines: the last 20 that it printed.
    """

    def __init__(
        self,
        task: Task,
        *,
        environment: Mapping[str, str],
        cores: Sequence[int],
        folder: Path,
        screen: Screen,
    ) -> None:
        """Start it, on these cores alone if there are any; `folder` is for its heartbeat."""
        self.task, self.name, self.started = task, task.name, time.monotonic()
        self.beat = Heartbeat(beat=math.inf)
        self.ended: float | None = None
        self.signal_phase: str | None = None
        self.last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._file = folder / f"{task.name.replace(' ', '-')}.json"
        # A session of its own: Ctrl-C in the terminal reaches it through the launcher alone.
        self.process = subprocess.Popen(
            [sys.executable, *task.words],
            env={**environment, heartbeat.VARIABLE: str(self._file)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        if cores and hasattr(os, "sched_setaffinity"):
            # Python itself has not started in it: all threads that it will have are bound.
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(self.process.pid, cores)
        is_first = task.name in ("chief", "worker 0")
        prefix = "" if screen.only_first else f"[{self.name}] "

        def read(pipe: IO[bytes], stream: IO[str] | None) -> None:
            for data in iter(lambda: pipe.readline(_LONGEST_LINE), b""):
                # What is overwritten by a carriage return in the same line is dropped.
                line = data.rstrip(b"\r\n").rpartition(b"\r")[2].decode(errors="replace").lstrip("\b")
                if line.strip():
                    self.last_lines.append(line)
                if (is_first or not screen.only_first) and not process.is_noise(line):
                    screen.write(f"{prefix}{line}", stream)

        pipes = ((self.process.stdout, sys.stdout), (self.process.stderr, sys.stderr))
        self._readers = [threading.Thread(target=read, args=pair, daemon=True) for pair in pipes]
        for reader in self._readers:
            reader.start()

    @property
    def code(self) -> int | None:
        """Return its exit code, negative for a signal; None while it runs."""
        return self.process.returncode

    def look(self) -> None:
        """Take note of its end and of its heartbeat."""
        if self.ended is None and self.process.poll() is not None:
            self.ended = time.monotonic()
        # After its end too: what it wrote last counts.
        self.beat = heartbeat.read(self._file) or self.beat

    def is_silent(self, seconds: float) -> bool:
        """Return whether its last heartbeat, if it ever had one, is older than that."""
        return time.monotonic() - self.beat.beat > seconds

    def send(self, number: int) -> None:
        """Send a signal to the process alone: what it has started lives while it saves."""
        if self.ended is None:
            self.signal_phase = self.beat.phase
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)

    def drain(self, seconds: float) -> None:
        """Wait for the end of its output."""
        deadline = time.monotonic() + seconds
        for reader in self._readers:
            reader.join(max(deadline - time.monotonic(), 0))

    def quoted(self) -> str:
        """Return its last lines, for an error."""
        self.drain(_SAME_SIGNAL_SECONDS if self.ended is not None else 0)
        if not self.last_lines:
            return f"{self.name} printed nothing."
        return "\n    ".join([f"The last that {self.name} printed:", *self.last_lines])


def describe_exit(code: int | None) -> str:
    """Return an exit code in words: "SIGKILL", "exit code 7"."""
    text = {-member.value: member.name for member in signal.Signals}.get(code or 0, f"exit code {code}")
    return text + (": it lost another worker" if code == PEER_LOST else "")

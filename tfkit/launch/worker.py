"""One process of a job, from its start to its end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from tfkit import pulse
from tfkit.launch import cores
from tfkit.launch.job import Task
from tfkit.launch.output import Lines

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
        self.said: pulse.Pulse | None = None
        self.ended: float | None = None
        self.last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._pulse = folder / f"{task.role}-{task.index}.json"
        self.started = time.monotonic()
        with cores.inherited(own_cores):
            # A session of its own: Ctrl-C in the terminal reaches it through the launcher alone.
            self.process = subprocess.Popen(
                [sys.executable, *task.words],
                env={**environment, pulse.VARIABLE: str(self._pulse)},
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
        self.said = pulse.read(self._pulse) or self.said

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

"""How a worker tells the launcher that it lives, what it does and how far it is.

The launcher names a small JSON file in TFKIT_PULSE. A thread of the worker rewrites it once a second, so a
process that is stopped, or gone, is one whose file is old. Stamps are `time.monotonic()`, which on Linux all
processes of a machine share. Without the variable every call here does nothing.

    pulse.start()
    pulse.phase("joining")
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    pulse.phase("training")
    for step in range(steps):
        ...
        pulse.progress(step + 1, steps, f"loss {loss:.3f}")
    pulse.phase("working")   # exports, reports: alive, without steps

A request to stop, as schedulers and people make it: SIGTERM or SIGINT, noted and obeyed between two steps.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Literal

_SIGNALS = (signal.SIGTERM, signal.SIGINT)

AGAIN = "The same command goes on from the program's last backup, if it has made one."
"""What is true of a program that this process only started."""

backups: Path | None = None
"""The folder in which the run of this process keeps its backups; None before there is a run."""


def what_next() -> str:
    """Say what the same command would do after an interruption: nothing of a backup where there is none."""
    if backups is not None and any(backups.glob("*/[0-9]*")):
        return "The same command goes on from the last backup."
    return (
        "No backup is there yet: the same command begins again."
        if backups
        else "Give the same command again."
    )


class Stop:
    """Whether this process was asked to stop.

    Attributes:
      requested: set by the first signal. A second SIGINT, of somebody who will not wait, interrupts at once; a second
        SIGTERM is the same request once more: schedulers send it to a process and to what started it.
    """

    def __init__(self) -> None:
        self.requested = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The signal's handler."""
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.requested:
            again = " Ctrl-C stops at once, without saving." if number == signal.SIGINT else ""
            print(
                f"{signal.Signals(number).name}: stopping after this step.{again}",
                file=sys.stderr,
                flush=True,
            )
        self.requested = True


@contextlib.contextmanager
def on_signals() -> Iterator[Stop]:
    """While the block runs, SIGTERM and SIGINT are noted instead of obeyed.

    Elsewhere than in the main thread Python has no signals: nothing is noted there.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop) for number in _SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def listen_again() -> None:
    """Put Python's handlers of SIGTERM and SIGINT back where native code has replaced them unseen."""
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            handler = signal.getsignal(number)
            if handler is not None:
                signal.signal(number, handler)


def interrupt(number: int, frame: FrameType | None) -> None:
    """A handler that makes SIGTERM what SIGINT is: a KeyboardInterrupt where the program stands."""
    raise KeyboardInterrupt


VARIABLE = "TFKIT_PULSE"
BEAT_SECONDS = 1.0

Phase = Literal["starting", "joining", "training", "working"]


@dataclass(frozen=True, kw_only=True)
class Pulse:
    """What a worker said last.

    Attributes:
      beat: when it said so; this and the other stamps in seconds of `time.monotonic()`.
      phase: `starting`, `joining` (waits for the other workers), `training` (in steps) or `working` (without).
      progressed: when the last step was done, or the phase entered.
      trained: when the first step of the process was done; None before that.
      step: steps that are done.
      steps: of how many; 0 where that is not known.
      text: where in the training that is, for a person.
      gave_up: why a restart would not mend what is wrong; empty while nothing is.
    """

    beat: float
    phase: Phase = "starting"
    progressed: float = 0.0
    trained: float | None = None
    step: int = 0
    steps: int = 0
    text: str = ""
    gave_up: str = ""


class _Heart:
    """The state of this process, and the thread that writes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.process = os.getpid()
        self.launcher = os.getppid()
        self.lock = threading.Lock()
        self.phase: Phase = "starting"
        self.trained: float | None = None
        self.done: tuple[float, int, int, str] = (time.monotonic(), 0, 0, "")
        self.gave_up = ""

    def beat(self) -> None:
        """Write the file. A disk that is full costs a beat and not the training."""
        if os.getpid() != self.process:
            return  # a fork: it has its parent's memory, and is not the worker
        with self.lock, contextlib.suppress(OSError):
            progressed, step, steps, text = self.done
            now = Pulse(
                beat=time.monotonic(),
                phase=self.phase,
                progressed=progressed,
                trained=self.trained,
                step=step,
                steps=steps,
                text=text,
                gave_up=self.gave_up,
            )
            temporary = self.path.with_suffix(".new")
            temporary.write_text(json.dumps(asdict(now)))
            temporary.replace(self.path)

    def run(self) -> None:
        while True:
            self.beat()
            time.sleep(BEAT_SECONDS)
            if os.getppid() != self.launcher and os.getpgrp() == self.process:
                # The launcher is gone without a word: nobody would stop or restart this worker any more.
                os.killpg(self.process, signal.SIGKILL)


_heart: _Heart | None = None


def start() -> None:
    """Begin to beat, where a launcher listens. A second call does nothing."""
    global _heart
    # Taken out of the environment: a process that the worker starts is not the worker.
    path = os.environ.pop(VARIABLE, "")
    if path and _heart is None:
        _heart = _Heart(Path(path))
        threading.Thread(target=_heart.run, name="tfkit-pulse", daemon=True).start()


def phase(name: Phase) -> None:
    """Say what the worker does from here on: `joining`, `training` or `working`."""
    if _heart is not None:
        _heart.phase = name
        _heart.done = (time.monotonic(), *_heart.done[1:])
        _heart.beat()


def progress(step: int, steps: int = 0, text: str = "") -> None:
    """Say that a step is done. It only stores, for the next beat: call it at every step.

    Args:
      step: steps that are done, of the whole job.
      steps: of how many; 0 where that is not known.
      text: for a person: "epoch 3 of 5, loss 0.12".
    """
    if _heart is not None:
        _heart.done = (time.monotonic(), step, steps, text)
        if _heart.trained is None:
            _heart.trained = _heart.done[0]
            _heart.beat()


def give_up(reason: str) -> None:
    """Say, before exit code 1 or 2, that a restart would not mend it: a wrong flag, a check that failed."""
    if _heart is not None:
        _heart.gave_up = reason or "no reason given"
        _heart.beat()


def read(path: Path) -> Pulse | None:
    """What the worker of that file said last; None before its first beat."""
    try:
        return Pulse(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None

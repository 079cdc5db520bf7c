"""The heartbeat by which a worker shows its launcher that it lives and how far it is, and its requests to stop.

The launcher names a small JSON file in TFKIT_HEARTBEAT. A thread of the worker rewrites it once a second, so a
process that is stopped, or gone, is one whose file is old. Stamps are `time.monotonic()`, which on Linux all
processes of a machine share. Without the variable every call here does nothing.

    heartbeat.start()
    heartbeat.phase("joining")
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    heartbeat.phase("training")
    for step in range(steps):
        ...
        heartbeat.progress(step + 1, steps, f"loss {loss:.3f}")
    heartbeat.phase("working")   # exports, reports: alive, without steps
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Literal

from tfkit.environment import cluster, packages, timeline
from tfkit.errors import TfkitError

_SIGNALS = (signal.SIGTERM, signal.SIGINT)

INTERRUPTED = 3
PEER_LOST = 4
"""Exit codes of a process that was asked to stop, and of a worker that lost another one."""

AGAIN = "The same command goes on from the program's last backup, if it has made one."
"""State of a program that this process only started."""

backups: Path | None = None
"""The folder in which the run of this process keeps its backups; None before there is a run."""


def what_next() -> str:
    """Say what the same command would do after an interruption: nothing of a backup where there is none."""
    if backups is None:
        return "Give the same command again."
    if any(backups.glob("*/[0-9]*")):
        return "The same command goes on from the last backup."
    return "No backup is there yet: the same command begins again."


class Stop:
    """Note whether this process was asked to stop.

    Attributes:
      requested: set by the first signal. A second SIGINT, of somebody who will not wait, interrupts at once; a second
        SIGTERM is the same request once more: schedulers send it to a process and to what started it.
    """

    def __init__(self) -> None:
        self.requested = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Take note of a signal."""
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.requested:
            hint = " Ctrl-C stops at once, without saving." if number == signal.SIGINT else ""
            name = signal.Signals(number).name
            print(f"{name}: stopping after this step.{hint}", file=sys.stderr, flush=True)
        self.requested = True


@contextlib.contextmanager
def handling(handler: Callable[[int, FrameType | None], None], *signals: signal.Signals) -> Iterator[None]:
    """Have signals handled in a block; the handlers from before return afterwards.

    Elsewhere than in the main thread Python has no signals: nothing changes there.
    """
    old_handlers = {}
    if threading.current_thread() is threading.main_thread():
        old_handlers = {number: signal.signal(number, handler) for number in signals}
    try:
        yield
    finally:
        for number, old_handler in old_handlers.items():
            signal.signal(number, old_handler)


@contextlib.contextmanager
def on_signals() -> Iterator[Stop]:
    """Take note of SIGTERM and SIGINT in a block instead of obeying them."""
    stop = Stop()
    with handling(stop, *_SIGNALS):
        yield stop


def listen_again() -> None:
    """Put Python's handlers of SIGTERM and SIGINT back where native code has replaced them unseen."""
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            signal.signal(number, signal.getsignal(number) or signal.SIG_DFL)


VARIABLE = "TFKIT_HEARTBEAT"
BEAT_SECONDS = 1.0

Phase = Literal["starting", "joining", "training", "working"]


@dataclass(kw_only=True)
class Heartbeat:
    """The state of a worker, as it was written last.

    Attributes:
      beat: when it was written; this and the other stamps in seconds of `time.monotonic()`.
      phase: `starting`, `joining` (waits for the other workers), `training` (in steps) or `working` (without).
      progressed: when the last step was done, or the phase entered.
      trained: when the first step of the process was done; None before that.
      step: steps that are done.
      steps: of how many; 0 where that is not known.
      text: where in the training that is, for a person.
      gave_up: why a restart would not mend what is wrong; empty while nothing is.
    """

    beat: float = field(default_factory=time.monotonic)
    phase: Phase = "starting"
    progressed: float = field(default_factory=time.monotonic)
    trained: float | None = None
    step: int = 0
    steps: int = 0
    text: str = ""
    gave_up: str = ""


class _Writer:
    """The thread that writes the state of this process."""

    def __init__(self, path: Path) -> None:
        self._path, self._process = path, os.getpid()
        self._lock = threading.Lock()
        self.state = Heartbeat()

    def update(self, *, write: bool = True, **values: Any) -> None:
        """Change the state, at once for the writing thread. A disk that is full costs a beat and not the training."""
        if os.getpid() != self._process:
            return  # a fork: it has its parent's memory, and is not the worker
        vars(self.state).update(values)
        if write:
            with self._lock, contextlib.suppress(OSError):
                self.state.beat = time.monotonic()
                temporary = self._path.with_suffix(".new")
                temporary.write_text(json.dumps(vars(self.state)))
                temporary.replace(self._path)

    def run(self) -> None:
        while True:
            self.update()
            time.sleep(BEAT_SECONDS)


_writer: _Writer | None = None


def start() -> None:
    """Begin to beat, where a launcher listens, and to tell it by what the program ends. A second call does nothing."""
    global _writer
    # Taken out of the environment: a process that the worker starts is not the worker.
    path = os.environ.pop(VARIABLE, "")
    if path and _writer is None:
        _writer = _Writer(Path(path))
        threading.Thread(target=_writer.run, name="tfkit-heartbeat", daemon=True).start()
        sys.excepthook = _end_by


def _end_by(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """End a program that does not catch `error`: a user's own, since a recipe catches all."""
    sys.__excepthook__(kind, error, trace)
    if isinstance(error, TfkitError):
        give_up(packages.first_line(error))
    code = PEER_LOST if cluster.is_loss_of_peer(error) else INTERRUPTED
    if code == PEER_LOST or isinstance(error, KeyboardInterrupt):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # at its exit TensorFlow would wait for the others


def phase(name: Phase) -> None:
    """Report what the worker does from here on: `joining`, `training` or `working`. The first call begins to beat."""
    start()
    if _writer is not None:
        timeline.quiet_about_steps = False
        _writer.update(phase=name, progressed=time.monotonic())


def progress(step: int, steps: int = 0, text: str = "") -> None:
    """Report that a step is done, to the launcher or to who waits. It only stores: call it at every step.

    Args:
      step: steps that are done, of the whole job.
      steps: of how many; 0 where that is not known.
      text: for a person: "epoch 3 of 5, loss 0.12".
    """
    if _writer is not None:
        timeline.quiet_about_steps = True  # the launcher says it
        now, is_first = time.monotonic(), _writer.state.trained is None
        trained_at = now if is_first else _writer.state.trained
        _writer.update(write=is_first, progressed=now, trained=trained_at, step=step, steps=steps, text=text)
    else:
        timeline.report(step, steps, text)


def give_up(reason: str) -> None:
    """Report, before exit code 1 or 2, that a restart would not mend it: a wrong flag, a check that failed."""
    if _writer is not None:
        _writer.update(gave_up=reason or "no reason given")


def read(path: Path) -> Heartbeat | None:
    """Return the last heartbeat in that file; None before the first."""
    try:
        return Heartbeat(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None

"""A request to stop, as schedulers and people make it: SIGTERM or SIGINT, noted and obeyed between two steps."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

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

"""A request to stop, as schedulers and people make it: SIGTERM or SIGINT, noted and obeyed between two steps."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


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
            again = " Ctrl-C stops without saving." if number == signal.SIGINT else ""
            print(f"{signal.Signals(number).name}: saving and stopping.{again}", file=sys.stderr, flush=True)
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

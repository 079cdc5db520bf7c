"""What the launcher is told from outside: to stop, and to stop at once."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

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

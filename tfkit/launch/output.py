"""What the workers print, line by line, and one bar of progress below it."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from tfkit import process
from tfkit.pulse import Pulse

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

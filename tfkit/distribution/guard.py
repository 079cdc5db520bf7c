"""Whatever becomes of the launcher, no process of its job is left.

The launcher starts this file as a process that holds the end of a pipe. When the launcher is gone, by its own
will or by kill -9, the pipe ends, and this process kills what is left of the job. The kernel's
PR_SET_PDEATHSIG would end the workers and leave what they had started.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path

VARIABLE = "TFKIT_JOB"


def kill_all(sessions: Collection[int], token: str) -> None:
    """SIGKILL to every process of the sessions, and to every one that has the job's token in its environment.

    A process that has both changed its session and cleared its environment is the only one that stays.

    Args:
      sessions: process ids of the workers, each the leader of its session.
      token: the job's, as it is in the environment variable TFKIT_JOB.
    """
    for session in sessions:
        with contextlib.suppress(OSError):
            os.killpg(session, signal.SIGKILL)
    for _ in range(50):  # until a look finds none: one of them may have started another meanwhile
        found = list(_members(sessions, f"{VARIABLE}={token}".encode()))
        if not found:
            return
        for process in found:
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.02)


def _members(sessions: Collection[int], entry: bytes) -> Iterator[int]:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # pid (name, which may hold anything) state ppid pgrp session ...
            fields = (folder / "stat").read_bytes().rpartition(b")")[2].split()
            state, session = fields[0], int(fields[3])
            ours = session in sessions or entry in (folder / "environ").read_bytes().split(b"\0")
        except (OSError, IndexError):
            continue
        if ours and state not in b"ZX" and int(folder.name) != os.getpid():
            yield int(folder.name)


class Guard:
    """The process that outlives the launcher by as long as it takes to clear up."""

    def __init__(self, token: str, folder: Path) -> None:
        """Start it; `folder` is removed in the end, too."""
        # Isolated and without site-packages it starts in some 20 ms. It is no part of a job, not even of one
        # that this launcher is itself a part of.
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, token, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={name: value for name, value in os.environ.items() if name != VARIABLE},
            start_new_session=True,
            cwd="/",
        )

    def watch(self, sessions: Collection[int]) -> None:
        """From here on these are the sessions of the job."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(" ".join(map(str, sessions)).encode() + b"\n")
            self._process.stdin.flush()

    def close(self) -> None:
        """The launcher has nothing left to guard."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.wait()


def main() -> None:
    """Wait for the launcher to be gone, then clear up."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sessions: set[int] = set()
    for line in sys.stdin.buffer:
        sessions = set(map(int, line.split()))
    token, folder = sys.argv[1:]
    kill_all(sessions, token)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()

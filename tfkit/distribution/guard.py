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
    """Send SIGKILL to every process of the sessions, and to every one that has the job's token in its environment.

    A process that has both changed its session and cleared its environment is the only one that stays.

    Args:
      sessions: process ids of the workers, each the leader of its session.
      token: the job's, as it is in the environment variable TFKIT_JOB.
    """
    for session in sessions:
        with contextlib.suppress(OSError):
            os.killpg(session, signal.SIGKILL)
    for _ in range(50):  # until a look finds none: one of them may have started another meanwhile
        processes = list(_find_members(sessions, f"{VARIABLE}={token}".encode()))
        if not processes:
            return
        for process in processes:
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.02)


def _find_members(sessions: Collection[int], entry: bytes) -> Iterator[int]:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # pid (name, which may hold anything) state ppid pgrp session ...
            fields = (folder / "stat").read_bytes().rpartition(b")")[2].split()
            is_member = int(fields[3]) in sessions or entry in (folder / "environ").read_bytes().split(b"\0")
        except (OSError, IndexError):
            continue
        if is_member and fields[0] not in b"ZX" and int(folder.name) != os.getpid():
            yield int(folder.name)


def start(token: str, folder: Path) -> subprocess.Popen[bytes]:
    """Start the process that outlives the launcher by as long as it takes to clear up, to be used in a `with`.

    Args:
      token: the job's.
      folder: removed in the end, too.
    """
    # Isolated and without site-packages it starts in some 20 ms. It is no part of a job, not even of one
    # that this launcher is itself a part of.
    return subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, token, str(folder)],
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={name: value for name, value in os.environ.items() if name != VARIABLE},
        start_new_session=True,
        cwd="/",
    )


def watch(process: subprocess.Popen[bytes], sessions: Collection[int]) -> None:
    """Tell that process which sessions the job has from here on."""
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.write(" ".join(map(str, sessions)).encode() + b"\n")


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

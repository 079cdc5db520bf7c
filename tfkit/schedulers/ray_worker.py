"""What runs inside Ray: the process of each worker, and the desk where workers and launcher leave word."""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tfkit import cluster, process, pulse
from tfkit.claim import METRICS, RESTARTED_VARIABLE, SAVED_MODEL
from tfkit.launch import cores

# Exit codes of a recipe: see tfkit.cli.
WRONG_USAGE = 2
SAVED_AND_STOPPED = 3

_POLL_SECONDS = 0.25
_MEETING_SECONDS = 120.0
# A recipe says once a second that it lives; a busy machine or disk may hold that up.
_FROZEN_SECONDS = 60.0

# It becomes the program, and dies with the thread that started it: Ray ends a worker with SIGKILL, which no
# program can pass on. Ray also blocks SIGINT in its processes, and a child would inherit that.
_GUARD = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
signal.pthread_sigmask(signal.SIG_SETMASK, [])
os.execv(sys.executable, [sys.executable, "-u", *sys.argv[2:]])
"""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every worker runs.

    Attributes:
      words: after `python`: `-m recipes.train_distributed --epochs 3`, or a script and its arguments.
      folder: where it runs; it must be there on each machine.
      run_dir: where it writes, for Ray's Result; None where the words do not say.
      grace_seconds: from "save and stop" to SIGKILL.
    """

    words: tuple[str, ...]
    folder: Path
    run_dir: Path | None
    grace_seconds: float


class Desk:
    """Where workers and launcher leave word for each other; a Ray actor, which outlives a group of workers.

    An attempt is one start of the whole group: what a group that died has left does not count for the next.
    """

    def __init__(self, workers: int, max_restarts: int) -> None:
        self._workers, self._max_restarts = workers, max_restarts
        self._attempts: dict[str, dict[int, str]] = {}
        self._ended: dict[str, dict[int, int]] = {}
        self._lines: list[tuple[str, str]] = []
        self._stop: int | None = None

    def join(self, attempt: str, rank: int, address: str) -> tuple[list[str], int] | None:
        """Give this worker's address.

        Returns:
          Those of all, and how many attempts before this one came so far; None until all have given theirs.
        """
        if attempt not in self._attempts and self._attempts:
            count = len(self._attempts)
            self._say(f"A worker died: all start again ({count} of {self._max_restarts}).")
        joined = self._attempts.setdefault(attempt, {})
        joined[rank] = address
        if len(joined) < self._workers:
            return None
        met = [name for name, found in self._attempts.items() if len(found) == self._workers]
        return [joined[index] for index in range(self._workers)], met.index(attempt)

    def exchange(self, lines: list[tuple[str, str]]) -> int | None:
        """Leave lines for the launcher, as (stream, text); returns the exit code with which all must stop."""
        self._lines += lines
        return self._stop

    def ended(self, attempt: str, rank: int, code: int, final: str) -> int | None:
        """Leave this worker's exit code, and why no restart mends it; returns that with which all must stop."""
        self._ended.setdefault(attempt, {})[rank] = code
        if code and self._stop is None:
            self._say(f"worker {rank} {_ending(code)}{': ' * bool(final)}{final}")
            if final:
                self._stop = code
        return self._stop

    def all_ended(self, attempt: str) -> bool:
        """Whether every worker of that attempt has come to its end."""
        return len(self._ended.get(attempt, ())) == self._workers

    def stop(self, code: int) -> None:
        """Order all to save and stop; the job ends with that exit code."""
        self._stop = code if self._stop is None else self._stop

    def take(self) -> tuple[list[tuple[str, str]], int | None]:
        """The lines since the last call, and the exit code with which all must stop."""
        lines, self._lines = self._lines, []
        return lines, self._stop

    def _say(self, text: str) -> None:
        self._lines.append(("stderr", text))


def train(config: dict[str, Any]) -> None:
    """Run the job in this worker, in a process of its own: Ray's `train_loop_per_worker`.

    The process is new, because TensorFlow joins a cluster only before its first operation.

    Args:
      config: "job" is a `Job`, "desk" the handle of a `Desk`.

    Raises:
      RuntimeError: the process died; Ray starts the whole group again.
    """
    import ray
    import ray.train
    from ray.train import collective

    job, desk = config["job"], config["desk"]
    context = ray.train.get_context()
    rank = context.get_world_rank()
    attempt = collective.broadcast_from_rank_zero(uuid.uuid4().hex)
    if ray.get(desk.exchange.remote([])) is not None:
        return
    if not job.folder.is_dir():
        reason = f"{socket.gethostname()} has no folder {job.folder}, in which the job is to run"
        ray.get(desk.ended.remote(attempt, rank, WRONG_USAGE, reason))
        return
    addresses, restarts = _meet(desk, attempt, rank)
    # Ray has put this worker into a folder of the session, which goes with it.
    heard = Path(f"pulse-{attempt}-{rank}.json").absolute()
    peers = context.get_local_world_size()
    child = _start(job, addresses, rank=rank, restarts=restarts, peers=peers, heard=heard)
    code = _attend(child, desk, rank=rank, heard=heard, grace_seconds=job.grace_seconds)
    final = _why_final(code, heard)
    stop = ray.get(desk.ended.remote(attempt, rank, code, final))
    if stop is not None:
        return
    if code:
        raise RuntimeError(f"worker {rank} {_ending(code)}")
    while not ray.get(desk.all_ended.remote(attempt)):
        if ray.get(desk.exchange.remote([])) is not None:
            return
        time.sleep(_POLL_SECONDS)
    _report(job.run_dir if rank == 0 else None)


def _meet(desk: Any, attempt: str, rank: int) -> tuple[list[str], int]:
    """Everyone's address, and the number of earlier starts. The port is free now; TensorFlow takes it later."""
    import ray

    host = ray.util.get_node_ip_address()
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        port = probe.getsockname()[1]
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    deadline = time.monotonic() + _MEETING_SECONDS
    while (met := ray.get(desk.join.remote(attempt, rank, address))) is None:
        if time.monotonic() > deadline:
            raise RuntimeError(f"worker {rank} has waited {_MEETING_SECONDS:.0f} s for the others to start.")
        time.sleep(_POLL_SECONDS)
    addresses, restarts = met
    return list(addresses), int(restarts)


def _start(
    job: Job, addresses: Sequence[str], *, rank: int, restarts: int, peers: int, heard: Path
) -> subprocess.Popen[bytes]:
    task = {"cluster": {"worker": list(addresses)}, "task": {"type": "worker", "index": rank}}
    # Ray gives each worker one CPU to plan with and pins none: the threads of all must fit into this machine.
    threads = max(len(cores.allowed()) // peers, 1)
    # Ray sets the number of OpenMP's threads, to 1.
    inherited = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return subprocess.Popen(
        [sys.executable, "-S", "-c", _GUARD, str(os.getpid()), *job.words],
        cwd=job.folder,
        env={
            **process.malloc_environment(),
            **inherited,
            **cores.threads_environment(threads, within=inherited),
            cluster.VARIABLE: json.dumps(task),
            pulse.VARIABLE: str(heard),
            RESTARTED_VARIABLE: str(restarts),
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def _attend(
    child: subprocess.Popen[bytes], desk: Any, *, rank: int, heard: Path, grace_seconds: float
) -> int:
    """Pass the process's lines and the order to stop on until it ends; returns its exit code."""
    import ray

    lines: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
    assert child.stdout is not None
    assert child.stderr is not None
    readers = [
        threading.Thread(target=_read, args=(stream, name, f"worker {rank} | ", lines), daemon=True)
        for stream, name in ((child.stdout, "stdout"), (child.stderr, "stderr"))
    ]
    for reader in readers:
        reader.start()
    deadline = None
    while (code := child.poll()) is None:
        stop = ray.get(desk.exchange.remote(_taken(lines)))
        if stop is not None and deadline is None:
            child.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + grace_seconds
        if (deadline is not None and time.monotonic() > deadline) or _is_frozen(heard):
            child.kill()
        time.sleep(_POLL_SECONDS)
    for reader in readers:
        # What the process started and left behind may hold its output open.
        reader.join(timeout=2)
    ray.get(desk.exchange.remote(_taken(lines)))
    return code


def _is_frozen(heard: Path) -> bool:
    """Whether a process that has told that it lives no longer does."""
    said = pulse.read(heard)
    return said is not None and time.monotonic() - said.beat > _FROZEN_SECONDS


def _read(stream: IO[bytes], name: str, prefix: str, lines: queue.SimpleQueue[tuple[str, str]]) -> None:
    for line in stream:
        # Of a progress bar, what a terminal would show in the end.
        shown = line.decode(errors="replace").rstrip("\r\n").rpartition("\r")[2]
        lines.put((name, prefix + shown))


def _taken(lines: queue.SimpleQueue[tuple[str, str]]) -> list[tuple[str, str]]:
    return [lines.get() for _ in range(lines.qsize())]


def _why_final(code: int, heard: Path) -> str:
    """Why no restart would mend that end; empty where one may."""
    said = pulse.read(heard)
    if code and said is not None and said.gave_up:
        return said.gave_up
    return {WRONG_USAGE: "what was asked cannot be done", SAVED_AND_STOPPED: "saved and stopped"}.get(
        code, ""
    )


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def _report(run_dir: Path | None) -> None:
    """Give Ray what the run folder holds; all workers must call it equally often."""
    import ray.train
    from ray.train import Checkpoint

    metrics: dict[str, float] = {}
    checkpoint = None
    if run_dir is not None:
        numbers, model = run_dir / METRICS, run_dir / SAVED_MODEL
        metrics = json.loads(numbers.read_text()) if numbers.is_file() else {}
        checkpoint = Checkpoint.from_directory(str(model)) if model.is_dir() else None
    ray.train.report(metrics, checkpoint=checkpoint)

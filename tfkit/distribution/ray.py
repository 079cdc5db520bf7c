"""Several workers on a Ray cluster: Ray Train places them, watches them, and starts all again when one dies.

Ray, connected for as long as a job runs; what was started for it is gone afterwards.

What runs inside Ray: the process of each worker, and the desk where workers and launcher leave word.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import secrets
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from tfkit.distribution.worker_process import threads_environment, usable_cores
from tfkit.environment import cluster, packages, process
from tfkit.environment.heartbeat import AGAIN, VARIABLE, read
from tfkit.errors import ConfigError
from tfkit.run import METRICS, RESTARTED_VARIABLE, SAVED_MODEL

if TYPE_CHECKING:
    from ray.train import Result

# Ray takes them for itself; whoever uses it here has its own handlers.
SIGNALS = (signal.SIGTERM, signal.SIGINT)

_END_SECONDS = 10.0

# Ray reads them as it starts. It must not report home, nor gather what nobody looks at; and a death is to be
# noticed within a second.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
    # Under `uv run` every worker would be started by `uv run` in a copy of this folder, and install all anew.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}
# Of a Ray that this process starts on this machine: it asks for a secret, which is not to land in the home folder.
_LOCAL_ENVIRONMENT = {"RAY_AUTH_MODE": "token", "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}


@contextlib.contextmanager
def connected(workers: int) -> Iterator[None]:
    """Ray, while the block runs: the one that this process is connected to, that of RAY_ADDRESS, or one of its own.

    One of its own listens on loopback alone, asks for a secret, and is gone afterwards: processes and files.

    Args:
      workers: for how many there must be room.

    Raises:
      ConfigError: Ray does not start, or does not answer.
    """
    address = os.environ.get("RAY_ADDRESS")
    with contextlib.ExitStack() as stack:
        _set(_ENVIRONMENT if address else {**_ENVIRONMENT, **_LOCAL_ENVIRONMENT}, stack)
        import ray

        if ray.is_initialized():
            yield
            return
        settings: dict[str, Any] = {"address": address}
        if not address:
            secret = secrets.token_hex(32)
            _set({"RAY_AUTH_TOKEN": secret}, stack)
            settings = {
                "address": "local",
                "include_dashboard": False,
                "num_cpus": max(workers, os.cpu_count() or 1),
                "_node_ip_address": "127.0.0.1",
                "_temp_dir": _temporary(stack),
            }
            stack.callback(_await_end, secret)
        handlers = {number: signal.getsignal(number) for number in SIGNALS}
        stack.callback(ray.shutdown)
        try:
            ray.init(**settings, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError) as error:
            where = f"at RAY_ADDRESS={address}" if address else "on this machine"
            raise ConfigError(f"Ray {where} does not answer: {packages.first_line(error)}") from error
        finally:
            if threading.current_thread() is threading.main_thread():
                for number, handler in handlers.items():
                    signal.signal(number, handler)
        yield


def _set(variables: dict[str, str], stack: contextlib.ExitStack) -> None:
    """Set those environment variables that the user has not set, until the stack closes."""
    for name, value in variables.items():
        if name not in os.environ:
            os.environ[name] = value
            stack.callback(os.environ.pop, name, None)


def _temporary(stack: contextlib.ExitStack) -> str:
    """A folder for Ray's sockets and logs, whose path leaves room for theirs: Unix allows 107 characters."""
    roomy = len(tempfile.gettempdir()) < 20
    folder = tempfile.mkdtemp(prefix="tfkit-ray-", dir=None if roomy else "/tmp")
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _await_end(secret: str) -> None:
    """Wait until every process of this Ray has ended, and kill those that do not; the secret tells which."""
    mark, ending = f"RAY_AUTH_TOKEN={secret}".encode(), []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in environment.read_bytes():
                ending.append(os.pidfd_open(int(environment.parent.name)))
    deadline = time.monotonic() + _END_SECONDS
    for process_fd in ending:
        # A pidfd becomes readable when its process ends, and can never mean another one.
        if not select.select([process_fd], [], [], max(deadline - time.monotonic(), 0))[0]:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(process_fd, signal.SIGKILL)
            select.select([process_fd], [], [], 1)
        os.close(process_fd)


# Exit codes of a recipe: see tfkit.cli.
WRONG_USAGE = 2
SAVED_AND_STOPPED = 3

_RAY_POLL_SECONDS = 0.25
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
        time.sleep(_RAY_POLL_SECONDS)
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
        time.sleep(_RAY_POLL_SECONDS)
    addresses, restarts = met
    return list(addresses), int(restarts)


def _start(
    job: Job, addresses: Sequence[str], *, rank: int, restarts: int, peers: int, heard: Path
) -> subprocess.Popen[bytes]:
    task = {"cluster": {"worker": list(addresses)}, "task": {"type": "worker", "index": rank}}
    # Ray gives each worker one CPU to plan with and pins none: the threads of all must fit into this machine.
    threads = max(len(usable_cores()) // peers, 1)
    # Ray sets the number of OpenMP's threads, to 1.
    inherited = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return subprocess.Popen(
        [sys.executable, "-S", "-c", _GUARD, str(os.getpid()), *job.words],
        cwd=job.folder,
        env={
            **process.malloc_environment(),
            **inherited,
            **threads_environment(threads, within=inherited),
            cluster.VARIABLE: json.dumps(task),
            VARIABLE: str(heard),
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
        time.sleep(_RAY_POLL_SECONDS)
    for reader in readers:
        # What the process started and left behind may hold its output open.
        reader.join(timeout=2)
    ray.get(desk.exchange.remote(_taken(lines)))
    return code


def _is_frozen(heard: Path) -> bool:
    """Whether a process that has told that it lives no longer does."""
    said = read(heard)
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
    said = read(heard)
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


# In the run folder: what `ray.train.Result.from_path` reads.
RESULT = "ray"

_POLL_SECONDS = 0.25
_OLDEST = (2, 60)


def launch(
    words: Sequence[str], *, workers: int = 2, max_restarts: int = 3, grace_seconds: float = 60.0
) -> int:
    """Run a program on several Ray workers, each with its TF_CONFIG; start all again when one dies.

    With RAY_ADDRESS in the environment it joins that Ray cluster, else it starts Ray on this machine, for
    itself and on loopback alone, and ends it. The machines of a cluster must see this folder and the run
    folder under the same path. What the run folder holds in the end, Ray holds too:
    `ray.train.Result.from_path(RUN / "ray")` has the numbers as `metrics` and the saved model as `checkpoint`.

    It is Ray Train's DataParallelTrainer that runs. Its subclass TensorflowTrainer would do one thing more, to
    set TF_CONFIG, and for that import TensorFlow here, in Ray's controller and beside each worker's process.

    SIGTERM and SIGINT are passed on as "save and stop"; at the second one all are killed.

    Args:
      words: after `python`: `["-m", "recipes.train_distributed", "--run-dir", "runs/x"]`, or a script and its
        arguments. A program that is started again must go on from its own backup.
      workers: how many processes train together.
      max_restarts: how often all are started again before it gives up.
      grace_seconds: from "save and stop" until a process is killed.

    Returns:
      0 done, 1 died more often than that, 3 saved and stopped; else the program's own code where it says that
      no restart would help (2, or "gave_up" in the file that TFKIT_PULSE names).

    Raises:
      ConfigError: Ray is not installed or cannot be reached, or there is nothing to run.

    Example:
      >>> launch(["-m", "recipes.train_distributed", "--run-dir", "runs/x"], workers=4)  # doctest: +SKIP
      0
    """
    _check(words, workers=workers, max_restarts=max_restarts)
    folder = Path.cwd()
    run_dir = _run_dir(words, folder)
    job = Job(words=tuple(words), folder=folder, run_dir=run_dir, grace_seconds=grace_seconds)
    # Beside the run folder and not in it: a run begins in an empty one. Another launch may be at work there.
    near, name = (run_dir.parent, run_dir.name) if run_dir else (folder, "tfkit")
    storage = near / f".{name}.{uuid.uuid4().hex[:8]}.{RESULT}"
    print(_announcement(job, workers), file=sys.stderr, flush=True)
    try:
        with _signals() as received, connected(workers):
            if received:
                return SAVED_AND_STOPPED
            code = _run(job, storage, received, workers=workers, max_restarts=max_restarts)
        if code == 0 and run_dir is not None and run_dir.is_dir():
            _keep(storage, run_dir / RESULT)
        return code
    finally:
        shutil.rmtree(storage, ignore_errors=True)


def _keep(storage: Path, result: Path) -> None:
    """Move what Ray has stored into the run folder; an earlier one of Ray is replaced, anything else stays."""
    if (result / ".validate_storage_marker").is_file():
        shutil.rmtree(result)
    if not result.exists():
        storage.rename(result)


def _check(words: Sequence[str], *, workers: int, max_restarts: int) -> None:
    if not words or words == ["-m"]:
        raise ConfigError(
            "There is nothing to run. Give the program after --:"
            " python -m tfkit launch --engine ray --workers 2 -- -m recipes.train_distributed"
        )
    if workers < 1 or max_restarts < 0:
        raise ConfigError(
            f"--workers is {workers} and --max-restarts {max_restarts}; at least 1 and 0 are expected."
        )
    found = packages.version("ray")
    if found is None:
        raise ConfigError(
            f"--engine ray needs the package ray, which is not installed.{packages.REPAIR}{packages.command('ray')}"
        )
    if tuple(int(number) for number in found.split(".")[:2]) < _OLDEST:
        raise ConfigError(
            f"ray {found} is too old for --engine ray.{packages.REPAIR}{packages.command('ray')}"
        )


def _announcement(job: Job, workers: int) -> str:
    where = os.environ.get("RAY_ADDRESS", "this machine")
    return (
        f"{workers} workers on Ray {packages.version('ray')} ({where}): python {shlex.join(job.words)}"
        "\nTensorFlow opens a port on each machine, to all networks and without a password: a firewall must guard it."
    )


def _run_dir(words: Sequence[str], folder: Path) -> Path | None:
    """Where the program writes, as far as its words say."""
    for word, following in zip(words, (*words[1:], ""), strict=True):
        option, equals, value = word.partition("=")
        if option in ("--run-dir", "--run_dir"):
            return (folder / (value if equals else following)).resolve()
    return None


@dataclass
class _Fit:
    """Ray Train at work in a thread of its own: its `fit` blocks, and takes Ctrl-C for itself."""

    trainer: Any
    result: Result | None = None
    error: Exception | None = None

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._fit, daemon=True)
        self._thread.start()

    def _fit(self) -> None:
        try:
            self.result = self.trainer.fit()
        except Exception as error:
            self.error = error

    @property
    def running(self) -> bool:
        return self._thread.is_alive()


def _run(job: Job, storage: Path, received: list[int], *, workers: int, max_restarts: int) -> int:
    """Train, and show what the workers say; returns the exit code."""
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.config import LoggingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    desk = ray.remote(num_cpus=0)(Desk).remote(workers, max_restarts)
    fit = _Fit(
        DataParallelTrainer(
            train,
            train_loop_config={"job": job, "desk": desk},
            scaling_config=ScalingConfig(
                num_workers=workers, use_gpu=ray.cluster_resources().get("GPU", 0) >= workers
            ),
            run_config=RunConfig(
                name=storage.name,
                storage_path=str(storage.parent),
                failure_config=FailureConfig(
                    max_failures=max_restarts, controller_failure_limit=max_restarts
                ),
                logging_config=LoggingConfig(log_level="CRITICAL"),
            ),
        )
    )
    told, stop = False, None
    while fit.running:
        if received and not told:
            told = True
            print("Saving and stopping; once more ends it at once.", file=sys.stderr, flush=True)
            ray.get(desk.stop.remote(SAVED_AND_STOPPED))
        if len(received) > 1:
            return SAVED_AND_STOPPED
        stop = _show(desk)
        time.sleep(_POLL_SECONDS)
    stop = _show(desk)
    if stop is not None:
        return stop
    if fit.error is not None:
        print(_why(fit.error, max_restarts), file=sys.stderr, flush=True)
        return 1
    return 0


def _show(desk: Any) -> int | None:
    """Print what the workers have said since; returns the exit code with which all must stop."""
    import ray

    lines, stop = ray.get(desk.take.remote())
    for stream, text in lines:
        print(text, file=sys.stderr if stream == "stderr" else sys.stdout, flush=True)
    return None if stop is None else int(stop)


def _why(error: Exception, max_restarts: int) -> str:
    from ray.train.v2.api.exceptions import ControllerError

    cause = error.controller_failure if isinstance(error, ControllerError) else error
    lines = [line for line in str(cause).strip().splitlines() if line.strip()] or [type(cause).__name__]
    what = lines[0] if isinstance(error, ControllerError) else lines[-1].strip()
    return f"Given up after {max_restarts} restarts. Ray says: {what}\n  {AGAIN}"


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGTERM and SIGINT instead of ending; Ray must not put its own handlers in their place."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.signal(number, lambda got, _: received.append(got)) for number in SIGNALS}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

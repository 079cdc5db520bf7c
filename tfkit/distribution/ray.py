"""`python -m tfkit launch --engine ray`: Ray Train places the workers and starts all again if one dies."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tfkit.distribution import worker_process
from tfkit.distribution.worker_process import SAVED
from tfkit.environment import heartbeat, packages, process
from tfkit.errors import ConfigError, UsageError
from tfkit.run import METRICS, RESTARTED_VARIABLE, SAVED_MODEL

# Ray reads them as it starts. It must not report home; a death is to be noticed within
# a second, and what the workers print to be shown as it is.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
    "RAY_DEDUP_LOGS": "0",
    # Under `uv run` every worker would be started by `uv run` in a copy of this folder, and install all anew.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}
_OLDEST = (2, 60)
_POLL_SECONDS = 0.25
_END_SECONDS = 10.0
# A recipe sends a heartbeat once a second; a busy machine or disk may hold that up.
_FROZEN_SECONDS = 60.0
# It becomes the program, and dies with the thread that started it: Ray ends a worker with SIGKILL, which no program can
# pass on. Ray also blocks SIGINT in its processes, and a child would inherit that.
_GUARD = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
signal.pthread_sigmask(signal.SIG_SETMASK, [])
os.execv(sys.executable, [sys.executable, "-u", *sys.argv[2:]])
"""


class Coordinator:
    """What workers and launcher leave for each other; a Ray actor, which outlives a group of workers."""

    def __init__(self) -> None:
        self._code: int | None = None
        self._starts: Counter[int] = Counter()

    def start(self, rank: int) -> int:
        """Return how often this worker was started before."""
        self._starts[rank] += 1
        return self._starts[rank] - 1

    def stop(self, code: int) -> None:
        """Let all save and stop; the first to say so gives the exit code of the job."""
        self._code = code if self._code is None else self._code

    def code(self) -> int | None:
        """Return the exit code with which all must stop."""
        return self._code


def train(config: dict[str, Any]) -> None:
    """Run the program in this worker, in a new process: TensorFlow joins a cluster only before its first operation.

    Args:
      config: `words`, `folder`, `run_dir`, `max_restarts` and `grace_seconds` of the job, and the `coordinator`.

    Raises:
      RuntimeError: the process died; Ray starts the whole group again.
    """
    import ray
    import ray.train

    context, coordinator = ray.train.get_context(), config["coordinator"]
    rank = context.get_world_rank()
    restarts = ray.get(coordinator.start.remote(rank))
    if restarts and not rank:
        print(f"A worker died: all start again ({restarts} of {config['max_restarts']}).", file=sys.stderr)
    if ray.get(coordinator.code.remote()) is not None:
        return
    # Ray has put this worker into a folder of the session, which goes with it.
    beats = Path(f"heartbeat-{uuid.uuid4().hex}.json").absolute()
    # Ray gives each worker one CPU to plan with, pins none, and sets the number of OpenMP's threads to 1.
    inherited = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    threads = max(len(worker_process.usable_cores()) // context.get_local_world_size(), 1)
    child = subprocess.Popen(
        [sys.executable, "-S", "-c", _GUARD, str(os.getpid()), *config["words"]],
        cwd=config["folder"],
        env={
            **process.malloc_environment(),
            **inherited,
            **worker_process.threads_environment(threads, within=inherited),
            heartbeat.VARIABLE: str(beats),
            RESTARTED_VARIABLE: str(restarts),
        },
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = float("inf")
    while (code := child.poll()) is None:
        if deadline == float("inf") and ray.get(coordinator.code.remote()) is not None:
            child.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + config["grace_seconds"]
        beat = heartbeat.read(beats)
        if time.monotonic() > deadline or (beat and time.monotonic() - beat.beat > _FROZEN_SECONDS):
            child.kill()
        time.sleep(_POLL_SECONDS)
    if code:
        beat = heartbeat.read(beats)
        reason = beat.gave_up if beat else ""
        text = f"worker {rank} ended ({worker_process.describe_exit(code)}){': ' * bool(reason)}{reason}"
        print(text, file=sys.stderr)
        if reason or code in (UsageError.exit_code, SAVED):  # no restart would mend it
            ray.get(coordinator.stop.remote(code))
        if ray.get(coordinator.code.remote()) is None:
            raise RuntimeError(text)
        return
    # All workers must report equally often.
    metrics, checkpoint, run_dir = {}, None, config["run_dir"]
    if rank == 0 and run_dir and (run_dir / METRICS).is_file():
        metrics = json.loads((run_dir / METRICS).read_text())
    if rank == 0 and run_dir and (run_dir / SAVED_MODEL).is_dir():
        checkpoint = ray.train.Checkpoint.from_directory(str(run_dir / SAVED_MODEL))
    ray.train.report(metrics, checkpoint=checkpoint)


def launch(
    words: Sequence[str], *, workers: int = 2, max_restarts: int = 3, grace_seconds: float = 60.0
) -> int:
    """Run a program on several Ray workers, each with its TF_CONFIG; start all again when one dies.

    With RAY_ADDRESS in the environment it joins that Ray cluster, else it starts Ray on this machine, for
    itself and on loopback alone, and ends it. The machines of a cluster must see this folder and the run
    folder under the same path. What the run folder holds in the end, Ray holds too:
    `ray.train.Result.from_path(RUN / "ray")` has the numbers as `metrics` and the saved model as `checkpoint`.

    SIGTERM and SIGINT are passed on as "save and stop"; at the second one all are killed.

    Args:
      words: after `python`: `["-m", "recipes.train_distributed", "--run-dir", "runs/x"]`, or a script and its
        arguments. A program that is started again must go on from its own checkpoint.
      workers: how many processes train together.
      max_restarts: how often all are started again before it gives up.
      grace_seconds: from "save and stop" until a process is killed.

    Returns:
      0 done, 1 died more often than that, 3 saved and stopped; else the program's own code where it says that
      no restart would help (2, or `heartbeat.give_up`).

    Raises:
      ConfigError: Ray is not installed or cannot be reached, or there is nothing to run.

    Example:
      >>> launch(["-m", "recipes.train_distributed", "--run-dir", "runs/x"], workers=4)  # doctest: +SKIP
      0
    """
    if not words or words == ["-m"] or workers < 1 or max_restarts < 0:
        raise ConfigError(
            "A program, --workers of 1 or more and --max-restarts of 0 or more are needed:"
            " python -m tfkit launch --engine ray --workers 2 -- -m recipes.train_distributed"
        )
    version = packages.version("ray") or "0.0"
    if tuple(map(int, version.split(".")[:2])) < _OLDEST:
        what = f"is {version}, too old" if packages.version("ray") else "is not installed"
        raise ConfigError(f"--engine ray: the package ray {what}.{packages.REPAIR}{packages.command('ray')}")
    print(
        f"{workers} workers on Ray {version} ({os.environ.get('RAY_ADDRESS', 'this machine')}): python"
        f" {shlex.join(words)}\nTensorFlow opens a port on each machine, to all networks and without a password: a"
        " firewall must guard it.",
        file=sys.stderr,
        flush=True,
    )
    options = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    options.add_argument("--run-dir", "--run_dir", type=lambda text: Path(text).resolve())
    run_dir = options.parse_known_args(list(words))[0].run_dir
    # Beside the run folder and not in it: a run begins in an empty one. Another launch may be at work there.
    near = run_dir or Path.cwd() / "tfkit"
    storage = near.with_name(f".{near.name}.{uuid.uuid4().hex[:8]}.ray")
    config: dict[str, Any] = {"words": list(words), "folder": str(Path.cwd()), "run_dir": run_dir}
    config |= {"max_restarts": max_restarts, "grace_seconds": grace_seconds}
    try:
        with _connected(workers):
            code = _fit(config, storage, workers)
            time.sleep(1)  # for the last lines, which Ray's log monitor brings
        if code == 0 and run_dir is not None and run_dir.is_dir():
            result = run_dir / "ray"
            if (result / ".validate_storage_marker").is_file():  # an earlier one of Ray; anything else stays
                shutil.rmtree(result)
            if not result.exists():
                storage.rename(result)
        return code
    finally:
        shutil.rmtree(storage, ignore_errors=True)


@contextlib.contextmanager
def _connected(workers: int) -> Iterator[None]:
    """Connect to the Ray of RAY_ADDRESS, or start one that listens on loopback alone, asks for a secret, and ends."""
    address = os.environ.get("RAY_ADDRESS")
    variables = dict(_ENVIRONMENT)
    settings: dict[str, Any] = {"address": address or "local"}
    with contextlib.ExitStack() as stack:
        if not address:
            # A folder whose path leaves room for Ray's sockets: Unix allows 107 characters.
            roomy = len(tempfile.gettempdir()) < 20
            temporary = tempfile.mkdtemp(prefix="tfkit-ray-", dir=None if roomy else "/tmp")
            stack.callback(shutil.rmtree, temporary, ignore_errors=True)
            variables |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
            settings |= {
                "include_dashboard": False,
                "num_cpus": max(workers, os.cpu_count() or 1),
                "_node_ip_address": "127.0.0.1",
                "_temp_dir": temporary,
            }
        for name in variables.keys() - os.environ.keys():
            os.environ[name] = variables[name]
            stack.callback(os.environ.pop, name, None)
        import ray

        if not ray.is_initialized():
            stack.callback(ray.shutdown)
            try:
                ray.init(**settings, logging_level="ERROR")
            except (ConnectionError, RuntimeError, ValueError) as error:
                where = f"at RAY_ADDRESS={address}" if address else "on this machine"
                raise ConfigError(f"Ray {where} does not answer: {packages.first_line(error)}") from error
        yield


def _fit(config: dict[str, Any], storage: Path, workers: int) -> int:
    """Train; returns the exit code."""
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.tensorflow import TensorflowTrainer

    coordinator = ray.remote(num_cpus=0)(Coordinator).remote()
    restarts = config["max_restarts"]
    trainer = TensorflowTrainer(
        train,
        train_loop_config={**config, "coordinator": coordinator},
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu=ray.cluster_resources().get("GPU", 0) >= workers
        ),
        run_config=RunConfig(
            name=storage.name,
            storage_path=str(storage.parent),
            failure_config=FailureConfig(max_failures=restarts, controller_failure_limit=restarts),
        ),
    )
    errors: list[Exception] = []

    def fit() -> None:
        try:
            trainer.fit()
        except Exception as error:
            errors.append(error)

    # In a thread: it blocks, and takes Ctrl-C for itself.
    thread = threading.Thread(target=fit, daemon=True)
    with worker_process.noting_signals() as signals:
        thread.start()
        # A worker that came to its end waits in vain for one that stopped before: not for ever.
        code, patience = None, config["grace_seconds"] + _END_SECONDS
        while thread.is_alive() and signals.count < 2 and patience > 0:
            if signals.count:
                coordinator.stop.remote(SAVED)
            thread.join(_POLL_SECONDS)
            code = ray.get(coordinator.code.remote())
            patience -= 0 if code is None else _POLL_SECONDS
        if signals.count > 1:
            return SAVED
    if code is None and errors:
        lines = str(errors[0]).strip().splitlines() or [type(errors[0]).__name__]
        print(f"Given up after {restarts} restarts. Ray: {lines[-1]}\n  {heartbeat.AGAIN}", file=sys.stderr)
        return 1
    return int(code or 0)

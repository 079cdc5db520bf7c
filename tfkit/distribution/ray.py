"""`python -m tfkit launch --engine ray`: Ray Train places the workers and starts all again if one dies."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
import shlex
import shutil
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tfkit.distribution.launcher import Attempt, Job
from tfkit.distribution.worker_process import Screen, Signals, counting_signals
from tfkit.environment import cluster, heartbeat, packages
from tfkit.environment.heartbeat import INTERRUPTED
from tfkit.errors import ConfigError
from tfkit.run import METRICS, SAVED_MODEL
from tfkit.settings.parse import flag_value

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
_POLL_SECONDS = 0.25
_END_SECONDS = 10.0


class Coordinator:
    """Keep what workers and launcher leave for each other: a Ray actor, which outlives a group of workers."""

    def __init__(self) -> None:
        self._code: int | None = None
        self._starts: list[int] = []

    def start(self, rank: int) -> int:
        """Return how often this worker was started before."""
        self._starts.append(rank)
        return self._starts.count(rank) - 1

    def stop(self, code: int | None = None) -> int | None:
        """Let all save and stop, where a code is given; return the first that was, the job's exit code, or None."""
        self._code = code if self._code is None else self._code
        return self._code


def train(config: dict[str, Any]) -> None:
    """Run the program in this worker, in a new process: TensorFlow joins a cluster only before its first operation.

    Args:
      config: the `job`, the `folder` that it runs in, its `run_dir`, and the `coordinator`.

    Raises:
      RuntimeError: the process died; Ray starts the whole group again.
    """
    import ray
    import ray.train

    coordinator, run_dir, here = config["coordinator"], config["run_dir"], cluster.current()
    restarts = ray.get(coordinator.start.remote(here.index))
    screen, signals = Screen(), Signals()  # Ray shows twice what is printed
    if restarts and here.is_chief:
        screen.report(f"A worker died: all start again ({restarts} of {config['job'].max_restarts}).")

    def wait_for_stop() -> None:
        while ray.get(coordinator.stop.remote()) is None:
            time.sleep(_POLL_SECONDS)
        signals.handle(signal.SIGTERM)

    threading.Thread(target=wait_for_stop, daemon=True).start()
    # Ray has put this worker into a folder of the session, set the number of OpenMP's threads to 1, and said which GPUs
    # are this worker's.
    os.chdir(config["folder"])
    os.environ.pop("OMP_NUM_THREADS", None)
    gpus = {name: value for name, value in os.environ.items() if name == "CUDA_VISIBLE_DEVICES"}
    job = dataclasses.replace(config["job"], hosts=here.workers, task_index=here.index, environment=gpus)
    outcome = Attempt(job, screen, signals, restarts, None).run()
    if outcome.kind != "done":
        screen.report(str(outcome))
        if outcome.kind != "died":  # no restart would mend it
            ray.get(coordinator.stop.remote(outcome.code))
        if ray.get(coordinator.stop.remote()) is None:
            raise RuntimeError(outcome.what)
        return
    # All workers must report equally often.
    metrics, checkpoint = {}, None
    if here.is_chief and run_dir and (run_dir / METRICS).is_file():
        metrics = json.loads((run_dir / METRICS).read_text())
        if (run_dir / SAVED_MODEL).is_dir():
            checkpoint = ray.train.Checkpoint.from_directory(str(run_dir / SAVED_MODEL))
    ray.train.report(metrics, checkpoint=checkpoint)


def launch(job: Job) -> int:
    """Run a program on several Ray workers, each with its TF_CONFIG; start all again when one dies.

    With RAY_ADDRESS in the environment it joins that Ray cluster, else it starts Ray on this machine, for
    itself and on loopback alone, and ends it. The machines of a cluster must see this folder and the run
    folder under the same path. What the run folder holds in the end, Ray holds too:
    `ray.train.Result.from_path(RUN / "ray")` has the numbers as `metrics` and the saved model as `checkpoint`.

    SIGTERM and SIGINT are passed on as "save and stop"; at the second one all are killed.

    Args:
      job: without `hosts`, which Ray finds. A program that is started again must go on from its own checkpoint.

    Returns:
      0 done, 1 died more often than that, 3 saved and stopped; else the program's own code where it says that
      no restart would help (2, or `heartbeat.give_up`).

    Raises:
      ConfigError: Ray is not installed or cannot be reached.

    Example:
      >>> launch(Job(words=("-m", "recipes.train_distributed"), workers=4))  # doctest: +SKIP
      0
    """
    for problem in packages.problems("ray"):
        raise ConfigError(f"--engine ray: {problem.cause}.{packages.REPAIR}{problem.command}")
    print(f"Launching {job.workers} workers on Ray: python {shlex.join(job.words)}", file=sys.stderr)
    value = flag_value(job.words, "run-dir")
    run_dir = Path(value).resolve() if value else None
    # Beside the run folder and not in it: a run begins in an empty one. Another launch may be at work there.
    base = run_dir or Path.cwd() / "tfkit"
    storage = base.with_name(f".{base.name}.{uuid.uuid4().hex[:8]}.ray")
    try:
        with _connecting(job.workers):
            code = _fit(job, run_dir, storage)
            time.sleep(1)  # for the last lines, which Ray's log monitor brings
        result = base / "ray"
        if code == 0 and run_dir is not None and run_dir.is_dir():
            if (result / ".validate_storage_marker").is_file():  # an earlier one of Ray; anything else stays
                shutil.rmtree(result)
            if not result.exists():
                storage.rename(result)
        return code
    finally:
        shutil.rmtree(storage, ignore_errors=True)


@contextlib.contextmanager
def _connecting(workers: int) -> Iterator[None]:
    """Connect to the Ray of RAY_ADDRESS, or start one that listens on loopback alone, asks for a secret, and ends."""
    address = os.environ.get("RAY_ADDRESS")
    cpus = max(workers, os.cpu_count() or 1)
    # Unix allows 107 characters for the path of a socket, and Ray adds some 60.
    with tempfile.TemporaryDirectory(prefix="tfkit-ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        options: dict[str, Any] = {"include_dashboard": False, "num_cpus": cpus, "_temp_dir": folder}
        options["_node_ip_address"] = "127.0.0.1"
        secret = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        os.environ.update({**_ENVIRONMENT, **({} if address else secret), **os.environ})
        import ray

        try:
            ray.init(address or "local", logging_level="ERROR", **({} if address else options))
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = packages.first_line(error)
            raise ConfigError(f"Ray at {address or 'this machine'} does not answer: {reason}") from error
        try:
            yield
        finally:
            ray.shutdown()


def _fit(job: Job, run_dir: Path | None, storage: Path) -> int:
    """Train; returns the exit code."""
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.tensorflow import TensorflowTrainer

    coordinator = ray.remote(num_cpus=0)(Coordinator).remote()
    config = {"job": job, "folder": str(Path.cwd()), "run_dir": run_dir, "coordinator": coordinator}
    restarts, use_gpu = job.max_restarts, ray.cluster_resources().get("GPU", 0) >= job.workers
    failures = FailureConfig(max_failures=restarts, controller_failure_limit=restarts)
    trainer = TensorflowTrainer(
        train,
        train_loop_config=config,
        scaling_config=ScalingConfig(num_workers=job.workers, use_gpu=use_gpu),
        run_config=RunConfig(name=storage.name, storage_path=str(storage.parent), failure_config=failures),
    )
    failure = ""

    def fit() -> None:
        nonlocal failure
        try:
            trainer.fit()
        except Exception as error:
            failure = packages.first_line(error)

    # In a thread: it blocks, and takes Ctrl-C for itself.
    thread = threading.Thread(target=fit, daemon=True)
    with counting_signals() as signals:
        thread.start()
        # A worker that came to its end waits in vain for one that stopped before: not for ever.
        code, patience = None, job.grace_seconds + _END_SECONDS
        while thread.is_alive() and signals.count < 2 and patience > 0:
            if signals.count:
                coordinator.stop.remote(INTERRUPTED)
            thread.join(_POLL_SECONDS)
            code = ray.get(coordinator.stop.remote())
            patience -= 0 if code is None else _POLL_SECONDS
        if signals.count > 1:
            return INTERRUPTED
    if code is None and failure:
        print(f"Given up after {restarts} restarts. Ray: {failure}\n  {heartbeat.AGAIN}", file=sys.stderr)
        return 1
    return int(code or 0)

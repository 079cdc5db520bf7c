"""Several workers on a Ray cluster: Ray Train places them, watches them, and starts all again when one dies."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfkit import packages
from tfkit.errors import ConfigError
from tfkit.schedulers.ray_session import SIGNALS, connected
from tfkit.schedulers.ray_worker import SAVED_AND_STOPPED, Desk, Job, train
from tfkit.stopping import AGAIN

if TYPE_CHECKING:
    from ray.train import Result

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

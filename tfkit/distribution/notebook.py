"""`tfkit.distribution.launch(fn, workers=2)`: a function of a notebook, in several processes."""

from __future__ import annotations

import os
import pickle
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tfkit.distribution import launcher
from tfkit.distribution.job import Job
from tfkit.distribution.worker_process import Screen
from tfkit.errors import ConfigError, WorkerError

T = TypeVar("T")

FUNCTION = "function.pickle"
RESULT = "result.pickle"
ERROR = "error-{}.txt"


def launch(
    fn: Callable[[], T],
    *,
    workers: int = 2,
    max_restarts: int = 0,
    grace_seconds: float = 30,
    hang_seconds: float = 300,
    join_seconds: float = 300,
    pin: bool = True,
) -> T:
    """Run a function in several processes that train together, and return what the first of them returns.

        def train():
            strategy = tfkit.distribution.strategy("multi_worker_mirrored")
            with strategy.scope():
                model = build()
            return model.fit(dataset, epochs=3).history

        history = tfkit.distribution.launch(train, workers=2)

    The function and what it refers to are copied into the workers, so it may be defined in a cell; it imports
    TensorFlow there. The first worker's output appears as it is printed. Interrupting the cell stops the
    workers: each gets SIGTERM first, to save.

    Args:
      fn: takes nothing; its value in the first worker must be picklable.
      workers: processes on this machine.
      max_restarts: how often to start all again after a death; for a function that goes on from a backup.
      grace_seconds: how long the workers may take to save when the cell is interrupted.
      hang_seconds: how long a worker may be silent, or in training without a step.
      join_seconds: how long the workers wait for each other.
      pin: whether each worker keeps to cores of its own.

    Returns:
      What `fn` returned in the first worker; what it returned in the others is dropped.

    Raises:
      WorkerError: the function raised in a worker (the traceback is shown), or a worker died.
      ConfigError: the function cannot be copied, or a setting is out of range.
      KeyboardInterrupt: the cell was interrupted; no worker is left.
    """
    import cloudpickle

    try:
        copy = cloudpickle.dumps(fn)
    except Exception as error:
        raise ConfigError(
            f"{getattr(fn, '__qualname__', fn)!r} cannot be copied into the workers: {type(error).__name__}: {error}"
            "\n  It refers to something that belongs to this process (a model, a dataset, an open file)."
            " Make that inside the function."
        ) from error
    # Readable by this user alone: a pickle runs code where it is read.
    with tempfile.TemporaryDirectory(prefix="tfkit-function-") as name:
        folder = Path(name)
        (folder / FUNCTION).write_bytes(copy)
        path = os.pathsep.join(dict.fromkeys(entry for entry in sys.path if entry))
        job = Job(
            words=("-m", "tfkit.distribution.notebook_worker", name),
            workers=workers,
            max_restarts=max_restarts,
            grace_seconds=grace_seconds,
            hang_seconds=hang_seconds,
            join_seconds=join_seconds,
            pin=pin,
            environment={"PYTHONPATH": path},
            title=f"{getattr(fn, '__qualname__', fn)}()",
        )
        ending = launcher.run(job, screen=Screen(prefixed=False, only_first=True))
        if ending.kind == "interrupted":
            raise KeyboardInterrupt(ending.what)
        if ending.kind != "done":
            raise WorkerError(_told(folder, workers) or f"{ending.what}.\n  {ending.details}")
        result: T = pickle.loads((folder / RESULT).read_bytes())
        return result


def _told(folder: Path, workers: int) -> str:
    """The traceback of the first worker that left one."""
    errors = [folder / ERROR.format(index) for index in range(workers)]
    written = sorted((path for path in errors if path.is_file()), key=lambda path: path.stat().st_mtime_ns)
    return written[0].read_text() if written else ""

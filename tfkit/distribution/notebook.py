"""`tfkit.distribution.launch(fn, workers=2)`: a function of a notebook, in several processes.

The function and its result go through files of a folder.
"""

from __future__ import annotations

import os
import pickle
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from tfkit.distribution import launcher
from tfkit.distribution.worker_process import LOST_A_PEER, SAVED, Screen
from tfkit.environment import cluster, files, heartbeat
from tfkit.errors import ConfigError, WorkerError

T = TypeVar("T")

_PROGRAM = "import sys; from tfkit.distribution.notebook import work; sys.exit(work(sys.argv[1]))"
_FUNCTION, _RESULT, _ERROR = "function.pickle", "result.pickle", "error.txt"


def launch(fn: Callable[[], T], *, workers: int = 2, max_restarts: int = 0, **patience: Any) -> T:
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
      max_restarts: how often to start all again after a death; for a function that goes on from a checkpoint.
      patience: `grace_seconds`, `hang_seconds`, `join_seconds` and `pin` of `tfkit.distribution.launcher.Job`.

    Returns:
      What `fn` returned in the first worker; what it returned in the others is dropped.

    Raises:
      WorkerError: the function raised in a worker (the traceback is shown), or a worker died.
      ConfigError: the function cannot be copied, or a setting is out of range.
      KeyboardInterrupt: the cell was interrupted; no worker is left.
    """
    import cloudpickle

    name = getattr(fn, "__qualname__", str(fn))
    try:
        copy = cloudpickle.dumps(fn)
    except Exception as error:
        raise ConfigError(
            f"{name!r} cannot be copied into the workers: {type(error).__name__}: {error}"
            "\n  It refers to something that belongs to this process (a model, a dataset, an open file)."
            " Make that inside the function."
        ) from error
    # Readable by this user alone: a pickle runs code where it is read.
    with tempfile.TemporaryDirectory(prefix="tfkit-function-") as folder:
        Path(folder, _FUNCTION).write_bytes(copy)
        job = launcher.Job(
            words=("-c", _PROGRAM, folder),
            workers=workers,
            max_restarts=max_restarts,
            environment={"PYTHONPATH": os.pathsep.join(dict.fromkeys(filter(None, sys.path)))},
            title=f"{name}()",
            **patience,
        )
        outcome = launcher.run(job, screen=Screen(only_first=True))
        if outcome.kind == "interrupted":
            raise KeyboardInterrupt(outcome.what)
        if outcome.kind != "done":
            shown = Path(folder, _ERROR)
            raise WorkerError(shown.read_text() if shown.is_file() else str(outcome))
        result: T = pickle.loads(Path(folder, _RESULT).read_bytes())
        return result


def work(name: str) -> int:
    """Run the function of the folder in this worker; returns the exit code."""
    import cloudpickle

    folder = Path(name)
    heartbeat.start()
    this = cluster.current()
    try:
        result = pickle.loads((folder / _FUNCTION).read_bytes())()
        if this.is_chief:
            files.write_bytes(folder / _RESULT, cloudpickle.dumps(result))
    except KeyboardInterrupt:
        return SAVED
    except Exception as error:
        traceback.print_exc()
        if cluster.is_loss_of_peer(error):
            return LOST_A_PEER
        if not (folder / _ERROR).exists():
            files.write_text(folder / _ERROR, f"In {this.name}:\n{traceback.format_exc()}")
        heartbeat.give_up(f"{type(error).__name__}: {error}")
        return 1
    return 0

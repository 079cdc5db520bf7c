"""`tfkit.distribution.launch(fn, workers=2)`: a function of a notebook, in several processes.

Each worker is `python -m tfkit.distribution.notebook FOLDER`.
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
        (Path(folder) / _FUNCTION).write_bytes(copy)
        job = launcher.Job(
            words=("-m", "tfkit.distribution.notebook", folder),
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
            error_file = Path(folder) / _ERROR
            raise WorkerError(error_file.read_text() if error_file.is_file() else str(outcome))
        result: T = pickle.loads((Path(folder) / _RESULT).read_bytes())
        return result


def _work(folder: Path) -> int:
    """Run the function of the folder in this worker; returns the exit code."""
    import cloudpickle

    heartbeat.start()
    this = cluster.current()
    try:
        result = pickle.loads((folder / _FUNCTION).read_bytes())()
        if this.is_chief:
            files.write_bytes(folder / _RESULT, cloudpickle.dumps(result))
    except KeyboardInterrupt:
        return SAVED
    except Exception as error:
        if cluster.is_loss_of_peer(error):
            traceback.print_exc()
            return LOST_A_PEER
        # From the frame of the user's function on.
        own = error.__traceback__ and (error.__traceback__.tb_next or error.__traceback__)
        shown = "".join(traceback.format_exception(error.with_traceback(own)))
        if not (folder / _ERROR).exists():
            files.write_bytes(folder / _ERROR, f"In {this.name}:\n{shown}".encode())
        print(shown, file=sys.stderr)
        heartbeat.give_up(f"{type(error).__name__}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_work(Path(sys.argv[1])))

"""TensorBoard in a cell of a notebook, in Colab and in Jupyter."""

from __future__ import annotations

import shlex
from pathlib import Path

from tfkit.errors import RunError
from tfkit.run import Run


def notebook(*runs: Run | str | Path) -> None:
    """Show the logs of runs below the cell that calls it.

        run = transfer_image.run(...)
        tfkit.tensorboard.notebook(run)

    TensorBoard starts in a process of its own, on this machine's loopback address, and stays; a second call with
    the same runs shows the same one. Outside of a notebook its address is printed.

    Args:
      runs: finished or not; run folders, or what recipes return.

    Raises:
      RunError: none is given, or a folder holds no logs.
    """
    if not runs:
        raise RunError("Which run? tfkit.tensorboard.notebook(run), or a folder of one.")
    logdirs = {}
    for run in runs:
        path = run.path if isinstance(run, Run) else Path(run)
        logdir = (path / "logs" if (path / "logs").is_dir() else path).resolve()
        if not any(logdir.rglob("*tfevents*")):
            raise RunError(f"{path} holds no TensorBoard logs (no event file below {logdir}).")
        logdirs[path.resolve().name] = logdir
    from tensorboard import notebook as cell

    if len(logdirs) == 1:
        words = ["--logdir", str(next(iter(logdirs.values())))]
    else:
        words = ["--logdir_spec", ",".join(f"{name}:{logdir}" for name, logdir in logdirs.items())]
    cell.start(shlex.join([*words, "--host", "localhost", "--port", "0"]))

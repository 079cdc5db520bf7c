"""A worker of `tfkit.distribution.notebook.launch`: `python -m tfkit.distribution.notebook_worker FOLDER`."""

from __future__ import annotations

import pickle
import sys
import traceback
from pathlib import Path
from types import TracebackType

from tfkit.distribution.notebook import ERROR, FUNCTION, RESULT
from tfkit.distribution.worker_process import LOST_A_PEER, SAVED
from tfkit.environment import cluster, files
from tfkit.environment.heartbeat import give_up, start


def main(folder: Path) -> int:
    """Run the function of the folder; returns the exit code."""
    import cloudpickle

    start()
    this = cluster.current()
    try:
        result = pickle.loads((folder / FUNCTION).read_bytes())()
        if this.is_chief:
            files.write_bytes(folder / RESULT, cloudpickle.dumps(result))
    except KeyboardInterrupt:
        return SAVED
    except Exception as error:
        if cluster.is_loss_of_peer(error):
            traceback.print_exc()
            return LOST_A_PEER
        # From the frame of the user's function on.
        shown = traceback.format_exception(error.with_traceback(_own(error)))
        files.write_bytes(folder / ERROR.format(this.index), f"In {this.name}:\n{''.join(shown)}".encode())
        print("".join(shown), file=sys.stderr)
        give_up(f"{type(error).__name__}: {error}")
        return 1
    return 0


def _own(error: Exception) -> TracebackType | None:
    trace = error.__traceback__
    return trace.tb_next if trace is not None and trace.tb_next is not None else trace


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

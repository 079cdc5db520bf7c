"""Several `python -m tfkit launch --engine ray` on one Ray, which is slow to start; prints a line of JSON for each."""

import json
import sys
import time
from pathlib import Path

from tfkit.__main__ import main as tfkit
from tfkit.schedulers import ray_session


def result(run_dir):
    from ray.train import Result

    if not (run_dir / "ray").is_dir():
        return {}
    found = Result.from_path(run_dir / "ray")
    return {"metrics": found.metrics, "checkpoint": found.checkpoint and found.checkpoint.path}


def main(*jobs):
    with ray_session.connected(2):
        for words in map(json.loads, jobs):
            began = time.monotonic()
            run_dir = Path(words[words.index("--run-dir") + 1])
            code = tfkit(["launch", "--engine", "ray", "--workers", "2", "--max-restarts", "1", "--", *words])
            said = {"job": run_dir.name, "code": code, "seconds": time.monotonic() - began}
            print(json.dumps({**said, **result(run_dir)}), flush=True)
    assert "tensorflow" not in sys.modules


if __name__ == "__main__":
    main(*sys.argv[1:])

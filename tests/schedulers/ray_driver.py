"""Several jobs on one Ray, which is slow to start: prints a line of JSON a job, its exit code and Ray's Result."""

import json
import os
import sys
from pathlib import Path

from tfkit.schedulers import ray_engine, ray_session


def result(run_dir):
    from ray.train import Result

    if not (run_dir / "ray").is_dir():
        return {}
    found = Result.from_path(run_dir / "ray")
    return {"metrics": found.metrics, "checkpoint": found.checkpoint and found.checkpoint.path}


def main(*jobs):
    with ray_session.connected(2):
        for job in map(json.loads, jobs):
            os.chdir(Path(job["run_dir"]).parent)
            code = ray_engine.launch([*job["words"], "--run-dir", job["run_dir"]], max_restarts=1)
            print(
                json.dumps({"job": Path(job["run_dir"]).name, "code": code, **result(Path(job["run_dir"]))}),
                flush=True,
            )
    assert "tensorflow" not in sys.modules


if __name__ == "__main__":
    main(*sys.argv[1:])

"""A step of several workers talks once, and what an epoch reports is what Keras would have reported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tfkit.distribution.worker_process import threads_environment

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("tuning_program.py")
PATIENCE = 200
PORTS = (21881, 21882)


@pytest.fixture(scope="module")
def workers():
    """What both workers print, in a network of their own: TensorFlow's port is open to every interface."""
    cluster = {"worker": [f"127.0.0.1:{port}" for port in PORTS]}
    first, second = (
        json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}}) for index in (0, 1)
    )
    script = (
        'ip link set lo up; TF_CONFIG="$SECOND" timeout "$PATIENCE" "$@" & other=$!; '
        'TF_CONFIG="$FIRST" timeout "$PATIENCE" "$@"; code=$?; wait $other || code=$?; exit $code'
    )
    alone = ["unshare", *([] if os.getuid() == 0 else ["-r"]), "-n"]
    environment = {"FIRST": first, "SECOND": second, "PATIENCE": str(PATIENCE), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*alone, "bash", "-c", script, "bash", sys.executable, str(PROGRAM)],
        env={**os.environ, **threads_environment(1), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.mark.slow
def test_a_step_talks_once(workers):
    """The gradients, and nothing else."""
    assert len(workers) == 2
    for worker in workers:
        assert worker["tuned"]["collectives"] == 1 < worker["stock"]["collectives"]


@pytest.mark.slow
def test_what_is_reported_is_of_all_workers(workers):
    """Were it of one worker, the two would differ from one another and from Keras."""
    for worker in workers:
        for what in ("history", "evaluated"):
            assert worker["tuned"][what].keys() == worker["stock"][what].keys()
            for name, value in worker["stock"][what].items():
                assert worker["tuned"][what][name] == pytest.approx(value, rel=1e-5)
        assert worker["tuned"]["weights"] == pytest.approx(worker["stock"]["weights"], rel=1e-5)
    assert workers[0]["tuned"] == workers[1]["tuned"]

"""A disk that is full costs backups, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("full_disk_program.py")


@pytest.mark.slow
def test_a_full_disk_costs_backups_and_nothing_else(tmp_path):
    disk, elsewhere = tmp_path / "disk", tmp_path / "elsewhere"
    disk.mkdir()
    elsewhere.mkdir()
    mounts = ["unshare", *([] if os.getuid() == 0 else ["-r"]), "-m", "sh", "-c"]
    script = f'mount -t tmpfs -o size=3M tmpfs "{disk}" && exec "$@"'
    command = [*mounts, script, "sh", sys.executable, str(PROGRAM), str(disk), str(elsewhere)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    if "permission denied" in done.stderr.lower() and "mount" in done.stderr:
        pytest.skip(f"no disk can be mounted here: {done.stderr.splitlines()[0]}")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "A checkpoint failed" in done.stderr
    assert "training goes on" in done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {"difference": 0.0, "states": 2, "halves": []}

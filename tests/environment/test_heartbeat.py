"""What a worker says of itself, and what that costs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tfkit import cli
from tfkit.environment import heartbeat
from tfkit.environment.heartbeat import INTERRUPTED, PEER_LOST, VARIABLE, read
from tfkit.run import Run

ROOT = Path(__file__).parents[2]


def start(code: str, path: Path | None, **options) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    environment |= {"PYTHONPATH": str(ROOT)} | ({VARIABLE: str(path)} if path else {})
    return subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True, **options
    )


def test_what_is_said_is_read(tmp_path):
    path = tmp_path / "worker.json"
    assert read(path) is None
    began = time.monotonic()
    code = """
from tfkit.environment import heartbeat
heartbeat.start(); heartbeat.start()
heartbeat.phase("training")
heartbeat.progress(3, 10, "epoch 1 of 2"); heartbeat.progress(4, 10, "epoch 1 of 2, loss 0.5")
heartbeat.phase("working"); heartbeat.give_up("the check failed")
"""
    assert start(code, path).wait() == 0
    beat = read(path)
    assert beat is not None
    assert (beat.phase, beat.step, beat.steps, beat.text) == ("working", 4, 10, "epoch 1 of 2, loss 0.5")
    assert beat.gave_up == "the check failed"
    assert beat.trained is not None
    assert began < beat.trained < beat.progressed < beat.beat < time.monotonic()
    path.write_text('{"beat"')
    assert read(path) is None


def test_without_a_launcher_nothing_happens(tmp_path):
    code = """
import threading
from tfkit.environment import heartbeat
heartbeat.start(); heartbeat.phase("training"); heartbeat.progress(1, 2); heartbeat.give_up("no")
print(threading.active_count())
"""
    done = start(code, None, cwd=tmp_path)
    assert done.communicate()[0] == "1\n"
    assert list(tmp_path.iterdir()) == []


def test_what_a_worker_starts_is_not_the_worker(tmp_path):
    """Neither a program that it runs nor a fork of it overwrites what it says."""
    path = tmp_path / "worker.json"
    code = """
import os, subprocess, sys
from tfkit.environment import heartbeat
heartbeat.start(); heartbeat.phase("training"); heartbeat.progress(7)
other = "from tfkit.environment import heartbeat; heartbeat.start(); heartbeat.phase('joining')"
subprocess.run([sys.executable, "-c", other], check=True)
if os.fork() == 0:
    heartbeat.phase("joining"); os._exit(0)
os.wait()
"""
    assert start(code, path).wait() == 0
    said = json.loads(path.read_text())
    assert (said["phase"], said["step"]) == ("training", 7)


PROGRAM = """
from tfkit.environment import heartbeat
from tfkit.errors import DataError

class UnavailableError(Exception):
    __module__ = "tensorflow.python.framework.errors_impl"  # by which it is known, without importing that

heartbeat.phase("joining")
raise {}
"""


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        ("DataError('it is wrong')", 1, "it is wrong"),
        ("ValueError('who knows')", 1, ""),
        ("KeyboardInterrupt", INTERRUPTED, ""),
        ("UnavailableError('the other one is gone')", PEER_LOST, ""),
    ],
)
def test_by_what_a_users_program_ends_the_launcher_knows(error, code, reason, tmp_path, monkeypatch):
    """It calls tfkit.fit, and neither begins to beat nor catches anything."""
    workers = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(workers))
    path = tmp_path / "worker.json"
    ended = start(PROGRAM.format(error), path, stderr=subprocess.PIPE)
    assert error.partition("(")[0] in ended.communicate()[1]  # the traceback
    assert ended.returncode == code
    assert json.loads(path.read_text())["gave_up"] == reason


def test_a_step_costs_microseconds(tmp_path):
    code = """
import time
from tfkit.environment import heartbeat
heartbeat.start()
heartbeat.progress(0)
began = time.thread_time()
for step in range(20000): heartbeat.progress(step, 20000, "epoch 1 of 1, loss 0.1234")
print((time.thread_time() - began) / 20000)
"""
    for path in (tmp_path / "worker.json", None):
        assert float(start(code, path).communicate()[0]) < 2e-5


def test_a_backup_is_named_only_where_there_is_one(tmp_path, monkeypatch):
    monkeypatch.setattr(heartbeat, "backups", None)
    assert "backup" not in cli.explain(KeyboardInterrupt())
    with Run.create(tmp_path / "run", config={}) as run:
        assert "No backup is there yet" in cli.explain(KeyboardInterrupt("stopped in epoch 1, step 3 of 9"))
        (run.backup / "private").mkdir(parents=True)
        assert "No backup is there yet" in cli.explain(KeyboardInterrupt())
        (run.backup / "head" / "00000001").mkdir(parents=True)
        assert cli.explain(KeyboardInterrupt()).endswith("The same command goes on from the last backup.")

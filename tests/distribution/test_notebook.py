"""`launch(fn)`: what the function returns, prints and raises; none of it needs TensorFlow."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.distribution import processes
from tfkit import distribution
from tfkit.errors import ConfigError

PRELUDE = """
import os, signal, sys, time
from tfkit import distribution
from tfkit.environment import cluster
from tfkit.errors import WorkerError
"""


def begin(folder: Path, program: str):
    """A program as a user writes it: the function is in the main module."""
    script = folder / "program.py"
    script.write_text(f"{PRELUDE}{program}")
    return subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(processes.ROOT), "TMPDIR": str(folder)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ended(folder: Path, program: str) -> tuple[str, str]:
    """What it prints; nothing of it is left."""
    printed = begin(folder, program).communicate(timeout=600)
    assert leftovers(folder) == []
    return printed


def leftovers(folder: Path) -> list[str]:
    """Processes and files that came of the program: its folder is in the command line of the workers."""
    lines = [line for _, line, _ in processes.running() if str(folder) in line]
    return lines + [str(path) for path in folder.glob("tfkit-*")]


def test_the_first_workers_value_and_output(tmp_path):
    program = """
class Answer:
    def __init__(self, value): self.value = value
offset = 40
def train():
    me = cluster.current()
    print("worker", me.index, "of", me.size)
    return Answer(offset + 2 + 100 * me.index)
print("returned", distribution.launch(train, workers=2).value)
print("heavy", sorted({"tensorflow", "numpy", "pandas"} & set(sys.modules)))
"""
    out, errors = ended(tmp_path, program)
    assert out.splitlines() == ["worker 0 of 2", "returned 42", "heavy []"], errors
    assert "Launching 2 processes: train()" in errors


def test_the_error_of_a_worker_arrives_with_its_traceback(tmp_path):
    program = """
def broken():
    if cluster.current().index == 1:
        raise ValueError("the second shard is empty")
    time.sleep(600)
try:
    distribution.launch(broken, workers=2)
except WorkerError as error:
    print(error)
"""
    out, errors = ended(tmp_path, program)
    assert out.startswith("worker 1 gave up: Traceback"), errors
    assert "in broken" in out
    assert "ValueError: the second shard is empty" in out.splitlines()[-1]


def test_a_death_is_an_error_and_a_restart_mends_it(tmp_path):
    program = """
from pathlib import Path
mark = Path(sys.argv[0]).with_name("mark")
def dies_once():
    if cluster.current().index == 1 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), 9)
    time.sleep(2)
    return "done"
try:
    distribution.launch(dies_once, workers=2)
except WorkerError as error:
    print(error)
mark.unlink()
print(distribution.launch(dies_once, workers=2, max_restarts=1))
"""
    out, errors = ended(tmp_path, program)
    assert out.startswith("worker 1 died (SIGKILL) before the first step, and all 0 restarts"), errors
    assert out.endswith("\ndone\n")


def test_a_death_after_the_first_has_returned_is_said(tmp_path):
    program = """
from pathlib import Path
done = Path(sys.argv[0]).with_name("done")
def first_is_done():
    if cluster.current().index == 0:
        done.touch()
        return "done"
    while not done.exists(): time.sleep(0.05)
    time.sleep(1)
    os.kill(os.getpid(), 9)
print(distribution.launch(first_is_done, workers=2))
"""
    out, errors = ended(tmp_path, program)
    assert out == "done\n"
    assert "worker 1 died (SIGKILL), and worker 0 has finished" in errors


def test_what_cannot_be_copied_is_refused():
    lock = threading.Lock()
    with pytest.raises(ConfigError, match=r"cannot be copied[\s\S]*inside the function"):
        distribution.launch(lambda: lock.locked(), workers=2)


def test_an_interrupt_saves_stops_and_leaves_nothing(tmp_path):
    program = """
def train():
    def save(*_):
        print("saved", flush=True)
        os._exit(3)
    signal.signal(signal.SIGTERM, save)
    print("training", flush=True)
    time.sleep(600)
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    distribution.launch(train, workers=2)
except KeyboardInterrupt:
    print("interrupted")
"""
    process = begin(tmp_path, program)
    assert process.stdout is not None
    assert process.stdout.readline() == "training\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=600)
    assert out.splitlines() == ["saved", "interrupted"], errors
    assert leftovers(tmp_path) == []

"""`launch(fn)`: what the function returns, prints and raises; none of it needs TensorFlow."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.distribution import processes

PRELUDE = """
import os, signal, sys, time
from tfkit import distribution
from tfkit.environment import cluster
"""
ROOT = Path(__file__).parents[2]


def begin(folder: Path, program: str) -> subprocess.Popen[str]:
    """A program as a user writes it: the function is in the main module."""
    script = folder / "program.py"
    script.write_text(f"{PRELUDE}{program}")
    return subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


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
    out, errors = begin(tmp_path, program).communicate(timeout=60)
    assert out.splitlines() == ["worker 0 of 2", "returned 42", "heavy []"], errors
    assert "Launching 2 processes: train()" in errors
    assert leftovers(tmp_path) == []


def test_the_error_of_a_worker_arrives_with_its_traceback(tmp_path):
    program = """
from tfkit.errors import WorkerError
def broken():
    if cluster.current().index == 1:
        raise ValueError("the second shard is empty")
    time.sleep(600)
try:
    distribution.launch(broken, workers=2)
except WorkerError as error:
    print(error)
"""
    out, errors = begin(tmp_path, program).communicate(timeout=60)
    assert out.startswith("In worker 1 (127.0.0.1:"), errors
    assert "in broken" in out
    assert out.rstrip().endswith("ValueError: the second shard is empty")
    assert leftovers(tmp_path) == []


def test_a_death_is_an_error_and_a_restart_mends_it(tmp_path):
    program = """
from pathlib import Path
from tfkit.errors import WorkerError
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
    out, errors = begin(tmp_path, program).communicate(timeout=60)
    assert out.startswith("worker 1 died (SIGKILL) before the first step, and all 0 restarts"), errors
    assert out.endswith("\ndone\n")


def test_what_cannot_be_copied_is_refused(tmp_path):
    program = """
from tfkit.errors import ConfigError
import threading
lock = threading.Lock()
try:
    distribution.launch(lambda: lock.locked(), workers=2)
except ConfigError as error:
    print(error)
"""
    out, errors = begin(tmp_path, program).communicate(timeout=60)
    assert "cannot be copied into the workers" in out, errors
    assert "Make that inside the function" in out


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
    out, errors = process.communicate(timeout=60)
    assert out.splitlines() == ["saved", "interrupted"], errors
    assert leftovers(tmp_path) == []


@pytest.mark.slow
def test_in_a_notebook():
    import nbclient
    import nbformat

    cells = [
        "from tfkit.environment import cluster; from tfkit import distribution\n"
        "def train():\n    print('live', cluster.current().size)\n    return {'loss': 0.5}",
        "distribution.launch(train, workers=2)",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(ROOT)}}).execute()
    outputs = notebook.cells[1].outputs
    assert any("live 2" in output.get("text", "") for output in outputs)
    assert outputs[-1]["data"]["text/plain"] == "{'loss': 0.5}"

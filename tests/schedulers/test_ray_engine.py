"""A job on Ray survives a death, tells Ray what came of it, stops when told, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

import numpy as np
import pytest

from tfkit import packages
from tfkit.errors import ConfigError
from tfkit.schedulers import ray_engine, ray_worker

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
PATIENCE = 240

# Saves and stops when told.
WAITING = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
print("waiting", flush=True)
time.sleep(600)
"""


class Launched:
    """The driver in a network of its own: TensorFlow's port is open to every interface, and Ray needs none."""

    def __init__(self, *jobs, home, temporary):
        self.mark, self.lines = uuid.uuid4().hex, []
        self._queue = queue.SimpleQueue()
        alone = ["unshare", *([] if os.getuid() == 0 else ["-r"]), "-n"]
        environment = {
            "HOME": str(home),
            "TMPDIR": str(temporary),
            "PYTHONPATH": str(ROOT),
            "MARK": self.mark,
        }
        self.process = subprocess.Popen(
            [
                *(*alone, "bash", "-c", 'ip link set lo up; exec "$@"', "bash"),
                *(sys.executable, str(HERE / "ray_driver.py"), *map(json.dumps, jobs)),
            ],
            env={**{name: value for name, value in os.environ.items() if "RAY" not in name}, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self._queue.put(line.rstrip("\n"))

    def wait_for(self, pattern):
        """The groups of the next line that matches."""
        deadline = time.monotonic() + PATIENCE
        while (left := deadline - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                self.lines.append(self._queue.get(timeout=min(left, 1)))
                if found := re.search(pattern, self.lines[-1]):
                    return found.groups()
            if self.process.poll() is not None and self._queue.empty():
                break
        self.process.kill()
        pytest.fail(f"no line like {pattern!r}:\n" + "\n".join(self.lines[-40:]))

    def ended(self, job):
        return json.loads(self.wait_for(rf'(^{{"job": "{job}".*)')[0])

    def left_behind(self):
        """Processes that it started, directly or not, and that are still there."""
        found = []
        for environment in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if f"MARK={self.mark}".encode() in environment.read_bytes():
                    found.append(environment.with_name("cmdline").read_bytes().replace(b"\0", b" ").decode())
        return found


def alive(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """Two jobs one after the other on one Ray, and what was seen from outside."""
    folder = tmp_path_factory.mktemp("ray")
    home, temporary = folder / "home", Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))  # room for Unix sockets
    home.mkdir()
    program = folder / "waiting.py"
    program.write_text(WAITING)
    words = {
        "trained": [str(HERE / "ray_program.py")],
        "stopped": [str(program)],
    }
    jobs = [{"words": program, "run_dir": str(folder / name)} for name, program in words.items()]
    launched, seen = Launched(*jobs, home=home, temporary=temporary), {}

    child, worker = launched.wait_for(r"worker 1 \| index 1 pid (\d+) parent (\d+)")
    launched.wait_for(r"worker 1 \| epoch 3 of")
    os.kill(int(worker), signal.SIGKILL)
    time.sleep(1)
    seen["child outlives its Ray worker"] = alive(int(child))
    seen["trained"] = launched.ended("trained")
    launched.wait_for(r"worker \d \| waiting")
    launched.process.send_signal(signal.SIGTERM)
    seen["stopped"] = launched.ended("stopped")
    launched.process.wait(PATIENCE)
    seen["lines"] = launched.lines
    seen["left behind"] = launched.left_behind()
    # TensorFlow, when killed, leaves files of its own.
    seen["files left"] = [*home.glob("*ray*"), *temporary.glob("*ray*"), *folder.glob(".*")]
    shutil.rmtree(temporary)
    seen["folder"] = folder
    return seen


def expected_weights():
    """Gradient descent on all examples, one epoch after the other without a break, in NumPy."""
    features = np.random.default_rng(0).normal(size=(64, 3)).astype("float32")
    labels, weights = features @ np.array([[1.0], [-2.0], [0.5]], "float32"), np.zeros((3, 1))
    for _ in range(8):
        weights -= 0.1 * 2 / len(features) * features.T @ (features @ weights - labels)
    return weights.ravel()


@pytest.mark.slow
def test_a_killed_worker_costs_nothing_but_time(story):
    assert story["trained"]["code"] == 0
    numbers = json.loads((story["folder"] / "trained" / "metrics.json").read_text())
    np.testing.assert_allclose(list(numbers.values()), expected_weights(), atol=1e-5)
    # It was killed in its third epoch or shortly after, and went on from there.
    assert sum("worker 0 | epoch 1 of" in line for line in story["lines"]) == 1
    assert sum("all start again" in line for line in story["lines"]) == 1
    assert not story["child outlives its Ray worker"]


@pytest.mark.slow
def test_ray_knows_what_the_run_folder_holds(story):
    folder = story["folder"] / "trained"
    assert story["trained"]["metrics"] == json.loads((folder / "metrics.json").read_text())
    checkpoint = Path(story["trained"]["checkpoint"])
    assert folder / "ray" in checkpoint.parents
    model = folder / "saved_model" / "saved_model.pb"
    assert (checkpoint / "saved_model.pb").read_bytes() == model.read_bytes()


@pytest.mark.slow
def test_sigterm_is_save_and_stop(story):
    assert story["stopped"]["code"] == 3


@pytest.mark.slow
def test_nothing_is_left_behind(story):
    assert story["left behind"] == []
    assert story["files left"] == []


def test_without_ray_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(packages, "version", lambda package: None)
    with pytest.raises(ConfigError, match=r"ray.*not installed[\s\S]*To repair it: uv sync --extra=ray"):
        ray_engine.launch(["-m", "recipes.train_distributed"])


@pytest.mark.parametrize(
    ("words", "settings"), [([], {}), (["x.py"], {"workers": 0}), (["x.py"], {"max_restarts": -1})]
)
def test_what_cannot_be_launched_is_refused_before_ray_starts(words, settings):
    with pytest.raises(ConfigError):
        ray_engine.launch(words, **settings)


def test_an_attempt_does_not_count_for_the_next():
    desk = ray_worker.Desk(2, 3)
    assert desk.join("first", 0, "a:1") is None
    assert desk.join("first", 1, "b:1") == ["a:1", "b:1"]
    desk.ended("first", 0, 0, "")
    desk.ended("first", 1, -9, "")
    assert desk.join("second", 1, "b:2") is None
    assert desk.join("second", 0, "a:2") == ["a:2", "b:2"]
    desk.ended("second", 1, 0, "")
    assert not desk.all_ended("second")
    lines, stop = desk.take()
    assert stop is None
    assert [text for _, text in lines] == [
        "worker 1 was killed by SIGKILL",
        "A worker died: all start again from the last backup (1 of 3).",
    ]


def test_the_first_reason_to_stop_is_the_jobs_exit_code():
    desk = ray_worker.Desk(2, 3)
    assert desk.ended("first", 1, 2, "what was asked cannot be done") == 2
    assert desk.ended("first", 0, 3, "saved and stopped") == 2
    assert desk.exchange([]) == 2


@pytest.mark.parametrize(
    ("code", "pulse", "final"),
    [
        (0, None, ""),
        (1, None, ""),
        (-9, '{"beat": 1.0, "gave_up": ', ""),
        (2, None, "what was asked cannot be done"),
        (3, None, "saved and stopped"),
        (1, '{"beat": 1.0, "gave_up": "the loss is NaN"}', "the loss is NaN"),
        (0, '{"beat": 1.0, "gave_up": "the loss is NaN"}', ""),
    ],
)
def test_only_what_a_restart_cannot_mend_is_final(tmp_path, code, pulse, final):
    file = tmp_path / "pulse.json"
    if pulse is not None:
        file.write_text(pulse)
    assert ray_worker._why_final(code, file) == final

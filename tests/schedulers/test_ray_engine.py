"""The recipe on Ray, one of whose workers is killed: it ends as if nothing had been, and leaves nothing behind."""

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

from tfkit import packages, pulse
from tfkit.errors import ConfigError
from tfkit.run import Run
from tfkit.schedulers import ray_engine, ray_worker

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
PATIENCE = 240
RECIPE = [
    *("-m", "recipes.train_distributed", "--dataset", "digits", "--image-size", "16", "--epochs", "6"),
    *("--optimizer", "sgd", "--learning-rate", "0.02", "--backup-steps", "10", "--global-batch-size", "32"),
]
needs_ray = pytest.mark.skipif(
    packages.version("ray") is None, reason="needs ray, 380 MB: uv sync --group ray"
)

# Saves and stops when told.
WAITING = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
print("waiting", flush=True)
time.sleep(600)
"""


class Launched:
    """The driver in a network of its own: TensorFlow's port is open to every interface, and Ray needs none."""

    def __init__(self, *jobs, folder, temporary):
        self.mark, self.lines = uuid.uuid4().hex, []
        self._queue = queue.SimpleQueue()
        alone = ["unshare", *([] if os.getuid() == 0 else ["-r"]), "-n"]
        environment = {"HOME": str(folder / "home"), "TMPDIR": str(temporary), "MARK": self.mark}
        self.process = subprocess.Popen(
            [
                *(*alone, "bash", "-c", 'ip link set lo up; exec "$@"', "bash"),
                *(sys.executable, str(HERE / "ray_driver.py"), *map(json.dumps, jobs)),
            ],
            cwd=folder,
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
        """Processes that it started, directly or not, and that are still there: id and environment."""
        found = {}
        for environment in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                pairs = environment.read_bytes().decode(errors="replace").split("\0")
                if f"MARK={self.mark}" in pairs:
                    found[int(environment.parent.name)] = dict(pair.partition("=")[::2] for pair in pairs)
        return found

    def trainer(self, index):
        """The process that trains as this worker, and where it says how far it is."""
        for process, variables in self.left_behind().items():
            if pulse.VARIABLE in variables and json.loads(variables["TF_CONFIG"])["task"]["index"] == index:
                return process, Path(variables[pulse.VARIABLE])
        return None

    def until(self, found, what):
        """What `found()` gives as soon as it gives something."""
        deadline = time.monotonic() + PATIENCE
        while not (value := found()):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.wait_for(f"no {what}")
            time.sleep(0.05)
        return value


def alive(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def parent(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def newest(run_dir):
    """The epoch of the newest backup; 0 where there is none."""
    states = sorted((run_dir / "backup" / "train").glob("[0-9]*/state.json"))
    return json.loads(states[-1].read_text())["epoch"] if states else 0


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """Two jobs one after the other on one Ray, and what was seen from outside; beside them the same without Ray."""
    folder, temporary = tmp_path_factory.mktemp("ray"), Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))
    (folder / "home").mkdir()
    (folder / "waiting.py").write_text(WAITING)
    # What --overwrite is to remove is gone at a restart: then there is only the job's own backup.
    trained = [*RECIPE, "--overwrite", "--run-dir", str(folder / "trained")]
    stopped = [str(folder / "waiting.py"), "--run-dir", str(folder / "stopped")]
    launched, seen = Launched(trained, stopped, folder=folder, temporary=temporary), {"folder": folder}
    single = [sys.executable, *RECIPE, "--logical-cpus", "2", "--run-dir", str(folder / "single")]
    with (folder / "single.log").open("w") as log:
        undisturbed = subprocess.Popen(single, stdout=log, stderr=log, cwd=folder)

    launched.until(lambda: newest(folder / "trained") >= 1, "backup of epoch 1")
    first, (child, _) = launched.trainer(0)[0], launched.trainer(1)
    os.kill(parent(child), signal.SIGKILL)  # Ray's worker; ours is its child
    killed = time.monotonic()
    time.sleep(1)
    seen["child outlives its Ray worker"] = alive(child)

    def again():
        process, heard = launched.trainer(0) or (first, None)
        said = pulse.read(heard) if process != first else None
        return said and said.trained

    seen["seconds from kill to training"] = launched.until(again, "training again") - killed
    seen["trained"] = launched.ended("trained")
    launched.wait_for(r"worker \d \| waiting")
    launched.process.send_signal(signal.SIGTERM)
    seen["stopped"] = launched.ended("stopped")
    launched.process.wait(PATIENCE)
    seen["lines"] = launched.lines
    seen["left behind"] = launched.left_behind()
    # TensorFlow, when killed, leaves files of its own.
    seen["files left"] = [*(folder / "home").glob("*ray*"), *temporary.glob("*ray*"), *folder.glob(".*")]
    shutil.rmtree(temporary)
    assert undisturbed.wait(PATIENCE) == 0, (folder / "single.log").read_text()[-3000:]
    return seen


@needs_ray
@pytest.mark.slow
def test_a_killed_worker_costs_nothing_but_time(story):
    printed = "\n".join(story["lines"])
    print({name: value for name, value in story.items() if "seconds" in name}, story["trained"]["seconds"])
    assert story["trained"]["code"] == 0, printed[-3000:]
    assert printed.count("all start again") == 1
    assert not story["child outlives its Ray worker"]
    (epoch,) = re.findall(r"worker 0 \| Resumed train at epoch (\d) of 6", printed)
    assert int(epoch) > 1
    ours, theirs = Run.open(story["folder"] / "trained"), Run.open(story["folder"] / "single")
    for name in ("report.html", "metrics.json", "saved_model/saved_model.pb"):
        assert (ours.path / name).is_file(), name
    assert list(ours.history["epoch"]) == list(theirs.history["epoch"])
    assert ours.model.variables_of_model
    for variable, expected in zip(
        ours.model.variables_of_model, theirs.model.variables_of_model, strict=True
    ):
        np.testing.assert_allclose(variable.numpy(), expected.numpy(), atol=1e-6)


@needs_ray
@pytest.mark.slow
def test_ray_knows_what_the_run_folder_holds(story):
    folder = story["folder"] / "trained"
    assert story["trained"]["metrics"] == json.loads((folder / "metrics.json").read_text())
    checkpoint = Path(story["trained"]["checkpoint"])
    assert folder / "ray" in checkpoint.parents
    model = folder / "saved_model" / "saved_model.pb"
    assert (checkpoint / "saved_model.pb").read_bytes() == model.read_bytes()


@needs_ray
@pytest.mark.slow
def test_sigterm_is_save_and_stop(story):
    assert story["stopped"]["code"] == 3


@needs_ray
@pytest.mark.slow
def test_nothing_is_left_behind(story):
    assert not story["left behind"]
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
    assert desk.join("first", 1, "b:1") == (["a:1", "b:1"], 0)
    desk.ended("first", 0, 0, "")
    desk.ended("first", 1, -9, "")
    assert desk.join("second", 1, "b:2") is None
    assert desk.join("second", 0, "a:2") == (["a:2", "b:2"], 1)
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

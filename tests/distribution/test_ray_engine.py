"""The recipe on Ray, one of whose workers is killed: it ends as if nothing had been, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import uuid
from pathlib import Path

import numpy as np
import pytest

from tests import forked
from tests.distribution import processes
from tfkit.distribution.launcher import Job
from tfkit.distribution.ray import Coordinator, launch
from tfkit.environment import packages
from tfkit.environment.heartbeat import VARIABLE, read
from tfkit.errors import ConfigError
from tfkit.run import Run

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
PATIENCE = 900
RECIPE = [
    *("-m", "recipes.train_distributed", "--dataset", "digits", "--image-size", "16", "--epochs", "6"),
    *("--optimizer", "sgd", "--learning-rate", "0.02", "--backup-steps", "10", "--global-batch-size", "32"),
]
needs_ray = pytest.mark.skipif(
    packages.version("ray") is None, reason="needs ray, 380 MB: uv sync --group ray"
)


class Launched(processes.Started):
    """The driver in a network of its own: TensorFlow's port is open to every interface, and Ray needs none."""

    def __init__(self, *words, folder, temporary):
        self.mark = uuid.uuid4().hex
        alone = ["unshare", *([] if os.getuid() == 0 else ["-r"]), "-n"]
        environment = {name: value for name, value in os.environ.items() if "RAY" not in name}
        environment |= {"HOME": str(folder / "home"), "TMPDIR": str(temporary), "MARK": self.mark}
        environment["RAY_worker_niceness"] = (
            "0"  # at Ray's 15 they would wait for whatever else the machine does
        )
        driver = (
            "bash",
            "-c",
            'ip link set lo up; exec "$@"',
            "bash",
            sys.executable,
            HERE / "ray_driver.py",
        )
        super().__init__([*alone, *driver, *words], folder / "launched.log", cwd=folder, env=environment)

    def end(self):
        """After a test that failed; what is there is its own."""
        for process in self.left_behind():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def left_behind(self):
        """Processes that it started, directly or not, and that are still there: id and environment."""
        return {pid: has for pid, _, has in processes.running() if has.get("MARK") == self.mark}

    def trainer(self, index):
        """The process that trains as this worker, and where it says how far it is."""
        for process, variables in self.left_behind().items():
            if VARIABLE in variables and json.loads(variables["TF_CONFIG"])["task"]["index"] == index:
                return process, Path(variables[VARIABLE])
        return None


def parent(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """One job on Ray, and what was seen from outside; beside it the same without Ray."""
    folder, temporary = tmp_path_factory.mktemp("ray"), Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))
    (folder / "home").mkdir()
    options = ["--engine", "ray", "--workers", "2", "--max-restarts", "3", "--"]
    # What --overwrite is to remove is gone at a restart: then there is only the job's own backup.
    words = [*options, *RECIPE, "--overwrite", "--run-dir", str(folder / "trained")]
    launched, seen = Launched(*words, folder=folder, temporary=temporary), {"folder": folder}
    single = [sys.executable, *RECIPE, "--logical-cpus", "2", "--run-dir", str(folder / "single")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (folder / "single.log").open("w") as log:
        undisturbed = forked.Popen(single, stdout=log, stderr=log, cwd=folder, env=environment)
    try:
        launched.until(lambda: processes.newest(folder / "trained") >= 1)
        first, (child, _) = launched.trainer(0)[0], launched.trainer(1)
        os.kill(parent(child), signal.SIGKILL)  # Ray's worker; ours is its child
        killed = time.monotonic()
        launched.until(lambda: child not in launched.left_behind())  # whose Ray worker was killed

        def again():
            process, heard = launched.trainer(0) or (first, None)
            beat = read(heard) if process != first else None
            return beat and beat.trained

        seen["seconds from kill to training"] = launched.until(again) - killed
        seen["code"] = launched.ended()
        seen["lines"] = launched.printed.splitlines()
        deadline = time.monotonic() + 60  # Ray's daemons end when they miss their driver
        while (left := launched.left_behind()) and time.monotonic() < deadline:
            time.sleep(0.5)
        seen["left behind"] = left
        # TensorFlow, when killed, leaves files of its own.
        seen["files left"] = [*(folder / "home").glob("*ray*"), *temporary.glob("*ray*"), *folder.glob(".*")]
        assert undisturbed.wait(PATIENCE) == 0, (folder / "single.log").read_text()[-3000:]
        return seen
    finally:
        launched.end()
        undisturbed.kill()
        shutil.rmtree(temporary)


@needs_ray
@pytest.mark.slow
def test_a_killed_worker_costs_nothing_but_time(story):
    printed = "\n".join(story["lines"])
    print(f"seconds from kill to training: {story['seconds from kill to training']:.1f}")
    assert story["code"] == 0, printed[-3000:]
    assert not story["left behind"]
    assert story["files left"] == []
    assert "all start again" in printed  # on a busy machine Ray may take more for dead than was killed
    (epoch, *_) = re.findall(r"Resumed train at epoch (\d) of 6", printed)
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
    folder, said = story["folder"] / "trained", json.loads(story["lines"][-1])
    assert said["metrics"] == json.loads((folder / "metrics.json").read_text())
    checkpoint = Path(said["checkpoint"])
    assert folder / "ray" in checkpoint.parents
    model = folder / "saved_model" / "saved_model.pb"
    assert (checkpoint / "saved_model.pb").read_bytes() == model.read_bytes()


def test_without_ray_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(packages, "version", lambda package: None)
    with pytest.raises(ConfigError, match=r"--engine ray: .* not installed[\s\S]*To repair it: .*ray"):
        launch(Job(words=("-m", "recipes.train_distributed")))


def test_the_first_reason_to_stop_is_the_jobs_exit_code():
    coordinator = Coordinator()
    assert [coordinator.start(rank) for rank in (0, 1, 0)] == [0, 0, 1]
    assert [coordinator.stop(code) for code in (None, 2, 3, None)] == [None, 2, 2, 2]

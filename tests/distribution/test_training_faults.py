"""A real job of two workers, killed and frozen and stopped: it ends with the weights of one that nobody disturbed.

Each job runs in a network of its own; only processes that it started are ended.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests import forked
from tests.distribution import processes
from tfkit.run import Run

ROOT = Path(__file__).parents[2]
PATIENCE = 900
EPOCHS = 5
# Batches that do not divide by two, weights of classes, dropout, momentum; backups within epochs.
RECIPE = [
    *(
        "--image-size",
        "16",
        "--epochs",
        str(EPOCHS),
        "--global-batch-size",
        "31",
        "--class-weights",
        "always",
    ),
    *("--optimizer", "sgd", "--learning-rate", "0.02", "--patience", "99"),
]


def flags(run_dir: Path, *more: str) -> list[str]:
    return ["-m", "recipes.train_distributed", *RECIPE, "--run-dir", str(run_dir), *more]


class Launched(processes.Started):
    """`python -m tfkit launch` with two workers, and what it printed."""

    def __init__(
        self, run_dir: Path, *options: str, recipe: tuple[str, ...] = ("--backup-steps", "10")
    ) -> None:
        self.run_dir = run_dir
        words = ["launch", "--workers", "2", "--private-network", *options, "--", *flags(run_dir, *recipe)]
        super().__init__([sys.executable, "-m", "tfkit", *words], run_dir.with_suffix(".log"), cwd=ROOT)

    def until_backup(self, epoch: int) -> None:
        self.until(lambda: processes.newest(self.run_dir) >= epoch)

    def until_printed(self, text: str, times: int = 1) -> None:
        self.until(lambda: self.printed.count(text) >= times)

    def worker(self, index: int) -> int:
        """The process id of a worker that runs now."""
        return self.until(lambda: workers_of(self.run_dir).get(index, 0))

    def ended(self, seconds: float = PATIENCE) -> int:
        try:
            return super().ended(seconds)
        finally:
            self.process.kill()
            assert not left_behind(self.run_dir), "processes were left behind"


def left_behind(run_dir: Path) -> list[int]:
    return [pid for pid, line, _ in processes.running() if str(run_dir) in line and pid != os.getpid()]


def workers_of(run_dir: Path) -> dict[int, int]:
    found = [each for each in processes.running() if str(run_dir) in each[1] and "TF_CONFIG" in each[2]]
    return {json.loads(variables["TF_CONFIG"])["task"]["index"]: pid for pid, _, variables in found}


def weights(run_dir: Path) -> list[np.ndarray]:
    return [variable.numpy() for variable in Run.open(run_dir).model.variables_of_model]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    """Two replicas in one process: what two workers must come to."""
    run_dir = tmp_path_factory.mktemp("faults") / "undisturbed"
    command = [sys.executable, *flags(run_dir, "--strategy", "mirrored", "--logical-cpus", "2")]
    done = forked.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr[-3000:]
    return run_dir


def assert_same(run_dir: Path, expected: Path, *, within: float = 1e-5) -> None:
    for ours, theirs in zip(weights(run_dir), weights(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=within)
    ours, theirs = Run.open(run_dir).history, Run.open(expected).history
    assert list(ours["epoch"]) == list(theirs["epoch"])
    for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
        np.testing.assert_allclose(ours[name], theirs[name], atol=within)


@pytest.mark.slow
def test_killed_and_frozen_it_ends_as_if_nothing_had_been(tmp_path, undisturbed):
    """One job: SIGKILL of a worker in training and of the chief in the export; SIGSTOP of a worker."""
    job = Launched(tmp_path / "run", "--max-restarts", "8", "--hang-seconds", "5")
    job.until_backup(1)
    os.kill(job.worker(1), signal.SIGKILL)
    job.until_printed("restart 1 of 8")
    job.until_printed("Training again")
    job.until_backup(2)
    frozen = job.worker(1)
    os.kill(frozen, signal.SIGSTOP)
    stopped = time.monotonic()
    job.until_printed("restart 2 of 8")
    assert time.monotonic() - stopped < 30
    job.until(lambda: list((tmp_path / "run").glob("*saved_model*")))
    os.kill(job.worker(0), signal.SIGKILL)
    assert job.ended() == 0, job.printed[-3000:]
    assert_same(tmp_path / "run", undisturbed)
    printed = job.printed
    assert f"epoch {EPOCHS}/{EPOCHS}" in printed
    assert not [character for character in ("\r", "\b", "\x1b") if character in job.log.read_bytes().decode()]
    assert "worker 1 died (SIGKILL)" in printed
    assert "worker 0 died (SIGKILL)" in printed
    assert re.search(r"worker 1 (stopped answering|has not answered)", printed)
    overheads = [float(seconds) for seconds in re.findall(r"Training again after ([0-9.]+) s", printed)]
    print(f"death to training: {overheads}")
    metrics = Run.open(tmp_path / "run").metrics
    assert metrics["export/agreement"] == 1.0
    assert {"worker_0_examples_per_second", "worker_1_examples_per_second"} <= set(
        Run.open(tmp_path / "run").history.columns
    )


@pytest.mark.slow
def test_told_to_stop_it_saves_and_one_process_goes_on_with_it(tmp_path, undisturbed):
    """SIGTERM before and in training: exit code 3, within an epoch; then two replicas of one process finish the run."""
    for moment in ("A step takes", f"epoch 2/{EPOCHS}"):
        job = Launched(tmp_path / "run", recipe=())
        job.until_printed(moment)
        job.process.send_signal(signal.SIGTERM)
        assert job.ended() == 3, job.printed[-3000:]
    state = json.loads(sorted((tmp_path / "run/backup/train").glob("[0-9]*/state.json"))[-1].read_text())
    assert not state["finished"]
    assert state["epoch"] >= 1
    command = [sys.executable, *flags(tmp_path / "run", "--logical-cpus", "2")]
    done = forked.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"Resumed train at epoch {state['epoch'] + 1} of {EPOCHS}" in done.stdout
    # Two processes add in another order than two replicas of one, in the last bit; once in some 200 steps that turns
    # a ReLU on or off, after which the weights part. So: the epoch after the resume is the same, the rest is alike.
    resumed, expected = Run.open(tmp_path / "run").history, Run.open(undisturbed).history
    assert list(resumed["epoch"]) == list(expected["epoch"])
    after = state["epoch"] + 1
    np.testing.assert_allclose(resumed["loss"][:after], expected["loss"][:after], atol=1e-3)
    np.testing.assert_allclose(resumed["loss"], expected["loss"], atol=0.02)
    # Meanwhile, and afterwards, the folder is that run's.
    command[-2:] = ["--seed", "1"]
    other = forked.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert other.returncode == 2
    assert "another config" in other.stderr

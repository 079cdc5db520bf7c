"""The notebook of several workers, as a student runs it, in a network that nobody else reaches."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest

from tfkit.run import Run

ROOT = Path(__file__).parents[2]
PATIENCE = 900
# TensorFlow's port is open to every interface, and asks nobody who they are.
ALONE = ["unshare", *([] if os.getuid() == 0 else ["-r"]), "-n"]


def processes_in(folder: Path) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").resolve().is_relative_to(folder):
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the notebook ran."""
    folder = tmp_path_factory.mktemp("notebook")
    words = [sys.executable, str(ROOT / "notebooks/execute.py")]
    words += [str(ROOT / "notebooks/train_distributed.ipynb"), str(folder), "recipe_epochs=5"]
    # As many threads as students have: rounding depends on their number, and three epochs make 1e-3 of that.
    fixed = ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS")
    environment = {name: value for name, value in os.environ.items() if name not in fixed}
    done = subprocess.run(
        [*ALONE, "bash", "-c", 'ip link set lo up; exec "$@"', "bash", *words],
        env={**environment, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.fixture(scope="module")
def outputs(folder):
    cells = nbformat.read(folder / "executed.ipynb", as_version=4).cells
    return [output for cell in cells for output in cell.get("outputs", [])]


@pytest.fixture(scope="module")
def printed(outputs):
    return "".join(output["text"] for output in outputs if output.output_type == "stream")


@pytest.mark.slow
def test_two_workers_make_the_model_of_one_process(folder, printed):
    told = re.search(r"weights    differ by (\S+) at most, in 6 variables", printed)
    assert told, printed[-3000:]
    assert float(told[1]) < 1e-5
    assert float(re.search(r"test loss .* difference (\S+)", printed)[1]) < 1e-5
    together, alone = (Run.open(folder / "runs" / name) for name in ("together", "alone"))
    for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
        np.testing.assert_allclose(together.history[name], alone.history[name], atol=1e-5)
    assert together.history["val_loss"].iloc[-1] < 0.5  # it has learned, and not only agreed
    assert "worker_1_examples_per_second" in together.history
    assert "worker_1_examples_per_second" not in alone.history


@pytest.mark.slow
def test_a_killed_worker_costs_time_and_nothing_else(folder, printed):
    assert "worker 1 died (SIGKILL)" in printed
    assert re.search(r"Resumed train at epoch [234] of 5", printed), printed[-6000:]
    assert re.search(r"Training again after [0-9.]+ s", printed)
    killed, undisturbed = (Run.open(folder / "runs" / name) for name in ("killed", "undisturbed"))
    assert killed.finished
    assert undisturbed.finished
    assert killed.metrics["test/loss"] == pytest.approx(undisturbed.metrics["test/loss"], abs=1e-6)
    np.testing.assert_allclose(killed.history["val_loss"], undisturbed.history["val_loss"], atol=1e-5)
    models = [run.model.variables_of_model for run in (killed, undisturbed)]
    for ours, theirs in zip(*models, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=1e-6)


@pytest.mark.slow
def test_it_shows_what_it_talks_of_and_leaves_nothing_behind(folder, outputs, printed):
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
    assert "It is a 7" in printed
    assert "2 replicas on 2 workers" in printed
    assert "EVERY network interface" in printed
    assert "#SBATCH --nodes=4" in printed
    assert "-m recipes.train_distributed" in printed.partition("#SBATCH")[2]
    assert processes_in(folder) == []

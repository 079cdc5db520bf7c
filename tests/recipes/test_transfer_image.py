"""The main job, as its user runs it: real backbone, real images, a folder that says the truth."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from recipes.transfer_image import Config, run
from tests import forked
from tests.hub.conftest import export
from tfkit.cli import closing_lines
from tfkit.environment import timeline
from tfkit.environment.stack import tf
from tfkit.errors import RunError
from tfkit.run import Run

ROOT = Path(__file__).parents[2]
# So slow a fine-tuning improves a head of one epoch: it is not undone.
QUICK = {"epochs": 1, "fine_tune_epochs": 1, "global_batch_size": 16, "image_size": 48}
QUICK["fine_tune_learning_rate"] = 3e-5


@pytest.fixture(scope="module")
def watched(photos, tmp_path_factory) -> tuple[Run, list[str], float]:
    """A run, what it said to stderr while a line was due five times a second, and how long it took."""
    config = Config(data_dir=photos, run_dir=tmp_path_factory.mktemp("runs") / "photos", **QUICK)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(io.StringIO()) as said:
        patch.setattr(timeline, "EVERY", 0.2)
        began = time.monotonic()
        made = run(config)
    return made, said.getvalue().splitlines(), time.monotonic() - began


@pytest.fixture(scope="module")
def finished(watched) -> Run:
    return watched[0]


def recipe(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "recipes.transfer_image", *arguments]
    return forked.run(
        command, capture_output=True, text=True, cwd=cwd, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )


def stopped(start, arguments: list[str], sign: Path, *, by: signal.Signals) -> int:
    """The exit code of a recipe that gets a signal as soon as a file appears."""
    process = start(
        [sys.executable, "-m", "recipes.transfer_image", *arguments], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    while not sign.exists():
        assert process.poll() is None, "it ended before it could be stopped"
        time.sleep(0.02)
    process.send_signal(by)
    return process.wait()


@pytest.mark.slow
def test_the_run_folder_holds_all_that_is_promised(finished):
    files = {path.name for path in finished.path.iterdir()}
    assert files >= {
        "config.yaml", "versions.json", "metrics.json", "saved_model", "labels.txt", "logs", "backup", "history.csv",
        "provenance.json", "evaluation.npz", "notes.txt", "report.html",
    }  # fmt: skip
    assert not [name for name in files if name.startswith(".") and name != ".lock"]
    metrics = finished.metrics
    assert metrics["test/accuracy"] > 0.8
    assert metrics["export/agreement"] == 1.0
    times = {f"time/{part}_seconds" for part in ("features", "train", "total")}
    assert {*times, "test/loss", *(f"test/recall/digit {digit}" for digit in range(3))} <= set(metrics)
    assert finished.versions["problems"] == []
    assert finished.config["image_size"] == finished.provenance["data"]["shape"][0]
    assert finished.labels == ["digit 0", "digit 1", "digit 2"]
    assert list(finished.history["stage"].unique()) == ["head", "fine_tune"]
    assert not [note for note in finished.notes if "undone" in note]
    assert [
        note for note in finished.notes if "(1 epoch of " in note and "--fine-tune-epochs 0 leaves" in note
    ]
    assert list(finished.history["epoch"]) == list(range(len(finished.history)))


@pytest.mark.slow
def test_the_timeline_holds_all_of_the_time_and_no_stage_is_silent(watched):
    made, lines, seconds = watched
    times = timeline.usage_in(made.metrics)
    total = made.metrics["time/total_seconds"]
    named = "model data features head fine_tune measure export figures report"
    assert set(named.split()) <= set(times)
    assert sum(used.seconds for used in times.values()) == pytest.approx(total)
    assert total == pytest.approx(seconds, rel=0.05, abs=0.5)
    assert times["other"].seconds < 0.2 * total
    assert times["fine_tune"].cpu_seconds > made.metrics["time/train_seconds"] / 10
    said = {
        "features": r"Preparing the features|Computing features|Converting|Running LiteRT",
        "head": r"Training, stage head|head, epoch 1 of 1.*: \d+ of \d+ steps|Building",
        "fine_tune": r"Training, stage fine_tune|fine_tune, epoch 1 of 1.*: \d+ of \d+ steps, about .* left",
        "export": "Exporting the model|Loading a SavedModel",
        "report": "Writing the report",
    }
    for name, pattern in said.items():
        if times[name].seconds > 2:  # of ten lines that are due, one
            assert any(re.match(pattern, line) for line in lines), (name, lines)
    assert any(times[name].seconds > 2 for name in said)
    assert "Where the time went" in (made.path / "report.html").read_text()
    (took,) = [line for line in closing_lines(made) if line.startswith("took")]
    assert f" {total:.0f} s: " in took
    assert f"fine_tune {times['fine_tune'].seconds:.0f}" in took


@pytest.mark.slow
def test_loading_the_model_needs_nothing_but_tensorflow(finished):
    program = (
        "import sys, numpy, tensorflow as tf\n"
        f"model = tf.saved_model.load({str(finished.path / 'saved_model')!r})\n"
        "serve = model.signatures['serving_default']\n"
        "out = serve(images=tf.zeros([2, 30, 40, 3], tf.uint8))['probabilities']\n"
        "assert out.shape == (2, 3), out.shape\n"
        "numpy.testing.assert_allclose(out, model(tf.zeros([2, 30, 40, 3], tf.float32)), atol=1e-6)\n"
        "assert not {'tfkit', 'tensorflow_hub', 'tf_keras'} & set(sys.modules)\n"
    )
    stock = {name: value for name, value in os.environ.items() if not name.startswith("TF")}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd="/", env=stock)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_asked_again_it_answers_from_the_folder(finished, photos, capsys):
    before = (finished.path / "metrics.json").stat().st_mtime_ns
    again = run(Config(data_dir=photos, run_dir=finished.path, **QUICK))
    assert again.metrics == finished.metrics
    assert (finished.path / "metrics.json").stat().st_mtime_ns == before
    assert "finished run" in capsys.readouterr().out
    with pytest.raises(RunError, match=r"seed: 0 there, 1 now[\s\S]*--overwrite"):
        run(Config(data_dir=photos, run_dir=finished.path, seed=1, **QUICK))


@pytest.mark.slow
def test_killed_and_started_again_it_ends_as_if_nothing_had_been(finished, tmp_path):
    """Ctrl-C after the head, kill -9 after an epoch of fine-tuning, in processes of their own.

    From nothing but config.yaml, in another folder: it replays a run to the last digit.
    """
    arguments = ["--config", str(finished.path / "config.yaml"), "--run-dir", str(tmp_path / "run")]
    head, fine_tune = tmp_path / "run/backup/head/00000001", tmp_path / "run/backup/fine_tune/00000001"
    assert stopped(subprocess.Popen, arguments, head, by=signal.SIGINT) == 3
    assert stopped(forked.Popen, arguments, fine_tune, by=signal.SIGKILL) == -9
    assert not Run.open(tmp_path / "run").finished
    done = recipe(*arguments)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.rstrip().splitlines()[-6:]) == 6
    metrics = Run.open(tmp_path / "run").metrics
    assert metrics["test/loss"] == finished.metrics["test/loss"]
    used = sum(used.seconds for used in timeline.usage_in(metrics).values())
    assert used == pytest.approx(metrics["time/total_seconds"]), "three processes together"
    assert any("stored already" in note for note in Run.open(tmp_path / "run").notes), (
        "features are computed once"
    )
    ours = tf.saved_model.load(str(tmp_path / "run" / "saved_model")).variables_of_model
    theirs = finished.model.variables_of_model
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


@pytest.mark.slow
def test_another_way_to_train(photos, tmp_path):
    """Unfrozen in stages."""
    settings = {**QUICK, "fine_tune_epochs": 2, "unfreeze": "staged"}
    done = run(Config(data_dir=photos, run_dir=tmp_path, **settings))
    assert done.metrics["export/agreement"] == 1.0
    assert list(done.history["stage"].unique()) == ["head", "fine_tune_top", "fine_tune"]


@pytest.mark.slow
def test_a_hub_model_of_ones_own(photos, tmp_path):
    """A SavedModel folder that is no bundled one is fine-tuned as a hub.KerasLayer.

    Augmented, so without stored features; with them it is fine-tuned in tests/transfer/test_continuing.py.
    """
    kernel = tf.Variable(tf.random.stateless_normal([3, 3, 3, 8], seed=[1, 2]))

    def edges(images, training=False):
        return tf.reduce_mean(tf.nn.relu(tf.nn.conv2d(images, kernel, 1, "SAME")), [1, 2])

    folder = export(tmp_path / "exported", edges, variables=[kernel])
    settings = {"epochs": 2, "fine_tune_epochs": 1, "global_batch_size": 16, "image_size": 48}
    settings["augment"] = "standard"
    done = run(Config(data_dir=photos, run_dir=tmp_path / "run", model_handle=str(folder), **settings))
    assert done.metrics["export/agreement"] == 1.0
    assert done.metrics["time/features_seconds"] == 0
    assert any("Stored features are off" in note for note in done.notes)
    assert json.loads((done.path / "provenance.json").read_text())["model"]["handle"] == str(folder)
    assert list(done.history["stage"].unique()) == ["head", "fine_tune"]

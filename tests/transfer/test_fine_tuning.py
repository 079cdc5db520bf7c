"""How much fine-tuning there is: decided by what its first steps take, once for a run."""

from __future__ import annotations

import pytest

import tfkit
from tfkit.distribution.replicas import Replicas
from tfkit.environment.stack import tf
from tfkit.run import Run
from tfkit.settings.options import ImageSettings
from tfkit.settings.parse import as_dict
from tfkit.transfer import models
from tfkit.transfer.fine_tuning import _format_duration, _Plan


@pytest.fixture(scope="module")
def data(photos, edges):
    return tfkit.load_model(edges), tfkit.load_images(photos, image_size=32)


def plan_of(run, data, config):
    plan = _Plan(run, *data, config, Replicas(tf.distribute.get_strategy()))
    plan.schedule = models.open_schedule(1.0)
    return plan


@pytest.mark.skipif(
    bool(tf.config.list_physical_devices("GPU")), reason="there is no budget where there is a GPU"
)
@pytest.mark.parametrize(
    ("asked", "seconds", "epochs", "words"),
    [
        ({}, 1.0, 5, "about 5 seconds (5 epochs of 3 steps); --fine-tune-minutes N bounds it"),
        ({}, 25.0, 2, "about 50 seconds (2 epochs in place of 5 of 3 steps)"),
        ({}, 70.0, 0, "too long for 60 seconds in all (--fine-tune-epochs 5 turns it on: about 6 minutes"),
        ({"fine_tune_minutes": 8}, 70.0, 5, "about 6 minutes (5 epochs of 3 steps)"),
        ({"fine_tune_epochs": 7}, 3600.0, 7, "about 420 minutes (7 epochs of 3 steps)"),
        ({"fine_tune_epochs": 7, "fine_tune_minutes": 2}, 50.0, 2, "2 epochs in place of 7"),
    ],
)  # fmt: skip
def test_the_epochs_that_fit_are_planned_and_stay_so(data, tmp_path, asked, seconds, epochs, words):
    config = ImageSettings(**asked)
    with Run.create(tmp_path, config=as_dict(config)) as run:
        plan = plan_of(run, data, config)
        assert plan.decide("fine_tune", seconds) == epochs
        assert words in run.notes[-1]
        assert (run.config["fine_tune_epochs"], run.config["fine_tune_minutes"]) == (epochs, None)
        assert plan.schedule.warmup_steps + plan.schedule.decay_steps == max(3 * epochs, 1)
        # Whoever goes on with the run, however slow the machine is then, trains as many.
        again = plan_of(run, data, config)
        assert (again.epochs, again.epochs_of("fine_tune_top")) == (epochs, 0)
        assert again.decide("fine_tune", 1e6) == epochs


def test_a_schedule_that_is_planned_late_is_the_usual_one():
    late = models.open_schedule(3e-4)
    for steps in (1, 5, 30, 70):
        models.set_steps(late, steps)
        usual = models.learning_rate_schedule(3e-4, steps=steps)
        for step in range(steps + 2):
            assert float(late(step)) == float(usual(step))


def test_where_no_epoch_fits_the_head_is_the_model(photos, edges, tmp_path):
    """Measured on real steps, and told what would turn it on; the same command finds the run finished."""
    settings = {"model": str(edges), "run_dir": tmp_path / "run", "image_size": 32, "epochs": 2}
    run = tfkit.train(photos, fine_tune_minutes=1e-6, **settings)
    assert list(run.history["stage"].unique()) == ["head"]
    (note,) = [note for note in run.notes if "Fine-tuning is off" in note]
    assert "--fine-tune-epochs 5 turns it on" in note
    assert not [note for note in run.notes if "undone" in note]
    assert run.config["fine_tune_epochs"] == 0
    assert run.metrics["export/agreement"] == 1.0
    assert tfkit.train(photos, fine_tune_minutes=1e-6, **settings).metrics == run.metrics


def test_durations_are_said_in_words():
    assert [_format_duration(seconds) for seconds in (0.2, 1.6, 60, 150)] == [
        "1 second", "2 seconds", "60 seconds", "2 minutes",
    ]  # fmt: skip

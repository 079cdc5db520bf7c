"""Fine-tuning: a batch in pieces is the whole batch, what is measured is taken back, what is worse is given up."""

from __future__ import annotations

import numpy as np
import pytest

from tests.training.test_loop import DieAt, assert_same
from tfkit import data
from tfkit.environment.stack import keras, tf
from tfkit.errors import ConfigError
from tfkit.run import Run
from tfkit.training import fit
from tfkit.training.methods import accumulate_gradients
from tfkit.training.stage import Cadence, Stage


@pytest.fixture(scope="module")
def splits():
    return data.load_images("digits", image_size=16, global_batch_size=100)


def build_model(*, rate=1e-3, trainable=False, dropout=0.0):
    """A network whose batch normalisation is frozen, as that of a backbone is."""
    layers = keras.layers
    normalisation = layers.BatchNormalization(trainable=trainable)
    body = [layers.Conv2D(4, 3, strides=2), normalisation, layers.ReLU(), layers.Flatten()]
    model = keras.Sequential([keras.Input([16, 16, 3]), *body, layers.Dropout(dropout), layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    return model


def train(run_dir, splits, *, plan=None, callbacks=(), rate=1e-3, dropout=0.3, **settings):
    with Run.create(run_dir, config={}) as run:
        stage = Stage(**{"epochs": 2, "verbose": 0, "cadence": Cadence(epoch_seconds=0.0), **settings})
        model = lambda: build_model(rate=rate, dropout=dropout)  # noqa: E731
        return fit.train(model, splits, stage, run=run, plan=plan, callbacks=callbacks)


@pytest.fixture(scope="module")
def two_epochs(splits, tmp_path_factory):
    return train(tmp_path_factory.mktemp("two"), splits)


def test_in_pieces_the_result_is_that_of_the_whole_batch(splits, tmp_path):
    """Of 1,258 examples: the last batch has 58, its last piece 2. Weighed, as the classes of few examples are."""
    weighed = {"dropout": 0.0, "class_weight": {label: 0.5 + label / 10 for label in range(10)}}
    whole = train(tmp_path / "whole", splits, **weighed)
    pieces = train(tmp_path / "pieces", splits, physical_batch_size=14, **weighed)
    for ours, theirs in zip(pieces.model.get_weights(), whole.model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)
    for ours, theirs in zip(pieces.rows, whole.rows, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert ours["accuracy"] == theirs["accuracy"]


def test_in_pieces_less_is_kept():
    """No operation outside of the loop over the pieces computes activations."""
    model = build_model()
    accumulate_gradients(model, 5)
    batch = tf.zeros([20, 16, 16, 3]), tf.zeros([20], tf.int64)
    step = tf.function(model.train_step).get_concrete_function(batch)
    operations = {operation.type for operation in step.graph.get_operations()}
    assert "While" in operations or "StatelessWhile" in operations
    assert "Conv2D" not in operations  # but in the loop


def test_mixed_precision_scales_the_loss_of_each_piece(splits):
    images, labels = next(iter(splits.train))
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        steps = []
        for size in (len(labels), 30):
            keras.utils.set_random_seed(1)
            model = build_model()
            model.compile(keras.mixed_precision.LossScaleOptimizer(keras.optimizers.SGD(0.1)), model.loss)
            start = model.get_weights()
            accumulate_gradients(model, size)
            model.fit(images, labels, batch_size=len(labels), verbose=0)
            steps.append([new - old for new, old in zip(model.get_weights(), start, strict=True)])
    finally:
        keras.mixed_precision.set_global_policy(before)
    assert max(np.abs(step).max() for step in steps[0]) > 1e-3
    for ours, theirs in zip(*steps, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_batch_normalisation_that_is_trained_has_no_pieces():
    with pytest.raises(ConfigError, match=r"batch_normalization[\s\S]*physical_batch_size"):
        accumulate_gradients(build_model(trainable=True), 5)


def test_a_plan_of_fewer_epochs_is_the_training_of_so_many(splits, tmp_path, two_epochs):
    """The steps that were measured are taken back, to the last bit; the epochs after the plan are not trained."""
    measured = []

    def two(seconds):
        measured.append(seconds)
        return 2

    assert_same(train(tmp_path, splits, plan=two, epochs=5), two_epochs)
    assert 0 < measured[0] < 600


def test_a_plan_of_no_epochs_leaves_what_was_there(splits, tmp_path):
    trained = train(tmp_path, splits, plan=lambda seconds: 0, start_val_loss=1.5)
    assert (trained.rows, trained.val_loss, trained.best_epoch) == ([], 1.5, None)
    assert not Run.open(tmp_path).notes


WORSE = {"epochs": 9, "rate": 3.0, "start_val_loss": 2.0, "start_error": 0.05}


@pytest.mark.parametrize("place", [None, (0, 9)])
def test_what_is_clearly_worse_twice_is_given_up(splits, tmp_path, place):
    """Before its ninth epoch, once it is not on its way back; killed after the first half likewise."""
    often = Cadence(steps=2)
    if place:
        with pytest.raises(RuntimeError, match="dead"):
            train(tmp_path, splits, callbacks=[DieAt(*place)], cadence=often, **WORSE)
    trained = train(tmp_path, splits, cadence=often, **WORSE)
    assert (len(trained.rows), trained.best_epoch, trained.val_loss) == (5, None, 2.0)
    keras.utils.set_random_seed(0)
    for ours, theirs in zip(trained.model.get_weights(), build_model().get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    (note,) = [note for note in Run.open(tmp_path).notes if "undone" in note]
    assert "above 2.1000" in note
    assert "5 of 9 epochs" in note


def test_the_evaluation_in_an_epoch_changes_nothing_else(splits, tmp_path, two_epochs):
    better = train(tmp_path, splits, start_val_loss=9.0, start_error=0.1)
    assert_same(better, two_epochs)

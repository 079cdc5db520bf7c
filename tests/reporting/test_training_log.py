"""What TensorBoard shows of a training: read back from the event files of real trainings."""

import time

import numpy as np
import pytest
from sklearn.datasets import load_digits
from tensorboard.util import tensor_util

from tfkit import reporting
from tfkit.environment.stack import keras

BATCH, STEPS = 64, 8
EXAMPLES = BATCH * STEPS


@pytest.fixture(scope="module")
def digits():
    images, labels = load_digits(return_X_y=True)
    return images.astype(np.float32) / 16, labels


def build(rate=0.01, **how):
    model = keras.Sequential([keras.layers.Dense(10, input_shape=[64], name="classifier")])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"], **how)
    return model


def train(model, digits, logdir, *, epochs, first_epoch=0, initial_epoch=0, more=()):
    images, labels = digits
    logging = reporting.callbacks(
        logdir, first_epoch=first_epoch, steps_per_epoch=STEPS, examples_per_epoch=EXAMPLES
    )
    return model.fit(
        images[:EXAMPLES], labels[:EXAMPLES], validation_data=(images[EXAMPLES:], labels[EXAMPLES:]),
        batch_size=BATCH, epochs=epochs, initial_epoch=initial_epoch, callbacks=[*logging, *more], verbose=0,
    )  # fmt: skip


def scalars(multiplexer, run, tag):
    events = multiplexer.Tensors(run, tag)
    return {event.step: float(tensor_util.make_ndarray(event.tensor_proto)) for event in events}


def steps(multiplexer, run, tag):
    return [event.step for event in multiplexer.Tensors(run, tag)]


def test_scalars_are_those_of_the_history(digits, tmp_path, read):
    history = train(build(), digits, tmp_path, epochs=3).history
    multiplexer = read(tmp_path)
    for run, tag, name in [
        ("train", "epoch_loss", "loss"),
        ("train", "epoch_accuracy", "accuracy"),
        ("validation", "epoch_loss", "val_loss"),
        ("validation", "epoch_accuracy", "val_accuracy"),
        ("train", "epoch_learning_rate", "learning_rate"),
        ("train", "epoch_examples_per_second", "examples_per_second"),
        ("train", "epoch_step_ms", "step_ms"),
    ]:
        assert scalars(multiplexer, run, tag) == pytest.approx(dict(enumerate(history[name])), rel=1e-6)
    rates = scalars(multiplexer, "train", "epoch_log10_learning_rate")
    assert rates == pytest.approx(dict(enumerate(np.log10(history["learning_rate"]))))
    assert set(multiplexer.Runs()["validation"]["tensors"]) == {"epoch_loss", "epoch_accuracy"}


def test_learning_rate_is_what_the_last_step_used(digits, tmp_path):
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([2 * STEPS - 1], [0.5, 0.25])
    history = train(build(schedule), digits, tmp_path, epochs=3).history
    assert history["learning_rate"] == pytest.approx([0.5, 0.5, 0.25])
    assert train(build(0.125), digits, tmp_path / "constant", epochs=1).history["learning_rate"] == [0.125]
    legacy = build()
    legacy.compile(keras.optimizers.legacy.SGD(schedule), "mse")
    assert train(legacy, digits, tmp_path / "legacy", epochs=1).history["learning_rate"] == [0.5]


@pytest.mark.parametrize("at_once", [1, 4])
def test_speed_is_of_steps_and_leaves_validation_out(digits, tmp_path, at_once):
    class Slow(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.began = time.perf_counter()

        def on_train_batch_begin(self, batch, logs=None):
            time.sleep(0.02 * at_once)

        def on_test_begin(self, logs=None):
            time.sleep(0.5)

        def on_epoch_end(self, epoch, logs=None):
            self.seconds = time.perf_counter() - self.began

    slow = Slow()
    model = build(steps_per_execution=at_once)
    history = train(model, digits, tmp_path, epochs=2, more=[slow]).history
    step_ms = history["step_ms"][1]
    assert 20 < step_ms < 1000 * (slow.seconds - 0.5) / STEPS
    assert history["examples_per_second"][1] == pytest.approx(1000 * BATCH / step_ms)


def test_a_resumed_run_repeats_no_epoch(digits, tmp_path, read):
    """A process was killed after it had logged epoch 3; the last backup is of the end of epoch 1."""
    train(build(), digits, tmp_path, epochs=2)
    train(build(), digits, tmp_path, epochs=2, first_epoch=2)
    before = scalars(read(tmp_path), "train", "epoch_loss")
    history = train(build(), digits, tmp_path, epochs=4, first_epoch=2, initial_epoch=1).history
    multiplexer = read(tmp_path)
    assert steps(multiplexer, "train", "epoch_loss") == [0, 1, 2, 3, 4, 5]
    assert steps(multiplexer, "validation", "epoch_loss") == [0, 1, 2, 3, 4, 5]
    after = scalars(multiplexer, "train", "epoch_loss")
    assert [after[step] for step in (0, 1, 2)] == [before[step] for step in (0, 1, 2)]
    assert [after[step] for step in (3, 4, 5)] == pytest.approx(history["loss"], rel=1e-6)


def test_the_graph_is_that_of_the_last_stage(digits, tmp_path, read):
    train(build(), digits, tmp_path, epochs=1)
    train(build(), digits, tmp_path, epochs=2, initial_epoch=1)
    assert len([*(tmp_path / "train").glob("*.graph")]) == 1
    wide = keras.Sequential([keras.layers.Dense(16, input_shape=[64], name="wide"), keras.layers.Dense(10)])
    wide.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    train(wide, digits, tmp_path, epochs=1, first_epoch=2)
    multiplexer = read(tmp_path)
    assert set(multiplexer.Runs()) == {"train", "validation"}
    assert "wide/MatMul" in str(multiplexer.Graph("train"))
    (event,) = multiplexer.Tensors("train", "keras")
    assert b"wide" in tensor_util.make_ndarray(event.tensor_proto).item()


def test_a_subclassed_model_has_a_graph_too(digits, tmp_path, read):
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(10)

        def call(self, inputs, training=None):
            return self.dense(inputs)

    model = Own()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    train(model, digits, tmp_path, epochs=1)
    assert "MatMul" in str(read(tmp_path).Graph("train"))

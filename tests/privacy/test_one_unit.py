"""A model of one unit is trained privately as any other; what cannot be is refused before anything is spent."""

from __future__ import annotations

import logging

import numpy as np
import pytest

import tfkit
from tests.privacy.models import MODELS
from tfkit.environment.stack import keras, tf
from tfkit.errors import UsageError
from tfkit.privacy import DPSGD, problems, step

L = keras.layers
BATCH = 16


@pytest.fixture(scope="module")
def splits():
    images, labels = np.zeros([90, 8, 8], np.uint8), np.arange(90) % 2
    images[labels == 1] = 180
    return tfkit.from_arrays(images, labels, image_size=8, global_batch_size=BATCH)


def build(units=1, activation="sigmoid", loss="binary_crossentropy", shape=(8, 8, 3), **compiled):
    model = keras.Sequential([keras.Input(shape), L.Flatten(), L.Dense(units, activation)])
    model.compile(keras.optimizers.SGD(1.0), loss, **compiled)
    return model


def plan(**asked):
    return DPSGD(**asked).plan(examples=1000, expected_batch_size=BATCH, epochs=1)


def batch(model, seed=0):
    generator = np.random.default_rng(seed)
    inputs = tf.constant(generator.normal(size=[BATCH, *model.input_shape[1:]]), tf.float32)
    return inputs, tf.constant(generator.integers(0, 2, BATCH))


def test_the_noise_is_what_is_accounted():
    """With padding alone the update is noise: standard deviation z * C / B."""
    model = build(shape=(64, 64, 3))
    before = model.get_weights()[0].copy()
    step.attach(model, plan(noise_multiplier=2.0, l2_norm_clip=0.5), secret=bytes(range(16)))
    inputs, labels = batch(model)
    given = tf.data.Dataset.from_tensors((inputs[None], labels[None], tf.zeros([1, BATCH])))
    model.fit(given, verbose=0)
    noise = model.get_weights()[0] - before
    assert noise.std() == pytest.approx(2.0 * 0.5 / BATCH, rel=0.03)
    assert abs(noise.mean()) < 4 * noise.std() / np.sqrt(noise.size)


def fit(build_model, splits, run_dir, **asked):
    return tfkit.fit(
        build_model, splits, run_dir=run_dir, epochs=2, verbose=0, strategy="one_device",
        privacy=DPSGD(target_epsilon=8.0, **asked),
    )  # fmt: skip


def test_one_sigmoid_is_trained_and_its_step_traced_once(splits, tmp_path):
    kept = []

    def build_model():
        kept.append(build(metrics=["accuracy"]))
        return kept[-1]

    run = fit(build_model, splits, tmp_path)
    assert 7.9 < run.metrics["privacy/epsilon"] <= 8
    assert run.metrics["export/agreement"] == 1.0
    assert kept[0].train_tf_function.experimental_get_tracing_count() == 1


SPARSE = "sparse_categorical_crossentropy"
REFUSED = {
    "three units": ({"units": 3, "activation": "softmax", "loss": SPARSE}, "2 units"),
    "class numbers as rows": (
        {"units": 2, "activation": "softmax", "loss": "categorical_crossentropy"},
        SPARSE,
    ),
    "logits for probabilities": ({"units": 2, "activation": None, "loss": SPARSE}, "from_logits=True"),
    "a metric of the validation": (
        {"units": 2, "activation": "softmax", "loss": SPARSE, "metrics": [keras.metrics.AUC(name="area")]},
        "area",
    ),
    "several steps at a time": ({"steps_per_execution": 2}, "steps_per_execution is 2"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_nothing_is_spent_on_what_cannot_be_judged(name, splits, tmp_path):
    settings, said = REFUSED[name]
    with pytest.raises(UsageError, match=said):
        fit(lambda: build(**settings), splits, tmp_path)
    assert not list(tmp_path.rglob("ledger.json"))
    assert not (tmp_path / "privacy.json").exists()


def test_nothing_is_spent_where_the_step_cannot_be_traced(splits, tmp_path):
    """An optimizer is first called in the step."""

    class Refusing(keras.optimizers.SGD):
        def update_step(self, gradient, variable):
            raise ValueError("not today")

    def build_model():
        model = build()
        model.compile(Refusing(), "binary_crossentropy")
        return model

    with pytest.raises(UsageError, match=r"not today[\s\S]*Nothing was spent"):
        fit(build_model, splits, tmp_path)
    assert not list(tmp_path.rglob("ledger.json"))


@pytest.mark.parametrize("name", ["attention", "einsum turned", "lstm", "own block"])
def test_tensorflow_has_nothing_to_report(name):
    """AutoGraph, which Keras lets loose on its training step, says so where it cannot convert a function."""
    model = MODELS[name]()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    inputs = tf.ones([1, 8, *model.input_shape[1:]], model.inputs[0].dtype)
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    tf.get_logger().addHandler(handler)
    try:
        assert problems(model) == []
        step.attach(model, plan(noise_multiplier=1.0), secret=bytes(16))
        given = tf.data.Dataset.from_tensors((inputs, tf.zeros([1, 8], tf.int64), tf.ones([1, 8])))
        model.fit(given, verbose=0)
    finally:
        tf.get_logger().removeHandler(handler)
    assert not [line for line in said if "report" in line]

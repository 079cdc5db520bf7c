"""Each example's loss is what Keras takes the mean of, and no example's loss knows of another."""

import numpy as np
import pytest

from tfkit.environment.stack import keras, tf
from tfkit.errors import PrivacyError
from tfkit.privacy.clipping import per_example_loss

BATCH = 5
generator = np.random.default_rng(0)
SCORES = tf.constant(generator.normal(size=[BATCH, 4]), tf.float32)
ONE_SCORE = tf.constant(generator.normal(size=[BATCH, 1]), tf.float32)
CLASSES = tf.constant([3, 0, 1, 1, 2], tf.int64)
BINARY = tf.constant([1, 0, 0, 1, 1], tf.int64)


def absolute(labels, outputs):
    return tf.abs(tf.cast(labels, tf.float32) - outputs)


def branching(labels, outputs):
    if tf.reduce_max(outputs) > 1e9:  # needs autograph in a graph
        return tf.zeros_like(outputs[:, 0])
    return keras.losses.sparse_categorical_crossentropy(labels, outputs, from_logits=True)


class Hinge(keras.losses.Loss):
    """Does no broadcasting or casting of its own."""

    def call(self, labels, outputs):
        return tf.maximum(0.0, 1.0 - tf.cast(2 * labels - 1, tf.float32) * outputs)


def compiled(loss, **settings):
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", loss, **settings)
    return model


LOSSES = {
    "name": ("sparse_categorical_crossentropy", CLASSES, tf.nn.softmax(SCORES)),
    "class name": ("SparseCategoricalCrossentropy", CLASSES, tf.nn.softmax(SCORES)),
    "from logits": (keras.losses.SparseCategoricalCrossentropy(from_logits=True), CLASSES, SCORES),
    "summed": (keras.losses.SparseCategoricalCrossentropy(True, reduction="sum"), CLASSES, SCORES),
    "label smoothing": (
        keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.2),
        tf.one_hot(CLASSES, 4, dtype=tf.float64),
        SCORES,
    ),
    "labels beside [batch, 1]": (keras.losses.BinaryCrossentropy(from_logits=True), BINARY, ONE_SCORE),
    "labels beside [batch]": (absolute, BINARY[:, None], ONE_SCORE[:, 0]),
    "own class beside [batch, 1]": (Hinge(), BINARY, ONE_SCORE),
    "function": (absolute, BINARY, ONE_SCORE),
    "function that branches": (branching, CLASSES, SCORES),
    "sequence": (
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        tf.constant(generator.integers(0, 4, [BATCH, 3])),
        tf.constant(generator.normal(size=[BATCH, 3, 4]), tf.float32),
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_each_value_is_what_keras_computes_for_that_example_alone(name):
    loss, labels, outputs = LOSSES[name]
    model = compiled(loss)
    found = tf.function(per_example_loss(model))(labels, outputs)
    alone = [
        model.compiled_loss(labels[index : index + 1], outputs[index : index + 1]) for index in range(BATCH)
    ]
    assert found.shape == [BATCH]
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found, alone, rtol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_the_value_of_one_example_does_not_depend_on_another(name):
    loss, labels, outputs = LOSSES[name]
    with tf.GradientTape() as tape:
        tape.watch(outputs)
        values = per_example_loss(compiled(loss))(labels, outputs)
    jacobian = tf.reshape(tape.jacobian(values, outputs), [BATCH, BATCH, -1]).numpy()
    crossed = jacobian[~np.eye(BATCH, dtype=bool)]
    assert np.abs(jacobian).max() > 0
    assert np.abs(crossed).max() == 0


def test_masked_values_are_left_out_for_each_example():
    inputs = keras.Input([3], dtype="int64")
    values = keras.layers.Embedding(5, 4, mask_zero=True)(inputs)
    model = keras.Model(inputs, values)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    tokens = tf.constant([[1, 2, 0], [3, 0, 0], [4, 1, 2]])
    labels = tf.constant([[0, 1, 2], [3, 2, 1], [1, 1, 1]])
    outputs = model(tokens)
    found = per_example_loss(model)(labels, outputs)
    every = keras.losses.sparse_categorical_crossentropy(labels, tf.constant(outputs.numpy()), True).numpy()
    np.testing.assert_allclose(found, [every[0, :2].mean(), every[1, 0], every[2].mean()], rtol=1e-5)


def test_a_loss_without_values_for_single_examples_is_refused():
    def averaged(labels, outputs):
        return tf.reduce_mean(absolute(labels, outputs))

    def folded(labels, outputs):
        return tf.reduce_mean(tf.reshape(outputs, [-1, 2]), 1)

    for loss, outputs, found in (
        (averaged, SCORES, "'averaged' gives one number"),
        (folded, SCORES, r"'folded' gives .*\(10,\)"),
        ("mse", ONE_SCORE[:, 0], r"one number(.|\n)*output of shape \[batch, 1\]"),
    ):
        with pytest.raises(PrivacyError, match=found):
            per_example_loss(compiled(loss))(BINARY, outputs)

    class Whole(keras.losses.Loss):
        def __call__(self, labels, outputs, sample_weight=None):
            return tf.reduce_mean(outputs)

        def call(self, labels, outputs):
            return outputs

    with pytest.raises(PrivacyError, match="Whole has a __call__ of its own"):
        per_example_loss(compiled(Whole()))


def test_no_loss_several_losses_and_half_a_loss_are_refused():
    for settings, found in (
        ({"loss": None}, "no loss"),
        ({"loss": ["mse", "mse"]}, "several losses"),
        ({"loss": {"out": "mse", "other": "mse"}}, "several losses"),
        ({"loss": "mse", "loss_weights": [2.0]}, "loss_weights"),
        ({"loss": keras.losses.MeanSquaredError}, r"MeanSquaredError\(\)"),
    ):
        with pytest.raises(PrivacyError, match=found):
            per_example_loss(compiled(**settings))
    with pytest.raises(PrivacyError, match="no loss"):
        per_example_loss(keras.Sequential([keras.layers.Dense(1)]))

"""What a classifier's outputs are is found out by what it is and does, or asked."""

from __future__ import annotations

import numpy as np
import pytest

from tfkit.environment.stack import keras, tf
from tfkit.errors import ConfigError, DataError
from tfkit.metrics import to_probabilities
from tfkit.training.validation import gives_logits

L = keras.layers
SPARSE, BINARY = keras.losses.SparseCategoricalCrossentropy, keras.losses.BinaryCrossentropy


def picked(labels, outputs):
    return tf.gather(outputs, tf.cast(tf.reshape(labels, [-1]), tf.int32), batch_dims=1)


def margin(labels, outputs):
    wrong = outputs - 1e3 * tf.one_hot(tf.cast(tf.reshape(labels, [-1]), tf.int32), outputs.shape[1])
    return tf.maximum(0.0, 1.0 + tf.reduce_max(wrong, axis=1) - picked(labels, outputs))


class Own(keras.losses.Loss):
    def call(self, labels, outputs):
        return keras.losses.sparse_categorical_crossentropy(labels, outputs, from_logits=True)


class Subclassed(keras.Model):
    def __init__(self, units, activation=None):
        super().__init__()
        self.dense = L.Dense(units, activation)

    def call(self, inputs):
        return self.dense(inputs)


def found(units, activation, loss, *, classes=3, subclassed=False, asked="auto", further=()):
    keras.utils.set_random_seed(0)
    model = (
        Subclassed(units, activation)
        if subclassed
        else keras.Sequential([keras.Input([5]), L.Dense(units, activation), *further])
    )
    model.compile("sgd", loss)
    given = model(np.random.default_rng(0).normal(size=[8, 5]).astype(np.float32)).numpy()
    return gives_logits(model, given, class_names=[str(n) for n in range(classes)], asked=asked)


LOGITS, PROBABILITIES = True, False
SURE = {
    "softmax": (3, "softmax", "sparse_categorical_crossentropy", PROBABILITIES),
    "logits": (3, None, SPARSE(from_logits=True), LOGITS),
    # Keras takes the numbers before the softmax for this loss: the outputs are probabilities all the same.
    "softmax, though the loss was told logits": (3, "softmax", SPARSE(from_logits=True), PROBABILITIES),
    "in a list": (3, None, [SPARSE(from_logits=True)], LOGITS),
    "in a dict": (3, None, {"dense": SPARSE(from_logits=True)}, LOGITS),
    "sigmoid": (1, "sigmoid", "binary_crossentropy", PROBABILITIES),
    "a logit": (1, None, BINARY(from_logits=True), LOGITS),
    "sigmoid, squared error": (1, "sigmoid", "mse", PROBABILITIES),
    "sigmoid, hinge": (1, "sigmoid", "hinge", PROBABILITIES),
    "softmax, focal loss": (
        3,
        "softmax",
        lambda y, p: -((1 - picked(y, p)) ** 2) * tf.math.log(picked(y, p)),
        PROBABILITIES,
    ),
}
ASSUMED = {
    "logits by a lambda": (
        3,
        None,
        lambda y, p: keras.losses.sparse_categorical_crossentropy(y, p, from_logits=True),
        LOGITS,
    ),
    "logits by a class": (3, None, Own(), LOGITS),
    "multi-class margin": (3, None, margin, LOGITS),
    "hinge": (1, None, "hinge", LOGITS),
    "hinge of tanh": (1, "tanh", "hinge", LOGITS),
    "one logit by a lambda": (
        1,
        None,
        lambda y, p: keras.losses.binary_crossentropy(y, p, from_logits=True),
        LOGITS,
    ),
}


@pytest.mark.parametrize("name", SURE)
def test_what_is_certain(name):
    units, activation, loss, expected = SURE[name]
    assert found(units, activation, loss, classes=max(units, 2)) == (expected, "")


@pytest.mark.parametrize("name", ASSUMED)
def test_what_is_assumed_is_said(name):
    units, activation, loss, expected = ASSUMED[name]
    logits, sentence = found(units, activation, loss, classes=max(units, 2))
    assert logits is expected
    assert "taken for" in sentence


def test_a_subclassed_model_is_known_by_what_it_gives():
    probabilities, said = found(3, "softmax", "sparse_categorical_crossentropy", subclassed=True)
    assert not probabilities
    assert "sum to one" in said
    assert found(3, None, SPARSE(from_logits=True), subclassed=True) == (True, "")
    assert found(1, "sigmoid", "binary_crossentropy", classes=2, subclassed=True)[0] is False


WRONG = {
    "linear, probabilities expected": (3, None, "sparse_categorical_crossentropy", 3, "from_logits=True"),
    "one linear, probability expected": (1, None, "binary_crossentropy", 2, "BinaryCrossentropy"),
    "least squares": (1, None, "mse", 2, 'output="logits"'),
    "squares of all units": (3, "softmax", "mse", 3, "sparse_categorical_crossentropy"),
    "class numbers as rows": (3, "softmax", "categorical_crossentropy", 3, "sparse_categorical_crossentropy"),
    "two sigmoids": (2, "sigmoid", "binary_crossentropy", 2, "sparse_categorical_crossentropy"),
    "softmax, yes or no": (2, "softmax", "binary_crossentropy", 2, "sparse_categorical_crossentropy"),
    "a class": (3, "softmax", SPARSE, 3, r"SparseCategoricalCrossentropy\(\)"),
    "none": (3, "softmax", None, 3, "without a loss"),
    "the wrong way round": (3, "softmax", lambda y, p: picked(y, p), 3, "no smaller"),
    "squares of one-hot labels": (
        3,
        None,
        lambda y, p: tf.reduce_sum((p - tf.one_hot(tf.cast(tf.reshape(y, [-1]), tf.int32), 3)) ** 2, 1),
        3,
        'output="probabilities"',
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_judged_is_refused_with_the_fix(name):
    units, activation, loss, classes, said = WRONG[name]
    with pytest.raises(ConfigError, match=said):
        found(units, activation, loss, classes=classes)


@pytest.mark.parametrize(("units", "classes"), [(3, 2), (2, 3), (1, 3), (12, 10)])
def test_units_are_as_many_as_classes(units, classes):
    with pytest.raises(DataError, match=rf"\[{units}\] numbers.* {classes} classes[\s\S]*{classes} units"):
        found(units, "softmax", "sparse_categorical_crossentropy", classes=classes)


def test_a_softmax_over_another_axis_is_seen():
    with pytest.raises(ConfigError, match="last axis"):
        found(3, None, "sparse_categorical_crossentropy", further=[L.Softmax(axis=0)])


def test_its_user_may_say():
    squares = WRONG["squares of one-hot labels"][2]
    assert found(3, None, squares, asked="logits") == (True, "")
    with pytest.raises(ConfigError, match="output is 'probabilities'"):
        found(3, None, squares, asked="probabilities")


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [x], lambda x: {"a": x}, lambda x: x[:, None]])
def test_probabilities_of_every_form(wrap):
    z = tf.constant([[1.0, -2.0, 0.5], [80.0, 0.0, -80.0]])
    soft = to_probabilities(wrap(z), logits=True).numpy()
    np.testing.assert_allclose(soft, tf.nn.softmax(z), rtol=1e-6)
    np.testing.assert_allclose(to_probabilities(wrap(tf.nn.softmax(z)), logits=False), soft)
    one = tf.constant([[2.0], [-80.0]])
    two = to_probabilities(wrap(one), logits=True).numpy()
    np.testing.assert_allclose(two, [[1 / (1 + np.e**2), 1 / (1 + np.e**-2)], [1.0, np.exp(-80)]], rtol=1e-5)
    np.testing.assert_allclose(to_probabilities(wrap(tf.sigmoid(one)), logits=False), two, atol=1e-7)
    np.testing.assert_allclose(to_probabilities(one[:, 0], logits=True), two, rtol=1e-6)


def test_probabilities_of_float16_sum_to_one():
    rows = tf.nn.softmax(tf.random.stateless_normal([5, 400], [1, 2], dtype=tf.float16))
    np.testing.assert_allclose(tf.reduce_sum(to_probabilities(rows, logits=False), axis=1), 1, atol=1e-6)

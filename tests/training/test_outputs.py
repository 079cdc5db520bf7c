"""What a model's outputs are is found out by what it is and does, or said; labels are taken in each form."""

from __future__ import annotations

import numpy as np
import pytest

from tfkit.compression.compare import compare_outputs
from tfkit.environment.stack import keras, tf
from tfkit.errors import ConfigError, DataError, UsageError
from tfkit.metrics import to_probabilities
from tfkit.training import outputs
from tfkit.training.outputs import check_outputs

L = keras.layers
SPARSE, BINARY = keras.losses.SparseCategoricalCrossentropy, keras.losses.BinaryCrossentropy


def picked(labels, outputs):
    return tf.gather(outputs, tf.cast(tf.reshape(labels, [-1]), tf.int32), batch_dims=1)


def focal(labels, outputs):
    return -((1 - picked(labels, outputs)) ** 2) * tf.math.log(picked(labels, outputs))


def of_logits(labels, outputs):
    return keras.losses.sparse_categorical_crossentropy(labels, outputs, from_logits=True)


def squares(labels, outputs):
    return tf.reduce_sum((outputs - tf.one_hot(tf.cast(tf.reshape(labels, [-1]), tf.int32), 3)) ** 2, 1)


class Subclassed(keras.Model):
    def __init__(self, units, activation=None):
        super().__init__()
        self.dense = L.Dense(units, activation)

    def call(self, inputs):
        return self.dense(inputs)


def found(units, activation, loss, *, classes=3, subclassed=False, output="auto", further=()):
    keras.utils.set_random_seed(0)
    model = (
        Subclassed(units, activation)
        if subclassed
        else keras.Sequential([keras.Input([5]), L.Dense(units, activation), *further])
    )
    model.compile("sgd", loss)
    given = model(np.random.default_rng(0).normal(size=[8, 5]).astype(np.float32)).numpy()
    return check_outputs(model, given, class_names=[str(n) for n in range(classes)], output=output)


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
    "softmax, focal loss": (3, "softmax", focal, PROBABILITIES),
}


@pytest.mark.parametrize("name", SURE)
def test_what_is_certain(name):
    units, activation, loss, expected = SURE[name]
    assert found(units, activation, loss, classes=max(units, 2)) == (expected, "")


def test_a_subclassed_model_is_known_by_what_it_gives():
    logits, said = found(3, "softmax", "sparse_categorical_crossentropy", subclassed=True)
    assert not logits
    assert "probabilities" in said
    assert found(3, None, SPARSE(from_logits=True), subclassed=True) == (True, "")
    assert found(1, "sigmoid", "binary_crossentropy", classes=2, subclassed=True)[0] is False


WRONG = {
    "linear, probabilities expected": (3, None, "sparse_categorical_crossentropy", 3, "from_logits=True"),
    "one linear, probability expected": (1, None, "binary_crossentropy", 2, "BinaryCrossentropy"),
    "least squares": (1, None, "mse", 2, 'output="logits"'),
    "squares of all units": (3, "softmax", "mse", 3, "sparse_categorical_crossentropy"),
    "class numbers as rows": (3, "softmax", "categorical_crossentropy", 3, "sparse_categorical_crossentropy"),
    "two sigmoids": (2, "sigmoid", "binary_crossentropy", 2, "SparseCategoricalCrossentropy"),
    "softmax, yes or no": (2, "softmax", "binary_crossentropy", 2, "sparse_categorical_crossentropy"),
    "a class": (3, "softmax", SPARSE, 3, r"SparseCategoricalCrossentropy'[\s\S]*as an object"),
    "none": (3, "softmax", None, 3, r"loss None[\s\S]*loss=.sparse_categorical_crossentropy"),
    "the wrong way round": (3, "softmax", lambda y, p: picked(y, p), 3, "no smaller"),
    "a loss of logits that does not say so": (3, None, of_logits, 3, 'output="logits"'),
    "hinge of one number": (1, None, "hinge", 2, 'output="logits"'),
    "squares of one-hot labels": (3, None, squares, 3, 'output="logits"'),
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
    for name in ("squares of one-hot labels", "a loss of logits that does not say so", "hinge of one number"):
        units, _, loss, classes, _ = WRONG[name]
        assert found(units, None, loss, classes=classes, output="logits") == (True, "")
    with pytest.raises(ConfigError, match="output is 'probabilities'"):
        found(3, None, squares, output="probabilities")
    with pytest.raises(ConfigError, match=r"output is 'logits'.*softmax.*leave output out"):
        found(3, "softmax", "sparse_categorical_crossentropy", output="logits")


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


CHANCE = np.random.default_rng(0)
NUMBERS = CHANCE.normal(size=(30, 3)).astype(np.float32)
SOFTMAX = np.exp(NUMBERS) / np.exp(NUMBERS).sum(1, keepdims=True)
YES = 1 / (1 + np.exp(-NUMBERS))


@pytest.mark.parametrize(
    ("layers", "last"),
    [
        ([keras.layers.Dense(3, "softmax")], "Softmax"),
        ([keras.layers.Dense(3), keras.layers.Softmax(), keras.layers.Reshape([3, 1])], "Softmax"),
        ([keras.layers.Dense(1, "sigmoid"), keras.layers.Flatten()], "Sigmoid"),
        ([keras.layers.Dense(3)], "BiasAdd"),
    ],
)
def test_the_last_operation(layers, last, tmp_path):
    model = keras.Sequential([keras.Input([4]), *layers])
    called = tf.function(lambda x: {"y": model(x, training=False)}, autograph=False)
    concrete = called.get_concrete_function(tf.TensorSpec([1, 4]))
    assert outputs.last_operation(concrete) == last
    module = tf.Module()
    module.model, module.called = model, called
    tf.saved_model.save(module, str(tmp_path), signatures=concrete)
    assert outputs.last_operation(tf.saved_model.load(str(tmp_path)).signatures["serving_default"]) == last


@pytest.mark.parametrize(
    ("expected", "known", "kind"),
    [
        (SOFTMAX, {"last": "Softmax"}, "probabilities"),
        (SOFTMAX, {"last": "RealDiv"}, "probabilities"),  # of hand-made layers
        (YES[:, :1], {"last": "Sigmoid"}, "sigmoid"),
        (YES, {"last": "Sigmoid"}, "sigmoid"),
        (YES[:, :1], {"last": "Sigmoid", "labels": CHANCE.random(30)}, "values"),
        (YES, {"last": "Sigmoid", "loss": "mse"}, "values"),  # an autoencoder
        (NUMBERS, {"last": "BiasAdd"}, "values"),
        (NUMBERS[:, :1], {"last": "BiasAdd", "loss": keras.losses.MeanAbsoluteError()}, "values"),
        (NUMBERS, {"last": "BiasAdd", "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True)}, "logits"),
        (NUMBERS, {"last": "BiasAdd", "loss": keras.losses.BinaryCrossentropy(from_logits=True)}, "sigmoid_logits"),
        (NUMBERS, {"last": "BiasAdd", "labels": np.arange(30) % 3}, "logits"),
        (NUMBERS, {"last": "BiasAdd", "labels": np.eye(3)[np.arange(30) % 3]}, "logits"),
        (NUMBERS, {"last": "BiasAdd", "labels": NUMBERS > 0}, "sigmoid_logits"),
        (NUMBERS, {"last": "BiasAdd", "labels": NUMBERS * 2}, "values"),
        (NUMBERS[:, :1], {"last": "BiasAdd", "labels": np.arange(30) % 2}, "sigmoid_logits"),
        (NUMBERS[:, :1], {"last": "BiasAdd", "labels": np.arange(30)}, "values"),  # ages, say
        (NUMBERS, {"last": "BiasAdd", "labels": np.arange(90).reshape(30, 3)}, "values"),
    ],
)  # fmt: skip
def test_what_outputs_are(expected, known, kind):
    assert outputs.find(expected, **known)[0] == kind


TRUE = np.arange(30) % 3


@pytest.mark.parametrize(
    ("labels", "shape", "output", "found"),
    [
        (TRUE, (30, 3), "logits", TRUE),
        (TRUE[:, None].tolist(), (30, 3), "probabilities", TRUE),
        (TRUE.astype(float), (30, 3), "probabilities", TRUE),
        (np.eye(3)[TRUE], (30, 3), "probabilities", TRUE),
        (np.array(list("abc"))[TRUE], (30, 3), "probabilities", TRUE),
        (np.eye(3)[np.tile(TRUE, (4, 1)).T], (30, 4, 3), "probabilities", np.tile(TRUE, (4, 1)).T),
        (TRUE > 0, (30, 1), "sigmoid", (TRUE > 0)[:, None]),
        ((TRUE > 0).astype(np.float32)[:, None], (30, 1), "sigmoid", (TRUE > 0)[:, None]),
        (np.eye(2)[(TRUE > 0).astype(int)], (30, 1), "sigmoid", (TRUE > 0)[:, None]),
        (NUMBERS > 0, (30, 3), "sigmoid", NUMBERS > 0),
        (NUMBERS[:, 0], (30, 1), "values", NUMBERS[:, :1]),
        (NUMBERS, (30, 3), "values", NUMBERS),
    ],
)
def test_labels_of_each_form(labels, shape, output, found):
    names = list("abc") if output == "probabilities" else ()
    made = outputs.as_labels(labels, shape=shape, output=output, class_names=names)
    np.testing.assert_array_equal(made, found)


@pytest.mark.parametrize(
    ("labels", "shape", "output", "culprit"),
    [
        (TRUE + 1, (30, 3), "probabilities", r"from 1 to 3; .* from 0 to 2"),
        (TRUE - 1, (30, 3), "probabilities", "from -1 to 1"),
        (TRUE[:20], (30, 3), "probabilities", r"\[20\], .* \[30\]"),
        (np.full(30, np.nan), (30, 1), "values", "NaN"),
        (TRUE * 0.3, (30, 3), "probabilities", "whole numbers from 0 to 2"),
        (np.array(list("abc"))[TRUE], (30, 3), "probabilities", "class_names"),
        (TRUE, (30, 3), "sigmoid", r"from 0 to 1, \[30, 3\]"),
        (NUMBERS[:, :2], (30, 3), "values", r"real numbers, \[30, 3\]"),
        (TRUE, (30, 1), "sigmoid", "from 0 to 2"),
        ((NUMBERS > 0)[:, :2], (30, 3), "sigmoid", r"\[30, 2\], from 0 to 1"),
    ],
)
def test_labels_that_do_not_fit(labels, shape, output, culprit):
    with pytest.raises(DataError, match=culprit):
        outputs.as_labels(labels, shape=shape, output=output)


def test_what_outputs_cannot_be():
    with pytest.raises(UsageError, match="sigmoid_logits"):
        outputs.check("other", NUMBERS)
    with pytest.raises(UsageError, match="'sigmoid'"):
        outputs.check("logits", NUMBERS[:, :1])
    with pytest.raises(UsageError, match="'logits'"):
        outputs.check("probabilities", NUMBERS)


def test_each_kind_is_judged_as_by_hand():
    broken = -NUMBERS
    classes = compare_outputs(
        broken, NUMBERS, output="logits", labels=NUMBERS.argmax(1), class_names=list("abc")
    )
    right = broken.argmax(1) == NUMBERS.argmax(1)
    assert (classes.accuracy, classes.agreement) == (right.mean(), right.mean())
    assert classes.drop == classes.accuracy_drop == 1 - right.mean()
    assert set(classes.class_drop) == set("abc")
    one = compare_outputs(1 - YES[:, :1], YES[:, :1], output="sigmoid")
    assert (one.agreement, one.drop, one.accuracy) == (0.0, 1.0, None)
    several = compare_outputs(
        YES * [1, 1, 0], YES, output="sigmoid", labels=YES > 0.5, class_names=list("abc")
    )
    assert several.agreement == pytest.approx(1 - np.mean(YES[:, 2] > 0.5) / 3)
    assert several.class_drop == {"a": 0.0, "b": 0.0, "c": 1.0}
    from sklearn.metrics import f1_score

    lost = 1 - f1_score(YES > 0.5, YES * [1, 1, 0] > 0.5, average="micro")
    assert several.drop == pytest.approx(lost)  # and not the share of other answers
    assert compare_outputs(YES * [1, 1, 0], YES, output="sigmoid").drop == pytest.approx(lost)
    assert compare_outputs(YES, YES, output="sigmoid").drop == 0
    values = compare_outputs(NUMBERS + 1, NUMBERS, output="values", labels=NUMBERS * 2)
    from sklearn.metrics import r2_score

    assert values.r2 == pytest.approx(r2_score(NUMBERS * 2, NUMBERS + 1))
    assert values.rmse == pytest.approx(np.sqrt(np.mean((NUMBERS * 2 - NUMBERS - 1) ** 2)))
    assert values.drop == pytest.approx(r2_score(NUMBERS * 2, NUMBERS) - values.r2)
    alone = compare_outputs(NUMBERS + 1, NUMBERS, output="values")
    assert alone.drop == pytest.approx(1 - r2_score(NUMBERS, NUMBERS + 1))


def test_the_surest_of_the_original_come_first():
    """Of logits of yes or no: how far from 0 they are, and not from one half."""
    expected = np.array([[-0.4], [0.6], [3.0]], np.float32)
    compared = compare_outputs(-expected, expected, output="sigmoid_logits")
    assert compared.worst.tolist() == [2, 1, 0]

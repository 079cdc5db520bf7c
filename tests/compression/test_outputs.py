"""What a model gives is found out, and labels are taken in each form or refused with the reason."""

import numpy as np
import pytest

from tfkit.compression import outputs
from tfkit.compression.compare import compare_outputs
from tfkit.environment.stack import keras, tf
from tfkit.errors import DataError, UsageError

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
        (TRUE[:20], (30, 3), "probabilities", "20 labels for 30 inputs"),
        (np.full(30, np.nan), (30, 1), "values", "NaN"),
        (TRUE * 0.3, (30, 3), "probabilities", "whole numbers from 0 to 2"),
        (np.array(list("abc"))[TRUE], (30, 3), "probabilities", "class_names"),
        (TRUE, (30, 3), "sigmoid", r"0 and 1 \[30, 3\]"),
        (NUMBERS[:, :2], (30, 3), "values", r"real numbers \[30, 3\]"),
        (TRUE, (30, 1), "sigmoid", "from 0 to 2"),
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
    values = compare_outputs(NUMBERS + 1, NUMBERS, output="values", labels=NUMBERS * 2)
    from sklearn.metrics import r2_score

    assert values.r2 == pytest.approx(r2_score(NUMBERS * 2, NUMBERS + 1))
    assert values.rmse == pytest.approx(np.sqrt(np.mean((NUMBERS * 2 - NUMBERS - 1) ** 2)))
    assert values.drop == pytest.approx(r2_score(NUMBERS * 2, NUMBERS) - values.r2)
    alone = compare_outputs(NUMBERS + 1, NUMBERS, output="values")
    assert alone.drop == pytest.approx(1 - r2_score(NUMBERS, NUMBERS + 1))
    assert alone.agreement == 0.0
    tokens = compare_outputs(NUMBERS.reshape(10, 3, 3), -NUMBERS.reshape(10, 3, 3), output="logits")
    assert tokens.agreement == classes.agreement


def test_the_surest_of_the_original_come_first():
    """Of logits of yes or no: how far from 0 they are, and not from one half."""
    expected = np.array([[-0.4], [0.6], [3.0]], np.float32)
    compared = compare_outputs(-expected, expected, output="sigmoid_logits")
    assert compared.worst.tolist() == [2, 1, 0]

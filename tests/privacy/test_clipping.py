"""Each example's loss is what Keras takes the mean of; clipped sums are those of its own gradients, one by one."""

from __future__ import annotations

import numpy as np
import pytest

from tests.privacy.models import BATCH, MODELS, Centred, L, Random, functional, transformer
from tfkit.environment.stack import keras, tf
from tfkit.errors import PrivacyError
from tfkit.privacy.clipping import clipped_sum, partition, per_example_loss
from tfkit.privacy.rules import rule_of


def batch_for(model, batch=BATCH, seed=0):
    generator = np.random.default_rng(seed)
    shape = [batch, *(model.input_shape[1:] if model.inputs else [5])]
    if model.inputs and model.inputs[0].dtype == tf.int64:
        return tf.constant(generator.integers(0, 11, shape)), tf.constant(generator.integers(0, 3, batch))
    inputs = tf.constant(generator.normal(size=shape), tf.float32)
    return inputs, tf.constant(generator.integers(0, 3, batch))


def losses(labels, outputs):
    return keras.losses.sparse_categorical_crossentropy(labels, outputs, from_logits=True)


def one_by_one(model, inputs, labels, weights):
    """Each example's gradient, by a pass of its own: a list of [numbers] and the norms."""
    rows = []
    for index in range(len(labels)):
        with tf.GradientTape() as tape:
            loss = losses(labels[index : index + 1], model(inputs[index : index + 1], training=True))[0]
            loss *= weights[index]
        found = tape.gradient(loss, model.trainable_variables, unconnected_gradients="zero")
        rows.append(np.concatenate([tf.convert_to_tensor(value).numpy().ravel() for value in found]))
    return np.stack(rows), np.linalg.norm(rows, axis=1)


def flat(gradients):
    return np.concatenate([value.numpy().ravel() for value in gradients])


@pytest.mark.parametrize("name", MODELS)
def test_the_sum_is_that_of_gradients_computed_one_by_one(name):
    keras.utils.set_random_seed(1)
    model = MODELS[name]()
    for variable in model.trainable_variables:  # no zeros or ones where a mistake would hide
        variable.assign_add(tf.random.stateless_normal(variable.shape, [3, 4], stddev=0.1))
    inputs, labels = batch_for(model)
    weights = np.array([1, 0.5, 2, 0, 1, 3], np.float32)
    each, norms = one_by_one(model, inputs, labels, weights)
    batch = inputs, labels, tf.constant(weights)
    # As in training, where a sample may have any size. There TensorFlow 2.21 has no predict() for a LayerNormalization
    # over several axes either ("scale must be 1D").
    size = BATCH if name == "layer norm axes" else None
    specs = [tf.TensorSpec([size, *value.shape[1:]], value.dtype) for value in batch]

    @tf.function(input_signature=[tf.TensorSpec([]), *specs])
    def step(clip, *batch):
        return vars(clipped_sum(model, *batch, per_example_loss=losses, l2_norm_clip=clip))

    for clip in (norms.max() * 2, np.median(norms[norms > 0]), norms[norms > 0].min() / 2):
        found = step(tf.constant(clip, tf.float32), *batch)
        np.testing.assert_allclose(found["norms"], norms, rtol=1e-5, atol=1e-6 * norms.max())
        expected = (np.minimum(1, clip / np.maximum(norms, 1e-30))[:, None] * each).sum(0)
        error = np.linalg.norm(flat(found["gradients"]) - expected) / np.linalg.norm(expected)
        assert error < 1e-5


def test_layers_with_a_rule_use_it_and_the_others_are_vectorized():
    model = functional((8, 8, 3), L.Conv2D(4, 3), L.GroupNormalization(2), L.PReLU(), L.SeparableConv2D(2, 3))
    units, _ = partition(model, [])
    assert [type(unit) for unit in units if rule_of(unit) is None] == [L.PReLU, L.SeparableConv2D]
    assert all(rule_of(unit) for unit in partition(transformer(), [])[0])


def test_frozen_layers_take_no_part_and_need_no_backward_pass():
    model = functional((8, 8, 3), L.Conv2D(4, 3, name="frozen"), L.Conv2D(2, 3, activation="relu"))
    model.get_layer("frozen").trainable = False
    inputs, labels = batch_for(model)
    each, norms = one_by_one(model, inputs, labels, np.ones(BATCH))
    step = tf.function(
        lambda: clipped_sum(model, inputs, labels, None, per_example_loss=losses, l2_norm_clip=1e9).gradients
    )
    np.testing.assert_allclose(flat(step()), each.sum(0), rtol=1e-4, atol=1e-5 * norms.max())
    operations = [operation.type for operation in step.get_concrete_function().graph.get_operations()]
    assert operations.count("Conv2DBackpropInput") == 0


def test_an_example_that_is_not_finite_contributes_nothing():
    model = functional((5,), L.Dense(4, activation="relu"))
    inputs, labels = batch_for(model)
    spoiled = tf.concat([inputs[:-1], inputs[-1:] * np.nan], 0)
    found = clipped_sum(model, spoiled, labels, None, per_example_loss=losses, l2_norm_clip=1.0)
    without = clipped_sum(model, inputs[:-1], labels[:-1], None, per_example_loss=losses, l2_norm_clip=1.0)
    np.testing.assert_allclose(flat(found.gradients), flat(without.gradients), rtol=1e-5, atol=1e-7)


def positions_that_cancel():
    """Return a model, inputs and labels; of the norms of its gradients rounding leaves nothing."""
    inputs, even = keras.Input([2, 64]), L.LayerNormalization(center=False, scale=False)
    model = keras.Model(inputs, L.Dense(3)(even(L.GlobalAveragePooling1D()(L.Dense(64)(inputs)))))
    chance = np.random.default_rng(0)
    first, rest = 1e4 * chance.normal(size=[2, 24, 64])
    batch = tf.constant(np.stack([first, rest * np.geomspace(1e-6, 1, 24)[:, None] - first], 1), tf.float32)
    return model, batch, tf.zeros([24], tf.int64)


def test_positions_that_cancel_each_other_do_not_make_a_gradient_look_short():
    """A norm that is too small lets too long a gradient through."""
    model, batch, labels = positions_that_cancel()
    _, norms = one_by_one(model, batch, labels, np.ones(24))
    found = clipped_sum(model, batch, labels, None, per_example_loss=losses, l2_norm_clip=1.0)
    assert (found.norms.numpy() > 0.99 * norms).all()


def test_what_cannot_be_told_apart_by_example_is_refused_by_name():
    def refused(model, match):
        inputs, labels = batch_for(model)
        calls = [vars(layer).get("call") for layer in model.submodules]
        with pytest.raises(PrivacyError, match=match):
            clipped_sum(model, inputs, labels, None, per_example_loss=losses, l2_norm_clip=1.0)
        assert calls == [vars(layer).get("call") for layer in model.submodules]  # they are themselves again

    inputs = keras.Input([4, 3])
    merged = L.Dense(2, name="rows")(tf.reshape(inputs, [-1, 3]))
    refused(keras.Model(inputs, L.Dense(3)(tf.reshape(merged, [-1, 8]))), "'rows'.*24 rows for 6 examples")
    refused(functional((5, 3), L.LSTM(4, dropout=0.5, name="recurrent")), "'recurrent'.*random")
    refused(functional((5,), Random(name="own")), "'own'.*random")
    refused(functional((5,), L.BatchNormalization(name="norm")), "'norm'.*mix the examples")


def test_a_layer_that_mixes_the_examples_is_found_out_as_it_runs():
    model = functional((5,), Centred(name="centred"))
    inputs, labels = batch_for(model)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"'centred'.*alone something else"):
        clipped_sum(model, inputs, labels, None, per_example_loss=losses, l2_norm_clip=1.0)


ROWS = 5
CHANCE = np.random.default_rng(0)
SCORES = tf.constant(CHANCE.normal(size=[ROWS, 4]), tf.float32)
ONE_SCORE = tf.constant(CHANCE.normal(size=[ROWS, 1]), tf.float32)
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
        keras.losses.CategoricalCrossentropy(True, label_smoothing=0.2),
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
        tf.constant(CHANCE.integers(0, 4, [ROWS, 3])),
        tf.constant(CHANCE.normal(size=[ROWS, 3, 4]), tf.float32),
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_each_value_is_what_keras_computes_for_that_example_alone(name):
    loss, labels, outputs = LOSSES[name]
    model = compiled(loss)
    found = tf.function(per_example_loss(model))(labels, outputs)
    alone = [model.compiled_loss(labels[n : n + 1], outputs[n : n + 1]) for n in range(ROWS)]
    assert found.shape == [ROWS]
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found, alone, rtol=1e-5)


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
    def folded(labels, outputs):
        return tf.reduce_mean(tf.reshape(outputs, [-1, 2]), 1)

    for loss, outputs, found in (
        (folded, SCORES, r"'folded' .*shape \(10,\)"),
        ("mse", ONE_SCORE[:, 0], r"output of shape \[batch, 1\]"),
    ):
        with pytest.raises(PrivacyError, match=found):
            per_example_loss(compiled(loss))(BINARY, outputs)

    class Whole(keras.losses.Loss):
        def __call__(self, labels, outputs, sample_weight=None):
            return tf.reduce_mean(outputs)

        def call(self, labels, outputs):
            return outputs

    for settings, found in (
        ({"loss": Whole()}, r"Whole; .*call\(labels, outputs\)"),
        ({"loss": None}, "loss None"),
        ({"loss": ["mse", "mse"]}, "mse, mse"),
        ({"loss": {"out": "mse", "other": "mse"}}, "mse, mse"),
        ({"loss": "mse", "loss_weights": [2.0]}, "loss_weights"),
        ({"loss": keras.losses.MeanSquaredError}, "MeanSquaredError; .*an object"),
    ):
        with pytest.raises(PrivacyError, match=found):
            per_example_loss(compiled(**settings))

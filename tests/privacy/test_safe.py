"""make_private_safe exchanges the batch normalisation and nothing else."""

import numpy as np
import pytest

from tfkit.environment.stack import keras, tf
from tfkit.errors import PrivacyError
from tfkit.privacy import make_private_safe, problems
from tfkit.privacy.validation import batch_normalizations

L = keras.layers
IMAGES = tf.random.stateless_uniform([4, 8, 8, 3], [1, 2])


def block(name, channels):
    inputs = keras.Input([8, 8, channels])
    value = L.Conv2D(channels, 3, padding="same", name=f"{name}_convolution")(inputs)
    value = L.BatchNormalization(name=f"{name}_normalization", gamma_initializer="random_uniform")(value)
    return keras.Model(inputs, L.ReLU()(value), name=name)


def network():
    """With a frozen block, and one that is called twice."""
    inputs = keras.Input([8, 8, 3])
    frozen, twice = block("frozen", 3), block("twice", 12)
    frozen.trainable = False
    value = L.Conv2D(12, 1, name="first")(frozen(inputs))
    value = twice(twice(value)) + value
    value = L.BatchNormalization(axis=-1, scale=False, epsilon=0.01, name="last")(value)
    value = L.Dense(4, name="head")(L.GlobalAveragePooling2D()(value))
    model = keras.Model(inputs, value)
    model.get_layer("first").trainable = False
    metrics = ["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(2)]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.003), loss, metrics=metrics)
    return model


def test_names_weights_and_frozen_layers_stay():
    old = network()
    new = make_private_safe(old)
    assert [layer.name for layer in new.layers] == [layer.name for layer in old.layers]
    assert not batch_normalizations(new)
    assert len(batch_normalizations(old)) == 2
    assert isinstance(new.get_layer("last"), L.GroupNormalization)
    assert isinstance(new.get_layer("twice").get_layer("twice_normalization"), L.GroupNormalization)
    assert isinstance(new.get_layer("frozen").get_layer("frozen_normalization"), L.BatchNormalization)
    before = {weight.name: weight for weight in old.weights}
    assert {weight.name for weight in new.weights} < set(before)
    trained, trained_before = ([weight.name for weight in made.trainable_weights] for made in (new, old))
    assert trained == trained_before
    for weight in new.weights:
        np.testing.assert_array_equal(weight.numpy(), before[weight.name].numpy())
        assert weight is not before[weight.name]
    np.testing.assert_array_equal(new.get_layer("frozen")(IMAGES), old.get_layer("frozen")(IMAGES))


def test_a_layer_in_two_places_stays_one_layer():
    shared = L.Conv2D(3, 1, name="shared")
    inputs = keras.Input([8, 8, 3])
    inner = keras.Model(inputs, L.BatchNormalization()(shared(inputs)), name="inner")
    outer = keras.Input([8, 8, 3])
    new = make_private_safe(keras.Model(outer, inner(shared(outer))))
    assert new.get_layer("shared") is new.get_layer("inner").get_layer("shared")
    assert len(new.weights) == 4


def test_groups_divide_the_channels_and_keep_the_settings():
    new = make_private_safe(network(), groups=5)
    last = new.get_layer("last")
    assert (last.groups, last.epsilon, last.scale, last.center) == (4, 0.01, False, True)
    assert make_private_safe(network(), groups=8).get_layer("last").groups == 6


def test_the_new_model_is_compiled_alike_trains_and_leaves_the_old_one_alone():
    old = network()
    weights = old.get_weights()
    new = make_private_safe(old)
    assert new.optimizer is not old.optimizer
    assert float(new.optimizer.learning_rate) == pytest.approx(0.003)
    new.fit(IMAGES, np.array([0, 1, 2, 3]), verbose=0)
    assert new.metrics_names == ["loss", "accuracy", "sparse_top_k_categorical_accuracy"]
    for before, after in zip(weights, old.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_without_pixels_a_group_has_numbers_enough():
    """Groups of one or two numbers would be normalised to nothing: the layer would be constant."""
    layers = [L.Dense(64), L.BatchNormalization(), L.Dense(12), L.BatchNormalization(name="small")]
    new = make_private_safe(keras.Sequential([keras.Input([5]), *layers]))
    assert [layer.groups for layer in new.layers if isinstance(layer, L.GroupNormalization)] == [4, 1]
    assert new.optimizer is None
    assert np.std(new(tf.random.stateless_normal([6, 5], [1, 1]))[:, 0]) > 0.1


def test_statistics_of_the_data_are_not_made_safe():
    inputs, normalization = keras.Input([6]), L.Normalization(name="own")
    normalization.adapt(np.random.default_rng(0).normal(size=[20, 6]))
    value = keras.Model(inputs, normalization(inputs))(inputs)  # nested
    old = keras.Model(inputs, L.Dense(3)(L.BatchNormalization()(L.Dense(16)(value))))
    old.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    (problem,) = problems(make_private_safe(old))
    assert "'own' was adapted" in problem


def test_what_cannot_be_taken_apart_is_refused_by_name():
    class Own(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(PrivacyError, match="'mine' is a Own, a subclass"):
        make_private_safe(Own(name="mine"))
    with pytest.raises(PrivacyError, match=r"keras\.Input"):
        make_private_safe(keras.Sequential([L.BatchNormalization()]))
    wrapped = keras.Sequential([keras.Input([3, 4]), L.TimeDistributed(L.BatchNormalization(name="inner"))])
    with pytest.raises(PrivacyError, match=r"'inner'.*inside of another"):
        make_private_safe(wrapped)

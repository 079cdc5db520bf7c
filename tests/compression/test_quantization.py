"""Quantization-aware training and clustering train, and keep what they are told to keep, down to the file."""

import numpy as np
import pytest

from tfkit.compression import Cluster, Prune, QuantizeAware, convert, inspect
from tfkit.compression.quantization import fake_quantization
from tfkit.compression.techniques import kernels
from tfkit.environment.stack import keras
from tfkit.errors import CheckError, ConfigError, UsageError
from tfkit.litert import to_tflite


def converted(digits, model):
    return inspect(convert(model, variant="int8", representative_dataset=digits.images[:100]))


@pytest.mark.slow
def test_it_trains_and_becomes_int8(digits):
    stage = QuantizeAware()
    before, after, losses = digits.train(stage)
    found = stage.measure(before, after)
    assert found["kernels_changed"] == 1.0
    assert found["fake_quant_nodes"] > 5
    assert losses[-1] < losses[0]
    census = converted(digits, after)  # convert itself proves that it is int8
    assert census.macs == {"int8": 1.0}


@pytest.mark.slow
def test_after_pruning_the_zeros_are_in_the_int8_file(digits):
    _, pruned, _ = digits.train(Prune(final_sparsity=0.7))
    stage = QuantizeAware(preserve_sparsity=True)
    before, after, _ = digits.train(stage, pruned)
    assert stage.measure(before, after)["sparsity"] > 0.65
    assert converted(digits, after).sparsity > 0.65


@pytest.mark.slow
@pytest.mark.parametrize("sparse", [False, True])
def test_after_clustering_the_kernels_train_by_their_centroids(digits, sparse):
    """Keras says "Gradients do not exist" of the kernels: it is the centroids that have them."""
    model = digits.train(Prune(final_sparsity=0.5))[1] if sparse else digits.model
    _, clustered, _ = digits.train(Cluster(number_of_clusters=8, preserve_sparsity=sparse), model)
    stage = QuantizeAware(preserve_clusters=True, preserve_sparsity=sparse)
    before, after, losses = digits.train(stage, clustered)
    found = stage.measure(before, after)
    assert found["kernels_changed"] == 1.0
    assert found["distinct_weights"] <= 9
    assert losses[-1] < losses[0]
    census = converted(digits, after)
    assert not sparse or census.sparsity > 0.45


def test_what_would_stay_in_float_is_refused_all_at_once():
    inputs = keras.Input([8])
    x = keras.layers.GaussianNoise(0.1, name="noise")(inputs)
    x = keras.layers.LayerNormalization(name="norm")(x)
    model = keras.Model(inputs, keras.layers.Dense(2)(x))
    with pytest.raises(UsageError, match=r"norm.*LayerNormalization") as caught:
        QuantizeAware().wrap(model, steps=10)
    assert "2 layers would stay in float" in str(caught.value)


def test_a_model_that_did_not_train_is_found_out(digits):
    stage = QuantizeAware()
    wrapped = stage.wrap(digits.model, steps=1)
    assert fake_quantization(wrapped) > 0
    with pytest.raises(CheckError, match="changed 0 % of the kernels"):
        stage.measure(digits.model, wrapped)
    with pytest.raises(CheckError, match="qat: 0 nodes of fake quantization"):
        stage.measure(digits.model, digits.model)


def test_wrapping_changes_no_kernel(digits):
    wrapped = QuantizeAware().wrap(digits.model, steps=1)
    for name, kernel in kernels(digits.model).items():
        np.testing.assert_array_equal(kernels(wrapped)[name], kernel)
    assert wrapped.predict(digits.images[:64], verbose=0).shape == (64, 10)


def test_ranges_begin_where_the_model_has_them():
    """EfficientNet's layers without activations go to 76: cut at tfmot's 6, all images look alike for an epoch."""
    keras.utils.set_random_seed(0)
    chance = np.random.default_rng(0)
    inputs = keras.Input([6])
    far = keras.layers.Dense(16, name="far")(inputs)
    near = keras.layers.Dense(16, activation="relu", name="near")(far)
    model = keras.Model(inputs, keras.layers.Dense(4, name="classifier")(near))
    model.get_layer("far").set_weights([chance.normal(0, 60, (6, 16)), chance.normal(0, 60, 16)])
    examples = chance.uniform(0, 1, (400, 6)).astype(np.float32)
    expected = model.predict(examples, verbose=0).argmax(1)

    def agreement(stage):
        return float(np.mean(stage.wrap(model, steps=1).predict(examples, verbose=0).argmax(1) == expected))

    assert agreement(QuantizeAware(examples=examples)) > 0.9
    assert agreement(QuantizeAware()) < 0.6
    assert "examples" not in repr(QuantizeAware(examples=examples))


@pytest.mark.slow
def test_few_distinct_weights_in_keras_and_in_the_file(digits):
    stage = Cluster(number_of_clusters=8)
    weights = digits.model.get_weights()
    before, after, _ = digits.train(stage)
    found = stage.measure(before, after)
    assert found["distinct_weights"] == 8
    assert found["kernels_changed"] == 1.0
    # The original still converts: the wrappers took a clone.
    assert len(to_tflite(before, input_shape=[1, 8, 8, 1])) > 1000
    assert all((one == other).all() for one, other in zip(weights, before.get_weights(), strict=True))
    with pytest.raises(CheckError, match="more than 4 distinct weights"):
        Cluster(number_of_clusters=4).measure(before, after)


@pytest.mark.slow
def test_clustering_keeps_zeros(digits):
    _, pruned, _ = digits.train(Prune(final_sparsity=0.6))
    stage = Cluster(number_of_clusters=8, preserve_sparsity=True)
    before, after, _ = digits.train(stage, pruned)
    found = stage.measure(before, after)
    assert found["sparsity"] > 0.57
    assert inspect(to_tflite(after, input_shape=[1, 8, 8, 1])).sparsity > 0.57


def test_one_cluster_is_refused():
    with pytest.raises(ConfigError, match="at least 2"):
        Cluster(number_of_clusters=1)

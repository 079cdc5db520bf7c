"""A model that int8 hurts: the guilty layer is named, and keeping it in float mends it."""

import numpy as np
import pytest

from tfkit.compression import convert, inspect
from tfkit.compression.compare import ModelUnderTest, compare_outputs, predict, under_test
from tfkit.compression.convert import ConversionRequest
from tfkit.compression.error_localisation import NAME, localise_error, selective_variant
from tfkit.compression.sources import saved
from tfkit.environment.stack import keras

CLASSES, EXAMPLES = 4, 400


@pytest.fixture(scope="module")
def model():
    """Two features of a thousand times the others share one scale with them: int8 sees zeros in those."""
    layers = keras.layers
    chance = np.random.default_rng(0)
    inputs = keras.Input([1, 1, 16], name="features")
    sound = layers.Conv2D(16, 1, activation="relu", name="sound")
    first = layers.Conv2D(16, 1, name="first")
    last = layers.Conv2D(CLASSES, 1, name="last")
    model = keras.Model(
        inputs, layers.Softmax()(layers.Flatten()(last(layers.ReLU(name="rectified")(first(sound(inputs))))))
    )
    sound.set_weights([np.eye(16, dtype=np.float32)[None, None], np.zeros(16, np.float32)])
    scale = np.ones(16, np.float32)
    scale[:2] = 3000.0
    first.set_weights([(np.eye(16, dtype=np.float32) * scale)[None, None], np.zeros(16, np.float32)])
    kernel = chance.normal(0, 4, (16, CLASSES)).astype(np.float32) / scale[:, None]
    kernel[:2] *= 0.1
    last.set_weights([kernel[None, None], np.zeros(CLASSES, np.float32)])
    return model


@pytest.fixture(scope="module")
def subject(model):
    examples = np.random.default_rng(0).random((EXAMPLES, 1, 1, 16), np.float32)
    expected = model.predict(examples, verbose=0)
    with saved(model) as source:
        yield ModelUnderTest(
            source=source, read=lambda places: examples[places], count=EXAMPLES, expected=expected,
            labels=expected.argmax(1), class_names=list("abcd"), examples={"features": examples[:100]},
        )  # fmt: skip


@pytest.mark.slow
def test_the_guilty_layer_is_found_and_kept_in_float(model, subject):
    float32 = convert(model)
    int8 = convert(model, variant="int8", representative_dataset=subject.examples)
    lost = compare_outputs(
        predict(int8, subject.read, subject.count), subject.expected, labels=subject.labels,
        class_names=subject.class_names,
    )  # fmt: skip
    assert lost.accuracy_drop > 0.1
    assert len(lost.worst) == round((1 - lost.agreement) * EXAMPLES)
    request = ConversionRequest(name=NAME, variant="int8")
    content, located, outcome = selective_variant(subject, float32, int8, limit=0.05, request=request)
    assert content is not None, outcome
    assert "in float it loses" in outcome
    assert "starts at" in located
    assert "float32" in inspect(content).macs


def test_without_labels_the_drop_is_what_it_cannot_exceed():
    expected = np.eye(4, dtype=np.float32)
    outputs = expected.copy()
    outputs[3] = expected[0]
    found = compare_outputs(outputs, expected)
    assert (found.accuracy, found.agreement, found.accuracy_drop) == (None, 0.75, 0.25)
    assert found.worst.tolist() == [3]


@pytest.mark.slow
def test_an_input_beyond_its_range_is_named_and_no_layer():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input([8], batch_size=2), keras.layers.Dense(4, name="innocent")])
    x = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
    float32, int8 = convert(model), convert(model, variant="int8", representative_dataset=x / 100)
    steps, found = localise_error(float32, int8, list(x[:, None].repeat(2, axis=1)))
    assert steps == []
    assert "starts at the input" in found
    assert "representative data" in found
    assert "innocent" not in found
    with saved(model) as source:  # two at a time
        subject = under_test(source, x, labels=None, output="values")
        request = ConversionRequest(name=NAME, variant="int8")
        assert selective_variant(subject, float32, int8, limit=0.01, request=request)[:2] == (None, found)
    good = convert(model, variant="int8", representative_dataset=x)
    assert localise_error(float32, good, list(x[:, None].repeat(2, axis=1)))[0]

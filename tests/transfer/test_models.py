"""The models of transfer learning: what is frozen stays, what starts from a head says what the head said."""

from __future__ import annotations

import numpy as np
import pytest

from tests.hub.conftest import export
from tfkit import hub
from tfkit.environment.stack import keras, tf
from tfkit.transfer import models

SIZE = 32
SPEC = tf.TensorSpec([SIZE, SIZE, 3], tf.float32)


@pytest.fixture(scope="module")
def backbone():
    return hub.load_model("efficientnet-lite0")


def images(count=8):
    return np.random.default_rng(0).random((count, SIZE, SIZE, 3), np.float32)


def whole(backbone, trainable, **changes):
    top = models.plain_top(1e-3, 4)
    return models.whole_model(backbone, classes=3, spec=SPEC, top=top, trainable=trainable, **changes)


def fit(model, *, epochs=1):
    """Two steps an epoch, op by op: to trace the graph of a backbone takes longer than a dozen of its steps."""
    model.run_eagerly = True
    model.fit(images(), np.arange(8) % 3, epochs=epochs, batch_size=4, verbose=0)


@pytest.fixture(scope="module")
def head(backbone):
    return models.head(backbone.feature_size, 3, models.plain_top(1e-3))


@pytest.fixture(scope="module")
def all_trained(backbone, head):
    """A model that began with the head; its weights and outputs before."""
    model = whole(backbone, "all", head=head)
    before = {layer.name: layer.get_weights() for layer in model.layers if layer.weights}
    outputs = model(images()).numpy()
    fit(model, epochs=2)
    return model, before, outputs


@pytest.mark.parametrize(("trainable", "changed"), [("none", 0.0), ("top", 0.5), ("all", 1.0)])
def test_training_changes_what_it_may_and_no_statistics(backbone, all_trained, trainable, changed):
    if trainable == "all":
        model, before, _ = all_trained
    else:
        model = whole(backbone, trainable)
        before = {layer.name: layer.get_weights() for layer in model.layers if layer.weights}
        fit(model, epochs=2)
    moved = {}
    for name, old in before.items():
        new = model.get_layer(name).get_weights()
        moved[name] = any(not np.array_equal(one, other) for one, other in zip(old, new, strict=True))
    assert moved.pop(models.CLASSIFIER)
    normalising = {layer.name for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)}
    assert normalising
    assert not any(moved[name] for name in normalising)
    convolutions = [name for name in moved if name not in normalising]
    assert np.mean([moved[name] for name in convolutions]) == pytest.approx(changed, abs=0.1)
    if trainable == "top":
        first = [moved[name] for name in convolutions].index(True)
        assert all(moved[name] for name in convolutions[first:])


def test_the_whole_model_starts_where_the_head_ended(backbone, head, all_trained):
    features = backbone.functional(image_size=SIZE)(images())
    expected = head(features).numpy()
    trained, _, outputs = all_trained
    for found in (outputs, whole(backbone, "none", head=head)(images())):
        np.testing.assert_allclose(found, expected, atol=1e-4)
    again = whole(backbone, "top", head=trained)
    np.testing.assert_allclose(again(images()), trained(images()), atol=1e-5)


def test_the_learning_rate_warms_up_and_decays():
    rate = models.learning_rate_schedule(0.5, steps=100)
    values = np.array([float(rate(tf.constant(step, tf.int64))) for step in range(101)])
    assert values[0] == pytest.approx(0.05)
    assert values.argmax() == 10
    assert values.max() == pytest.approx(0.5)
    assert (np.diff(values[:11]) > 0).all()
    assert (np.diff(values[10:]) < 0).all()
    assert values[100] == pytest.approx(0, abs=1e-6)
    kept = models.learning_rate_schedule(0.5, steps=100, final_share=1.0)
    assert [float(kept(step)) for step in (0, 10, 50, 100)] == pytest.approx([0.05, 0.5, 0.5, 0.5])
    assert float(models.learning_rate_schedule(0.5, steps=3)(0)) == pytest.approx(0.5), (
        "too short for a warm-up"
    )


def test_a_hub_layer_sees_the_range_it_expects(backbone, tmp_path):
    """A backbone that is no bundled one gets its images scaled, and is a hub.KerasLayer."""

    scale = tf.Variable(tf.ones([3]))

    def brightness(pixels, training=False):
        return tf.reduce_mean(pixels, [1, 2]) * scale

    export(tmp_path / "model", brightness, variables=[scale])
    resolved = hub.load_model(str(tmp_path / "model"), input_range=(0, 255))
    top = models.plain_top(0.1, dropout=0.0)
    model = models.whole_model(resolved, classes=2, spec=SPEC, trainable="all", top=top)
    features = keras.Model(model.input, model.get_layer(models.CLASSIFIER).input)
    np.testing.assert_allclose(features(images()), images().mean((1, 2)) * 255, rtol=1e-4)
    assert len(model.trainable_variables) == 3


def test_mixed_precision_trains_in_float16_and_hands_over_float32(backbone):
    model = whole(backbone, "all", precision="mixed_float16")
    assert model.get_layer(index=-3).compute_dtype == "float16"
    assert {weight.dtype.name for weight in model.trainable_variables} == {"float32"}
    assert isinstance(model.optimizer, keras.mixed_precision.LossScaleOptimizer)
    assert keras.mixed_precision.global_policy().name == "float32"
    fit(model)
    exact = whole(backbone, "none", head=model)
    assert exact.get_layer(index=-3).compute_dtype == "float32"
    expected = model(images()).numpy()
    assert expected.dtype == np.float32
    np.testing.assert_allclose(exact(images()), expected, atol=0.05 * np.abs(expected).max())

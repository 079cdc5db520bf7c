"""The scattering transform: kymatio's numbers, in each of the forms that a model of tfkit has."""

import numpy as np
import pytest

from tests.hub.kymatio_reference import PATH, SIDES, images
from tfkit import data, hub
from tfkit.environment.stack import keras, tf
from tfkit.errors import HubError
from tfkit.hub import bundled
from tfkit.hub.scattering import EPSILON, GROUPS, feature_size
from tfkit.litert import ParallelInterpreter, to_tflite


@pytest.fixture(scope="module")
def backbone():
    return hub.load_model("scattering")


def transform(model):
    return keras.Model(model.input, model.get_layer("scattering").output)


def grey(side):
    return np.repeat(images(side)[..., np.newaxis], 3, axis=-1)


@pytest.mark.parametrize("side", SIDES)
def test_it_gives_the_numbers_of_kymatio(backbone, side):
    expected = np.load(PATH)[str(side)].transpose(0, 2, 3, 1)
    assert expected.std(axis=(0, 1, 2)).min() > 1e-3  # no channel is the same everywhere
    for image_size in (side, None):
        transformed = transform(bundled.MODELS["scattering"].functional(image_size=image_size))(grey(side))
        np.testing.assert_allclose(transformed, expected, rtol=0, atol=1e-5)


def test_each_colour_is_transformed_as_brightness_is():
    pixels = np.random.default_rng(1).random((2, 16, 16, 3)).astype(np.float32)
    one, three = (
        transform(bundled.MODELS[name].functional(image_size=16)) for name in ("scattering", "scattering-rgb")
    )
    singles = [one(np.repeat(pixels[..., [colour]], 3, axis=-1)) for colour in range(3)]
    np.testing.assert_allclose(three(pixels), np.concatenate(singles, axis=-1), atol=1e-5)
    weighed = np.repeat((pixels @ np.float32([0.299, 0.587, 0.114]))[..., np.newaxis], 3, axis=-1)
    np.testing.assert_allclose(one(pixels), one(weighed), atol=1e-5)


def test_features_are_normalized_in_groups_of_one_image(backbone):
    splits, some = data.load_images("digits", image_size=28), np.arange(20)
    features = hub.extract(backbone, splits).splits.source.read(some)
    model = backbone.functional(image_size=28)
    paths = transform(model)(splits.source.read(some).astype(np.float32) / 255).numpy()
    groups = paths.reshape(20, 49, GROUPS, -1)
    mean, variance = (of(groups, axis=(1, 3), keepdims=True) for of in (np.mean, np.var))
    expected = ((groups - mean) / np.sqrt(variance + EPSILON)).reshape(20, -1)
    assert features.shape == expected.shape == (20, feature_size(28, colours=False))
    np.testing.assert_allclose(features, expected, atol=1e-3)


def test_nothing_in_it_can_be_trained(backbone):
    assert (backbone.parameters, backbone.trainable_variables) == (0, 0)
    with pytest.raises(HubError, match="0 trainable weights"):
        backbone.check(trainable=True)
    with pytest.raises(HubError, match="image_size=4 is too small"):
        backbone.check(image_size=4)


def test_a_gradient_is_finite_where_the_image_is_black(backbone):
    """Explanations ask for it; the modulus of nothing has none by itself."""
    pixels = tf.constant(grey(28))
    with tf.GradientTape() as tape:
        tape.watch(pixels)
        total = tf.reduce_sum(backbone.functional(image_size=28)(pixels) ** 3)
    assert np.isfinite(tape.gradient(total, pixels)).all()


def test_litert_gives_the_same_of_a_clone(backbone):
    model = keras.models.clone_model(backbone.functional(image_size=28))
    with ParallelInterpreter(to_tflite(model, input_shape=(2, 28, 28, 3))) as interpreter:
        features = interpreter(grey(28), prepare=np.asarray)
    np.testing.assert_allclose(features, backbone.functional(image_size=28)(grey(28)), atol=1e-3)

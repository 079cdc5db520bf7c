"""The bundled backbone: real weights, two forms, one network."""

import dataclasses
import sys

import numpy as np
import pytest
from sklearn.datasets import load_sample_image

from tfkit import hub
from tfkit.environment import packages
from tfkit.environment.stack import keras, tf
from tfkit.errors import HubError
from tfkit.hub import bundled, weights
from tfkit.hub.fetch import folder_digest

MODEL = bundled.MODELS["efficientnet-lite0"]


@pytest.fixture(scope="module")
def backbone():
    return hub.load_model("efficientnet-lite0")


@pytest.fixture(scope="module")
def functional(backbone):
    return backbone.functional(image_size=64)


def center(name, size):
    """The middle square of a photo, float32 [1, size, size, 3] in [0, 1]."""
    photo = load_sample_image(name)
    side = min(photo.shape[:2])
    top, left = (photo.shape[0] - side) // 2, (photo.shape[1] - side) // 2
    square = photo[top : top + side, left : left + side]
    return tf.image.resize(square, (size, size), antialias=True)[None] / 255


def test_the_weights_are_those_of_imagenet():
    """With the classifier of the same file, which no feature vector needs."""
    tensors = weights.read(MODEL.weights_path())
    photos = tf.concat([center("flower.jpg", 224), center("china.jpg", 224)], axis=0)
    features = MODEL.functional(image_size=224).predict(photos, verbose=0)
    scores = features @ tensors["_fc.weight"].T + tensors["_fc.bias"]
    assert scores.argmax(axis=-1).tolist() == [985, 698]  # daisy, palace


def test_what_is_known_of_it(backbone):
    assert hub.load_model("efficientnet-lite0") == backbone
    assert (backbone.native_size, backbone.fixed_size, backbone.input_range) == (224, False, (0.0, 1.0))
    assert (backbone.feature_size, backbone.parameters, backbone.licence) == (1280, 3_413_024, "Apache-2.0")


@pytest.mark.parametrize("trainable", [False, True])
def test_layer_and_functional_model_are_one_network(backbone, functional, trainable):
    layer = backbone.layer(trainable=trainable)
    assert len(layer.trainable_weights) == (backbone.trainable_variables if trainable else 0)
    assert backbone.trainable_variables == len(functional.trainable_weights) == 147
    photos = tf.concat([center("flower.jpg", 64), center("china.jpg", 64)], axis=0)
    features = functional(photos).numpy()
    assert features.std() > 0.1
    np.testing.assert_allclose(layer(photos), features, atol=1e-3 * features.std())


def test_training_uses_and_updates_batch_statistics(backbone):
    layer, model = backbone.layer(trainable=True), backbone.functional(image_size=64)
    assert layer(tf.zeros((1, 32, 32, 3))).shape == layer(tf.zeros((1, 65, 47, 3))).shape == (1, 1280)
    photos = tf.concat([center("flower.jpg", 64), center("china.jpg", 64)], axis=0)
    frozen = layer(photos, training=False).numpy()
    np.testing.assert_allclose(layer(photos, training=True), model(photos, training=True), atol=1e-2)
    assert not np.allclose(layer(photos, training=False), frozen)
    assert all(
        bn.momentum == 0.99 and bn.epsilon == 1e-3
        for bn in model.layers
        if isinstance(bn, keras.layers.BatchNormalization)
    )


def test_the_functional_model_can_be_compressed(functional):
    """Compression looks at each layer: none may be nested, and each name must be one that TFLite keeps."""
    assert not any(hasattr(layer, "layers") for layer in functional.layers)
    assert not any(layer.name.startswith("_") for layer in functional.layers)
    assert functional.input_shape == (None, 64, 64, 3)


def test_too_small_an_image_is_refused(backbone):
    with pytest.raises(HubError, match="image_size=31 is too small"):
        backbone.functional(image_size=31)


def test_another_input_range_is_refused():
    """Features were computed in it, and the exported model took [0, 1]."""
    assert hub.load_model("efficientnet-lite0", input_range=(0, 1)).input_range == (0, 1)
    with pytest.raises(HubError, match="leave input_range= out"):
        hub.load_model("efficientnet-lite0", input_range=(-1, 1))


def test_missing_package_names_the_command():
    absent = dataclasses.replace(MODEL, package="no-such-weights-package")
    with pytest.raises(HubError) as error:
        absent.weights_path()
    assert packages.command("no-such-weights-package") in str(error.value)


def test_damaged_weights_are_refused(tmp_path, monkeypatch):
    content = bytearray(MODEL.weights_path().read_bytes())
    content[len(content) // 2] ^= 1
    package = tmp_path / "damaged_weights"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / MODEL.weights).write_bytes(content)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(HubError, match="damaged: its SHA-256"):
        dataclasses.replace(MODEL, package="damaged-weights").weights_path()


def test_two_exports_in_two_caches_have_one_digest(backbone, tmp_path, monkeypatch):
    """What is stored under it is found again: TensorFlow numbers functions, and signs each export at random."""
    monkeypatch.setenv("TFKIT_CACHE", str(tmp_path))
    tf.function(lambda x: x + 1).get_concrete_function(tf.TensorSpec([]))  # functions get other numbers
    other = hub.load_model("efficientnet-lite0")
    assert other.path != backbone.path
    assert folder_digest(other.path) != folder_digest(backbone.path)
    assert other.digest == backbone.digest != bundled.MODELS["minilm-l6-v2"].digest

"""What a SavedModel takes and gives is read rightly, and every reason against it is said at once."""

import dataclasses

import numpy as np
import pytest

from tests.hub.conftest import export, reply
from tfkit import hub
from tfkit.environment.stack import keras, tf
from tfkit.errors import HubError

pytestmark = pytest.mark.usefixtures("empty_cache")


def problems(backbone, **asked):
    with pytest.raises(HubError) as error:
        backbone.check(**asked)
    return str(error.value)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return tmp_path_factory.mktemp("kinds")


@pytest.fixture(scope="module")
def tf1_hub_module(models):
    """A module of the TF1 Hub format: no tags, the signature "default", the file that marks it."""
    v1, folder = tf.compat.v1, models / "tf1"
    with tf.Graph().as_default(), v1.Session() as session:
        image = v1.placeholder(tf.float32, (None, 16, 16, 3))
        kernel = v1.get_variable("kernel", (3, 4), use_resource=True)
        features = tf.reduce_mean(image, axis=(1, 2)) @ kernel
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.Builder(str(folder))
        signature = v1.saved_model.predict_signature_def({"images": image}, {"default": features})
        builder.add_meta_graph_and_variables(session, [], signature_def_map={"default": signature})
        builder.save()
    (folder / "tfhub_module.pb").write_bytes(b"\x08\x03")
    return folder


def test_a_good_model_passes_and_comes_back(hub_model):
    backbone = hub.load_model(hub_model)
    assert backbone.check(image_size=48, trainable=True) is backbone
    assert (backbone.native_size, backbone.fixed_size) == (224, False)
    assert (backbone.feature_size, backbone.parameters, backbone.trainable_variables) == (4, 16, 1)
    layer = backbone.layer(trainable=True)
    assert (len(layer.trainable_weights), len(layer.weights)) == (1, 2)


def test_a_keras_model_is_callable_and_shows_its_range(models, keras_model):
    keras_model.save(models / "keras", save_format="tf")
    backbone = hub.load_model(models / "keras").check(image_size=24, trainable=True)
    assert (backbone.native_size, backbone.fixed_size) == (24, True)
    assert (backbone.feature_size, backbone.parameters, backbone.trainable_variables) == (5, 140, 2)
    assert backbone.input_range == (0, 255)
    assert len(backbone.layer(trainable=True).trainable_weights) == 2
    images = np.random.default_rng(0).random((2, 24, 24, 3), dtype=np.float32)
    np.testing.assert_allclose(backbone.layer()(backbone.scale(images)), keras_model(images * 255), rtol=1e-5)


def test_a_model_with_signatures_only_works_frozen(models, keras_model):
    keras_model.export(str(models / "signature"))
    backbone = hub.load_model(models / "signature").check(image_size=24)
    images = np.random.default_rng(0).random((2, 24, 24, 3), dtype=np.float32)
    np.testing.assert_allclose(backbone.layer()(images), keras_model(images), rtol=1e-5)
    assert (backbone.feature_size, backbone.trainable_variables) == (5, 0)
    message = problems(backbone, image_size=32, trainable=True)
    assert "image_size=24" in message
    assert "0 trainable weights" in message


def test_a_tf1_module_works_frozen(tf1_hub_module):
    backbone = hub.load_model(tf1_hub_module).check(image_size=16)
    assert (backbone.feature_size, backbone.parameters, backbone.native_size) == (4, 12, 16)
    assert backbone.layer()(tf.ones((2, 16, 16, 3))).shape == (2, 4)
    assert "0 trainable weights" in problems(backbone, trainable=True)
    with pytest.raises(HubError, match="0 trainable weights"):
        backbone.layer(trainable=True)


@pytest.mark.parametrize(("variables", "parameters"), [(True, 12), (False, 0)])
def test_a_plain_module_and_constants_work_frozen(models, variables, parameters):
    kernel = (tf.Variable if variables else tf.constant)(tf.ones((3, 4)))
    folder = models / f"plain{parameters}"

    def call(image, training=False):
        return tf.reduce_mean(image, axis=(1, 2)) @ kernel

    backbone = hub.load_model(
        export(folder, call, variables=[kernel] if variables else [], listed=not variables)
    )
    assert (backbone.feature_size, backbone.parameters, backbone.trainable_variables) == (4, parameters, 0)
    assert backbone.check(image_size=32) is backbone
    assert "0 trainable weights" in problems(backbone, trainable=True)


def test_neither_callable_nor_a_signature(models):
    tf.saved_model.save(tf.train.Checkpoint(kernel=tf.Variable(1.0)), str(models / "checkpoint"))
    assert "neither be called nor" in problems(hub.load_model(models / "checkpoint"))


def test_a_text_encoder(models):
    strings = tf.TensorSpec((None,), tf.string)
    export(models / "text", lambda text: tf.one_hot(tf.strings.length(text), 8), strings, modes=())
    backbone = hub.load_model(models / "text", modality="images")
    assert backbone.feature_size == 8
    message = problems(backbone, image_size=224, trainable=True)
    assert all(words in message for words in ("string", "recipes.transfer_text", "0 trainable weights"))
    assert (backbone.native_size, backbone.notes) == (0, ())


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ((None, 28, 28, 1), "[?, 28, 28, 1]"),
        ((None, 784), "[?, 784]"),
        ((1, 32, 32, 3), "exactly 1"),
        ((None, 32, 48, 3), "[?, 32, 48, 3]"),
    ],
)
def test_other_inputs(models, image, words):
    def call(image, training=False):
        return tf.reshape(tf.reduce_mean(image, axis=1, keepdims=True), (-1, 1)) @ tf.ones((1, 4))

    spec = tf.TensorSpec(image, tf.float32, name="image")
    folder = export(models / f"input{'x'.join(map(str, image))}", call, spec)
    assert words in problems(hub.load_model(folder), image_size=32)


def test_other_outputs(models):
    maps = export(models / "maps", lambda image, training=False: image[:, ::2, ::2])
    assert "[?, ?, ?, 3]: not plainly a feature vector" in problems(hub.load_model(maps), image_size=32)
    many = export(models / "many", lambda image, training=False: {"a": image[:, 0, 0], "b": image[:, 1, 1]})
    assert "not plainly a feature vector" in problems(hub.load_model(many), image_size=32)


def test_the_conventional_one_of_several_outputs_is_taken(models):
    def call(image, training=False):
        return {
            "block1": image[:, ::2, ::2],
            "default": tf.reduce_mean(image, axis=(1, 2)),
            "other": image[:, 0, 0],
        }

    backbone = hub.load_model(export(models / "endpoints", call)).check(image_size=32)
    assert backbone.layer()(tf.ones((2, 32, 32, 3))).shape == (2, 3)


def test_a_feature_size_that_the_model_does_not_state_is_measured(models):
    def call(image, training=False):
        means = tf.reduce_mean(image, axis=(1, 2))
        return tf.reshape(means, tf.concat([tf.shape(image)[:1], [-1]], axis=0))

    backbone = hub.load_model(export(models / "unstated", call)).check(image_size=32)
    assert backbone.feature_size == 3
    model = keras.Sequential([backbone.layer(), keras.layers.Dense(2)])
    assert model(tf.ones((2, 32, 32, 3))).shape == (2, 2)


def test_a_classifier_is_told_from_a_feature_vector(server, archive):
    url = server.serve(reply(archive), path="/google/imagenet/tiny/classification/5")
    message = problems(hub.load_model(url), image_size=32)
    assert "scores of a finished classifier" in message
    assert f"{server.url}/google/imagenet/tiny/feature_vector/5" in message
    on_kaggle = "google/mobilenet-v2/tensorFlow2/100-224-{}/2"
    encoder = dataclasses.replace(hub.load_model(url), handle=on_kaggle.format("classification"))
    assert on_kaggle.format("feature-vector") in problems(encoder, image_size=32)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"modality": "video"}, "expected 'images' or 'texts'"),
        ({"max_length": 8}, r"a model of images, which has no max_length=.\n.*modality='texts'"),
        ({"modality": "texts", "input_range": (0, 255)}, "a model of texts, which has no input_range="),
    ],
)
def test_no_option_is_ignored(hub_model, options, match):
    with pytest.raises(HubError, match=match):
        hub.load_model(str(hub_model), **options)

"""What is converted computes what TensorFlow computes, or says what TFLite lacks."""

import numpy as np
import pytest

from tfkit.environment.stack import keras, tf, tf_hub
from tfkit.errors import CheckError
from tfkit.litert import ParallelInterpreter, to_tflite


@pytest.fixture(scope="module")
def model():
    """A convolutional net whose batch normalization has statistics of its own."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            keras.layers.Conv2D(8, 3, use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(6.0),
            keras.layers.Dropout(0.5),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(5),
        ]
    )
    normalization = model.layers[1]
    rng = np.random.default_rng(0)
    normalization.set_weights([rng.uniform(0.5, 2, weight.shape) for weight in normalization.get_weights()])
    return model


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).random((4, 16, 16, 3), dtype=np.float32)


def run(content, images):
    with ParallelInterpreter(content) as interpreter:
        return interpreter(images)


def test_keras_model(model, images):
    found = run(to_tflite(model, input_shape=[1, 16, 16, 3]), images)
    np.testing.assert_allclose(found, model.predict(images, verbose=0), rtol=1e-4, atol=1e-5)


def test_hub_layer_of_a_saved_model(model, images, tmp_path):
    model.save(tmp_path / "saved", include_optimizer=False)
    layer = tf_hub.KerasLayer(str(tmp_path / "saved"))
    found = run(to_tflite(layer, input_shape=[4, 16, 16, 3]), images)
    np.testing.assert_allclose(found, model.predict(images, verbose=0), rtol=1e-4, atol=1e-5)


def test_weights_are_folded_and_stored_once(model):
    """4 bytes a parameter and no more: batch normalization is in the convolution, dropout is gone."""
    content = to_tflite(model, input_shape=[None, 16, 16, 3])
    assert len(content) < 4 * model.count_params() + 4000


def test_operations_that_tflite_lacks_are_named(capfd):
    def model(inputs):
        return tf.math.betainc(inputs, inputs, inputs) + tf.linalg.svd(inputs[:, None], compute_uv=False)

    with pytest.raises(CheckError, match=r"lacks Betainc, Svd\.") as caught:
        to_tflite(model, input_shape=[1, 4])
    assert "TensorFlow itself runs" in str(caught.value)


def test_conversion_is_silent(model, capfd):
    to_tflite(model, input_shape=[1, 16, 16, 3])
    assert "".join(capfd.readouterr()) == ""

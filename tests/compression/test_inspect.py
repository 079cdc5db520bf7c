"""The census counts what is there; a fake int8 model and a damaged file are found out."""

import subprocess
import sys

import numpy as np
import pytest

from tfkit.compression import convert, inspect, prove_int8
from tfkit.environment.stack import keras
from tfkit.errors import CheckError, DataError


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    layers = keras.layers
    convolutions = [layers.Conv2D(4, 3, use_bias=False), layers.DepthwiseConv2D(3)]
    return keras.Sequential([keras.Input([8, 8, 3]), *convolutions, layers.Flatten(), layers.Dense(5)])


@pytest.fixture(scope="module")
def float32(model):
    return convert(model)


def test_multiplications_are_counted(float32, tmp_path):
    census = inspect(float32)
    (tmp_path / "model.tflite").write_bytes(float32)
    assert inspect(tmp_path / "model.tflite") == inspect(str(tmp_path / "model.tflite")) == census
    with pytest.raises(DataError, match=r"no file other\.tflite"):
        inspect("other.tflite")
    by_name = {operator.name: operator.macs for operator in census.operators if operator.macs}
    assert by_name == {
        "CONV_2D": 6 * 6 * 4 * 3 * 3 * 3,
        "DEPTHWISE_CONV_2D": 4 * 4 * 4 * 3 * 3,
        "FULLY_CONNECTED": 4 * 4 * 4 * 5,
    }
    assert census.macs == {"float32": 1.0}
    assert census.size_bytes == len(float32) > census.weights["float32"]
    assert (census.inputs[0].shape, census.outputs[0].shape) == ((1, 8, 8, 3), (1, 5))


def test_a_fake_int8_model_is_refused(model):
    """The trap: optimised without representative data, a file has int8 weights and computes in float."""
    fake = convert(keras.Sequential([keras.Input([64]), keras.layers.Dense(64)]), variant="dynamic")
    with pytest.raises(CheckError, match=r"(?s)no int8 model: 0\.0 %.*FULLY_CONNECTED") as caught:
        prove_int8(inspect(fake), name="mine")
    assert "representative" in str(caught.value)


def test_zeros_and_distinct_weights_are_counted(model):
    half = keras.models.clone_model(model)
    kernel = np.ones(half.layers[-1].kernel.shape, np.float32)
    kernel[::2] = 0
    for layer in half.layers:
        if layer.weights:
            layer.set_weights([np.ones(weight.shape, np.float32) for weight in layer.weights])
    half.layers[-1].kernel.assign(kernel)
    census = inspect(convert(half))
    zeros, size = int((kernel == 0).sum()), sum(np.prod(w.shape) for w in half.weights if "kernel" in w.name)
    assert census.sparsity == pytest.approx(zeros / size)
    assert census.distinct_weights == 2


def test_no_tensorflow_is_needed(float32, tmp_path):
    (tmp_path / "model.tflite").write_bytes(float32)
    program = (
        "import sys; from tfkit.compression.inspect import inspect;"
        f"print(inspect(open({str(tmp_path / 'model.tflite')!r}, 'rb').read()).summary);"
        "assert 'tensorflow' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "100.0 % of MACs" in done.stdout

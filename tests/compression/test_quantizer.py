"""ai-edge-quantizer's variants: integers in the weights alone, or everywhere."""

import numpy as np
import pytest

from tfkit.compression import inspect
from tfkit.compression.convert import weights_only
from tfkit.environment.stack import keras
from tfkit.litert import ParallelInterpreter, to_tflite

EXAMPLES = np.random.default_rng(0).random((20, 1, 64), np.float32)


@pytest.fixture(scope="module")
def float32():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input([64]), keras.layers.Dense(256, activation="relu"), keras.layers.Dense(8)]
    )
    return to_tflite(model, input_shape=[1, 64])


def run(content):
    with ParallelInterpreter(content) as interpreter:
        return interpreter(EXAMPLES[:, 0])


@pytest.mark.parametrize(("bits", "smaller", "error"), [(8, 0.35, 0.02), (4, 0.25, 0.4)])
def test_weights_alone(float32, bits, smaller, error):
    content = weights_only(float32, bits=bits)
    assert len(content) < smaller * len(float32)
    assert f"int{bits}" in inspect(content).weights
    np.testing.assert_allclose(run(content), run(float32), atol=error)

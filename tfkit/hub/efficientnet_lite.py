"""EfficientNet-Lite0 as a plain functional tf_keras model, and the names of its weights in a torch port.

Source: github.com/tensorflow/tpu, models/official/efficientnet/lite; Tan & Le 2019 (arXiv:1905.11946).
Against EfficientNet-B0 the Lite variant has no squeeze-and-excite, and ReLU6 for swish: it runs fast in int8.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tfkit.hub.checkpoint import Place, assign

if TYPE_CHECKING:
    import numpy as np

    from tfkit.stack import keras

FEATURE_SIZE = 1280
CLASSES = 1000
NATIVE_SIZE = 224
MINIMUM_SIZE = 32
# (repeats, kernel, strides of the first, expansion, filters), one row a stage.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
BATCH_NORM = {"epsilon": 1e-3, "momentum": 0.99}


def build(*, image_size: int | None = None, classifier: bool = False) -> keras.Model:
    """The architecture, with random weights.

    Args:
      image_size: pixels a side, at least 32; None takes any.
      classifier: with the ImageNet classes on top (probabilities [batch, 1000]) in place of features.

    Returns:
      float32 [batch, image_size, image_size, 3] in [0, 1] to float32 [batch, 1280]. It is flat: every layer
      is one that pruning, clustering and quantization can look at.
    """
    from tfkit.stack import keras

    layers = keras.layers
    inputs = keras.Input((image_size, image_size, 3), name="image")
    x = layers.Rescaling(2.0, offset=-1.0, name="rescaling")(inputs)
    x = layers.Conv2D(32, 3, strides=2, padding="same", use_bias=False, name="stem_conv")(x)
    x = _normalized(x, "stem")
    for name, kernel, strides, expansion, filters in _blocks():
        x = _block(x, name, kernel=kernel, strides=strides, expansion=expansion, filters=filters)
    x = layers.Conv2D(FEATURE_SIZE, 1, padding="same", use_bias=False, name="top_conv")(x)
    x = _normalized(x, "top")
    x = layers.GlobalAveragePooling2D(name="features")(x)
    if classifier:
        x = layers.Dense(CLASSES, activation="softmax", name="probabilities")(x)
    return keras.Model(inputs, x, name="efficientnet_lite0")


def set_weights(model: keras.Model, tensors: Mapping[str, np.ndarray]) -> None:
    """Give `model` the weights of a torch port of the TensorFlow original.

    Args:
      model: what `build` returned.
      tensors: exactly the names and shapes of EfficientNet-Lite0, classifier included.

    Raises:
      HubError: a tensor is missing, superfluous, of another shape, or not finite.
    """
    counters = {name for name in tensors if name.endswith(".num_batches_tracked")}
    assign(model, tensors, dict(_torch_names()), unused=counters, title="EfficientNet-Lite0")


def _blocks() -> Iterator[tuple[str, int, int, int, int]]:
    for stage, (repeats, kernel, strides, expansion, filters) in enumerate(STAGES, start=1):
        for i in range(repeats):
            yield f"block{stage}{'abcd'[i]}", kernel, strides if i == 0 else 1, expansion, filters


def _block(x: Any, name: str, *, kernel: int, strides: int, expansion: int, filters: int) -> Any:
    from tfkit.stack import keras

    layers = keras.layers
    inputs, channels = x, x.shape[-1]
    if expansion > 1:
        x = layers.Conv2D(
            channels * expansion, 1, padding="same", use_bias=False, name=f"{name}_expand_conv"
        )(x)
        x = _normalized(x, f"{name}_expand")
    x = layers.DepthwiseConv2D(
        kernel, strides=strides, padding="same", use_bias=False, name=f"{name}_dwconv"
    )(x)
    x = _normalized(x, f"{name}_dw")
    x = layers.Conv2D(filters, 1, padding="same", use_bias=False, name=f"{name}_project_conv")(x)
    x = layers.BatchNormalization(**BATCH_NORM, name=f"{name}_project_bn")(x)
    if strides == 1 and channels == filters:
        x = layers.Add(name=f"{name}_add")([x, inputs])
    return x


def _normalized(x: Any, name: str) -> Any:
    from tfkit.stack import keras

    x = keras.layers.BatchNormalization(**BATCH_NORM, name=f"{name}_bn")(x)
    return keras.layers.ReLU(6.0, name=f"{name}_relu")(x)


def _torch_names() -> Iterator[tuple[str, Place]]:
    """Torch's name of each tensor, with where it goes here."""
    conv, depthwise = (2, 3, 1, 0), (2, 3, 0, 1)
    yield "_conv_stem.weight", Place("stem_conv", "kernel", conv)
    yield from _torch_batch_norm("_bn0", "stem_bn")
    for i, (name, _, _, expansion, _) in enumerate(_blocks()):
        if expansion > 1:
            yield f"_blocks.{i}._expand_conv.weight", Place(f"{name}_expand_conv", "kernel", conv)
            yield from _torch_batch_norm(f"_blocks.{i}._bn0", f"{name}_expand_bn")
        yield f"_blocks.{i}._depthwise_conv.weight", Place(f"{name}_dwconv", "depthwise_kernel", depthwise)
        yield from _torch_batch_norm(f"_blocks.{i}._bn1", f"{name}_dw_bn")
        yield f"_blocks.{i}._project_conv.weight", Place(f"{name}_project_conv", "kernel", conv)
        yield from _torch_batch_norm(f"_blocks.{i}._bn2", f"{name}_project_bn")
    yield "_conv_head.weight", Place("top_conv", "kernel", conv)
    yield from _torch_batch_norm("_bn1", "top_bn")
    yield "_fc.weight", Place("probabilities", "kernel", (1, 0))
    yield "_fc.bias", Place("probabilities", "bias")


def _torch_batch_norm(theirs: str, ours: str) -> Iterator[tuple[str, Place]]:
    yield f"{theirs}.weight", Place(ours, "gamma")
    yield f"{theirs}.bias", Place(ours, "beta")
    yield f"{theirs}.running_mean", Place(ours, "moving_mean")
    yield f"{theirs}.running_var", Place(ours, "moving_variance")

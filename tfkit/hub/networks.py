"""MiniLM-L6, a small BERT that makes vectors of sentences, as a plain functional tf_keras model.

Source: Devlin et al. 2018 (arXiv:1810.04805) for the network, Wang et al. 2020 (arXiv:2002.10957) for its size,
Reimers & Gurevych 2019 (arXiv:1908.10084) for the vector of a sentence: the mean over its tokens, of length 1.
Dropout is left out: what a resumed training draws would be other numbers.

Which layers of a flat model learn.

EfficientNet-Lite0 as a plain functional tf_keras model, and the names of its weights in a torch port.

Source: github.com/tensorflow/tpu, models/official/efficientnet/lite; Tan & Le 2019 (arXiv:1905.11946).
Against EfficientNet-B0 the Lite variant has no squeeze-and-excite, and ReLU6 for swish: it runs fast in int8.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tfkit.hub.weights import Place, assign

if TYPE_CHECKING:
    import numpy as np

    from tfkit.environment.stack import keras


def freeze(base: keras.Model, trainable: str) -> None:
    """Make `none`, the later half (`top`) or `all` of the layers trainable, but never batch normalisation."""
    from tfkit.environment.stack import keras

    weighted = [layer for layer in base.layers if layer.weights]
    frozen = {"none": len(weighted), "top": len(weighted) // 2, "all": 0}[trainable]
    for place, layer in enumerate(weighted):
        # A frozen BatchNormalization runs in inference mode also during training.
        normalises = isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = place >= frozen and not normalises


EFFICIENTNET_LITE_FEATURE_SIZE = 1280
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


def build_efficientnet_lite(*, image_size: int | None = None, classifier: bool = False) -> keras.Model:
    """The architecture, with random weights.

    Args:
      image_size: pixels a side, at least 32; None takes any.
      classifier: with the ImageNet classes on top (probabilities [batch, 1000]) in place of features.

    Returns:
      float32 [batch, image_size, image_size, 3] in [0, 1] to float32 [batch, 1280]. It is flat: every layer
      is one that pruning, clustering and quantization can look at.
    """
    from tfkit.environment.stack import keras

    layers = keras.layers
    inputs = keras.Input((image_size, image_size, 3), name="image")
    x = layers.Rescaling(2.0, offset=-1.0, name="rescaling")(inputs)
    x = layers.Conv2D(32, 3, strides=2, padding="same", use_bias=False, name="stem_conv")(x)
    x = _efficientnet_lite_normalized(x, "stem")
    for name, kernel, strides, expansion, filters in _blocks():
        x = _efficientnet_lite_block(
            x, name, kernel=kernel, strides=strides, expansion=expansion, filters=filters
        )
    x = layers.Conv2D(EFFICIENTNET_LITE_FEATURE_SIZE, 1, padding="same", use_bias=False, name="top_conv")(x)
    x = _efficientnet_lite_normalized(x, "top")
    x = layers.GlobalAveragePooling2D(name="features")(x)
    if classifier:
        x = layers.Dense(CLASSES, activation="softmax", name="probabilities")(x)
    return keras.Model(inputs, x, name="efficientnet_lite0")


def set_efficientnet_lite_weights(model: keras.Model, tensors: Mapping[str, np.ndarray]) -> None:
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


def _efficientnet_lite_block(
    x: Any, name: str, *, kernel: int, strides: int, expansion: int, filters: int
) -> Any:
    from tfkit.environment.stack import keras

    layers = keras.layers
    inputs, channels = x, x.shape[-1]
    if expansion > 1:
        x = layers.Conv2D(
            channels * expansion, 1, padding="same", use_bias=False, name=f"{name}_expand_conv"
        )(x)
        x = _efficientnet_lite_normalized(x, f"{name}_expand")
    x = layers.DepthwiseConv2D(
        kernel, strides=strides, padding="same", use_bias=False, name=f"{name}_dwconv"
    )(x)
    x = _efficientnet_lite_normalized(x, f"{name}_dw")
    x = layers.Conv2D(filters, 1, padding="same", use_bias=False, name=f"{name}_project_conv")(x)
    x = layers.BatchNormalization(**BATCH_NORM, name=f"{name}_project_bn")(x)
    if strides == 1 and channels == filters:
        x = layers.Add(name=f"{name}_add")([x, inputs])
    return x


def _efficientnet_lite_normalized(x: Any, name: str) -> Any:
    from tfkit.environment.stack import keras

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


MINILM_FEATURE_SIZE = 384
LAYERS = 6
INNER = 1536
VOCABULARY = 30_522
POSITIONS = 512
WORDS = "embeddings.word_embeddings.weight"
"""The checkpoint's name of the vectors of the pieces."""
LENGTH = 128
"""Ids in a text that it was trained on."""


def build_minilm() -> keras.Model:
    """The architecture, with random weights.

    Returns:
      {"input_word_ids", "input_mask"} int32 [b, n], n at most 512, to float32 [b, 384] of length 1. It is flat, and
      all kernels are those of Dense layers but the three embeddings.
    """
    from tfkit.environment.stack import keras, tf

    inputs = {
        name: keras.Input((None,), dtype=tf.int32, name=name) for name in ("input_word_ids", "input_mask")
    }
    return keras.Model(inputs, encode(**inputs)[1], name="minilm_l6_v2")


def encode(
    input_word_ids: Any,
    input_mask: Any,
    input_type_ids: Any = None,
    *,
    longest: int | None = None,
    vocabulary: int = VOCABULARY,
) -> tuple[Any, Any]:
    """The network on these ids, as new layers.

    Args:
      input_word_ids: Keras tensor, int32 [b, n].
      input_mask: the same, 1 for an id and 0 for padding.
      input_type_ids: the same, 0 or 1; None: all are 0.
      longest: of n, where that is known to be less than `POSITIONS`.
      vocabulary: pieces, where some are left out.

    Returns:
      The vectors of the tokens, float32 [b, n, 384], and those of the texts, float32 [b, 384].
    """
    from tfkit.environment.stack import keras
    from tfkit.hub import bert_layers

    layers = keras.layers
    x = layers.Embedding(vocabulary, MINILM_FEATURE_SIZE, name="words")(input_word_ids)
    places = bert_layers.Places(positions=POSITIONS, longest=longest, name="places")
    x = places(x if input_type_ids is None else [x, input_type_ids])
    x = _minilm_normalized(x, "embeddings")
    for i in range(LAYERS):
        x = _minilm_block(x, input_mask, f"layer{i}")
    return x, bert_layers.Mean(name="sentence")([x, input_mask])


def set_minilm_weights(model: keras.Model, tensors: Mapping[str, np.ndarray]) -> None:
    """Give `model` the weights of the published checkpoint.

    Args:
      model: what `build` returned.
      tensors: exactly the names and shapes of all-MiniLM-L6-v2.

    Raises:
      HubError: a tensor is missing, superfluous, of another shape, or not finite.
    """
    unused = {"embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias"}
    assign(model, tensors, dict(_names()), unused=unused, title="MiniLM-L6-v2")


def _minilm_block(x: Any, mask: Any, name: str) -> Any:
    from tfkit.environment.stack import keras
    from tfkit.hub import bert_layers

    layers = keras.layers
    inputs = x
    parts = [
        layers.Dense(MINILM_FEATURE_SIZE, name=f"{name}_{part}")(x) for part in ("query", "key", "value")
    ]
    x = bert_layers.Attention(heads=12, name=f"{name}_attention")([*parts, mask])
    x = layers.Dense(MINILM_FEATURE_SIZE, name=f"{name}_attended")(x)
    x = _minilm_normalized(layers.Add(name=f"{name}_attended_add")([x, inputs]), f"{name}_attended")
    inputs = x
    x = layers.Dense(INNER, name=f"{name}_inner")(x)
    x = layers.Activation("gelu", name=f"{name}_gelu")(x)
    x = layers.Dense(MINILM_FEATURE_SIZE, name=f"{name}_outer")(x)
    return _minilm_normalized(layers.Add(name=f"{name}_outer_add")([x, inputs]), f"{name}_outer")


def _minilm_normalized(x: Any, name: str) -> Any:
    from tfkit.environment.stack import keras

    return keras.layers.LayerNormalization(epsilon=1e-12, name=f"{name}_norm")(x)


def _names() -> Iterator[tuple[str, Place]]:
    """The checkpoint's name of each tensor, with where it goes here."""
    yield WORDS, Place("words", "embeddings")
    yield "embeddings.position_embeddings.weight", Place("places", "positions")
    yield "embeddings.token_type_embeddings.weight", Place("places", "types")
    yield from _norm("embeddings.LayerNorm", "embeddings")
    for i in range(LAYERS):
        theirs, ours = f"encoder.layer.{i}", f"layer{i}"
        for part in ("query", "key", "value"):
            yield from _dense(f"{theirs}.attention.self.{part}", f"{ours}_{part}")
        yield from _dense(f"{theirs}.attention.output.dense", f"{ours}_attended")
        yield from _norm(f"{theirs}.attention.output.LayerNorm", f"{ours}_attended")
        yield from _dense(f"{theirs}.intermediate.dense", f"{ours}_inner")
        yield from _dense(f"{theirs}.output.dense", f"{ours}_outer")
        yield from _norm(f"{theirs}.output.LayerNorm", f"{ours}_outer")


def _dense(theirs: str, ours: str) -> Iterator[tuple[str, Place]]:
    yield f"{theirs}.weight", Place(ours, "kernel", (1, 0))
    yield f"{theirs}.bias", Place(ours, "bias")


def _norm(theirs: str, ours: str) -> Iterator[tuple[str, Place]]:
    yield f"{theirs}.weight", Place(f"{ours}_norm", "gamma")
    yield f"{theirs}.bias", Place(f"{ours}_norm", "beta")

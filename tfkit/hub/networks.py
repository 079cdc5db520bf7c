"""The networks of the bundled models as flat tf_keras models: EfficientNet-Lite0, MiniLM-L6 and a multilingual one.

Sources: github.com/tensorflow/tpu, models/official/efficientnet/lite, and Tan & Le 2019 (arXiv:1905.11946); Devlin
et al. 2018 (arXiv:1810.04805), Wang et al. 2020 (arXiv:2002.10957), Reimers & Gurevych 2019 (arXiv:1908.10084); Yang et
al. 2019 (arXiv:1907.04307) and, of Google's universal-sentence-encoder-multilingual 3, the shapes of its weights.
Every layer is one that pruning, clustering and quantization can look at.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tfkit.environment.stack import keras, tf
from tfkit.text.layers import MaskedMean

_STAGES = (
    # repeats, kernel, strides of the first, expansion, filters
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_LITE_LAYERS = {"_conv_stem": "stem_conv", "_bn0": "stem_bn", "_conv_head": "top_conv", "_bn1": "top_bn"}
_LITE_BLOCK = {
    "_expand_conv": "expand_conv", "_bn0": "expand_bn", "_depthwise_conv": "dwconv", "_bn1": "dw_bn",
    "_project_conv": "project_conv", "_bn2": "project_bn",
}  # fmt: skip


def efficientnet_lite0(*, image_size: int | None = None) -> keras.Model:
    """Build EfficientNet-Lite0 with random weights.

    Args:
      image_size: pixels a side, at least 32; None takes any.

    Returns:
      float32 [batch, image_size, image_size, 3] in [0, 1] to float32 [batch, 1280].
    """
    layers = keras.layers
    inputs = keras.Input((image_size, image_size, 3), name="image")
    x = layers.Rescaling(2.0, offset=-1.0, name="rescaling")(inputs)
    x = _activate(_convolve(x, "stem", 32, kernel=3, strides=2), "stem")
    for name, kernel, strides, expansion, filters in _iterate_blocks():
        block_input, channels = x, x.shape[-1]
        if expansion > 1:
            x = _activate(_convolve(x, f"{name}_expand", channels * expansion), f"{name}_expand")
        depthwise = layers.DepthwiseConv2D(
            kernel, strides=strides, padding="same", use_bias=False, name=f"{name}_dwconv"
        )
        x = _activate(depthwise(x), f"{name}_dw")
        x = _batch_normalize(_convolve(x, f"{name}_project", filters), f"{name}_project")
        if strides == 1 and channels == filters:
            x = layers.Add(name=f"{name}_add")([x, block_input])
    x = _activate(_convolve(x, "top", 1280), "top")
    return keras.Model(inputs, layers.GlobalAveragePooling2D(name="features")(x), name="efficientnet_lite0")


def lite0_layers() -> dict[str, str]:
    """Return where the tensors of the torch port of EfficientNet-Lite0 go; see `tfkit.hub.weights.assign`."""
    layers = {r".*\.num_batches_tracked|_fc\.(weight|bias)": ""}
    layers |= {rf"{part}\.(\w+)": layer for part, layer in _LITE_LAYERS.items()}
    for i, (name, *_) in enumerate(_iterate_blocks()):
        layers |= {rf"_blocks\.{i}\.{part}\.(\w+)": f"{name}_{layer}" for part, layer in _LITE_BLOCK.items()}
    return layers


def _iterate_blocks() -> Iterator[tuple[str, int, int, int, int]]:
    for stage, (repeats, kernel, strides, expansion, filters) in enumerate(_STAGES, start=1):
        for i in range(repeats):
            yield f"block{stage}{'abcd'[i]}", kernel, strides if i == 0 else 1, expansion, filters


def _convolve(x: Any, name: str, filters: int, *, kernel: int = 1, strides: int = 1) -> Any:
    return keras.layers.Conv2D(
        filters, kernel, strides=strides, padding="same", use_bias=False, name=f"{name}_conv"
    )(x)


def _batch_normalize(x: Any, name: str) -> Any:
    return keras.layers.BatchNormalization(epsilon=1e-3, momentum=0.99, name=f"{name}_bn")(x)


def _activate(x: Any, name: str) -> Any:
    return keras.layers.ReLU(6.0, name=f"{name}_relu")(_batch_normalize(x, name))


PIECES = 30_522
"""Word pieces that MiniLM knows."""
POSITIONS = 512
_WIDTH, _INNER, _BLOCKS, _HEADS = 384, 1536, 6, 12
WORDS = "embeddings.word_embeddings.weight"
"""The checkpoint's name of the vectors of the pieces."""
MINILM_LAYERS = {
    r"embeddings\.word_embeddings\.weight": "words/embeddings",
    r"embeddings\.position_embeddings\.weight": "places/positions",
    r"embeddings\.token_type_embeddings\.weight": "places/types",
    r"embeddings\.LayerNorm\.(weight|bias)": "embeddings_norm",
    r"encoder\.layer\.(\d)\.attention\.self\.(query|key|value)\.(weight|bias)": r"layer\1_\2",
    r"encoder\.layer\.(\d)\.attention\.output\.dense\.(weight|bias)": r"layer\1_attended",
    r"encoder\.layer\.(\d)\.attention\.output\.LayerNorm\.(weight|bias)": r"layer\1_attended_norm",
    r"encoder\.layer\.(\d)\.intermediate\.dense\.(weight|bias)": r"layer\1_inner",
    r"encoder\.layer\.(\d)\.output\.dense\.(weight|bias)": r"layer\1_outer",
    r"encoder\.layer\.(\d)\.output\.LayerNorm\.(weight|bias)": r"layer\1_outer_norm",
    r"embeddings\.position_ids|pooler\.dense\.(weight|bias)": "",
}
"""Variables for the tensors of all-MiniLM-L6-v2; see `tfkit.hub.weights.assign`."""


def minilm(
    input_word_ids: Any,
    input_mask: Any,
    input_type_ids: Any = None,
    *,
    longest: int | None = None,
    pieces: int = PIECES,
) -> tuple[Any, Any]:
    """Apply MiniLM-L6, as new layers with random weights, to these ids.

    Dropout is left out: what a resumed training draws would be other numbers.

    Args:
      input_word_ids: Keras tensor, int32 [b, n].
      input_mask: the same, 1 for an id and 0 for padding.
      input_type_ids: the same, 0 or 1; None: all are 0.
      longest: of n, where that is known to be less than `POSITIONS`.
      pieces: that there are, where some are left out.

    Returns:
      The vectors of the tokens, float32 [b, n, 384], and those of the texts, float32 [b, 384] of length 1: the mean
      over the tokens.
    """
    layers = keras.layers
    x = layers.Embedding(pieces, _WIDTH, name="words")(input_word_ids)
    places = Places(positions=POSITIONS, longest=longest, name="places")
    x = _normalize(places(x if input_type_ids is None else [x, input_type_ids]), "embeddings")
    for name in (f"layer{i}" for i in range(_BLOCKS)):
        parts = [layers.Dense(_WIDTH, name=f"{name}_{part}")(x) for part in ("query", "key", "value")]
        attended = Attention(name=f"{name}_attention")([*parts, input_mask])
        attended = layers.Dense(_WIDTH, name=f"{name}_attended")(attended)
        x = _normalize(layers.Add(name=f"{name}_attended_add")([attended, x]), f"{name}_attended")
        inner = layers.Dense(_INNER, name=f"{name}_inner")(x)
        outer = layers.Dense(_WIDTH, name=f"{name}_outer")(
            layers.Activation("gelu", name=f"{name}_gelu")(inner)
        )
        x = _normalize(layers.Add(name=f"{name}_outer_add")([outer, x]), f"{name}_outer")
    mean = MaskedMean(name="mean")(x, mask=input_mask)
    return x, layers.UnitNormalization(name="sentence")(mean)


NGRAMS = (2, 3, 5)
_SENTENCE_PIECES = 128_010
MULTILINGUAL_TENSORS = {
    "words": "rows scale lo",
    "ngrams": "proj proj_b",
    "ngrams_norm": "ngrams_g ngrams_b",
    **{f"ngram{n}_{place}": f"w{place}_{n} b{place}_{n}" for n in NGRAMS for place in (1, 2)},
    "all_norm": "ln_g ln_b",
    "summed": "cnn_W cnn_b",
    **{name: name for name in ("d0", "d1", "d2", "d3", "p1", "p3")},
}
"""Layer to the tensors that are its weights; those of the three n-grams' projections are one."""


def multilingual(input_word_ids: Any, input_mask: Any) -> Any:
    """Apply the universal sentence encoder of 16 languages, with convolutions, to these ids, as new layers.

    Args:
      input_word_ids: Keras tensor, int32 [b, n].
      input_mask: the same, 1 for an id and 0 for padding.

    Returns:
      The vectors of the texts, float32 [b, 512] of length 1.
    """
    layers = keras.layers
    words = ByteEmbedding(name="words")(input_word_ids)
    parts, projections = [words], _normalize(layers.Dense(3 * 256, name="ngrams")(words), "ngrams")
    for n, x in zip(NGRAMS, tf.split(projections, 3, axis=-1), strict=True):
        for name in (f"ngram{n}_1", f"ngram{n}_2"):
            convolution = layers.Conv1D(256, n, padding="same", activation="relu", name=name)
            # No n-gram reaches into the padding.
            x = layers.Add(name=f"{name}_add")([convolution(Masked(name=f"{name}_masked")(x, input_mask)), x])
        parts.append(x)
    x = _normalize(layers.Concatenate(name="all")(parts), "all")
    # A sum over the root of the length, as a mean: fewer rows for the dense layer.
    x = layers.Dense(512, name="summed")(MaskedMean(name="mean")(x, input_mask))
    x = TimesRootLength(name="times_root_length")(x, input_mask)

    def dense(x: Any, size: int, name: str, activation: str | None = None) -> Any:
        return layers.Dense(size, activation=activation, use_bias=False, name=name)(x)

    first = dense(dense(x, 320, "d0", "relu"), 320, "d1")
    x = layers.ReLU(name="first")(layers.Add(name="first_add")([dense(x, 320, "p1"), first]))
    second = dense(dense(x, 512, "d2", "relu"), 512, "d3")
    x = layers.Activation("tanh", name="second")(layers.Add(name="second_add")([dense(x, 512, "p3"), second]))
    return layers.UnitNormalization(name="sentence")(x)


def _normalize(x: Any, name: str) -> Any:
    return keras.layers.LayerNormalization(epsilon=1e-12, name=f"{name}_norm")(x)


# keras.layers.MultiHeadAttention keeps its kernels as [inputs, heads, size] and multiplies by einsum; TFLite's fully
# connected operation, which is what it quantizes best, has a kernel of two axes. So the layers below have none, and
# Dense holds them all.


class Places(keras.layers.Layer):
    """Add to each token's vector those of its position and of its type.

    Call: float32 [b, n, d], or [it, types int32 [b, n]]; without types all are of type 0. `longest`: of n; a .tflite
    then holds no vectors of positions beyond it. None: as many as there are positions.
    """

    def __init__(self, *, positions: int, types: int = 2, longest: int | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._counts = {"positions": positions, "types": types, "longest": longest}

    def build(self, shapes: Any) -> None:
        """Create one vector for each position and each type."""
        size = shapes[0][-1] if isinstance(shapes, list) else shapes[-1]
        self.positions = self.add_weight("positions", (self._counts["positions"], size))
        self.types = self.add_weight("types", (self._counts["types"], size))

    def call(self, inputs: Any) -> Any:
        """Return float32 [b, n, d]."""
        x, types = inputs if isinstance(inputs, list) else (inputs, None)
        type_vectors = self.types[0] if types is None else tf.gather(self.types, types)
        return x + self.positions[: self._counts["longest"]][: tf.shape(x)[1]] + type_vectors

    def get_config(self) -> dict[str, Any]:
        """Return what makes another one."""
        return {**super().get_config(), **self._counts}


class Attention(keras.layers.Layer):
    """Each token's mean of the values of all tokens, weighed by how its query meets their keys, for each of 12 heads.

    Call: [queries, keys, values float32 [b, n, d], mask int32 [b, n]]; what the mask has 0 for is not looked at.
    """

    def call(self, inputs: Any) -> Any:
        """Return float32 [b, n, d]."""
        queries, keys, values, mask = inputs
        length, width = tf.shape(queries)[1], _WIDTH // _HEADS

        def split(x: Any) -> Any:
            return tf.transpose(tf.reshape(x, [-1, length, _HEADS, width]), [0, 2, 1, 3])

        scores = tf.matmul(split(queries * width**-0.5), split(keys), transpose_b=True)
        # In float16 -1e9 is infinite, and NaN times the 0 of a token. TFLite has no slice that adds an axis.
        minimum = max(-1e9, float(scores.dtype.min))
        mask_bias = tf.expand_dims((1.0 - tf.cast(mask, scores.dtype)) * minimum, 1)
        weights = tf.nn.softmax(scores + tf.expand_dims(mask_bias, 1))
        return tf.reshape(tf.transpose(tf.matmul(weights, split(values)), [0, 2, 1, 3]), [-1, length, _WIDTH])


class ByteEmbedding(keras.layers.Layer):
    """Vectors of ids, of which a byte a number is kept: it times a scale of the row, plus an offset. It is not trained.

    Call: int32 [b, n] to float32 [b, n, 512].
    """

    def build(self, shape: Any) -> None:
        """Create the bytes, and a scale and an offset for each row."""
        options: Any = {"initializer": "zeros", "trainable": False}
        self.rows = self.add_weight("rows", (_SENTENCE_PIECES, 512), dtype="uint8", **options)
        self.scale = self.add_weight("scale", (_SENTENCE_PIECES, 1), **options)
        self.offset = self.add_weight("offset", (_SENTENCE_PIECES, 1), **options)

    def call(self, ids: Any) -> Any:
        """Return float32 [b, n, 512]."""
        scale, offset = tf.gather(self.scale, ids), tf.gather(self.offset, ids)
        return tf.cast(tf.gather(self.rows, ids), scale.dtype) * scale + offset


class Masked(keras.layers.Layer):
    """Vectors float32 [b, n, d], and 0 where the mask, int32 [b, n], has 0."""

    def call(self, vectors: Any, mask: Any) -> Any:
        """Return float32 [b, n, d]."""
        return vectors * tf.cast(mask, vectors.dtype)[:, :, tf.newaxis]


class TimesRootLength(keras.layers.Layer):
    """Vectors float32 [b, d] times the root of how many ids their texts have, by the mask, int32 [b, n]."""

    def call(self, vectors: Any, mask: Any) -> Any:
        """Return float32 [b, d]."""
        return vectors * tf.sqrt(tf.reduce_sum(tf.cast(mask, vectors.dtype), axis=1, keepdims=True))

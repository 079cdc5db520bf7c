"""MiniLM-L6, a small BERT that makes vectors of sentences, as a plain functional tf_keras model.

Source: Devlin et al. 2018 (arXiv:1810.04805) for the network, Wang et al. 2020 (arXiv:2002.10957) for its size,
Reimers & Gurevych 2019 (arXiv:1908.10084) for the vector of a sentence: the mean over its tokens, of length 1.
Dropout is left out: what a resumed training draws would be other numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tfkit.hub.checkpoint import Place, assign

if TYPE_CHECKING:
    import numpy as np

    from tfkit.stack import keras

FEATURE_SIZE = 384
LAYERS = 6
INNER = 1536
VOCABULARY = 30_522
POSITIONS = 512
WORDS = "embeddings.word_embeddings.weight"
"""The checkpoint's name of the vectors of the pieces."""
LENGTH = 128
"""Ids in a text that it was trained on."""


def build() -> keras.Model:
    """The architecture, with random weights.

    Returns:
      {"input_word_ids", "input_mask"} int32 [b, n], n at most 512, to float32 [b, 384] of length 1. It is flat, and
      all kernels are those of Dense layers but the three embeddings.
    """
    from tfkit.stack import keras, tf

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
    from tfkit.hub import bert_layers
    from tfkit.stack import keras

    layers = keras.layers
    x = layers.Embedding(vocabulary, FEATURE_SIZE, name="words")(input_word_ids)
    places = bert_layers.Places(positions=POSITIONS, longest=longest, name="places")
    x = places(x if input_type_ids is None else [x, input_type_ids])
    x = _normalized(x, "embeddings")
    for i in range(LAYERS):
        x = _block(x, input_mask, f"layer{i}")
    return x, bert_layers.Mean(name="sentence")([x, input_mask])


def set_weights(model: keras.Model, tensors: Mapping[str, np.ndarray]) -> None:
    """Give `model` the weights of the published checkpoint.

    Args:
      model: what `build` returned.
      tensors: exactly the names and shapes of all-MiniLM-L6-v2.

    Raises:
      HubError: a tensor is missing, superfluous, of another shape, or not finite.
    """
    unused = {"embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias"}
    assign(model, tensors, dict(_names()), unused=unused, title="MiniLM-L6-v2")


def _block(x: Any, mask: Any, name: str) -> Any:
    from tfkit.hub import bert_layers
    from tfkit.stack import keras

    layers = keras.layers
    inputs = x
    parts = [layers.Dense(FEATURE_SIZE, name=f"{name}_{part}")(x) for part in ("query", "key", "value")]
    x = bert_layers.Attention(heads=12, name=f"{name}_attention")([*parts, mask])
    x = layers.Dense(FEATURE_SIZE, name=f"{name}_attended")(x)
    x = _normalized(layers.Add(name=f"{name}_attended_add")([x, inputs]), f"{name}_attended")
    inputs = x
    x = layers.Dense(INNER, name=f"{name}_inner")(x)
    x = layers.Activation("gelu", name=f"{name}_gelu")(x)
    x = layers.Dense(FEATURE_SIZE, name=f"{name}_outer")(x)
    return _normalized(layers.Add(name=f"{name}_outer_add")([x, inputs]), f"{name}_outer")


def _normalized(x: Any, name: str) -> Any:
    from tfkit.stack import keras

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

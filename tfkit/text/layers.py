"""The tokenizer as a layer at the edge of a model that takes strings, and such a model as a device runs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tfkit.environment.stack import keras, tf
from tfkit.errors import UsageError
from tfkit.text.tokenizers import MASK, TYPES, WORDS, Tokenizer

TOKENS = "tokens"
"""The layer's name: what stands after it takes ids."""


class Tokens(keras.layers.Layer):
    """Strings to the inputs of an encoder; it has no weights.

    Call: UTF-8 [b] to `input_word_ids`, `input_mask` and `input_type_ids`, int32 [b, longest of the batch], or
    [b, length] where that is given.
    """

    def __init__(self, tokenizer: Tokenizer, *, length: int | None = None, name: str = TOKENS) -> None:
        super().__init__(name=name, trainable=False, dtype="int32")
        self.tokenizer = tokenizer
        self.length = length

    def call(self, strings: Any) -> dict[str, Any]:
        """Return the ids, dense."""
        ids = self.tokenizer.dense(strings, length=self.length)
        # Ragged rows forget how many they are, which private training asks for.
        return {name: tf.ensure_shape(rows, [strings.shape[0], self.length]) for name, rows in ids.items()}

    def get_config(self) -> dict[str, Any]:
        """Return what TensorBoard's graph shows; the tokenizer itself is in the SavedModel alone."""
        pieces, longest = self.tokenizer.size, self.tokenizer.max_length
        return {**super().get_config(), "pieces": pieces, "longest": longest, "length": self.length}


class MaskedMean(keras.layers.Layer):
    """The mean of the vectors of a text's ids, without its padding.

    Call: float32 [b, t, d] and the mask, int32 [b, t], at least one of a row being 1; to float32 [b, d].
    """

    def call(self, vectors: Any, mask: Any) -> Any:
        """Return the mean."""
        weights = tf.cast(mask, vectors.dtype)[:, :, tf.newaxis]
        return tf.reduce_sum(vectors * weights, axis=1) / tf.reduce_sum(weights, axis=1)


def on_device(model: keras.Model, *, probabilities: Callable[[Any], Any] = tf.nn.softmax) -> Any:
    """Return the same model for one string, with neither ragged tensors nor any other operation that TFLite lacks.

    What cuts the string are custom operations of TFLite that come with tensorflow-text; all others are TFLite's own.

    Args:
      model: functional, from strings [b] over a `tfkit.text.layers.Tokens` named "tokens" to [b, classes].
      probabilities: makes [b, classes] of what the model gives: of logits, unless it is said.

    Returns:
      A tf.function from `texts`, string [1], to `probabilities`, float32 [1, classes]: a signature for a SavedModel
      that keeps the model's variables.

    Raises:
      UsageError: the model has no such layer.
    """
    tokens = _tokens(model)
    behind = behind_tokens(model)
    tokenizer = tokens.tokenizer

    @tf.function(input_signature=[tf.TensorSpec([1], tf.string, name="texts")], autograph=False)
    def device(texts: Any) -> dict[str, Any]:
        # One string has one row: its values alone say it, where a ragged tensor has operations that TFLite lacks.
        pieces = tokenizer.tokenize(texts).flat_values[: tokenizer.max_length - 2]
        row = tf.concat([[tokenizer.edges.start], pieces, [tokenizer.edges.end]], axis=0)
        ids = {WORDS: row, MASK: tf.ones_like(row), TYPES: tf.zeros_like(row)}
        fed = {name: _filled(ids[name], tokens.length, tokenizer, name)[tf.newaxis] for name in behind.input}
        return {"probabilities": probabilities(behind(fed, training=False))}

    return device


def on_ids(model: keras.Model, *, length: int, probabilities: Callable[[Any], Any] = tf.nn.softmax) -> Any:
    """Return the part behind the tokenizer alone, for runtimes without custom operations, which cut the string.

    Args:
      model: as of `on_device`.
      length: of the row of ids.
      probabilities: makes [b, classes] of what the model gives: of logits, unless it is said.

    Returns:
      A tf.function from the inputs of the part, `input_word_ids` and `input_mask` as a rule, int32 [1, length], to
      `probabilities`, float32 [1, classes].
    """
    behind = behind_tokens(model)
    specs = [tf.TensorSpec([1, length], tf.int32, name=name) for name in behind.input]

    @tf.function(input_signature=specs, autograph=False)
    def device(*ids: Any) -> dict[str, Any]:
        fed = dict(zip(behind.input, ids, strict=True))
        return {"probabilities": probabilities(behind(fed, training=False))}

    return device


def behind_tokens(model: keras.Model) -> keras.Model:
    """Return what stands behind the tokenizer: from its used outputs, by name, to the model's output."""
    outputs = _tokens(model).output
    nodes = [node for layer in model.layers for node in layer.inbound_nodes]
    used = {id(tensor) for node in nodes for tensor in node.keras_inputs}
    return keras.Model({name: output for name, output in outputs.items() if id(output) in used}, model.output)


def _tokens(model: keras.Model) -> Tokens:
    tokens = [layer for layer in model.layers if layer.name == TOKENS and isinstance(layer, Tokens)]
    if not tokens:
        raise UsageError(
            f"{model.name!r} has no tokenizer: a functional model from strings has a tfkit.text.layers.Tokens named"
            f" {TOKENS!r} behind its input; there is {', '.join(layer.name for layer in model.layers[:5])}, ..."
        )
    return tokens[0]


def _filled(row: Any, length: int | None, tokenizer: Any, name: str) -> Any:
    """Return a row as long as the layer makes it."""
    if length is None:
        return row
    filling = tokenizer.edges.pad if name == WORDS else 0
    # Not tf.ensure_shape, which TFLite lacks.
    return tf.reshape(tf.pad(row, [[0, length - tf.size(row)]], constant_values=filling), [length])

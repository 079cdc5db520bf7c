"""A text classifier as a device runs it: one string at a time, by operations that TFLite has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tfkit.errors import UsageError
from tfkit.stack import keras, tf
from tfkit.text.layer import TOKENS, Tokens
from tfkit.text.rows import MASK, TYPES, WORDS


def on_device(model: keras.Model, *, probabilities: Callable[[Any], Any] = tf.nn.softmax) -> Any:
    """The same model for one string, with neither ragged tensors nor any other operation that TFLite lacks.

    What cuts the string are custom operations of TFLite that come with tensorflow-text; all others are TFLite's own.

    Args:
      model: functional, from strings [b] over a `tfkit.text.layer.Tokens` named "tokens" to [b, classes].
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
    """The part behind the tokenizer alone, for runtimes without custom operations: they cut the string themselves.

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
        return {
            "probabilities": probabilities(behind(dict(zip(behind.input, ids, strict=True)), training=False))
        }

    return device


def behind_tokens(model: keras.Model) -> keras.Model:
    """What stands behind the tokenizer: from those of its outputs that are used, by name, to the model's output."""
    outputs = _tokens(model).output
    used = {id(tensor) for tensor in _fed(model)}
    return keras.Model({name: one for name, one in outputs.items() if id(one) in used}, model.output)


def _tokens(model: keras.Model) -> Tokens:
    found = [layer for layer in model.layers if layer.name == TOKENS and isinstance(layer, Tokens)]
    if not found:
        raise UsageError(
            f"{model.name!r} has no tokenizer: a functional model from strings has a tfkit.text.layer.Tokens named"
            f" {TOKENS!r} behind its input; there is {', '.join(layer.name for layer in model.layers[:5])}, ..."
        )
    return found[0]


def _fed(model: keras.Model) -> Iterator[Any]:
    """All tensors that a layer of the model is fed."""
    for layer in model.layers:
        for node in layer.inbound_nodes:
            yield from node.keras_inputs


def _filled(row: Any, length: int | None, tokenizer: Any, name: str) -> Any:
    """A row as long as the layer makes it."""
    if length is None:
        return row
    filling = tokenizer.edges.pad if name == WORDS else 0
    # Not tf.ensure_shape, which TFLite lacks.
    return tf.reshape(tf.pad(row, [[0, length - tf.size(row)]], constant_values=filling), [length])

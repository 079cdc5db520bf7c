"""The tokenizer as a layer, at the edge of a model that takes strings, and the mean over what it gives."""

from __future__ import annotations

from typing import Any

from tfkit.stack import keras, tf
from tfkit.text.tokenizer import Tokenizer

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
        """The ids, dense."""
        ids = self.tokenizer.dense(strings, length=self.length)
        # Ragged rows forget how many they are, which private training asks for.
        return {name: tf.ensure_shape(one, [strings.shape[0], self.length]) for name, one in ids.items()}

    def get_config(self) -> dict[str, Any]:
        """What TensorBoard's graph shows; the tokenizer itself is in the SavedModel alone."""
        pieces, longest = len(self.tokenizer.vocabulary), self.tokenizer.max_length
        return {**super().get_config(), "pieces": pieces, "longest": longest, "length": self.length}


class MaskedMean(keras.layers.Layer):
    """The mean of the vectors of a text's ids, without its padding.

    Call: float32 [b, t, d] and the mask, int32 [b, t], at least one of a row being 1; to float32 [b, d].
    """

    def call(self, vectors: Any, mask: Any) -> Any:
        """The mean."""
        weights = tf.cast(mask, vectors.dtype)[:, :, tf.newaxis]
        return tf.reduce_sum(vectors * weights, axis=1) / tf.reduce_sum(weights, axis=1)

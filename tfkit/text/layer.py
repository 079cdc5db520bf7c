"""The tokenizer as a layer, at the edge of a model that takes strings."""

from __future__ import annotations

from typing import Any

from tfkit.stack import keras
from tfkit.text.wordpiece import WordPiece

TOKENS = "tokens"
"""The layer's name: what stands after it takes ids."""


class Tokens(keras.layers.Layer):
    """Strings to the inputs of an encoder; it has no weights.

    Call: UTF-8 [b] to `input_word_ids`, `input_mask` and `input_type_ids`, int32 [b, longest of the batch].
    """

    def __init__(self, tokenizer: WordPiece, *, name: str = TOKENS) -> None:
        super().__init__(name=name, trainable=False, dtype="int32")
        self.tokenizer = tokenizer

    def call(self, strings: Any) -> dict[str, Any]:
        """The ids, dense."""
        return self.tokenizer.dense(strings)

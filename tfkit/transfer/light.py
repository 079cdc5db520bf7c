"""The light model: a classifier of texts from scratch, for large data and small devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tfkit.text.tokenizer import Tokenizer
from tfkit.transfer.models import Top, compiled, plain_top

if TYPE_CHECKING:
    from tfkit.stack import keras

DIMENSION = 64


def light(
    tokenizer: Tokenizer,
    classes: int,
    *,
    learning_rate: float,
    steps: int,
    dimension: int = DIMENSION,
    length: int | None = None,
    top: Top | None = None,
) -> keras.Model:
    """The mean of what is learned for each piece of a text, and a top on it, compiled.

    With the 4,000 pieces of `tfkit.text.build` and the dimension here its .tflite has 1.8 MB, tokenizer included.

    Args:
      tokenizer: of the texts.
      classes: how many the model tells apart.
      learning_rate: the peak, see `tfkit.transfer.models.schedule`; 3e-3 is a good one.
      steps: of the whole training.
      dimension: numbers that are learned for a piece.
      length: to which all texts are filled up; None: to the longest of the batch. Private training needs one.
      top: `plain_top()` when left out.

    Returns:
      UTF-8 strings [b] to logits float32 [b, classes].
    """
    from tfkit.stack import keras, tf
    from tfkit.text.layer import MaskedMean, Tokens

    texts = keras.Input([], dtype=tf.string, name="texts")
    tokens = Tokens(tokenizer, length=length)(texts)
    pieces = keras.layers.Embedding(len(tokenizer.vocabulary), dimension, name="embedding")
    features = MaskedMean(name="mean")(pieces(tokens["input_word_ids"]), mask=tokens["input_mask"])
    top = top or plain_top()
    model = keras.Model(texts, top.logits(features, classes))
    return compiled(model, top.optimizer(learning_rate, steps, model))

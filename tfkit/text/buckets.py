"""Batches of texts of like lengths: short ones are not filled up to the longest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tfkit.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import tensorflow as tf

BOUNDARIES = (16, 32, 64, 128, 256)


def by_length(
    dataset: tf.data.Dataset,
    tokenizer: Tokenizer,
    *,
    batch_size: int,
    boundaries: Sequence[int] = BOUNDARIES,
) -> tf.data.Dataset:
    """Texts to batches of ids in which all are about as long, by tf.data's `bucket_by_sequence_length`.

    The order of the texts changes, and each bucket ends with a batch of its own that may be smaller.

    Args:
      dataset: of (text, label, ...), one text an element.
      tokenizer: of the texts.
      batch_size: of a batch.
      boundaries: numbers of ids at which the buckets divide.

    Returns:
      Of (`input_word_ids`, `input_mask`, `input_type_ids` int32 [b, longest of the batch] by name, label, ...).
    """
    from tfkit.stack import tf

    def ids(text: Any, *rest: Any) -> Any:
        row = {name: one[0] for name, one in tokenizer.dense(text[tf.newaxis]).items()}
        return (row, *rest)

    used = [boundary for boundary in boundaries if boundary < tokenizer.max_length]
    cut = dataset.map(ids, num_parallel_calls=tf.data.AUTOTUNE)
    row, *rest = cut.element_spec
    filling = (
        {name: tokenizer.edges.pad if name == "input_word_ids" else 0 for name in row},
        *(None for _ in rest),
    )
    return cut.bucket_by_sequence_length(
        lambda row, *_: tf.size(row["input_word_ids"]),
        bucket_boundaries=used,
        bucket_batch_sizes=[batch_size] * (len(used) + 1),
        padding_values=filling,
    )

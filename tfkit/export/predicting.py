"""What an exported model says of examples as the user has them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from tfkit.data import Splits

CHECKED_AT_A_TIME = 16


def predict(model: Any, splits: Splits, indices: np.ndarray) -> np.ndarray:
    """What an exported model says of examples as the user has them: each image at its own size.

    Args:
      model: `Run.model`.
      splits: of what it was trained on.
      indices: int64 [n], of examples of the splits' source.

    Returns:
      float32 [n, classes].
    """
    from tfkit.stack import tf

    if splits.kind == "texts":
        return _of_texts(model, splits, indices)
    if splits.kind == "features":
        return np.asarray(model(tf.constant(splits.source.read(indices))))
    images = (splits.source.raw(int(index)) for index in indices)
    same_size = (
        group for _, group in itertools.groupby(images, key=lambda image: (image.shape, image.dtype))
    )
    return np.concatenate(
        [np.asarray(model(tf.constant(np.stack(batch)))) for group in same_size for batch in _batches(group)]
    )


def _of_texts(model: Any, splits: Splits, indices: np.ndarray) -> np.ndarray:
    """Texts of like lengths go together: the longest of a batch decides what it costs."""
    from tfkit.stack import tf

    texts = splits.source.read(indices)
    by_length = np.argsort([len(text) for text in texts], kind="stable")
    parts = [
        np.asarray(model(tf.constant(texts[by_length[start : start + CHECKED_AT_A_TIME]])))
        for start in range(0, len(texts), CHECKED_AT_A_TIME)
    ]
    return np.concatenate(parts)[np.argsort(by_length)]


def _batches(images: Iterator[np.ndarray]) -> Iterator[tuple[np.ndarray, ...]]:
    while batch := tuple(itertools.islice(images, CHECKED_AT_A_TIME)):
        yield batch

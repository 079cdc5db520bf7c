"""A sample of examples: drawn from all of them by a seed, and not the first ones, which may be of one class."""

from __future__ import annotations

from typing import Any

import numpy as np


def draw(count: int, most: int, *, classes: Any = None, seed: int = 0) -> np.ndarray:
    """Draw positions of examples.

    Args:
      count: how many examples there are.
      most: how many are drawn at most.
      classes: of the examples [count]; each class then has as many as can be, a rare one all.
      seed: of the lots.

    Returns:
      int64 [min(count, most)], in ascending order.

    Example:
      >>> draw(1000, 4, classes=[0] * 998 + [1] * 2)[-2:].tolist()
      [998, 999]
    """
    if count <= most:
        return np.arange(count)
    lots = np.random.default_rng(seed).random(count)
    places = np.zeros(count, np.int64)  # of an example within its class
    if classes is not None:
        _, numbers = np.unique(np.asarray(classes), return_inverse=True)
        order = np.lexsort((lots, numbers))
        starts = np.searchsorted(numbers[order], np.arange(numbers.max() + 1))
        places[order] = np.arange(count) - starts[numbers[order]]
    return np.sort(np.lexsort((lots, places))[:most])

"""What the processes of one training agree on between steps: sums, the chief's word, and waiting for each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfkit.stack import tf


class Together:
    """The processes that train under one strategy; alone, everything here answers at once.

    Every process must make the same calls in the same order, or all wait for ever.

    Attributes:
      workers: how many processes there are.
      index: of this one among them.
    """

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        self._strategy = strategy
        self.workers, self.index = 1, 0
        if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            resolver = strategy.cluster_resolver
            self.workers = max(len(resolver.cluster_spec().as_dict().get("worker", [])), 1)
            self.index = int(resolver.task_id or 0)
        self._replicas = strategy.num_replicas_in_sync // self.workers
        self._total: Any = None

    def total(self, values: Sequence[float]) -> np.ndarray:
        """The sum of each value over the processes: float64 of the same length, the same in every process."""
        numbers = np.asarray(values, np.float64)
        if self.workers == 1:
            return numbers
        if self._total is None:
            self._total = tf.function(self._sum, input_signature=[tf.TensorSpec([None], tf.float64)])
        return np.asarray(self._total(tf.constant(numbers))) / self._replicas

    def of_chief(self, values: Sequence[float]) -> np.ndarray:
        """What the chief gave."""
        return self.total(values if self.index == 0 else [0.0] * len(values))

    def of_each(self, value: float) -> list[float]:
        """What each process gave, in the order of their index."""
        return list(self.total([value if index == self.index else 0.0 for index in range(self.workers)]))

    def barrier(self) -> None:
        """Return when every process has come here."""
        self.total([0.0])

    def _sum(self, numbers: tf.Tensor) -> tf.Tensor:
        per_replica = self._strategy.run(lambda value: tf.identity(value), args=(numbers,))
        return self._strategy.reduce(tf.distribute.ReduceOp.SUM, per_replica, axis=None)

"""Sampling as the accountant assumes it: each example in each step by chance, or shuffled epochs."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfkit.data.splits import READERS, Share, Splits, finish, reader
from tfkit.distribution.replicas import distribute
from tfkit.environment.stack import tf
from tfkit.privacy.plan import Plan

LARGE_ELEMENT = 64 * 2**20
"""Bytes of a logical batch above which only one is made ahead."""


def dataset(
    splits: Splits, plan: Plan, *, strategy: tf.distribute.Strategy, epochs: tuple[int, int], secret: bytes
) -> Any:
    """Return what the private step takes: one element a step, and a replica, of microbatches.

    Every training example belongs to one replica, and each replica draws its own by itself: together that is one
    Poisson sample, without a word between them. Chance comes from (secret, epoch, step, replica).

    Args:
      splits: their training examples.
      plan: says how often, and how many at a time.
      strategy: of the training.
      epochs: the first, and the one after the last.
      secret: bytes that nobody knows: whoever knows who was sampled has no amplification to overcome.

    Returns:
      A dataset, or a distributed one, of `plan.steps_per_epoch` elements an epoch: features float32
      [k, m, *shape], labels int64 [k, m], weights float32 [k, m], 1 for an example and 0 for padding; m is
      plan.microbatch_size, k as large as the sample needs.
    """
    indices, read = np.asarray(splits.indices["train"], np.int64), reader(splits.source)
    size, shape = plan.microbatch_size, splits.source.shape

    def of_process(share: Share | None) -> tf.data.Dataset:
        share = share or Share(first=0, own=1, of=1)
        first, own, count = share.first, share.own, share.of

        def draw(number: np.ndarray) -> np.ndarray:
            steps, replica = divmod(int(number), own)
            epoch, step = divmod(steps, plan.steps_per_epoch)
            place = {"epoch": epoch, "step": step, "replica": first + replica}
            return indices[sample(len(indices), plan, secret=secret, count=count, **place)]

        @tf.autograph.experimental.do_not_convert
        def microbatches(number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            drawn = tf.ensure_shape(tf.numpy_function(draw, [number], tf.int64, stateful=False), [None])
            features, labels = read(drawn)
            real = tf.shape(drawn)[0]
            padding = tf.maximum(1, -(-real // size)) * size - real
            # With zeros, which have the weight 0, and not with other examples.
            return tuple(
                tf.reshape(tf.pad(value, [[0, padding], *[[0, 0]] * len(inner)]), [-1, size, *inner])
                for value, inner in ((features, shape), (labels, ()), (tf.ones([real]), ()))
            )

        bounds = [epoch * plan.steps_per_epoch * own for epoch in epochs]
        elements = tf.data.Dataset.range(*bounds).map(
            microbatches, num_parallel_calls=READERS, deterministic=True
        )
        size_in_bytes = 4 * plan.expected_batch_size * int(np.prod(shape))
        return finish(elements, ahead=1 if size_in_bytes > LARGE_ELEMENT else 2)

    return distribute(strategy, of_process)


def sample(
    positions: int, plan: Plan, *, epoch: int, step: int, secret: bytes, replica: int = 0, count: int = 1
) -> np.ndarray:
    """Return the positions in the training split that one replica takes at one step: int64 [any number].

    Args:
      positions: how many training examples there are.
      plan: says how often.
      epoch: from 0.
      step: of the epoch, from 0.
      secret: see `dataset`.
      replica: from 0; replica r owns the positions r, r + count, r + 2 count, ...
      count: of all replicas.
    """
    key = [int.from_bytes(secret[start : start + 8], "little") for start in range(0, len(secret), 8)]
    if plan.sampler == "shuffled":
        start = step * plan.expected_batch_size
        order = np.random.default_rng([*key, epoch]).permutation(positions)
        return order[start : start + plan.expected_batch_size][replica::count]
    own = np.arange(replica, positions, count)
    chance = np.random.default_rng([*key, epoch, step, replica]).random(len(own))
    return own[chance < plan.sampling_probability]

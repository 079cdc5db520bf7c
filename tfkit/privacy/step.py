"""The private training: samples as the accountant assumes them, and the step that takes the place of `train_step`.

Clipped gradients are summed over the replicas, with the noise that was accounted.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tfkit.data.splits import READERS, Share, Splits, finish, reader
from tfkit.distribution.replicas import distribute
from tfkit.environment.stack import keras, tf
from tfkit.privacy.clipping import Clipped, clipped_sum, per_example_loss, weight_penalties
from tfkit.privacy.plan import Plan

CLIP_LEARNING_RATE = 0.2  # of an adaptive clipping norm
QUANTILES = {"gradient_norm_p50": 0.5, "gradient_norm_p90": 0.9, "gradient_norm_max": 1.0}
LARGE_ELEMENT = 64 * 2**20
"""Bytes of a logical batch above which only one is made ahead."""


def sampled_batches(
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
      [k, m, *shape], labels [k, m, ...] as `Splits` have them, weights float32 [k, m], 1 for an example and 0 for
      padding; m is plan.microbatch_size, k as large as the sample needs.
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
                for value, inner in ((features, shape), (labels, labels.shape[1:]), (tf.ones([real]), ()))
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
      secret: see `sampled_batches`.
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


def attach(model: keras.Model, plan: Plan, *, secret: bytes) -> PrivateStep:
    """Make `model.fit` train privately, on what `sampled_batches` yields.

    Args:
      model: compiled and built; call this inside the scope of the strategy that it was made in.
      plan: what is accounted.
      secret: 16 bytes or more that nobody knows; the noise follows from them, the replica and the step.

    Returns:
      The step; its `clip` belongs into a backup.
    """
    step = PrivateStep(model, plan, secret=secret)
    model.train_step = step
    model.train_function = None  # made for the step that was there before
    return step


class PrivateStep:
    """One step of DP-SGD (Abadi et al. 2016, arXiv:1607.00133), with whatever optimizer was compiled.

    On each replica: the sum of its examples' clipped gradients, plus its share of the noise. The shares are
    independent, so that their sum over n replicas has the standard deviation z * C when each has z * C / sqrt(n).
    The sum is divided by the *expected* batch size: the true size of a Poisson sample is private.

    Attributes:
      clip: float32 scalar variable, the clipping norm C; it moves with adaptive clipping only.
      diagnostics: means without noise of the training examples by name, for those who may see them: they are not
        private. Empty unless the plan asks for them.
    """

    def __init__(self, model: keras.Model, plan: Plan, *, secret: bytes) -> None:
        self._model = model
        self._plan = plan
        self._loss = per_example_loss(model)
        self._penalties = weight_penalties(model)
        # A variable and not a constant: constants are part of every graph that is written or printed.
        self._seed = tf.Variable(np.frombuffer(secret[:16], np.int64), trainable=False, name="noise_seed")
        self.clip = tf.Variable(
            plan.l2_norm_clip, trainable=False, aggregation=tf.VariableAggregation.MEAN, name="l2_norm_clip"
        )
        names = ("loss", "clipped_fraction", *QUANTILES) if plan.diagnostics else ()
        self.diagnostics = {name: keras.metrics.Mean(name=name) for name in names}

    def __call__(self, data: Any) -> dict[str, Any]:
        """Take one step; Keras calls this in place of `train_step`, in replica context.

        Args:
          data: features [k, m, ...], labels [k, m], weights float32 [k, m]: k microbatches of this replica.

        Returns:
          Nothing about the examples, unless the plan says so.
        """
        features, labels, weights = data
        replicas = tf.distribute.get_replica_context()
        sums, unclipped = self._over_microbatches(features, labels, weights)
        noisy = self._with_noise([*sums, unclipped], replicas)
        *gradients, count = replicas.all_reduce(tf.distribute.ReduceOp.SUM, noisy)
        gradients = [gradient / self._plan.expected_batch_size for gradient in gradients]
        variables = self._model.trainable_variables
        self._apply([*zip(self._with_penalties(gradients, variables), variables, strict=True)])
        if self._plan.adaptive_clip_quantile is not None:
            # Andrew et al. 2021 (arXiv:1905.03871): each example says +1/2 or -1/2.
            share = count / self._plan.expected_batch_size + 0.5
            rate = CLIP_LEARNING_RATE * (share - self._plan.adaptive_clip_quantile)
            self.clip.assign(self.clip * tf.exp(-rate))
        if not self.diagnostics:
            return {}
        metrics = {metric.name: metric for metric in self._model.compiled_metrics.metrics} | self.diagnostics
        return {name: metric.result() for name, metric in metrics.items()}

    def _over_microbatches(
        self, features: Any, labels: Any, weights: Any
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Return the sums of clipped gradients, and of +1/2 for each unclipped example and -1/2 for each other."""

        def microbatch(index: Any) -> tuple[list[tf.Tensor], tf.Tensor]:
            weight = weights[index]
            clipped = clipped_sum(
                self._model,
                tf.nest.map_structure(lambda value: value[index], features),
                labels[index],
                weight,
                per_example_loss=self._loss,
                l2_norm_clip=self.clip,
            )
            if self.diagnostics:
                self._diagnose(clipped, labels[index], weight)
            votes = tf.where(clipped.norms <= self.clip, 0.5, -0.5)
            return clipped.gradients, tf.reduce_sum(tf.where(weight > 0, votes, 0.0))

        if weights.shape[0] == 1:
            return microbatch(0)
        zeros = [tf.zeros(variable.shape, variable.dtype) for variable in self._model.trainable_variables]

        def add(index: tf.Tensor, sums: list[tf.Tensor], unclipped: tf.Tensor) -> Any:
            more, votes = microbatch(index)
            return index + 1, [total + new for total, new in zip(sums, more, strict=True)], unclipped + votes

        _, sums, unclipped = tf.while_loop(
            lambda index, *_: index < tf.shape(weights)[0], add, (0, zeros, 0.0), parallel_iterations=1
        )
        return sums, unclipped

    def _with_noise(self, sums: list[tf.Tensor], replicas: Any) -> list[tf.Tensor]:
        """Add this replica's share of the noise to the gradients, and to the count, which comes last."""
        plan = self._plan
        seed = tf.random.fold_in(self._seed.read_value(), replicas.replica_id_in_sync_group)
        seeds = tf.random.split(tf.random.fold_in(seed, self._model.optimizer.iterations), len(sums))
        share = 1.0 / np.sqrt(replicas.num_replicas_in_sync)
        of_gradients = plan.gradient_noise_multiplier * share * self.clip
        deviations = [of_gradients] * (len(sums) - 1) + [plan.count_noise * share]
        return [
            value + deviation * tf.random.stateless_normal(value.shape, seed)
            for value, deviation, seed in zip(sums, deviations, tf.unstack(seeds), strict=True)
        ]

    def _with_penalties(self, gradients: list[tf.Tensor], variables: list[Any]) -> list[tf.Tensor]:
        """Add the gradients of the weights' regularisers: they know nothing of the data."""
        if not self._penalties:
            return gradients
        with tf.GradientTape() as tape:
            penalty = tf.add_n([penalty() for penalty in self._penalties])
        of_penalty = tape.gradient(penalty, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return [gradient + more for gradient, more in zip(gradients, of_penalty, strict=True)]

    def _apply(self, pairs: list[tuple[tf.Tensor, Any]]) -> None:
        optimizer = self._model.optimizer
        if isinstance(optimizer, keras.optimizers.legacy.Optimizer):
            optimizer.apply_gradients(pairs, experimental_aggregate_gradients=False)
        else:
            optimizer.apply_gradients(pairs, skip_gradients_aggregation=True)

    def _diagnose(self, clipped: Clipped, labels: Any, weights: tf.Tensor) -> None:
        """Take in one microbatch, without its padding; a quantile is the mean of the microbatches' ones."""
        real, means = tf.cast(weights > 0, tf.float32), self.diagnostics
        means["loss"].update_state(tf.math.divide_no_nan(clipped.losses, weights), weights)
        means["clipped_fraction"].update_state(tf.cast(clipped.norms > self.clip, tf.float32), real)
        count = tf.reduce_sum(real)
        norms = tf.sort(tf.where(real > 0, clipped.norms, 0.0), direction="DESCENDING")
        for name, quantile in QUANTILES.items():
            place = tf.cast(tf.math.floor((1.0 - quantile) * tf.maximum(count - 1.0, 0.0)), tf.int32)
            means[name].update_state(norms[place], count)
        self._model.compiled_metrics.update_state(labels, clipped.outputs, weights)

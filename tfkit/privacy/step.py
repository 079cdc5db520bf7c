"""The private training: samples as the accountant assumes them, and the step that takes the place of `train_step`.

Clipped gradients are summed over the replicas, with the noise that was accounted.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np

from tfkit.data.splits import READERS, Share, Splits, finish, reader
from tfkit.distribution.replicas import distribute
from tfkit.environment.foreign import modules
from tfkit.environment.stack import keras, tf
from tfkit.privacy.clipping import Clipped, clipped_sum, per_example_loss, weight_penalties
from tfkit.privacy.dp_model import DPModelSum
from tfkit.privacy.plan import Plan

CLIP_LEARNING_RATE = 0.2  # of an adaptive clipping norm
QUANTILES = {"gradient_norm_p50": 0.5, "gradient_norm_p90": 0.9, "gradient_norm_max": 1.0}
LARGE_ELEMENT = 64 * 2**20
"""Bytes of a logical batch above which only one is made ahead."""
ROWS = 8
"""Examples that a sample is padded to a multiple of: kernels of TensorFlow are made anew for each size they meet."""
SMALLEST_PASS, LARGEST_PASS = 32, 512
"""Examples at a time: with fewer a pass costs about the same whatever is in it, with more it gains nothing."""
LARGEST_OUTPUTS = 2**28
"""Numbers in the outputs of all layers in one pass: 1 GB if all were kept, of which about half is."""


def sampled_batches(
    splits: Splits,
    plan: Plan,
    *,
    strategy: tf.distribute.Strategy,
    epochs: tuple[int, int],
    secret: bytes,
    weights: int,
) -> Any:
    """Return what the private step takes: one element a step, and a replica, with the noise of that step.

    Every training example belongs to one replica, and each replica draws its own by itself: together that is one
    Poisson sample, without a word between them. Chance comes from (secret, epoch, step, replica).

    Args:
      splits: their training examples.
      plan: says how often, and how many at a time.
      strategy: of the training.
      epochs: the first, and the one after the last.
      secret: bytes that nobody knows: whoever knows who was sampled has no amplification to overcome, and whoever
        knows the noise takes it off.
      weights: numbers in the model's trainable variables.

    Returns:
      A dataset, or a distributed one, of `plan.steps_per_epoch` elements an epoch: features float32 [n, *shape],
      labels [n, ...] as `Splits` have them, weights float32 [n], 1 for an example and 0 for padding, and noise float32
      [weights + 1]; n is the size of the sample, rounded up to a multiple of 8.
    """
    indices, read = np.asarray(splits.indices["train"], np.int64), reader(splits.source)
    shape = splits.source.shape

    def make_dataset(share: Share | None) -> tf.data.Dataset:
        share = share or Share()
        first, replicas, count = share.first, share.count, share.total

        def draw(number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            steps, replica = divmod(int(number), replicas)
            epoch, step = divmod(steps, plan.steps_per_epoch)
            place: Any = {"epoch": epoch, "step": step, "replica": first + replica, "secret": secret}
            return indices[sample(len(indices), plan, count=count, **place)], normal(weights + 1, **place)

        @tf.autograph.experimental.do_not_convert
        def load(number: tf.Tensor) -> tuple[tf.Tensor, ...]:
            positions, noise = tf.numpy_function(draw, [number], [tf.int64, tf.float32], stateful=False)
            positions = tf.ensure_shape(positions, [None])
            features, labels = read(positions)
            # With zeros, which have the weight 0, and not with other examples.
            padding = -tf.shape(positions)[0] % ROWS
            tensors = (
                tf.ensure_shape(tf.pad(value, [[0, padding], *[[0, 0]] * len(inner)]), [None, *inner])
                for value, inner in (
                    (features, shape),
                    (labels, labels.shape[1:]),
                    (tf.ones_like(positions, tf.float32), ()),
                )
            )
            return *tensors, tf.ensure_shape(noise, [weights + 1])

        bounds = [epoch * plan.steps_per_epoch * replicas for epoch in epochs]
        elements = tf.data.Dataset.range(*bounds).map(load, num_parallel_calls=READERS, deterministic=True)
        size_in_bytes = 4 * (plan.expected_batch_size * int(np.prod(shape)) + weights)
        return finish(elements, ahead=1 if size_in_bytes > LARGE_ELEMENT else 2)

    return distribute(strategy, make_dataset)


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
    indices = np.arange(replica, positions, count)
    if plan.sampler == "shuffled":
        # Each replica shuffles what it owns: the order of another process, whose secret is another, is not known here.
        edges = (min(at * plan.expected_batch_size, positions) for at in (step, step + 1))
        start, stop = (len(range(replica, edge, count)) for edge in edges)
        return np.random.default_rng([*key, epoch, replica]).permutation(indices)[start:stop]
    draws = np.random.default_rng([*key, epoch, step, replica]).random(len(indices))
    return indices[draws < plan.sampling_probability]


def normal(numbers: int, *, epoch: int, step: int, replica: int, secret: bytes) -> np.ndarray:
    """Return the noise of one step and one replica: float32 [numbers], standard normal.

    Pairs by Box and Muller from numpy's Philox, whose counter begins where no other step and replica comes. A radius
    has 53 random bits, so that the tail ends at 8.57 standard deviations, beyond which 1e-17 of the distribution is; an
    angle has 24. It takes 0.4 of the time of `tf.random.stateless_normal`, whose tail ends at 5.7, and runs while
    TensorFlow takes the step before. As with all floats not every number can occur: see the
    manual's page on privacy.

    Args:
      numbers: that are drawn.
      epoch: from 0.
      step: of the epoch, from 0.
      replica: from 0.
      secret: from which the key follows, another one than that of `sample`.

    Source: Salmon et al. 2011 (Philox); Box and Muller 1958.
    """
    key = int.from_bytes(hashlib.blake2b(secret, digest_size=16, person=b"noise").digest(), "little")
    generator = np.random.Generator(np.random.Philox(key=key, counter=[0, epoch, step, replica]))
    noise, half = np.empty(numbers + numbers % 2, np.float32), PAIRS_AT_A_TIME
    uniform, radius, angle = np.empty(half), np.empty(half, np.float32), np.empty(half, np.float32)
    for start in range(0, len(noise), 2 * half):
        part = noise[start : start + 2 * half].reshape(2, -1)
        pairs = part.shape[1]
        u, r, a = uniform[:pairs], radius[:pairs], angle[:pairs]
        generator.random(out=u)
        generator.random(dtype=np.float32, out=a)
        np.subtract(1.0, u, out=r, casting="same_kind")  # (0, 1]: its logarithm is finite
        np.sqrt(np.multiply(np.log(r, out=r), np.float32(-2.0), out=r), out=r)
        np.multiply(a, np.float32(2.0 * math.pi), out=a)
        np.multiply(np.cos(a, out=part[0]), r, out=part[0])
        np.multiply(np.sin(a, out=part[1]), r, out=part[1])
    return noise[:numbers]


PAIRS_AT_A_TIME = 8192
"""Pairs of normal numbers whose intermediate results stay in the cache of a core."""


def attach(model: keras.Model, plan: Plan) -> PrivateStep:
    """Make `model.fit` train privately, on what `sampled_batches` yields.

    Args:
      model: compiled and built; call this inside the scope of the strategy that it was made in.
      plan: what is accounted.

    Returns:
      The step; its `clip` belongs into a backup.
    """
    step = PrivateStep(model, plan)
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

    def __init__(self, model: keras.Model, plan: Plan) -> None:
        self._model = model
        self._plan = plan
        self._loss = per_example_loss(model)
        self._penalties = weight_penalties(model)
        self._dp_model = None
        if plan.engine == "tensorflow_privacy":
            self._dp_model = DPModelSum(model, per_example_loss=self._loss, l2_norm_clip=plan.l2_norm_clip)
        self._rows = plan.microbatch_size or examples_at_a_time(model)
        self.clip = tf.Variable(
            plan.l2_norm_clip, trainable=False, aggregation=tf.VariableAggregation.MEAN, name="l2_norm_clip"
        )
        names = ("loss", "clipped_fraction", *QUANTILES) if plan.diagnostics else ()
        self.diagnostics = {name: keras.metrics.Mean(name=name) for name in names}

    def __call__(self, data: Any) -> dict[str, Any]:
        """Take one step; Keras calls this in place of `train_step`, in replica context.

        Args:
          data: features [n, ...], labels [n, ...], weights float32 [n] and noise float32 [numbers in the trainable
            variables + 1], standard normal: of this replica.

        Returns:
          Nothing about the examples, unless the plan says so.
        """
        *batch, noise = data
        replicas = tf.distribute.get_replica_context()
        sums = self._sum(batch, self._scale_noise(noise, replicas.num_replicas_in_sync))
        *gradients, count = replicas.all_reduce(tf.distribute.ReduceOp.SUM, sums)
        variables = self._model.trainable_variables
        pairs = zip(self._with_penalties(gradients, variables), variables, strict=True)
        # They are summed already; this is what optimizers of both kinds, the legacy ones too, call it.
        self._model.optimizer.apply_gradients(pairs, experimental_aggregate_gradients=False)
        if self._plan.adaptive_clip_quantile is not None:
            # Andrew et al. 2021 (arXiv:1905.03871): each example says +1/2 or -1/2.
            share = count + 0.5
            rate = CLIP_LEARNING_RATE * (share - self._plan.adaptive_clip_quantile)
            self.clip.assign(self.clip * tf.exp(-rate))
        if not self.diagnostics:
            return {}
        metrics = {metric.name: metric for metric in self._model.compiled_metrics.metrics} | self.diagnostics
        return {name: metric.result() for name, metric in metrics.items()}

    def _scale_noise(self, noise: tf.Tensor, replicas: int) -> list[tf.Tensor]:
        """Return this replica's share of the noise for each mean gradient, and for the count, which comes last."""
        plan, shapes = self._plan, [variable.shape for variable in self._model.trainable_variables]
        *parts, count_part = tf.split(noise, [*(shape.num_elements() for shape in shapes), 1])
        share = 1.0 / math.sqrt(replicas) / plan.expected_batch_size
        deviation = plan.gradient_noise_multiplier * share * self.clip
        gradient_parts = (
            tf.reshape(deviation * part, shape) for part, shape in zip(parts, shapes, strict=True)
        )
        return [*gradient_parts, plan.count_noise * share * count_part[0]]

    def _sum(self, batch: list[Any], noise: list[tf.Tensor]) -> list[tf.Tensor]:
        """Return the noise plus what the batch adds, which goes through the model in passes."""
        size, (*_, weights) = self._rows, batch

        def add(start: tf.Tensor, sums: list[tf.Tensor]) -> Any:
            addends = self._clip(*tf.nest.map_structure(lambda value: value[start : start + size], batch))
            return start + size, [total + new for total, new in zip(sums, addends, strict=True)]

        return tf.while_loop(
            lambda start, _: start < tf.shape(weights)[0], add, (0, noise), parallel_iterations=1
        )[1]

    def _clip(self, features: Any, labels: Any, weights: tf.Tensor) -> list[tf.Tensor]:
        """Return the sums of clipped gradients, and of +1/2 for each unclipped example and -1/2 for each other.

        All are divided by the expected batch size.
        """
        divisor = float(self._plan.expected_batch_size)
        if self._dp_model is not None:
            return [
                *(total / divisor for total in self._dp_model(features, labels, weights)),
                tf.constant(0.0),
            ]
        settings = {"per_example_loss": self._loss, "l2_norm_clip": self.clip, "divisor": divisor}
        clipped = clipped_sum(self._model, features, labels, weights, **settings)
        if self.diagnostics:
            self._diagnose(clipped, labels, weights)
        votes = tf.where(clipped.norms <= self.clip, 0.5, -0.5)
        return [*clipped.gradients, tf.reduce_sum(tf.where(weights > 0, votes, 0.0)) / divisor]

    def _with_penalties(self, gradients: list[tf.Tensor], variables: list[Any]) -> list[tf.Tensor]:
        """Add the gradients of the weights' regularisers: they know nothing of the data."""
        if not self._penalties:
            return gradients
        with tf.GradientTape() as tape:
            penalty = tf.add_n([penalty() for penalty in self._penalties])
        slopes = tape.gradient(penalty, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return [gradient + more for gradient, more in zip(gradients, slopes, strict=True)]

    def _diagnose(self, clipped: Clipped, labels: Any, weights: tf.Tensor) -> None:
        """Take in one microbatch, without its padding; a quantile is the mean of the microbatches' ones."""
        is_real, means = tf.cast(weights > 0, tf.float32), self.diagnostics
        means["loss"].update_state(tf.math.divide_no_nan(clipped.losses, weights), weights)
        means["clipped_fraction"].update_state(tf.cast(clipped.norms > self.clip, tf.float32), is_real)
        count = tf.reduce_sum(is_real)
        norms = tf.sort(tf.where(is_real > 0, clipped.norms, 0.0), direction="DESCENDING")
        for name, quantile in QUANTILES.items():
            place = tf.cast(tf.math.floor((1.0 - quantile) * tf.maximum(count - 1.0, 0.0)), tf.int32)
            means[name].update_state(norms[place], count)
        self._model.compiled_metrics.update_state(labels, clipped.outputs, weights)


def examples_at_a_time(model: keras.Model) -> int:
    """Return how many examples go through a model in one pass: as a rule all of a sample, fewer of a large model."""
    shapes = [getattr(layer, "output_shape", None) for layer in modules(model)]
    outputs = sum(math.prod(size or 1 for size in shape[1:]) for shape in shapes if isinstance(shape, tuple))
    return min(max(LARGEST_OUTPUTS // max(outputs, 1) // ROWS * ROWS, SMALLEST_PASS), LARGEST_PASS)

"""tf.data over a Source: deterministic, parallel, and the same after a resume."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf

    from tfkit.data.augment import Augmentation
    from tfkit.data.splits import Source

READERS = 2
_BATCHES_AHEAD = 2


@dataclass(frozen=True, kw_only=True)
class Share:
    """The part of every batch that the replicas of one process take.

    A batch of n examples goes to R replicas in consecutive pieces, replica r getting those from n r // R to
    n (r + 1) // R: none is lost or taken twice, and pieces differ by one example at most, also in a last batch.
    Where a last batch has fewer examples than there are replicas, a piece without any is one example of weight 0: not
    every operation takes an empty batch. Then all elements have a third component, weights float32 [b].

    Attributes:
      first: the first replica of this process.
      own: how many replicas this process has.
      of: how many there are in all processes.
    """

    first: int
    own: int
    of: int

    def leaves_out_some(self, examples: int, *, batch_size: int) -> bool:
        """Whether the last of these batches has no example for some replica."""
        return 0 < examples % batch_size < self.of or examples < self.of


def in_order(
    source: Source, indices: np.ndarray, *, batch_size: int, share: Share | None = None
) -> tf.data.Dataset:
    """The examples in the order of the indices, in batches of (features float32 or texts string, label int64).

    With a share an element is a replica's piece of a batch, replica after replica, and they begin anew without end.
    """
    from tfkit.stack import tf

    batches = tf.data.Dataset.from_tensor_slices(np.asarray(indices, np.int64)).batch(batch_size)
    read = reader(source)
    if share is None:
        return finish(batches.map(read, num_parallel_calls=READERS, deterministic=True))
    weighed = share.leaves_out_some(len(indices), batch_size=batch_size)

    @tf.autograph.experimental.do_not_convert
    def examples(index: tf.Tensor, weight: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return (*read(index), weight) if weighed else read(index)

    pieces = batches.repeat().flat_map(_pieces(share))
    return finish(_endless(pieces.map(examples, num_parallel_calls=READERS, deterministic=True)))


def shuffled(
    source: Source,
    indices: np.ndarray,
    *,
    batch_size: int,
    seed: int,
    epochs: tuple[int, int],
    skip: int = 0,
    augment: Augmentation | None = None,
    class_weight: Mapping[int, float] | None = None,
    share: Share | None = None,
) -> tf.data.Dataset:
    """Whole epochs one after the other, each in an order of its own that (seed, epoch) decides.

    Args:
      source: of the examples.
      indices: int64 [n], those that take part.
      batch_size: over all replicas.
      seed: of the order and the augmentation.
      epochs: the first, and the one after the last.
      skip: batches of the first epoch that are passed over, without reading them.
      augment: random changes of the images.
      class_weight: class index to weight; there is a third component then, float32 [b].
      share: makes an element a replica's piece of a batch, replica after replica; they go on after the last epoch.
    """
    from tfkit.stack import tf

    indices = np.asarray(indices, np.int64)
    read = reader(source)
    change = augment.function(seed=seed) if augment else None
    of_class = [class_weight[label] for label in range(len(class_weight))] if class_weight else None
    weighed = share is not None and share.leaves_out_some(len(indices), batch_size=batch_size)

    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        # Batch first: a thousand positions at once take no longer than one.
        def order(positions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            places = tf.random.experimental.index_shuffle(
                positions, seed=tf.stack([tf.constant(seed, tf.int64), epoch]), max_index=len(indices) - 1
            )
            return tf.gather(indices, places), tf.fill(tf.shape(positions), epoch), positions

        return tf.data.Dataset.range(len(indices)).batch(batch_size).map(order)

    # Autograph finds nothing to convert, and takes seconds for it.
    @tf.autograph.experimental.do_not_convert
    def examples(
        index: tf.Tensor, epoch: tf.Tensor, position: tf.Tensor, weight: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        features, labels = read(index)
        features = change(features, epoch, position) if change else features
        if of_class is not None:
            return features, labels, weight * tf.gather(tf.constant(of_class, tf.float32), labels)
        return (features, labels, weight) if weighed else (features, labels)

    # Where several processes take part, an end would be agreed on in every step; what fit does not take is not made.
    last = epochs[1] if share is None else tf.int64.max
    batches = tf.data.Dataset.range(epochs[0], last).flat_map(one_epoch)
    if skip:
        batches = batches.skip(skip)
    pieces = batches.flat_map(_pieces(share or Share(first=0, own=1, of=1)))
    made = pieces.map(examples, num_parallel_calls=READERS, deterministic=True)
    return finish(made if share is None else _endless(made))


def _endless(elements: tf.data.Dataset) -> tf.data.Dataset:
    """The same, known to have no end."""
    from tfkit.stack import tf

    return elements.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))


def _pieces(share: Share) -> Any:
    """A graph function: a batch -> a dataset of the pieces of it that this process's replicas take, with weights."""
    from tfkit.stack import tf

    def pieces(*batch: tf.Tensor) -> tf.data.Dataset:
        count = tf.shape(batch[0], out_type=tf.int64)[0]

        def piece(replica: tf.Tensor) -> Any:
            start, stop = count * replica // share.of, count * (replica + 1) // share.of
            weight = tf.cast(stop > start, tf.float32)
            start, stop = tf.minimum(start, count - 1), tf.maximum(stop, tf.minimum(start, count - 1) + 1)
            return (*(value[start:stop] for value in batch), tf.fill([stop - start], weight))

        return tf.data.Dataset.range(share.first, share.first + share.own).map(piece)

    return pieces


def reader(source: Source) -> Any:
    """A graph function: indices int64 [b] -> (features float32 [b, *shape] or texts string [b], label int64 [b])."""
    from tfkit.stack import tf

    labels = tf.constant(np.asarray(source.labels, np.int64))
    is_image = len(source.shape) == 3
    kind = tf.uint8 if is_image else tf.float32 if source.shape else tf.string
    rows = getattr(source, "rows", None)
    if rows is not None:
        # Python, with its lock, would cost more than a step on features takes.
        features = tf.constant(rows)
        return lambda indices: (tf.gather(features, indices), tf.gather(labels, indices))

    def read(indices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        features = tf.numpy_function(source.read, [indices], kind, stateful=False)
        features = tf.ensure_shape(features, [None, *source.shape])
        if is_image:
            features = tf.cast(features, tf.float32) / 255.0
        return features, tf.gather(labels, indices)

    return read


def finish(batches: tf.data.Dataset, *, ahead: int = _BATCHES_AHEAD) -> tf.data.Dataset:
    """The batches, some of them made ahead, without the autotuner and in a fixed order."""
    from tfkit.stack import tf

    options = tf.data.Options()
    # fit waits for the autotuner's thread when it drops an iterator, seconds in a long run.
    options.autotune.enabled = False
    options.deterministic = True
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return batches.prefetch(ahead).with_options(options)

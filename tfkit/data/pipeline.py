"""tf.data over a Source: deterministic, parallel, and the same after a resume."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tfkit.data.splits import Source

if TYPE_CHECKING:
    import tensorflow as tf

    from tfkit.data.augment import Augmentation

READERS = 2
_BATCHES_AHEAD = 2


def in_order(source: Source, indices: np.ndarray, *, batch_size: int) -> tf.data.Dataset:
    """The examples in the order of the indices, in batches of (features float32, label int64)."""
    from tfkit.stack import tf

    batches = tf.data.Dataset.from_tensor_slices(np.asarray(indices, np.int64)).batch(batch_size)
    return finish(batches.map(reader(source), num_parallel_calls=READERS, deterministic=True))


def shuffled(
    source: Source,
    indices: np.ndarray,
    *,
    batch_size: int,
    seed: int,
    epochs: tuple[int, int],
    augment: Augmentation | None = None,
) -> tf.data.Dataset:
    """Whole epochs one after the other, each in an order of its own that (seed, epoch) decides."""
    from tfkit.stack import tf

    indices = np.asarray(indices, np.int64)
    read = reader(source)
    change = augment.function(seed=seed) if augment else None

    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        def order(position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            place = tf.random.experimental.index_shuffle(
                position, seed=tf.stack([tf.constant(seed, tf.int64), epoch]), max_index=len(indices) - 1
            )
            return tf.gather(indices, place), epoch, position

        # Order first, then batch: tf.distribute finds the batch size by looking for the batch operation.
        return tf.data.Dataset.range(len(indices)).map(order).batch(batch_size)

    # Autograph finds nothing to convert, and takes seconds for it.
    @tf.autograph.experimental.do_not_convert
    def examples(index: tf.Tensor, epoch: tf.Tensor, position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        features, labels = read(index)
        return change(features, epoch, position) if change else features, labels

    batches = tf.data.Dataset.range(*epochs).flat_map(one_epoch)
    return finish(batches.map(examples, num_parallel_calls=READERS, deterministic=True))


def reader(source: Source) -> Any:
    """A graph function: indices int64 [b] -> (features float32 [b, *shape], label int64 [b])."""
    from tfkit.stack import tf

    labels = tf.constant(np.asarray(source.labels, np.int64))
    is_image = len(source.shape) == 3
    rows = getattr(source, "rows", None)
    if rows is not None:
        # Python, with its lock, would cost more than a step on features takes.
        features = tf.constant(rows)
        return lambda indices: (tf.gather(features, indices), tf.gather(labels, indices))

    def read(indices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        features = tf.numpy_function(
            source.read, [indices], tf.uint8 if is_image else tf.float32, stateful=False
        )
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

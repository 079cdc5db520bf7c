"""Splits under a strategy: each process reads its own examples, and no other."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tfkit.data.pipeline import Share
from tfkit.errors import ConfigError
from tfkit.stack import keras, tf

if TYPE_CHECKING:
    from tfkit.data import Splits


_ASYNCHRONOUS = 64


def dealt(strategy: tf.distribute.Strategy, batches: Callable[[Share | None], tf.data.Dataset]) -> Any:
    """What `model.fit` or `model.evaluate` takes under a strategy.

    tf.data's own ways to share data among workers do not serve: FILE needs as many files as workers, DATA lets each
    worker read and prepare all examples, and both leave the last batches uneven. Here a process makes just the pieces
    of each batch that its own replicas take.

    Args:
      strategy: of the training.
      batches: gives the elements of one process, as `Splits.epochs` and `Splits.in_order` do, for its share.

    Returns:
      A dataset of whole batches for one replica, a distributed dataset for more; under parameter servers Keras's
      DatasetCreator.
    """
    if isinstance(strategy, tf.distribute.ParameterServerStrategy):
        # Each of its workers makes the whole dataset for itself, in an order of its own.
        return keras.utils.experimental.DatasetCreator(
            lambda _: batches(None).repeat().shuffle(_ASYNCHRONOUS)
        )
    replicas = strategy.num_replicas_in_sync
    if replicas == 1:
        return batches(None)

    def of_process(context: tf.distribute.InputContext) -> tf.data.Dataset:
        own = replicas // context.num_input_pipelines
        return batches(Share(first=context.input_pipeline_id * own, own=own, of=replicas))

    return strategy.distribute_datasets_from_function(of_process)


def validation(strategy: tf.distribute.Strategy, splits: Splits) -> Any:
    """The validation split, dealt; every example is counted once."""
    return dealt(strategy, lambda share: splits.in_order("validation", share=share))


def are_uneven(strategy: tf.distribute.Strategy, splits: Splits) -> bool:
    """Whether some batch, of training or validation, does not divide by the replicas.

    Raises:
      ConfigError: a whole batch has fewer examples than there are replicas.
    """
    replicas = strategy.num_replicas_in_sync
    sizes = [
        (splits.global_batch_size, len(splits.indices["train"])),
        (splits.evaluation_batch_size, len(splits.indices["validation"])),
    ]
    if min(sizes[0]) < replicas:
        raise ConfigError(
            f"A batch of {min(sizes[0])} examples has none for some of the {replicas} replicas: a global_batch_size\n"
            f"  (--global-batch-size) of {replicas} or more, over all replicas, is needed."
        )
    return any(size % replicas for batch, count in sizes for size in (min(batch, count), count % batch))

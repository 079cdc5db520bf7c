"""The processes of one training: what they agree on, which examples each reads, and how much each replica counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfkit.data.splits import Share, Splits
from tfkit.distribution.network import free_ports
from tfkit.environment import cluster
from tfkit.environment.process import quiet
from tfkit.environment.stack import keras, tf
from tfkit.errors import ConfigError


class Replicas:
    """The processes that train under one strategy; alone, everything here answers at once.

    Every process must make the same calls in the same order, or all wait for ever.

    Attributes:
      workers: how many processes there are.
      index: of this one among them.
      replicas: of the model, in all of them.
    """

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        self._strategy = strategy
        here = cluster.Cluster()
        if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            resolver = strategy.cluster_resolver
            task = {"type": resolver.task_type, "index": resolver.task_id}
            if addresses := resolver.cluster_spec().as_dict():
                here = cluster.parse({"cluster": addresses, "task": task})
        self.workers, self.index = here.size, here.index
        self.replicas = strategy.num_replicas_in_sync
        self._total: Any = None

    def total(self, values: Sequence[float]) -> np.ndarray:
        """Return the sum of each value over the processes: float64 of the same length, the same in every process."""
        numbers = np.asarray(values, np.float64)
        if self.workers == 1:
            return numbers
        if self._total is None:
            self._total = tf.function(self._sum, input_signature=[tf.TensorSpec([None], tf.float64)])
        return np.asarray(self._total(tf.constant(numbers))) / (self.replicas // self.workers)

    def of_chief(self, values: Sequence[float]) -> np.ndarray:
        """Return what the chief gave."""
        return self.total(values if self.index == 0 else [0.0] * len(values))

    def of_each(self, value: float) -> list[float]:
        """Return what each process gave, in the order of their index."""
        return list(self.total([value if index == self.index else 0.0 for index in range(self.workers)]))

    def barrier(self) -> None:
        """Return when every process has come here."""
        self.total([0.0])

    def _sum(self, numbers: tf.Tensor) -> tf.Tensor:
        per_replica = self._strategy.run(lambda value: tf.identity(value), args=(numbers,))
        return self._strategy.reduce(tf.distribute.ReduceOp.SUM, per_replica, axis=None)


def weigh_replicas(model: keras.Model) -> None:
    """Make each replica count by its examples; to be called in the strategy's scope, on a compiled model.

    Keras adds up the means of the replicas and divides by their number, so that in a batch that does not divide by
    the replicas an example counts more on a replica that has fewer. Here the loss that is differentiated is
    multiplied by (examples of this replica) x (replicas) / (examples of all). What is logged stays as it is: Keras
    weighs that by examples itself. A replica whose only example has weight 0 (`tfkit.data.splits.Share`) counts as
    one without examples, in the loss and in the metrics; batch normalisation does see that example.

    A loss that is a sum, and not a mean, over the batch is right already and its gradient is left alone.
    """
    losses = [loss for loss in tf.nest.flatten(model.loss) if loss is not None]
    is_sum = any(getattr(loss, "reduction", None) == keras.losses.Reduction.SUM for loss in losses)
    compute_loss, compute_metrics = model.compute_loss, model.compute_metrics

    def weigh_loss(x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None) -> Any:
        y, y_pred, sample_weight = real_examples(y, y_pred, sample_weight)
        loss = compute_loss(x, y, y_pred, sample_weight)
        return loss if is_sum or loss is None else loss * weight_of_replica(y)

    def count_metrics(x: Any, y: Any, y_pred: Any, sample_weight: Any) -> Any:
        return compute_metrics(x, *real_examples(y, y_pred, sample_weight))

    model.compute_loss, model.compute_metrics = weigh_loss, count_metrics


def weight_of_replica(labels: Any) -> tf.Tensor:
    """Return what the mean of this replica's examples counts for: their number, by the mean number of a replica.

    Args:
      labels: of the replica's examples, without a lone one of weight 0.

    Returns:
      float32 scalar. A collective: every replica must ask.
    """
    replicas = tf.distribute.get_replica_context()
    count = tf.cast(tf.shape(tf.nest.flatten(labels)[0])[0], tf.float32)
    total = replicas.all_reduce(tf.distribute.ReduceOp.SUM, count)
    return count * replicas.num_replicas_in_sync / total


def real_examples(y: Any, y_pred: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
    """Return labels, outputs and weights without a lone example of weight 0."""
    if sample_weight is None:
        return y, y_pred, sample_weight
    weights = tf.nest.flatten(sample_weight)[0]
    count = tf.shape(weights)[0]
    size = tf.where((count == 1) & (weights[0] == 0), 0, count)
    return tf.nest.map_structure(lambda value: value[:size], (y, y_pred, sample_weight))


_ASYNCHRONOUS = 64


def distribute(strategy: tf.distribute.Strategy, batches: Callable[[Share | None], tf.data.Dataset]) -> Any:
    """Return what `model.fit` or `model.evaluate` takes under a strategy.

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

    def make_dataset(context: tf.distribute.InputContext) -> tf.data.Dataset:
        count = replicas // context.num_input_pipelines
        return batches(Share(first=context.input_pipeline_id * count, count=count, total=replicas))

    return strategy.distribute_datasets_from_function(make_dataset)


def validation(strategy: tf.distribute.Strategy, splits: Splits) -> Any:
    """Return the validation split, dealt; every example is counted once."""
    return distribute(strategy, lambda share: splits.in_order("validation", share=share))


def are_uneven(strategy: tf.distribute.Strategy, splits: Splits) -> bool:
    """Return whether some batch, of training or validation, does not divide by the replicas.

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
            f"A batch of {min(sizes[0])} examples has none for some of the {replicas} replicas: global_batch_size"
            f" (--global-batch-size) must be {replicas} or more."
        )
    return any(size % replicas for batch, count in sizes for size in (min(batch, count), count % batch))


def make_parameter_server_strategy(here: cluster.Cluster) -> tf.distribute.Strategy:
    """Return the strategy of asynchronous training: workers fetch weights from parameter servers, and send gradients.

    Stock TensorFlow does the work. What it cannot promise, tfkit does not either: the order of the updates, and so the
    weights, differ from run to run, and validation sees a sample of the split and not each example once.

    Args:
      here: TF_CONFIG's chief, or a process that is alone: a rehearsal is started in it.

    Raises:
      ConfigError: this process is one of those that serve.
    """
    if here.parameter_servers and here.role != "chief":
        raise ConfigError(
            f"This process is {here.name}, beside parameter servers: it serves, and the recipe runs in the chief.\n"
            '  Start it as `launch` does: python -c "from tfkit.distribution.replicas import serve; serve()"'
        )
    resolvers = tf.distribute.cluster_resolver
    resolver = resolvers.TFConfigClusterResolver() if here.parameter_servers else _start_local_servers()
    with quiet():
        return tf.distribute.ParameterServerStrategy(resolver)


def check_readers(splits: Splits) -> None:
    """Make sure that the workers can make the batches.

    Raises:
      ConfigError: they are other processes, which cannot run what Python of this one reads the examples.
    """
    if cluster.current().parameter_servers and getattr(splits.source, "rows", None) is None:
        raise ConfigError(
            "The workers of these parameter servers are other processes, and Python of this one reads the examples.\n"
            "  Launch without --parameter-servers, or train on stored features, which TensorFlow reads by itself."
        )


def _start_local_servers() -> Any:
    """Start servers in threads of this process, on ports of loopback."""
    first, second, third = (f"127.0.0.1:{port}" for port in free_ports(3))
    spec = tf.train.ClusterSpec({"worker": [first, second], "ps": [third]})
    config = tf.compat.v1.ConfigProto(inter_op_parallelism_threads=4)
    for role, index in (("worker", 0), ("worker", 1), ("ps", 0)):
        tf.distribute.Server(spec, job_name=role, task_index=index, config=config, protocol="grpc")
    return tf.distribute.cluster_resolver.SimpleClusterResolver(spec, rpc_layer="grpc")


def serve() -> None:
    """Be the worker or parameter server that TF_CONFIG names, until the process is ended."""
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    spec, role, index = resolver.cluster_spec(), resolver.task_type, resolver.task_id
    tf.distribute.Server(spec, job_name=role, task_index=index, protocol="grpc").join()

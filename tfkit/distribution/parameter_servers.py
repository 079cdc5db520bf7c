"""Asynchronous training: workers that fetch weights from parameter servers and send gradients back.

Stock TensorFlow does the work. What it cannot promise, tfkit does not either: the order of the updates, and so the
weights, differ from run to run, and validation sees a sample of the split and not each example once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tfkit.distribution.network import free_ports
from tfkit.environment.cluster import Cluster, current
from tfkit.environment.process import quiet
from tfkit.environment.stack import tf
from tfkit.errors import ConfigError

if TYPE_CHECKING:
    from tfkit.data.splits import Splits


def lead(here: Cluster) -> tf.distribute.Strategy:
    """Return the strategy of the process that leads: TF_CONFIG's chief, or of a rehearsal in this process.

    Raises:
      ConfigError: this process is one of those that serve.
    """
    if here.parameter_servers and here.role != "chief":
        raise ConfigError(
            f"This process is {here.name} of a cluster with parameter servers: it serves, and runs no recipe.\n"
            "  Start `python -m tfkit.distribution.parameter_servers` in it, as `python -m tfkit launch\n"
            "  --parameter-servers N` does; the recipe runs in the chief."
        )
    resolvers = tf.distribute.cluster_resolver
    resolver = resolvers.TFConfigClusterResolver() if here.parameter_servers else _rehearsal()
    with quiet():
        return tf.distribute.ParameterServerStrategy(resolver)


def check_readers(splits: Splits) -> None:
    """Make sure that the workers can make the batches.

    Raises:
      ConfigError: they are other processes, which cannot run what Python of this one reads the examples.
    """
    if current().parameter_servers and getattr(splits.source, "rows", None) is None:
        raise ConfigError(
            "The workers of these parameter servers are other processes, and the examples are read by Python of this\n"
            "  one. Use --strategy multi_worker_mirrored (launch without --parameter-servers), or train on stored\n"
            "  features, which TensorFlow reads by itself. A rehearsal within one process takes any data."
        )


def _rehearsal() -> Any:
    """Start servers in threads of this process, on ports of loopback."""
    first, second, third = (f"127.0.0.1:{port}" for port in free_ports(3))
    cluster = tf.train.ClusterSpec({"worker": [first, second], "ps": [third]})
    config = tf.compat.v1.ConfigProto(inter_op_parallelism_threads=4)
    for role, index in (("worker", 0), ("worker", 1), ("ps", 0)):
        tf.distribute.Server(cluster, job_name=role, task_index=index, config=config, protocol="grpc")
    return tf.distribute.cluster_resolver.SimpleClusterResolver(cluster, rpc_layer="grpc")


def serve() -> None:
    """Be the worker or parameter server that TF_CONFIG names, until the process is ended."""
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    spec, role, index = resolver.cluster_spec(), resolver.task_type, resolver.task_id
    tf.distribute.Server(spec, job_name=role, task_index=index, protocol="grpc").join()


if __name__ == "__main__":
    serve()

"""Stock tf.distribute strategies by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tfkit import cluster, pulse, stopping
from tfkit.errors import ConfigError

if TYPE_CHECKING:
    from tfkit.stack import tf

STRATEGIES = (
    "auto",
    "one_device",
    "mirrored",
    "multi_worker_mirrored",
    "central_storage",
    "parameter_server",
    "tpu",
)

# TensorFlow opens the port and sets up the collectives of a process once; those of a second MirroredStrategy over CPUs
# would take the first one's shapes for theirs.
_of_process: dict[str, Any] = {}


def strategy(name: str | tf.distribute.Strategy = "auto") -> tf.distribute.Strategy:
    """The stock strategy of that name.

    Args:
      name: one of these, or a strategy of your own, which is returned as it is:
        `one_device`: TensorFlow's default strategy, the first GPU, else the CPU.
        `mirrored`: every GPU, else every logical CPU, one replica each. Later calls give the same object.
        `multi_worker_mirrored`: the same in all the processes that TF_CONFIG names (`python -m tfkit launch` sets it).
          The first call waits for all of them, and must come before TensorFlow's first operation; later calls
          give the same object.
        `central_storage`: weights on the CPU, a replica on every GPU.
        `parameter_server`: asynchronous; of TF_CONFIG's processes, or without it a rehearsal of two workers and one
          parameter server in this process.
        `tpu`: of a TPU VM, or the TPU that TPU_NAME names.
        `auto`: what TF_CONFIG describes; else mirrored where there are two GPUs or more; else one_device.

    Returns:
      A strategy of TensorFlow, ready for `scope()`.

    Raises:
      ConfigError: no strategy has that name; it does not suit TF_CONFIG; TensorFlow has started too far for it.
      AbsentError: a worker did not come.
    """
    from tfkit.stack import tf

    if isinstance(name, tf.distribute.Strategy):
        return name
    here = cluster.current()
    if name == "auto":
        name = _automatic(here)
    if name not in STRATEGIES:
        raise ConfigError(f"--strategy {name!r} is not known. Use one of: {', '.join(STRATEGIES)}.")
    if here.size > 1 and name not in ("multi_worker_mirrored", "parameter_server"):
        raise ConfigError(
            f"TF_CONFIG describes {here.size} workers, and --strategy {name} is for one process: each of them would\n"
            "  train the whole model alone. Leave --strategy out, or start one process without TF_CONFIG."
        )
    if name == "central_storage":
        return tf.distribute.experimental.CentralStorageStrategy()
    if name == "one_device":
        # tf.distribute.OneDeviceStrategy would put each batch through a multi-device iterator for nothing.
        return tf.distribute.get_strategy()
    if name not in _of_process:
        makers = {
            "mirrored": _mirrored,
            "multi_worker_mirrored": _multi_worker,
            "parameter_server": _parameter_server,
            "tpu": _tpu,
        }
        _of_process[name] = makers[name](here)
    return _of_process[name]


def describe(chosen: tf.distribute.Strategy) -> str:
    """One line: the strategy, its replicas and their devices.

    Args:
      chosen: any strategy.

    Returns:
      Such as "MirroredStrategy: 2 replicas on GPU:0, GPU:1".
    """
    from tfkit.stack import tf

    count, here = chosen.num_replicas_in_sync, cluster.current()
    plural = "s" if count > 1 else ""
    if chosen is tf.distribute.get_strategy() and not tf.distribute.has_strategy():
        kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
        return f"one_device: 1 replica on {kind}:0"
    name = type(chosen).__name__.removesuffix("V1").removesuffix("V2")
    name = {"CollectiveAllReduceStrategy": "MultiWorkerMirroredStrategy"}.get(name, name)
    devices = ", ".join(":".join(device.split(":")[-2:]) for device in chosen.extended.worker_devices)
    where = f"{here.size} workers, in each {devices}" if here.size > 1 else devices
    return f"{name}: {count} replica{plural} on {where}"


def logical_cpus(count: int) -> None:
    """Split the CPU into `count` logical devices, to rehearse `mirrored` without GPUs.

    Args:
      count: devices, 1 or more.

    Raises:
      ConfigError: TensorFlow has started already; this must come before its first operation.
    """
    from tfkit.stack import tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    if len(tf.config.get_logical_device_configuration(cpu) or ()) == count:
        return  # an earlier job of this process has done it
    try:
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
    except RuntimeError as error:
        raise ConfigError(
            "logical_cpus() came too late: TensorFlow has run an operation in this process."
            "\n  Call it first thing after the imports (in a notebook: restart the kernel)."
        ) from error


def _automatic(here: cluster.Cluster) -> str:
    from tfkit.stack import tf

    if here.parameter_servers:
        return "parameter_server"
    if here.size > 1:
        return "multi_worker_mirrored"
    return "mirrored" if len(tf.config.list_physical_devices("GPU")) > 1 else "one_device"


def _mirrored(here: cluster.Cluster) -> tf.distribute.Strategy:
    from tfkit.stack import tf

    found = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in found])


def _multi_worker(here: cluster.Cluster) -> tf.distribute.Strategy:
    from tfkit.distribute import join, tuning
    from tfkit.stack import quiet, tf

    pulse.phase("joining")
    join.wait(here)
    try:
        with quiet():
            made = tf.distribute.MultiWorkerMirroredStrategy(communication_options=tuning.options())
    except RuntimeError as error:
        if "program startup" not in str(error):
            raise
        raise ConfigError(
            "The workers cannot be joined any more: TensorFlow has run an operation in this process.\n"
            '  Call tfkit.distribute.strategy("multi_worker_mirrored") first thing after the imports.'
        ) from error
    # TensorFlow has put a handler of its own in place of Python's, which would swallow a request to stop.
    stopping.listen_again()
    pulse.phase("working")
    return made


def _parameter_server(here: cluster.Cluster) -> tf.distribute.Strategy:
    from tfkit.distribute import parameter_servers

    return parameter_servers.lead(here)


def _tpu(here: cluster.Cluster) -> tf.distribute.Strategy:
    from tfkit.stack import tf

    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver()
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, RuntimeError, tf.errors.OpError) as error:
        raise ConfigError(
            f"--strategy tpu: no TPU is reached ({str(error).splitlines()[0]}).\n"
            "  Run on a TPU VM, or name one in TPU_NAME. This project had no TPU to try: it may need more than that."
        ) from error
    return tf.distribute.TPUStrategy(resolver)

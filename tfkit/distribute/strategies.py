"""Stock tf.distribute strategies by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tfkit.errors import ConfigError

if TYPE_CHECKING:
    from tfkit.stack import tf

STRATEGIES = ("auto", "one_device", "mirrored")


def strategy(name: str | tf.distribute.Strategy = "auto") -> tf.distribute.Strategy:
    """The stock strategy of that name.

    Args:
      name: `one_device` (TensorFlow's default strategy: the first GPU, else the CPU), `mirrored` (every GPU,
        else every logical CPU, one replica each), `auto` (mirrored where there are two GPUs or more, else
        one_device), or a strategy of your own, which is returned as it is.

    Under `mirrored` Keras averages the replicas' means: where a last batch does not divide by the replicas, its
    examples weigh unequally in that one step.

    Raises:
      ConfigError: no strategy has that name.
    """
    from tfkit.stack import tf

    if isinstance(name, tf.distribute.Strategy):
        return name
    gpus = tf.config.list_logical_devices("GPU")
    if name == "mirrored" or (name == "auto" and len(gpus) > 1):
        devices = gpus or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    if name in ("auto", "one_device"):
        # tf.distribute.OneDeviceStrategy would put each batch through a multi-device iterator for nothing.
        return tf.distribute.get_strategy()
    raise ConfigError(f"--strategy {name!r} is not known. Use one of: {', '.join(STRATEGIES)}.")


def describe(chosen: tf.distribute.Strategy) -> str:
    """One line: the strategy's class, its replicas and their devices."""
    count = chosen.num_replicas_in_sync
    devices = ", ".join(":".join(device.split(":")[-2:]) for device in chosen.extended.worker_devices)
    return f"{type(chosen).__name__.strip('_')}: {count} replica{'s' if count > 1 else ''} on {devices or 'one device'}"


def logical_cpus(count: int) -> None:
    """Split the CPU into `count` logical devices, to rehearse `mirrored` without GPUs.

    Raises:
      ConfigError: TensorFlow has started already; this must come before its first operation.
    """
    from tfkit.stack import tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
    except RuntimeError as error:
        raise ConfigError(
            "logical_cpus() came too late: TensorFlow has run an operation in this process."
            "\n  Call it first thing after the imports (in a notebook: restart the kernel)."
        ) from error

"""Strategies by name. What two replicas compute is tested in tests/test_training.py."""

import pytest

from tfkit import distribute
from tfkit.errors import ConfigError
from tfkit.stack import tf


def test_names_give_stock_strategies():
    assert distribute.strategy("auto") is tf.distribute.get_strategy()
    assert distribute.strategy("one_device") is tf.distribute.get_strategy()
    mirrored = distribute.strategy("mirrored")
    assert isinstance(mirrored, tf.distribute.MirroredStrategy)
    assert mirrored.num_replicas_in_sync == len(tf.config.list_logical_devices("CPU"))
    assert distribute.strategy(mirrored) is mirrored
    assert "1 replica on CPU:0" in distribute.describe(mirrored)


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match="one_device, mirrored"):
        distribute.strategy("horovod")


def test_logical_devices_must_come_first():
    tf.zeros([1]) + 1
    with pytest.raises(ConfigError, match="came too late"):
        distribute.logical_cpus(2)

"""Strategies by name. What two replicas compute is tested in tests/training/test_loop.py."""

import dataclasses
import json

import pytest

from tfkit.distribution.replicas import Replicas
from tfkit.distribution.strategies import describe, logical_cpus, scale_to_replicas, strategy
from tfkit.environment.stack import tf
from tfkit.errors import ConfigError
from tfkit.run import Run
from tfkit.settings.options import ReplicaConfig


def test_names_give_stock_strategies():
    assert strategy("auto") is tf.distribute.get_strategy()
    assert strategy("one_device") is tf.distribute.get_strategy()
    assert describe(strategy("auto")) == "one_device: 1 replica on CPU:0"
    assert isinstance(strategy("central_storage"), tf.distribute.experimental.CentralStorageStrategy)
    mirrored = strategy("mirrored")
    assert isinstance(mirrored, tf.distribute.MirroredStrategy)
    assert mirrored.num_replicas_in_sync == len(tf.config.list_logical_devices("CPU"))
    assert strategy(mirrored) is mirrored
    # The collectives of a second one over CPUs would be those of the first.
    assert strategy("mirrored") is mirrored
    assert "1 replica on CPU:0" in describe(mirrored)


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match="one_device, mirrored, multi_worker_mirrored"):
        strategy("horovod")


def test_logical_devices_must_come_first():
    tf.zeros([1]) + 1
    with pytest.raises(ConfigError, match="came too late"):
        logical_cpus(2)


def test_without_a_tpu_the_error_says_what_it_needs():
    with pytest.raises(ConfigError, match=r"(?s)no TPU is reached.*TPU_NAME.*tensorflow-tpu==.*Not tried"):
        strategy("tpu")


def test_a_strategy_of_one_process_does_not_suit_two_workers(monkeypatch):
    monkeypatch.setenv(
        "TF_CONFIG", '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}'
    )
    with pytest.raises(ConfigError, match=r"2 workers, and --strategy mirrored is for one process"):
        strategy("mirrored")


@pytest.mark.parametrize(("role", "index", "place"), [("chief", 0, 0), ("worker", 0, 1), ("worker", 1, 2)])
def test_a_chief_of_its_own_is_one_of_those_who_agree(monkeypatch, role, index, place):
    """As an operator of Kubernetes writes TF_CONFIG: two workers are called 0 else, or the chief is not counted."""
    cluster = {"chief": ["a:1"], "worker": ["b:1", "c:1"]}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": {"type": role, "index": index}}))

    class OfThree(tf.distribute.MultiWorkerMirroredStrategy):
        """What TensorFlow reads, without its ports."""

        cluster_resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        num_replicas_in_sync = 3

        def __init__(self):
            pass

    replicas = Replicas(OfThree())
    assert (replicas.index, replicas.workers) == (place, 3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rates(ReplicaConfig):
    learning_rate: float = 0.1
    fine_tune_learning_rate: float | None = 0.01


@pytest.mark.parametrize(("rule", "factor"), [("linear", 4.0), ("sqrt", 2.0), ("none", 1.0)])
def test_learning_rates_follow_a_batch_that_grows_with_the_replicas(tmp_path, rule, factor):
    class Four:
        num_replicas_in_sync = 4

    run = Run.create(tmp_path, config={})
    asked = Rates(batch_size_per_replica=16, learning_rate_scaling=rule)
    found = scale_to_replicas(asked, Four(), run)
    assert found.global_batch_size == 64
    assert found.learning_rate == pytest.approx(0.1 * factor)
    assert found.fine_tune_learning_rate == pytest.approx(0.01 * factor)
    assert "16 on each of 4 replicas" in run.notes[0]
    same = scale_to_replicas(Rates(global_batch_size=64), Four(), run)
    assert (same.global_batch_size, same.learning_rate) == (64, 0.1)


@pytest.mark.parametrize("again", [{"batch_size_per_replica": 16}, {"global_batch_size": 64}])
def test_a_run_that_goes_on_with_other_replicas_has_the_steps_that_it_began_with(tmp_path, again):
    """By the words that began it, or with its batch as config.yaml has it."""

    class Strategy:
        def __init__(self, replicas):
            self.num_replicas_in_sync = replicas

    asked = Rates(batch_size_per_replica=16)
    with Run.create(tmp_path, config=vars(asked)) as run:
        begun = scale_to_replicas(asked, Strategy(4), run)
        run.record({"data/train_examples": 200})
    with Run.create(tmp_path, config=vars(Rates(**again))) as run:
        assert scale_to_replicas(Rates(**again), Strategy(3), run) == begun
        assert "64 examples and learning rate 0.4" in run.notes[-1]
    assert Run.open(tmp_path).config["global_batch_size"] == 64

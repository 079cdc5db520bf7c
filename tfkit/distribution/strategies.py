"""Stock tf.distribute strategies by name, and what a job does with one: join the other workers, and leave together."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
from collections.abc import Iterator
from typing import Any, TypeVar, get_args

from tfkit.distribution import network, slurm
from tfkit.environment import cluster, heartbeat, packages, stack
from tfkit.environment.process import quiet
from tfkit.errors import ConfigError, RunError
from tfkit.run import CONFIG, Run
from tfkit.settings.options import ReplicaConfig, Strategy, StrategyConfig


def sum_metrics_once_an_epoch(model: stack.keras.Model) -> None:
    """Let the metrics be summed over the workers when an epoch ends, and not in each of its steps.

    Keras returns every metric's value from every step, and under a multi-worker strategy reads each of its variables
    across all workers for that, and then sums what is the sum already: loss and accuracy are six all-reduces of one
    number each (and the logs of a batch show twice the loss where there are two workers). They were 5.2 ms of a step
    of 49 ms, the gradients 4.3. With this, a step returns this worker's own values; and `fit` and `evaluate`, which
    ask the model for its metrics again when all steps are done, get those of all workers: the logs of an epoch, the
    history and the result of `evaluate` are what they were.

    What changes are the logs of a single batch. A callback that decides by them would decide differently on
    different workers, and the others would wait for the one that has stopped: keras.callbacks.TerminateOnNaN is one.

    Args:
      model: compiled, not yet trained; its `get_metrics_result` is replaced, on this object alone.
    """
    of_all_workers = model.get_metrics_result

    def get_metrics_result() -> dict[str, Any]:
        if stack.tf.executing_eagerly():
            return of_all_workers()
        results: dict[str, Any] = {}
        for metric in model.metrics:
            # What Keras wrapped into a read across all replicas.
            value = metric.result.__wrapped__()
            results.update(value if isinstance(value, dict) else {metric.name: value})
        return results

    model.get_metrics_result = get_metrics_result
    # Left to itself, Keras would sum over the workers what the steps return.
    model.distribute_reduction_method = "first"
    model.train_function = model.test_function = None  # made for what was there before


STRATEGIES = get_args(Strategy)


def strategy(name: str | stack.tf.distribute.Strategy = "auto") -> stack.tf.distribute.Strategy:
    """Return the stock strategy of that name.

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
    if isinstance(name, stack.tf.distribute.Strategy):
        return name
    here = cluster.current()
    if name == "auto":
        alone = "mirrored" if len(stack.tf.config.list_physical_devices("GPU")) > 1 else "one_device"
        name = "multi_worker_mirrored" if here.size > 1 else alone
        name = "parameter_server" if here.parameter_servers else name
    if name not in STRATEGIES:
        raise ConfigError(f"--strategy {name!r} is not known. Use one of: {', '.join(STRATEGIES)}.")
    if here.size > 1 and name not in ("multi_worker_mirrored", "parameter_server"):
        raise ConfigError(
            f"TF_CONFIG describes {here.size} workers, and --strategy {name} is for one process: each would train"
            " alone. Leave --strategy out, or start one process without TF_CONFIG."
        )
    if name == "one_device":
        # tf.distribute.OneDeviceStrategy would put each batch through a multi-device iterator for nothing.
        return stack.tf.distribute.get_strategy()
    return _create(name)


# TensorFlow opens the port and sets up the collectives of a process once; those of a second MirroredStrategy over CPUs
# would take the first one's shapes for theirs.
@functools.cache
def _create(name: str) -> stack.tf.distribute.Strategy:
    if name == "central_storage":
        return stack.tf.distribute.experimental.CentralStorageStrategy()
    if name == "mirrored":
        devices = stack.tf.config.list_logical_devices("GPU") or stack.tf.config.list_logical_devices("CPU")
        return stack.tf.distribute.MirroredStrategy([device.name for device in devices])
    if name == "parameter_server":
        from tfkit.distribution.replicas import make_parameter_server_strategy

        return make_parameter_server_strategy(cluster.current())
    return _connect_tpu() if name == "tpu" else _join_workers()


def describe(strategy: stack.tf.distribute.Strategy) -> str:
    """Return one line: the strategy, its replicas and their devices.

    Args:
      strategy: any strategy.

    Returns:
      Such as "MirroredStrategy: 2 replicas on GPU:0, GPU:1".
    """
    count, here = strategy.num_replicas_in_sync, cluster.current()
    if strategy is stack.tf.distribute.get_strategy() and not stack.tf.distribute.has_strategy():
        kind = "GPU" if stack.tf.config.list_physical_devices("GPU") else "CPU"
        return f"one_device: 1 replica on {kind}:0"
    name = type(strategy).__name__.removesuffix("V1").removesuffix("V2")
    name = {"CollectiveAllReduceStrategy": "MultiWorkerMirroredStrategy"}.get(name, name)
    devices = ", ".join(":".join(device.split(":")[-2:]) for device in strategy.extended.worker_devices)
    where = f"{here.size} workers, in each {devices}" if here.size > 1 else devices
    return f"{name}: {count} replica{'s' * (count > 1)} on {where}"


def logical_cpus(count: int) -> None:
    """Split the CPU into `count` logical devices, to rehearse `mirrored` without GPUs.

    Args:
      count: devices, 1 or more.

    Raises:
      ConfigError: TensorFlow has started already; this must come before its first operation.
    """
    cpu = stack.tf.config.list_physical_devices("CPU")[0]
    if len(stack.tf.config.get_logical_device_configuration(cpu) or ()) == count:
        return  # an earlier job of this process has done it
    try:
        devices = [stack.tf.config.LogicalDeviceConfiguration()] * count
        stack.tf.config.set_logical_device_configuration(cpu, devices)
    except RuntimeError as error:
        raise ConfigError(f"logical_cpus() came too late: {_STARTED.format('it')}") from error


_STARTED = """TensorFlow has run an operation in this process.
  Call {} first thing after the imports (in a notebook: restart the kernel)."""


def _join_workers() -> stack.tf.distribute.Strategy:
    heartbeat.phase("joining")
    network.wait_for_workers(cluster.current())
    try:
        # With TensorFlow's default options: all gradients of a step in one message. What else there is was measured
        # with two workers and gains nothing: RING takes the same time, and packs of 128 KiB (`bytes_per_pack`), of
        # which the first could travel during the backward pass, take 0.6 ms more.
        with quiet():
            strategy = stack.tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:
        if "program startup" not in str(error):
            raise
        call = 'tfkit.distribution.strategy("multi_worker_mirrored")'
        raise ConfigError(f"The workers cannot be joined any more: {_STARTED.format(call)}") from error
    # TensorFlow has put a handler of its own in place of Python's, which would swallow a request to stop.
    heartbeat.listen_again()
    heartbeat.phase("working")
    return strategy


_TPU_NEEDS = """  It needs a TPU VM or a Colab runtime of kind TPU, a TensorFlow built for it, and TPU_NAME (local
  there, the TPU's name elsewhere). As a cell of Colab:
    %pip uninstall -q -y tensorflow
    %pip install -q tensorflow-tpu==2.20.0 tf-keras==2.20.0 tensorflow-text==2.20.0
    %env TPU_NAME=local
    !python -m recipes.train_distributed --strategy tpu --data-dir photos/
  Not tried: this project had no TPU, and it may need more than that."""


def _connect_tpu() -> stack.tf.distribute.Strategy:
    try:
        resolver = stack.tf.distribute.cluster_resolver.TPUClusterResolver()
        stack.tf.config.experimental_connect_to_cluster(resolver)
        stack.tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, RuntimeError, stack.tf.errors.OpError) as error:
        reason = packages.first_line(error)
        raise ConfigError(f"--strategy tpu: no TPU is reached ({reason}).\n{_TPU_NEEDS}") from error
    return stack.tf.distribute.TPUStrategy(resolver)


R = TypeVar("R", bound=ReplicaConfig)


def locate(config: StrategyConfig) -> None:
    """Set which process of which job this is, where TF_CONFIG does not say it yet.

    Args:
      config: names the scheduler: `cluster`.

    Raises:
      ConfigError: the scheduler that was named did not start this process.
    """
    heartbeat.start()
    if config.cluster == "slurm" and not os.environ.get(cluster.VARIABLE):
        os.environ[cluster.VARIABLE] = slurm.tf_config()


@contextlib.contextmanager
def cluster_strategy(config: StrategyConfig, run: Run) -> Iterator[stack.tf.distribute.Strategy]:
    """Create the strategy of a job before TensorFlow does anything else; at the end all workers wait for the chief.

    Args:
      config: which strategy.
      run: gets a note of it.

    Returns:
      A context of the strategy.

    Raises:
      ConfigError: it cannot be had here.
      AbsentError: a worker did not come.
      RunError: see `join_cluster`.
    """
    if config.logical_cpus:
        logical_cpus(config.logical_cpus)
    instance = strategy(config.strategy)
    with join_cluster(instance, run):
        yield instance


@contextlib.contextmanager
def join_cluster(instance: stack.tf.distribute.Strategy, run: Run) -> Iterator[None]:
    """Check that all workers see the run folder; at the end they wait for the chief.

    Args:
      instance: the strategy.
      run: gets a note of it.

    Raises:
      RunError: this worker does not see the run folder of the chief.
    """
    from tfkit.distribution.replicas import Replicas

    run.note(f"Strategy: {describe(instance)}.")
    workers = Replicas(instance)
    if workers.workers > 1:
        # All have come here, so the chief has begun its folder; that they have joined says so of the first run alone.
        workers.barrier()
        if not (run.shared / CONFIG).is_file():
            raise RunError(
                f"{cluster.current().name} does not see {run.shared / CONFIG}, which the chief has written.\n"
                "  --run-dir must be on storage that all workers share, under the same path."
            )
    yield
    # A worker that left now would take the collectives, and with them the chief's last steps, down.
    heartbeat.phase("working")
    workers.barrier()


def scale_to_replicas(config: R, strategy: stack.tf.distribute.Strategy, run: Run) -> R:
    """Return the settings with the batch size of all replicas, and learning rates that suit it.

    Args:
      config: for one replica.
      strategy: of how many there are.
      run: gets a note of what was changed.

    Returns:
      The same kind of config: `global_batch_size` times the replicas, learning rates by the rule. Of a run that was
      begun with other replicas, what they were then.

    Source: Goyal et al. 2017 (arXiv:1706.02677) for the linear rule with warm-up; Krizhevsky 2014 (arXiv:1404.5997)
    for the root.
    """
    from tfkit.distribution.replicas import Replicas

    replicas, per_replica = strategy.num_replicas_in_sync, config.batch_size_per_replica
    rates = {name: rate for name, rate in vars(config).items() if name.endswith("learning_rate")}
    scale, options = 1.0, {"global_batch_size": config.global_batch_size}
    if per_replica is not None:
        scale = {"linear": float(replicas), "sqrt": math.sqrt(replicas), "none": 1.0}[
            config.learning_rate_scaling
        ]
        options = {"global_batch_size": per_replica * replicas}
    options |= {name: rate * scale for name, rate in rates.items() if rate is not None}
    # What an earlier process of this run has decided, with as many replicas as there were then, holds.
    decided: dict[str, Any] = run.config if run.is_chief else {}
    earlier = decided if decided.get("batch_size_per_replica", per_replica) is None else {}
    values: Any = (
        Replicas(strategy).of_chief([earlier.get(name, value) for name, value in options.items()]).tolist()
    )
    changed = dict(zip(options, values, strict=True))
    batch = changed["global_batch_size"] = int(changed["global_batch_size"])
    text = ", ".join(f"{name.replace('_', ' ')} {changed[name]:.3g}" for name in rates if name in changed)
    share = f"{batch / replicas:g} on each of {replicas} replicas"
    if changed != options:
        run.note(f"The run began with steps of {batch} examples and {text}, which hold: {share}.")
    elif per_replica is None:
        if replicas > 1:
            run.note(f"A step takes {batch} examples, {share}; learning rates stay.")
    else:
        run.note(
            f"A step takes {batch} examples, {share}; {text} ({scale:.3g} times what was asked), after a warm-up over"
            f" {config.warmup:.0%} of the steps."
        )
    run.decide(batch_size_per_replica=None, **changed)
    return dataclasses.replace(config, batch_size_per_replica=None, **changed)

"""What a job does before it trains, and after: find the other workers, join them, leave together."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeVar

from tfkit import cluster, pulse, stack
from tfkit.config import ReplicaConfig, StrategyConfig
from tfkit.distribute.strategies import describe, logical_cpus, strategy
from tfkit.errors import RunError
from tfkit.run import Run

if TYPE_CHECKING:
    from tfkit.stack import tf

R = TypeVar("R", bound=ReplicaConfig)


def locate(config: StrategyConfig) -> None:
    """Make known which process of which job this is, where TF_CONFIG does not say it yet.

    Args:
      config: names the scheduler: `cluster`.

    Raises:
      ConfigError: the scheduler that was named did not start this process.
    """
    pulse.start()
    if config.cluster == "slurm" and not os.environ.get(cluster.VARIABLE):
        from tfkit.schedulers import slurm

        stack.set_cluster(slurm.tf_config())


@contextlib.contextmanager
def joined(config: StrategyConfig, run: Run) -> Iterator[tf.distribute.Strategy]:
    """The strategy of a job, made before TensorFlow does anything else; at the end all workers wait for the chief.

    Args:
      config: which strategy.
      run: is told which one it became.

    Returns:
      A context of the strategy.

    Raises:
      ConfigError: it cannot be had here.
      AbsentError: a worker did not come.
      RunError: this worker does not see the run folder of the chief.
    """
    if config.logical_cpus:
        logical_cpus(config.logical_cpus)
    chosen = strategy(config.strategy)
    run.note(f"{describe(chosen)[0].upper()}{describe(chosen)[1:]}.")
    from tfkit.distribute.together import Together

    together = Together(chosen)
    if together.workers > 1:
        _check_shared(run)
    yield chosen
    # A worker that left now would take the collectives, and with them the chief's last steps, down.
    pulse.phase("working")
    together.barrier()


def scaled(config: R, chosen: tf.distribute.Strategy, run: Run) -> R:
    """The settings with the batch size of all replicas, and learning rates that suit it.

    Args:
      config: for one replica.
      chosen: of how many there are.
      run: is told what was changed.

    Returns:
      The same kind of config: `global_batch_size` times the replicas, learning rates by the rule.

    Source: Goyal et al. 2017 (arXiv:1706.02677) for the linear rule with warm-up; Krizhevsky 2014 (arXiv:1404.5997)
    for the root.
    """
    replicas = chosen.num_replicas_in_sync
    if config.batch_size_per_replica is None:
        if replicas > 1:
            shares = f"{config.global_batch_size / replicas:g} on each of {replicas} replicas"
            run.note(
                f"A step takes {config.global_batch_size} examples, {shares}; learning rates stay as they are."
            )
        return config
    factor = {"linear": float(replicas), "sqrt": math.sqrt(replicas), "none": 1.0}[
        config.learning_rate_scaling
    ]
    rates = [field.name for field in dataclasses.fields(config) if field.name.endswith("learning_rate")]
    changed = {name: getattr(config, name) * factor for name in rates if getattr(config, name) is not None}
    batch = config.batch_size_per_replica * replicas
    told = ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in changed.items())
    run.note(
        f"A step takes {batch} examples, {config.batch_size_per_replica} on each of {replicas} replicas;"
        f" {told} ({factor:.3g} times what was asked), after a warm-up over {config.warmup:.0%} of the steps."
    )
    run.decide(global_batch_size=batch, batch_size_per_replica=None, **changed)
    return dataclasses.replace(config, global_batch_size=batch, batch_size_per_replica=None, **changed)


def _check_shared(run: Run) -> None:
    """All have joined, so the chief has begun its folder."""
    from tfkit.run import CONFIG

    if not (run.shared / CONFIG).is_file():
        raise RunError(
            f"{cluster.current().name} does not see {run.shared / CONFIG}, which the chief has written.\n"
            "  --run-dir must be on storage that all workers share, under the same path."
        )

"""On which devices and machines a recipe trains, and how a batch is meant there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tfkit.config import fields
from tfkit.config.base import RecipeConfig
from tfkit.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class StrategyConfig(RecipeConfig):
    """Where it trains, and how often it is saved on the way. The result does not depend on these."""

    strategy: Literal[
        "auto",
        "one_device",
        "mirrored",
        "multi_worker_mirrored",
        "central_storage",
        "parameter_server",
        "tpu",
    ] = "auto"
    """tf.distribute strategy. auto: all workers of the launcher or of --cluster; else mirrored where there are two
    GPUs or more; else one_device."""

    cluster: Literal["tf_config", "slurm"] = "tf_config"
    """Who the workers are: TF_CONFIG in the environment (python -m tfkit launch sets it), or Slurm's srun."""

    logical_cpus: fields.Whole = 0
    """Split the CPU into so many devices, to rehearse --strategy mirrored without GPUs. 0: leave it whole."""

    backup_minutes: fields.Positive = 5.0
    """Longest time between backups within an epoch. They are made at the ends of epochs too."""

    backup_steps: fields.Count | None = None
    """Within an epoch, a backup every so many steps besides. Left out: by the clock alone."""

    profile: bool = False
    """Trace training steps 10 to 20 for TensorBoard's Profile page, which `pip install xprof` brings."""

    def __post_init__(self) -> None:
        """Check what can be checked without the data."""
        super().__post_init__()
        if self.logical_cpus and self.strategy not in ("auto", "mirrored"):
            raise ConfigError(
                f"--logical-cpus {self.logical_cpus} is for --strategy mirrored, with 1 device or more;"
                f" the strategy is {self.strategy}."
            )
        if self.logical_cpus and self.strategy == "auto":
            object.__setattr__(self, "strategy", "mirrored")


@dataclass(frozen=True, kw_only=True)
class ReplicaConfig(StrategyConfig):
    """How large a batch is, and what a batch that grows with the replicas does to the learning rate."""

    global_batch_size: fields.Count = 32
    """Examples in a training step, over all replicas."""

    batch_size_per_replica: fields.Count | None = None
    """Examples in a training step on each replica, instead of --global-batch-size, which then grows with them."""

    learning_rate_scaling: Literal["linear", "sqrt", "none"] = "linear"
    """How learning rates follow a batch that grew by --batch-size-per-replica: with the replicas, or their root."""

    warmup: fields.Share = 0.1
    """Share of a stage's steps over which the learning rate rises to its peak; 0: none."""

"""Train an image classifier on all the devices and machines there are.

Examples:
    python -m recipes.train_distributed --strategy mirrored --logical-cpus 2          (a rehearsal on one machine)
    python -m tfkit launch --workers 2 -- -m recipes.train_distributed --data-dir photos/ --run-dir runs/photos
    python -m tfkit launch --hosts host1:2222,host2:2222 --task-index 0 -- -m recipes.train_distributed ...
    srun -N 4 python -m recipes.train_distributed --cluster slurm --run-dir SHARED/photos
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tfkit import cli
from tfkit.distribution.strategies import scaled
from tfkit.run import Run
from tfkit.settings.options import ImageConfig, ImageModelConfig
from tfkit.training.fit import once

if TYPE_CHECKING:
    from tfkit.environment.stack import tf


@dataclass(frozen=True, kw_only=True)
class Config(ImageConfig, ImageModelConfig):
    """What to train, on what, for how long."""

    model_handle: str = "cnn"
    """cnn: a small convolutional network from scratch. Else a backbone, all of whose layers are trained: what
    recipes.transfer_image takes."""


def run(config: Config) -> Run:
    """Do the whole job.

    Args:
      config: what to do it with.

    Returns:
      The finished run: its folder holds the model, the numbers, the logs and the report.

    Raises:
      TfkitError: see `tfkit.errors`.
    """
    return once(config, _train, recipe="train_distributed")


def _train(config: Config, run: Run, strategy: tf.distribute.Strategy) -> None:
    from tfkit.transfer.load import conclude, describe, load_any
    from tfkit.transfer.models import train_all

    config = scaled(config, strategy, run)
    backbone, splits = load_any(config, global_batch_size=config.global_batch_size)
    describe(run, backbone, splits, recipe="train_distributed")
    classifier = train_all(run, backbone, splits, config, strategy=strategy)
    if run.is_chief:
        conclude(run, classifier, splits)


if __name__ == "__main__":
    cli.main(Config, run)

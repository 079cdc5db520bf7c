"""Fine-tune an image classifier from TF Hub on a folder of photos.

Examples:
    python -m recipes.transfer_image                                   (embedded digits and backbone, offline)
    python -m recipes.transfer_image --data-dir photos/ --run-dir runs/photos
    python -m recipes.transfer_image --data-dir photos/ --fine-tune-epochs 5 --augment standard
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tfkit import cli
from tfkit.distribution.strategies import scaled
from tfkit.run import Run
from tfkit.settings.options import ImageConfig, ImageTransferConfig
from tfkit.training.fit import once

if TYPE_CHECKING:
    from tfkit.environment.stack import tf


@dataclass(frozen=True, kw_only=True)
class Config(ImageConfig, ImageTransferConfig):
    """What to train on, from which backbone, for how long."""


def run(config: Config) -> Run:
    """Do the whole job.

    Args:
      config: what to do it with.

    Returns:
      The finished run: its folder holds the model, the numbers, the logs and the report.

    Raises:
      TfkitError: see `tfkit.errors`.
    """
    return once(config, _train, recipe="transfer_image")


def _train(config: Config, run: Run, strategy: tf.distribute.Strategy) -> None:
    from tfkit.transfer.load import conclude, describe, load
    from tfkit.transfer.models import train

    config = scaled(config, strategy, run)
    backbone, splits = load(
        config, global_batch_size=config.global_batch_size, trainable=bool(config.fine_tune_epochs)
    )
    describe(run, backbone, splits, recipe="transfer_image")
    classifier = train(run, backbone, splits, config, strategy=strategy)
    if run.is_chief:
        conclude(run, classifier, splits)


if __name__ == "__main__":
    cli.main(Config, run)

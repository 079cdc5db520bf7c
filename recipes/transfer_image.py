"""Fine-tune an image classifier from TF Hub on a folder of photos.

Examples:
    python -m recipes.transfer_image                                   (embedded digits and backbone, offline)
    python -m recipes.transfer_image --data-dir photos/ --run-dir runs/photos
    python -m recipes.transfer_image --data-dir photos/ --fine-tune-epochs 5 --augment standard
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tfkit import cli, distribute, job
from tfkit.config import ImageConfig, ImageTransferConfig
from tfkit.run import Run

if TYPE_CHECKING:
    from tfkit.stack import tf


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
    return job.once(config, _train, recipe="transfer_image")


def _train(config: Config, run: Run, strategy: tf.distribute.Strategy) -> None:
    from tfkit import transfer

    config = distribute.scaled(config, strategy, run)
    backbone, splits = transfer.load(
        config, global_batch_size=config.global_batch_size, trainable=bool(config.fine_tune_epochs)
    )
    transfer.describe(run, backbone, splits, recipe="transfer_image")
    classifier = transfer.train(run, backbone, splits, config, strategy=strategy)
    if run.is_chief:
        transfer.conclude(run, classifier, splits)


if __name__ == "__main__":
    cli.main(Config, run)

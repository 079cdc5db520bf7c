"""Fine-tune an image classifier from TF Hub on a folder of photos.

Examples:
    python -m recipes.transfer_image                                   (embedded digits and backbone, offline)
    python -m recipes.transfer_image --data-dir photos/ --run-dir runs/photos
    python -m recipes.transfer_image --data-dir photos/ --fine-tune-epochs 5 --augment standard
"""

from __future__ import annotations

from tfkit import cli
from tfkit.run import Run
from tfkit.settings.options import ImageSettings
from tfkit.transfer.train import train_classifier

Config = ImageSettings


def run(config: Config) -> Run:
    """Train, measure and export the classifier.

    Args:
      config: what to do it with.

    Returns:
      The finished run: its folder holds the model, the numbers, the logs and the report.

    Raises:
      TfkitError: see `tfkit.errors`.
    """
    return train_classifier(config, recipe="transfer_image")


if __name__ == "__main__":
    cli.main(Config, run)

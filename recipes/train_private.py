"""Train a classifier of images or texts with differential privacy, on features of a public TF Hub model.

Examples:
    python -m recipes.train_private --target-epsilon 3                (embedded digits and backbone, offline)
    python -m recipes.train_private --data-dir scans/ --target-epsilon 3 --delta 1e-5 --run-dir runs/private
    python -m recipes.train_private --data-dir scans/ --noise-multiplier 1.1 --no-features     (all layers)
    python -m recipes.train_private --data-file letters.csv --text-column body --label-column ward --target-epsilon 3
"""

from __future__ import annotations

from tfkit import cli
from tfkit.run import Run
from tfkit.settings.options import PrivateSettings
from tfkit.transfer.train import train_classifier

Config = PrivateSettings


def run(config: Config) -> Run:
    """Train, measure and export the classifier.

    Args:
      config: what to do it with.

    Returns:
      The finished run: its folder holds the model, privacy.json, the numbers, the logs and the report.

    Raises:
      TfkitError: see `tfkit.errors`; PrivacyError where no epsilon would hold.
    """
    return train_classifier(config, recipe="train_private")


if __name__ == "__main__":
    cli.main(Config, run)

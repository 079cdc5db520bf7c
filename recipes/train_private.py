"""Train a classifier of images or texts with differential privacy, on features of a public TF Hub model.

Examples:
    python -m recipes.train_private --target-epsilon 3                (embedded digits and backbone, offline)
    python -m recipes.train_private --data-dir scans/ --target-epsilon 3 --delta 1e-5 --run-dir runs/private
    python -m recipes.train_private --data-dir scans/ --noise-multiplier 1.1 --no-features     (all layers)
    python -m recipes.train_private --data-file letters.csv --text-column body --label-column ward --target-epsilon 3
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tfkit import cli
from tfkit.run import Run
from tfkit.settings.options import LIGHT, ImageConfig, PrivateConfig, TextColumns
from tfkit.training.fit import once

LIGHT_LENGTH = 64

if TYPE_CHECKING:
    from tfkit.environment.stack import tf


@dataclass(frozen=True, kw_only=True)
class Config(TextColumns, ImageConfig, PrivateConfig):
    """What to train on, from which backbone, and how private."""

    dataset: str = "digits"
    """Where there is no --data-dir or --data-file: digits or mnist5k (embedded images), docstrings (embedded texts), or
    tfds:NAME (tensorflow-datasets)."""


def run(config: Config) -> Run:
    """Do the whole job.

    Args:
      config: what to do it with.

    Returns:
      The finished run: its folder holds the model, privacy.json, the numbers, the logs and the report.

    Raises:
      TfkitError: see `tfkit.errors`; PrivacyError where no epsilon would hold.
    """
    return once(config, _train, recipe="train_private")


def _train(config: Config, run: Run, strategy: tf.distribute.Strategy) -> None:
    from tfkit.transfer.load import conclude, describe, load, load_texts
    from tfkit.transfer.private import train_private, train_private_light

    batch = config.global_batch_size or 1
    if config.of_texts and config.model_handle == LIGHT:
        splits = load_texts(config, global_batch_size=batch)
        describe(run, None, splits, recipe="train_private", show_examples=False)
        length = config.max_length or LIGHT_LENGTH
        classifier = train_private_light(run, splits, config, max_length=length, strategy=strategy)
    else:
        backbone, splits = load(config, global_batch_size=batch, trainable=not config.features)
        describe(run, backbone, splits, recipe="train_private", show_examples=False)
        classifier = train_private(run, backbone, splits, config, strategy=strategy)
    if run.is_chief:
        conclude(run, classifier, splits, show_examples=False)


if __name__ == "__main__":
    cli.main(Config, run)

"""Train a classifier of texts: raw strings in, class probabilities out, the tokenizer inside.

Examples:
    python -m recipes.transfer_text                                    (embedded docstrings and encoder, offline)
    python -m recipes.transfer_text --data-file mails.csv --text-column body --label-column folder
    python -m recipes.transfer_text --data-dir reviews/                (one subfolder a class, one .txt a document)
    python -m recipes.transfer_text --data-file mails.csv --model-handle light     (under 2 MB, from scratch)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tfkit import cli
from tfkit.distribution.strategies import scaled
from tfkit.run import Run
from tfkit.settings.options import LIGHT, TextConfig, TextTransferConfig
from tfkit.training.fit import once

if TYPE_CHECKING:
    from tfkit.environment.stack import tf


@dataclass(frozen=True, kw_only=True)
class Config(TextConfig, TextTransferConfig):
    """What to train on, from which encoder, for how long."""


def run(config: Config) -> Run:
    """Do the whole job.

    Args:
      config: what to do it with.

    Returns:
      The finished run: its folder holds the model, the numbers, the logs and the report.

    Raises:
      TfkitError: see `tfkit.errors`.
    """
    return once(config, _train, recipe="transfer_text")


def _train(config: Config, run: Run, strategy: tf.distribute.Strategy) -> None:
    from tfkit.transfer.load import conclude, describe, load_encoder_and_texts, load_texts
    from tfkit.transfer.models import train
    from tfkit.transfer.text_models import compare_with_baseline, train_light

    config = scaled(config, strategy, run)
    batch = config.global_batch_size
    if config.model_handle == LIGHT:
        encoder, splits = None, load_texts(config, global_batch_size=batch)
    else:
        encoder, splits = load_encoder_and_texts(
            config, global_batch_size=batch, trainable=bool(config.fine_tune_epochs)
        )
    describe(run, encoder, splits, recipe="transfer_text")
    if encoder is None:
        classifier = train_light(run, splits, config, strategy=strategy, max_length=config.max_length)
    else:
        classifier = train(run, encoder, splits, config, strategy=strategy)
    if run.is_chief:
        conclude(run, classifier, splits)
        compare_with_baseline(run, splits, classifier.evaluation, pretrained=encoder is not None)


if __name__ == "__main__":
    cli.main(Config, run)

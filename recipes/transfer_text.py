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

from tfkit import cli, distribute, job
from tfkit.config import TextConfig, TextTransferConfig
from tfkit.config.texts import LIGHT
from tfkit.run import Run

if TYPE_CHECKING:
    from tfkit.stack import tf


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
    return job.once(config, _train, recipe="transfer_text")


def _train(config: Config, run: Run, strategy: tf.distribute.Strategy) -> None:
    from tfkit import transfer

    config = distribute.scaled(config, strategy, run)
    batch = config.global_batch_size
    if config.model_handle == LIGHT:
        encoder, splits = None, transfer.load_texts(config, global_batch_size=batch)
    else:
        encoder, splits = transfer.load_encoder_and_texts(
            config, global_batch_size=batch, trainable=bool(config.fine_tune_epochs)
        )
    transfer.describe(run, encoder, splits, recipe="transfer_text")
    if encoder is None:
        classifier = transfer.train_light(
            run, splits, config, strategy=strategy, max_length=config.max_length
        )
    else:
        classifier = transfer.train(run, encoder, splits, config, strategy=strategy)
    if run.is_chief:
        transfer.conclude(run, classifier, splits)
        transfer.compare_with_baseline(run, splits, classifier.evaluation, pretrained=encoder is not None)


if __name__ == "__main__":
    cli.main(Config, run)

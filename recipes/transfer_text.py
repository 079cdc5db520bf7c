"""Train a classifier of texts: raw strings in, class probabilities out, the tokenizer inside.

Examples:
    python -m recipes.transfer_text                                    (embedded messages and encoder, offline)
    python -m recipes.transfer_text --data-file mails.csv --text-column body --label-column folder
    python -m recipes.transfer_text --data-dir reviews/                (one subfolder a class, one .txt a document)
    python -m recipes.transfer_text --data-file mails.csv --model-handle light     (under 2 MB, from scratch)
"""

from __future__ import annotations

from tfkit import cli
from tfkit.run import Run
from tfkit.settings.options import TextSettings
from tfkit.transfer.train import train_classifier

Config = TextSettings


def run(config: Config) -> Run:
    """Train, measure and export the classifier.

    Args:
      config: what to do it with.

    Returns:
      The finished run: its folder holds the model, the numbers, the logs and the report.

    Raises:
      TfkitError: see `tfkit.errors`.
    """
    return train_classifier(config, recipe="transfer_text")


if __name__ == "__main__":
    cli.main(Config, run)

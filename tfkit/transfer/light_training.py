"""Training of the light model: a vocabulary of the training texts' own, then everything from scratch."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from tfkit import distribute, files, text, training
from tfkit.config import TransferConfig
from tfkit.data import Splits
from tfkit.run import Run
from tfkit.transfer import models, shown
from tfkit.transfer.light import light
from tfkit.transfer.stages import Classifier, observe

if TYPE_CHECKING:
    from tfkit.stack import tf

STAGE = "light"
VOCABULARY = "vocab.txt"
FASTER = 3.0
"""The vector of a piece is in few of the steps: the light model learns at so many times the rate of a head."""
MAX_LENGTH = 256
MOST_TEXTS = 50_000


def train_light(
    run: Run,
    splits: Splits,
    config: TransferConfig,
    *,
    strategy: tf.distribute.Strategy | None = None,
    max_length: int | None = None,
) -> Classifier:
    """Train the light model, or what is left to train of an interrupted one.

    Args:
      run: gets the logs, the measurements and what was decided.
      splits: of texts.
      config: what to train; its epochs are those of the head, its rate three times the head's.
      strategy: of the training; None: the one that the settings name.
      max_length: tokens of a text at most; None: 256.
    """
    strategy = strategy or distribute.strategy(config.strategy)
    run.decide(max_length=max_length or MAX_LENGTH, fine_tune_epochs=0)
    tokenizer = _tokenizer(run, splits, strategy, max_length=max_length or MAX_LENGTH)
    if run.is_chief:
        shown.tokens(run, tokenizer, splits)
    build = functools.partial(
        light,
        tokenizer,
        len(splits.class_names),
        learning_rate=FASTER * config.learning_rate,
        steps=config.epochs * splits.steps_per_epoch,
        top=models.plain_top(warmup=config.warmup),
    )
    trained = training.train(
        build,
        splits,
        run=run,
        stage=STAGE,
        epochs=config.epochs,
        patience=config.patience,
        strategy=strategy,
        seed=config.seed,
        cadence=training.cadence(config),
        profile=config.profile,
        class_weight=training.class_weight(splits, when=config.class_weights, run=run),
    )
    run.record({"time/features_seconds": 0.0, "time/train_seconds": trained.seconds})
    return observe(trained.model, splits)


def _tokenizer(
    run: Run, splits: Splits, strategy: tf.distribute.Strategy, *, max_length: int
) -> text.WordPiece:
    """With a vocabulary that the chief has built once, however often the run is resumed."""
    from tfkit.distribute.together import Together

    path = run.backup / VOCABULARY
    if run.is_chief and not path.is_file():
        pieces = text.build(_training_texts(splits))
        files.write_hashed(path, "".join(f"{piece}\n" for piece in pieces).encode())
        run.note(f"The vocabulary has {len(pieces)} pieces, made of the training texts.")
    Together(strategy).barrier()
    pieces = tuple(files.read_hashed(path).decode().split("\n")[:-1])
    return text.WordPiece(vocabulary=pieces, max_length=max_length)


def _training_texts(splits: Splits) -> Iterator[str]:
    train = splits.indices["train"]
    chosen = np.unique(np.linspace(0, len(train) - 1, min(len(train), MOST_TEXTS)).astype(int))
    return (str(splits.source.raw(int(index))) for index in train[chosen])

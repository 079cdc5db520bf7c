"""Train the light model, a classifier of texts from scratch, for large data and small devices."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from tfkit.data.splits import Splits, draw
from tfkit.distribution.replicas import Replicas
from tfkit.environment import files
from tfkit.run import Run
from tfkit.settings.options import TransferConfig
from tfkit.text.tokenizers import Tokenizer, WordPiece
from tfkit.text.vocabulary import build
from tfkit.training.loop import train
from tfkit.training.stage import Stage, class_weight
from tfkit.transfer.models import Classifier, Top, compiled, observe, plain_top
from tfkit.transfer.results import measure_tokens

if TYPE_CHECKING:
    from tfkit.environment.stack import keras, tf

DIMENSION = 64
VOCABULARY = "vocab.txt"
FASTER = 3.0
"""The vector of a piece is in few of the steps: the light model learns at so many times the rate of a head."""
MAX_LENGTH = 256
MOST_TEXTS = 50_000


def light(
    tokenizer: Tokenizer,
    classes: int,
    *,
    learning_rate: float,
    steps: int,
    dimension: int = DIMENSION,
    length: int | None = None,
    top: Top | None = None,
) -> keras.Model:
    """Return the mean of what is learned for each piece of a text, and a top on it, compiled.

    With the 4,000 pieces of `text.vocabulary.build` and the dimension here its .tflite has 1.8 MB, tokenizer included.

    Args:
      tokenizer: of the texts.
      classes: how many the model tells apart.
      learning_rate: the peak, see `tfkit.transfer.models.learning_rate_schedule`; 3e-3 is a good one.
      steps: of the whole training.
      dimension: numbers that are learned for a piece.
      length: to which all texts are filled up; None: to the longest of the batch. Private training needs one.
      top: `plain_top()` when left out.

    Returns:
      UTF-8 strings [b] to logits float32 [b, classes].
    """
    from tfkit.environment.stack import keras, tf
    from tfkit.text.layers import MaskedMean, Tokens

    texts = keras.Input([], dtype=tf.string, name="texts")
    tokens = Tokens(tokenizer, length=length)(texts)
    pieces = keras.layers.Embedding(len(tokenizer.vocabulary), dimension, name="embedding")
    features = MaskedMean(name="mean")(pieces(tokens["input_word_ids"]), mask=tokens["input_mask"])
    top = top or plain_top()
    model = keras.Model(texts, top.logits(features, classes))
    return compiled(model, top.optimizer(learning_rate, steps, model))


def train_light(
    run: Run,
    splits: Splits,
    config: TransferConfig,
    *,
    strategy: tf.distribute.Strategy,
    max_length: int | None,
) -> Classifier:
    """Train the light model, or what is left to train of an interrupted one.

    Args:
      run: gets the logs, the measurements and what was decided.
      splits: of texts.
      config: what to train; its epochs are those of the head, its rate three times the head's.
      strategy: of the training.
      max_length: tokens of a text at most; None: 256.
    """
    run.decide(max_length=max_length or MAX_LENGTH, fine_tune_epochs=0)
    tokenizer = _load_or_build_tokenizer(run, splits, strategy, max_length=max_length or MAX_LENGTH)
    if run.is_chief:
        measure_tokens(run, tokenizer, splits)
    build_model = functools.partial(
        light,
        tokenizer,
        len(splits.class_names),
        learning_rate=FASTER * config.learning_rate,
        steps=config.epochs * splits.steps_per_epoch,
        top=plain_top(warmup=config.warmup),
    )
    weights = class_weight(splits, when=config.class_weights, run=run)
    stage = Stage.of_settings(config, name="light", class_weight=weights)
    trained = train(build_model, splits, stage, run=run, strategy=strategy)
    run.record({"time/features_seconds": 0.0, "time/train_seconds": trained.seconds})
    return observe(trained.model, splits)


def _load_or_build_tokenizer(
    run: Run, splits: Splits, strategy: tf.distribute.Strategy, *, max_length: int
) -> WordPiece:
    """Return a tokenizer whose vocabulary the chief has built once, however often the run is resumed."""
    path = run.backup / VOCABULARY
    if run.is_chief and not path.is_file():
        train = splits.indices["train"]
        chosen = train[draw(len(train), MOST_TEXTS)]
        pieces = build(str(splits.source.raw(int(index))) for index in chosen)
        files.write_hashed(path, "".join(f"{piece}\n" for piece in pieces).encode())
        run.note(f"The vocabulary has {len(pieces)} pieces, made of the training texts.")
    Replicas(strategy).barrier()
    vocabulary = tuple(files.read_hashed(path).decode().split("\n")[:-1])
    return WordPiece(vocabulary=vocabulary, max_length=max_length)

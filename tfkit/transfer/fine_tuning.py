"""Train in the stages of transfer learning: features once, a head on them, then perhaps the whole model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfkit import hub
from tfkit.data.augment import Augmentation
from tfkit.data.splits import Splits, draw
from tfkit.distribution.replicas import Replicas
from tfkit.environment import files, stack
from tfkit.hub.encoders import Encoder
from tfkit.run import Run
from tfkit.settings.options import TransferConfig, WholeModelSettings
from tfkit.text.tokenizers import WordPiece, build_vocabulary
from tfkit.training.fit import train
from tfkit.training.stage import Stage, Trained, class_weight
from tfkit.transfer import models
from tfkit.transfer.continuing import Start
from tfkit.transfer.models import Classifier, Top, observe, observe_head, plain_top
from tfkit.transfer.results import measure_tokens

TOP_SHARE = 1 / 3
VOCABULARY = "vocab.txt"
FASTER = 3.0
"""The vector of a piece is in few of the steps: the light model learns at so many times the rate of a head."""
MAX_LENGTH = 256
MOST_TEXTS = 50_000
_CHARACTERS = 4  # in a token of English, about
_UNKNOWN_LENGTH = 128


def fine_tune(
    run: Run,
    encoder: Encoder,
    splits: Splits,
    config: TransferConfig,
    *,
    strategy: stack.tf.distribute.Strategy,
    start: Start,
    callbacks: Sequence[Any] = (),
) -> Classifier:
    """Train a classifier on a pretrained model, or what is left to train of an interrupted one.

    Args:
      run: gets the logs, the measurements and what was decided.
      encoder: of images or texts, see `tfkit.load_model`.
      splits: of images, float32 [batch, s, s, 3] in [0, 1], or of texts.
      config: what to train.
      strategy: of all stages: a model of one strategy cannot be read in another's scope.
      start: what the head starts from, and an encoder that was fine-tuned before.
      callbacks: further ones of Keras, of all stages.
    """
    augment = Augmentation.preset(config.augment)
    weights = class_weight(splits, when=config.class_weights, run=run)
    stage = functools.partial(Stage.of_settings, config, augment=augment, class_weight=weights)
    whole = functools.partial(models.whole_model, encoder, classes=len(splits.class_names), spec=splits.spec)
    top = _top(config, encoder, splits, config.learning_rate, config.epochs)
    begins_tuned = config.features and start.is_tuned(functools.partial(whole, top=top))
    extraction = _stored_features(run, encoder, splits, config, begins_tuned=begins_tuned)
    features, base = (extraction.splits, extraction.model) if extraction else (None, None)
    how: dict[str, Any] = {"run": run, "strategy": strategy, "callbacks": callbacks}
    if features is None:
        trained = start.train(functools.partial(whole, top=top), splits, stage(name="head"), **how)
    else:
        trained = train_head(encoder, features, config, start=start, **how)
    seconds = trained.seconds
    stages = _fine_tuning_stages(run, encoder, splits, config)
    precision = "mixed_float16" if stack.has_gpu() else "float32"
    for name, epochs, trainable in stages:
        rate, decay = config.fine_tune_learning_rate, config.layer_decay
        tuned = _top(config, encoder, splits, rate, epochs, layer_decay=decay)
        build = functools.partial(
            whole, trainable=trainable, head=trained.model, top=tuned, precision=precision
        )
        tuning = stage(name=name, epochs=epochs, start_val_loss=trained.val_loss)
        trained = train(build, splits, tuning, **how)
        seconds += trained.seconds
    run.record({"time/train_seconds": seconds})
    # Outside of the strategy's scope and in float32, whatever it was trained in: this is measured and exported.
    model = whole(head=trained.model, top=top, base=base)
    return observe(model, splits) if features is None or stages else observe_head(model, trained, features)


def train_head(
    encoder: Encoder, features: Splits, config: TransferConfig, *, start: Start, **how: Any
) -> Trained:
    """Train a head on stored features, or what is left to train of it.

    Args:
      encoder: whose features they are.
      features: splits of them.
      config: what to train.
      start: what it starts from.
      how: run, strategy and callbacks, as of `fine_tune`.
    """
    weights = class_weight(features, when=config.class_weights)
    stage = Stage.of_settings(config, name="head", class_weight=weights)
    return start.train(build_head(config, encoder, features), features, stage, **how)


def train_at_once(
    run: Run,
    encoder: Encoder | None,
    splits: Splits,
    config: Any,
    *,
    strategy: Any,
    start: Start,
    callbacks: Sequence[Any] = (),
) -> Classifier:
    """Train all layers of a classifier from the first step, or what is left to train of an interrupted one.

    Args:
      run: gets the logs, the measurements and what was decided.
      encoder: of images, whose layers are trained; None: a small network of images, or the light model of texts.
      splits: of images, float32 [batch, s, s, 3] in [0, 1], or of texts.
      config: an `WholeModelSettings`, or of transfer_text, whose head's epochs and three times its rate are the light
        model's.
      strategy: of the training, a tf.distribute.Strategy.
      start: what all layers start from.
      callbacks: further ones of Keras.
    """
    classes, steps, name = len(splits.class_names), config.epochs * splits.steps_per_epoch, "train"
    if isinstance(config, WholeModelSettings):
        how: dict[str, Any] = {"warmup": config.warmup, "optimizer": config.optimizer, "task": splits.task}
        top = plain_top(config.learning_rate, steps, **how)
        network: Any = models.small_cnn
        if encoder is not None:
            network = functools.partial(models.whole_model, encoder, trainable="all")
        build = functools.partial(network, classes=classes, spec=splits.spec, top=top)
    else:
        name, max_length = "light", config.max_length or MAX_LENGTH
        run.decide(max_length=max_length, fine_tune_epochs=0)
        tokenizer = _load_or_build_tokenizer(run, splits, strategy, max_length=max_length)
        if run.is_chief:
            measure_tokens(run, tokenizer, splits)
        run.record({"time/features_seconds": 0.0})
        top = _top(config, None, splits, FASTER * config.learning_rate, config.epochs)
        build = functools.partial(models.light, tokenizer, classes, top)
    weights = class_weight(splits, when=config.class_weights, run=run)
    augment = Augmentation.preset(config.augment)
    stage = Stage.of_settings(config, name=name, class_weight=weights, augment=augment)
    trained = start.train(build, splits, stage, run=run, strategy=strategy, callbacks=callbacks)
    run.record({"time/train_seconds": trained.seconds})
    return observe(trained.model, splits)


def build_head(config: TransferConfig, encoder: Encoder, features: Splits) -> Callable[[], stack.keras.Model]:
    """Return what builds the head that is trained on these features."""
    top = _top(config, encoder, features, config.learning_rate, config.epochs)
    return functools.partial(models.head, encoder.feature_size, len(features.class_names), top)


def _top(
    config: TransferConfig, encoder: Encoder | None, splits: Splits, rate: float, epochs: int, **how: Any
) -> Top:
    usual = models.HIDDEN_OF_TEXTS if encoder is not None and encoder.modality == "texts" else 0
    hidden = usual if config.hidden is None else config.hidden
    how |= {"warmup": config.warmup, "hidden": hidden, "dropout": config.dropout, "task": splits.task}
    return plain_top(rate, epochs * splits.steps_per_epoch, **how)


def _load_or_build_tokenizer(
    run: Run, splits: Splits, strategy: stack.tf.distribute.Strategy, *, max_length: int
) -> WordPiece:
    """Return a tokenizer whose vocabulary the chief has built once, however often the run is resumed."""
    path = run.backup / VOCABULARY
    if run.is_chief and not path.is_file():
        train = splits.indices["train"]
        chosen = train[draw(len(train), MOST_TEXTS)]
        pieces = build_vocabulary(str(splits.source.raw(int(index))) for index in chosen)
        files.write_hashed(path, "".join(f"{piece}\n" for piece in pieces).encode())
        run.note(f"The vocabulary has {len(pieces)} pieces, made of the training texts.")
    Replicas(strategy).barrier()
    vocabulary = tuple(files.read_hashed(path).decode().split("\n")[:-1])
    return WordPiece(vocabulary=vocabulary, max_length=max_length)


def _stored_features(
    run: Run, encoder: Encoder, splits: Splits, config: TransferConfig, *, begins_tuned: bool
) -> hub.Extraction | None:
    """Return the stored features; None where they do not serve."""
    run.record({"time/features_seconds": 0.0})
    if not config.features:
        return None
    if begins_tuned or config.augment != "none":
        why = f"augmentation ({config.augment}) makes other images in each epoch"
        if begins_tuned:
            why = f"they would be those of {encoder.handle} before it was fine-tuned"
        run.note(f"Stored features are off: {why}.")
        run.decide(features=False)
        return None
    extraction = hub.extract(encoder, splits)
    run.note(extraction.summary)
    run.record({"time/features_seconds": extraction.seconds})
    return extraction


def _fine_tuning_stages(
    run: Run, encoder: Encoder, splits: Splits, config: TransferConfig
) -> list[tuple[str, int, str]]:
    """Return the stages that train the encoder: (name, epochs, what is trainable)."""
    epochs = config.fine_tune_epochs
    if epochs is None:
        epochs = 0
        if encoder.windows:
            why = "whole documents are read (--windows first --fine-tune-epochs 3 trains on their beginnings)"
        elif not encoder.trainable_variables:
            why = f"{encoder.handle} has no trainable weights"
        else:
            usual, cheap, cost = _cost_of_epoch(encoder, splits)
            epochs = usual if cheap or stack.has_gpu() else 0
            why = f"an epoch of {cost} takes minutes on a CPU (--fine-tune-epochs {usual} turns it on)"
        on = f"Fine-tuning is on: {epochs} epochs of the whole model (--fine-tune-epochs 0 leaves it out)."
        run.note(on if epochs else f"Fine-tuning is off: {why}.")
        run.decide(fine_tune_epochs=epochs)
    first = round(epochs * TOP_SHARE) if config.unfreeze == "staged" else 0
    if first and not encoder.stages:
        run.note("Staged unfreezing is off: a hub.KerasLayer is trained as a whole or not at all.")
        first = 0
    stages = [("fine_tune_top", first, "top"), ("fine_tune", epochs - first, "all")]
    return [stage for stage in stages if stage[1]]


def _cost_of_epoch(encoder: Encoder, splits: Splits) -> tuple[int, bool, str]:
    """Return how many epochs are worth their time, whether one takes about a minute on a CPU, and what is computed."""
    train = splits.indices["train"]
    if encoder.modality == "images":
        megapixels = len(train) * int(splits.spec.shape[0]) ** 2 / 1e6
        return 5, megapixels <= 20, f"{megapixels:.0f} megapixels"
    lengths = np.asarray(splits.source.lengths)[train]  # type: ignore[attr-defined]
    longest = (encoder.max_length or _UNKNOWN_LENGTH) * _CHARACTERS
    tokens = int(np.minimum(lengths, longest).sum() / _CHARACTERS)
    # Two cores train 20,000 tokens of MiniLM in half a minute.
    return 3, tokens * encoder.parameters <= 20_000 * 22_565_376, f"{tokens:,} tokens"

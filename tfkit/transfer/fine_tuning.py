"""The stages of transfer learning: features once, a head on them, then perhaps the whole model."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tfkit import hub
from tfkit.data.augment import Augmentation
from tfkit.data.splits import Splits
from tfkit.environment import stack
from tfkit.hub.encoders import Encoder
from tfkit.metrics import evaluate
from tfkit.run import Run
from tfkit.settings.options import ImageModelConfig, TransferConfig
from tfkit.training.loop import train
from tfkit.training.stage import Stage, class_weight
from tfkit.transfer.models import (
    HIDDEN_OF_TEXTS,
    Classifier,
    head,
    observe,
    plain_top,
    small_cnn,
    whole_model,
)

if TYPE_CHECKING:
    from tfkit.environment.stack import keras, tf
    from tfkit.hub.encoders import Encoder

TOP_SHARE = 1 / 3


def fine_tune(
    run: Run,
    encoder: Encoder,
    splits: Splits,
    config: TransferConfig,
    *,
    strategy: tf.distribute.Strategy,
) -> Classifier:
    """Train a classifier on a pretrained model, or what is left to train of an interrupted one.

    Args:
      run: gets the logs, the measurements and what was decided.
      encoder: of images or texts, see `tfkit.load_model`.
      splits: of images, float32 [batch, s, s, 3] in [0, 1], or of texts.
      config: what to train.
      strategy: of all stages: a model of one strategy cannot be read in another's scope.
    """
    augment = Augmentation.preset(config.augment)
    features = _stored_features(run, encoder, splits, config)
    stage = functools.partial(
        Stage.of_settings, config, class_weight=class_weight(splits, when=config.class_weights, run=run)
    )
    whole = functools.partial(whole_model, encoder, len(splits.class_names), spec=splits.spec)
    of_head = _head_settings(config, encoder, splits)
    if features is not None:
        build = build_head(config, encoder, features)
        trained = train(build, features, stage(name="head"), run=run, strategy=strategy)
    else:
        build = functools.partial(whole, trainable="none", **of_head)
        trained = train(build, splits, stage(name="head", augment=augment), run=run, strategy=strategy)
    seconds = trained.seconds
    stages = _fine_tuning_stages(run, encoder, splits, config)
    for name, epochs, trainable in stages:
        build = functools.partial(
            whole,
            trainable=trainable,
            learning_rate=config.fine_tune_learning_rate,
            steps=epochs * splits.steps_per_epoch,
            head=trained.model,
            top=plain_top(
                warmup=config.warmup, layer_decay=config.layer_decay, hidden=_hidden_units(encoder)
            ),
            precision="mixed_float16" if stack.has_gpu() else "float32",
        )
        before = trained.val_loss
        tuning = stage(name=name, epochs=epochs, augment=augment, start_val_loss=before)
        trained = train(build, splits, tuning, run=run, strategy=strategy)
        seconds += trained.seconds
        if trained.best_epoch is None:
            run.note(f"Stage {name} is undone: no epoch had a validation loss below {before:.4f}.")
    run.record({"time/train_seconds": seconds})
    # Outside of the strategy's scope and in float32, whatever it was trained in: this is measured and exported.
    model = whole(trainable="none", head=trained.model, **of_head)
    if features is None or stages:
        return observe(model, splits)
    return Classifier(
        model=model,
        evaluation=evaluate(trained.model, features),
        test_features=features.source.read(features.indices["test"]),
    )


def train_all_layers(
    run: Run,
    backbone: Encoder | None,
    splits: Splits,
    config: ImageModelConfig,
    *,
    strategy: tf.distribute.Strategy,
) -> Classifier:
    """Train all layers of a classifier at once, or what is left to train of an interrupted one.

    Args:
      run: gets the logs, the measurements and what was decided.
      backbone: whose layers are trained; None: a small network from scratch.
      splits: of images, float32 [batch, s, s, 3] in [0, 1].
      config: what to train.
      strategy: of the training.
    """
    build = functools.partial(
        small_cnn if backbone is None else functools.partial(whole_model, backbone, trainable="all"),
        classes=len(splits.class_names),
        spec=splits.spec,
        learning_rate=config.learning_rate,
        steps=config.epochs * splits.steps_per_epoch,
        top=plain_top(warmup=config.warmup, optimizer=config.optimizer),
    )
    weights = class_weight(splits, when=config.class_weights, run=run)
    stage = Stage.of_settings(config, class_weight=weights, augment=Augmentation.preset(config.augment))
    trained = train(build, splits, stage, run=run, strategy=strategy)
    run.record({"time/train_seconds": trained.seconds})
    return observe(trained.model, splits)


def build_head(config: TransferConfig, encoder: Encoder, features: Splits) -> Callable[[], keras.Model]:
    """Return what builds the head that is trained on these features."""
    settings = _head_settings(config, encoder, features)
    return functools.partial(head, encoder.feature_size, len(features.class_names), **settings)


def _head_settings(config: TransferConfig, encoder: Encoder, splits: Splits) -> dict[str, Any]:
    return {
        "learning_rate": config.learning_rate,
        "steps": config.epochs * splits.steps_per_epoch,
        "top": plain_top(warmup=config.warmup, hidden=_hidden_units(encoder)),
    }


def _hidden_units(encoder: Encoder) -> int:
    return HIDDEN_OF_TEXTS if encoder.modality == "texts" else 0


def _stored_features(run: Run, encoder: Encoder, splits: Splits, config: TransferConfig) -> Splits | None:
    """Return the splits with stored features in place of the examples; None where they do not serve."""
    run.record({"time/features_seconds": 0.0})
    if not config.features:
        return None
    if config.augment != "none":
        run.note(
            f"Stored features are off: augmentation ({config.augment}) makes other images in each epoch."
        )
        run.decide(features=False)
        return None
    extraction = hub.extract(encoder, splits)
    run.note(extraction.summary)
    run.record({"time/features_seconds": extraction.seconds})
    return extraction.splits


def _fine_tuning_stages(
    run: Run, encoder: Encoder, splits: Splits, config: TransferConfig
) -> list[tuple[str, int, str]]:
    """Return the stages that train the encoder: (name, epochs, what is trainable)."""
    epochs = config.fine_tune_epochs
    if epochs is None:
        if not encoder.trainable_variables:
            run.note(f"Fine-tuning is off: {encoder.handle} has no trainable weights.")
            run.decide(fine_tune_epochs=0)
            return []
        cheap, cost = encoder.cost_of_epoch(splits)
        affordable = cheap or stack.has_gpu()
        epochs = encoder.fine_tune_epochs if affordable else 0
        run.note(
            f"Fine-tuning is on: {epochs} epochs of the whole model (--fine-tune-epochs 0 leaves it out)."
            if affordable
            else f"Fine-tuning is off: an epoch of {cost} takes minutes on a CPU"
            f" (--fine-tune-epochs {encoder.fine_tune_epochs} turns it on)."
        )
        run.decide(fine_tune_epochs=epochs)
    first = round(epochs * TOP_SHARE) if config.unfreeze == "staged" else 0
    if first and not encoder.stages:
        run.note("Staged unfreezing is off: a hub.KerasLayer is trained as a whole or not at all.")
        first = 0
    stages = [("fine_tune_top", first, "top"), ("fine_tune", epochs - first, "all")]
    return [stage for stage in stages if stage[1]]

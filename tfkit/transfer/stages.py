"""The stages of transfer learning: features once, a head on them, then perhaps the whole model."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tfkit import distribute, hub, predictions, stack, training
from tfkit.config import TransferConfig
from tfkit.data import Augmentation, Splits
from tfkit.evaluation import Evaluation
from tfkit.hub import Backbone, TextEncoder
from tfkit.run import Run
from tfkit.transfer import models

if TYPE_CHECKING:
    from tfkit.stack import keras, tf

TOP_SHARE = 1 / 3


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """A trained model and what it says of the test split.

    Attributes:
      model: images float32 [batch, s, s, 3] in [0, 1], or texts [batch], to logits [batch, classes].
      evaluation: on the test split.
      test_features: float32 [n, d], what its last layer sees of the test split, in the split's order.
    """

    model: keras.Model
    evaluation: Evaluation
    test_features: np.ndarray


def train(
    run: Run,
    backbone: Backbone | TextEncoder,
    splits: Splits,
    config: TransferConfig,
    *,
    strategy: tf.distribute.Strategy | None = None,
) -> Classifier:
    """Train a classifier on a backbone, or what is left to train of an interrupted one.

    Args:
      run: gets the logs, the measurements and what was decided.
      backbone: see `tfkit.hub.resolve`.
      splits: of images, float32 [batch, s, s, 3] in [0, 1], or of texts.
      config: what to train.
      strategy: of all stages; None: the one that the settings name.
    """
    classes = len(splits.class_names)
    augment = Augmentation.preset(config.augment)
    features = stored_features(run, backbone, splits, config)
    stage = functools.partial(
        training.train,
        run=run,
        patience=config.patience,
        # One object for all stages: a model of one strategy cannot be read in another's scope.
        strategy=strategy or distribute.strategy(config.strategy),
        seed=config.seed,
        cadence=training.cadence(config),
        profile=config.profile,
        class_weight=training.class_weight(splits, when=config.class_weights, run=run),
    )
    whole = functools.partial(models.whole, backbone, classes, spec=splits.spec)
    of_head = _settings(config, backbone, splits)
    if features is not None:
        trained = stage(plain_head(config, backbone, features), features, stage="head", epochs=config.epochs)
    else:
        head = functools.partial(whole, trainable="none", **of_head)
        trained = stage(head, splits, stage="head", epochs=config.epochs, augment=augment)
    seconds = trained.seconds
    tuning = _fine_tuning(run, backbone, splits, config)
    for name, epochs, trainable in tuning:
        steps = epochs * splits.steps_per_epoch
        build = functools.partial(
            whole,
            trainable=trainable,
            learning_rate=config.fine_tune_learning_rate,
            steps=steps,
            head=trained.model,
            top=models.plain_top(
                warmup=config.warmup, layer_decay=config.layer_decay, hidden=_hidden(backbone)
            ),
            precision="mixed_float16" if stack.has_gpu() else "float32",
        )
        before = trained.val_loss
        trained = stage(build, splits, stage=name, epochs=epochs, augment=augment, start_val_loss=before)
        seconds += trained.seconds
        if trained.best_epoch is None:
            run.note(f"Stage {name} is undone: no epoch had a validation loss below {before:.4f}.")
    run.record({"time/train_seconds": seconds})
    # Outside of the strategy's scope and in float32, whatever it was trained in: this is measured and exported.
    model = whole(trainable="none", head=trained.model, **of_head)
    if features is None or tuning:
        return observe(model, splits)
    return Classifier(
        model=model,
        evaluation=predictions.evaluate(trained.model, features),
        test_features=features.source.read(features.indices["test"]),
    )


def plain_head(
    config: TransferConfig, backbone: Backbone | TextEncoder, features: Splits
) -> Callable[[], keras.Model]:
    """What builds the head that is trained on these features."""
    return functools.partial(
        models.head, backbone.feature_size, len(features.class_names), **_settings(config, backbone, features)
    )


def _settings(config: TransferConfig, backbone: Backbone | TextEncoder, splits: Splits) -> dict[str, Any]:
    return {
        "learning_rate": config.learning_rate,
        "steps": config.epochs * splits.steps_per_epoch,
        "top": models.plain_top(warmup=config.warmup, hidden=_hidden(backbone)),
    }


def _hidden(backbone: Backbone | TextEncoder) -> int:
    return models.HIDDEN_OF_TEXTS if isinstance(backbone, TextEncoder) else 0


def stored_features(
    run: Run, backbone: Backbone | TextEncoder, splits: Splits, config: TransferConfig
) -> Splits | None:
    """The same splits with the frozen backbone's features in place of the images; None when they do not serve."""
    run.record({"time/features_seconds": 0.0})
    if not config.features:
        return None
    if config.augment != "none":
        run.note(
            f"Stored features are off: augmentation ({config.augment}) makes other images in each epoch."
        )
        run.decide(features=False)
        return None
    extraction = hub.extract(backbone, splits)
    run.note(extraction.summary)
    run.record({"time/features_seconds": extraction.seconds})
    return extraction.splits


def _fine_tuning(
    run: Run, backbone: Backbone | TextEncoder, splits: Splits, config: TransferConfig
) -> list[tuple[str, int, str]]:
    """The stages that train the backbone: (name, epochs, what is trainable)."""
    epochs = config.fine_tune_epochs
    if epochs is None:
        if not backbone.trainable_variables:
            run.note(f"Fine-tuning is off: {backbone.handle} has no trainable weights.")
            run.decide(fine_tune_epochs=0)
            return []
        cheap, cost = backbone.cost_of_epoch(splits)
        affordable = cheap or stack.has_gpu()
        epochs = backbone.fine_tune_epochs if affordable else 0
        run.note(
            f"Fine-tuning is on: {epochs} epochs of the whole model (--fine-tune-epochs 0 leaves it out)."
            if affordable
            else f"Fine-tuning is off: an epoch of {cost} takes minutes on a CPU"
            f" (--fine-tune-epochs {backbone.fine_tune_epochs} turns it on)."
        )
        run.decide(fine_tune_epochs=epochs)
    first = round(epochs * TOP_SHARE) if config.unfreeze == "staged" else 0
    if first and not backbone.stages:
        run.note("Staged unfreezing is off: a hub.KerasLayer is trained as a whole or not at all.")
        first = 0
    stages = [("fine_tune_top", first, "top"), ("fine_tune", epochs - first, "all")]
    return [stage for stage in stages if stage[1]]


def observe(model: keras.Model, splits: Splits) -> Classifier:
    """The test split through the model once: its probabilities, and what the last layer saw."""
    from tfkit.stack import keras

    last = model.get_layer(models.CLASSIFIER)
    both = keras.Model(model.input, [last.input, last.output])
    features, logits = both.predict(splits.test, verbose=0)
    return Classifier(
        model=model,
        evaluation=predictions.evaluation(
            np.asarray(predictions.to_probabilities(logits, logits=True)), splits
        ),
        test_features=np.asarray(features, np.float32),
    )

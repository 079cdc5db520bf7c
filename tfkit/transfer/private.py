"""Private transfer: a head on a frozen public backbone's features, or the whole model, trained by DP-SGD."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tfkit import distribute, hub, privacy, training
from tfkit.config import PrivateConfig
from tfkit.data import Splits
from tfkit.hub import Backbone
from tfkit.run import Run
from tfkit.transfer import models
from tfkit.transfer.stages import Classifier, observe

if TYPE_CHECKING:
    from tfkit.stack import keras


def train_private(run: Run, backbone: Backbone, splits: Splits, config: PrivateConfig) -> Classifier:
    """Train a classifier on a backbone with differential privacy, or what is left to train of it.

    Args:
      run: gets the logs, privacy.json and what was decided.
      backbone: public: what it knows of its own training data is not protected.
      splits: of images; their batch size is the expected one of the samples.
      config: what to train, and the privacy asked for.

    Raises:
      PrivacyError: no epsilon would hold, or none as small as the target.
    """
    run.record({"time/features_seconds": 0.0})
    stage = functools.partial(
        training.train,
        run=run,
        stage="private",
        epochs=config.epochs,
        strategy=distribute.strategy(config.strategy),
        seed=config.seed,
        privacy=mechanism(config),
    )
    whole = functools.partial(
        models.whole,
        backbone,
        len(splits.class_names),
        image_size=int(splits.spec.shape[0]),
        **_settings(config, splits),
    )
    if not config.features:
        trained = stage(functools.partial(whole, trainable="all"), splits)
        run.record({"time/train_seconds": trained.seconds})
        return observe(whole(trainable="none", head=trained.model), splits)
    extraction = hub.extract(backbone, splits)
    run.note(extraction.summary)
    features = extraction.splits
    trained = stage(private_head(config, backbone, features), features)
    run.record({"time/features_seconds": extraction.seconds, "time/train_seconds": trained.seconds})
    return Classifier(
        model=whole(trainable="none", head=trained.model),
        evaluation=training.evaluate(trained.model, features),
        test_features=features.source.read(features.indices["test"]),
    )


def private_head(config: PrivateConfig, backbone: Backbone, features: Splits) -> Callable[[], keras.Model]:
    """What builds the head that is trained on these features."""
    return functools.partial(
        models.head, backbone.feature_size, len(features.class_names), **_settings(config, features)
    )


def _settings(config: PrivateConfig, splits: Splits) -> dict[str, Any]:
    steps = config.epochs * splits.steps_per_epoch
    return {"learning_rate": config.learning_rate, "steps": steps, "top": models.private_top()}


def mechanism(config: PrivateConfig) -> privacy.DPSGD:
    """What a recipe's settings ask for."""
    return privacy.DPSGD(
        target_epsilon=config.target_epsilon,
        noise_multiplier=config.noise_multiplier,
        delta=config.delta,
        l2_norm_clip=config.l2_norm_clip,
        sampler=config.sampler,
        accountant=config.accountant,
        microbatch_size=config.microbatch_size,
        adaptive_clip_quantile=config.adaptive_clip_quantile,
        deterministic_noise=config.deterministic_noise,
        diagnostics=config.diagnostics,
    )

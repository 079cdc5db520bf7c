"""Private transfer: a head on a frozen public backbone's features, or the whole model, trained by DP-SGD."""

from __future__ import annotations

import dataclasses
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

LARGEST_BATCH, EPOCHS = 4096, 100
LARGEST_BATCH_OF_IMAGES, EPOCHS_OF_IMAGES = 256, 15


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
    config, splits = _chosen(config, splits)
    run.note(
        f"Private training: {config.epochs} epochs of samples of {splits.global_batch_size} expected examples, learning"
        f" rate {config.learning_rate:.3g}, clipping norm {config.l2_norm_clip:.3g}."
    )
    whole = functools.partial(
        models.whole,
        backbone,
        len(splits.class_names),
        image_size=int(splits.spec.shape[0]),
        **_settings(config, splits),
    )
    if not config.features:
        trained = _stage(run, functools.partial(whole, trainable="all"), splits, config)
        run.record({"time/train_seconds": trained.seconds})
        return observe(whole(trainable="none", head=trained.model), splits)
    extraction = hub.extract(backbone, splits)
    run.note(extraction.summary)
    features = extraction.splits
    trained = train_private_head(run, backbone, features, config)
    run.record({"time/features_seconds": extraction.seconds, "time/train_seconds": trained.seconds})
    return Classifier(
        model=whole(trainable="none", head=trained.model),
        evaluation=training.evaluate(trained.model, features),
        test_features=features.source.read(features.indices["test"]),
    )


def train_private_head(
    run: Run, backbone: Backbone, features: Splits, config: PrivateConfig, *, verbose: int | None = None
) -> training.Trained:
    """The head alone, on features that are stored already, as `train_private` trains it."""
    config, features = _chosen(config, features)
    build = functools.partial(
        models.head, backbone.feature_size, len(features.class_names), **_settings(config, features)
    )
    return _stage(run, build, features, config, verbose=verbose)


def _stage(
    run: Run,
    build_model: Callable[[], keras.Model],
    splits: Splits,
    config: PrivateConfig,
    *,
    verbose: int | None = None,
) -> training.Trained:
    assert config.epochs is not None, "_chosen sees to it"
    return training.train(
        build_model,
        splits,
        run=run,
        stage="private",
        epochs=config.epochs,
        strategy=distribute.strategy(config.strategy),
        seed=config.seed,
        privacy=mechanism(config),
        verbose=verbose,
    )


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


def _chosen(config: PrivateConfig, splits: Splits) -> tuple[PrivateConfig, Splits]:
    """The settings with nothing left out, and splits of the batch size that goes with them.

    The rule was found on mnist5k (500, 1,255 and 3,500 examples; epsilon 1, 3 and 8), and on its validation split.
    """
    examples = len(splits.indices["train"])
    largest = LARGEST_BATCH if config.features else LARGEST_BATCH_OF_IMAGES
    batch = config.global_batch_size or min(examples, largest)
    epochs = config.epochs or (EPOCHS if config.features else EPOCHS_OF_IMAGES)
    splits = splits.replace(global_batch_size=batch)
    plan = mechanism(config).plan(examples=examples, expected_batch_size=batch, epochs=epochs)
    epsilon = config.target_epsilon or plan.epsilon(plan.steps)
    rate = config.learning_rate
    if rate is None:
        rate = 8.0 * min(max((min(epsilon, 10.0) * examples / 4000) ** (2 / 3), 1 / 8), 2.0)
        rate *= 1.0 if config.features else 1 / 16
    return dataclasses.replace(config, epochs=epochs, learning_rate=rate), splits


def _settings(config: PrivateConfig, splits: Splits) -> dict[str, Any]:
    assert config.epochs is not None, "_chosen sees to it"
    steps = config.epochs * splits.steps_per_epoch
    return {"learning_rate": config.learning_rate, "steps": steps, "top": models.private_top()}

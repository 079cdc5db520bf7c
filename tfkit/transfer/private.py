"""Private transfer: a head on a frozen public backbone's features, or the whole model, trained by DP-SGD."""

from __future__ import annotations

import dataclasses
import functools
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfkit import hub, privacy
from tfkit.data.splits import Splits
from tfkit.distribution import strategies
from tfkit.environment import files
from tfkit.hub import Encoder
from tfkit.metrics import evaluate
from tfkit.privacy.ledger import MEAN, Ledger
from tfkit.privacy.plan import DPSGD
from tfkit.run import Run
from tfkit.settings.options import ENCODER, PrivateConfig
from tfkit.training.loop import Trained, train
from tfkit.transfer import models
from tfkit.transfer.models import Classifier, observe
from tfkit.transfer.text_models import light

if TYPE_CHECKING:
    from tfkit.environment.stack import keras, tf

STAGE = "private"
LARGEST_BATCH, EPOCHS = 4096, 80
LARGEST_BATCH_OF_IMAGES, EPOCHS_OF_IMAGES = 256, 15
FEWEST_FOR_MEAN = 1000  # examples times epsilon


def train_private(
    run: Run,
    backbone: Encoder,
    splits: Splits,
    config: PrivateConfig,
    *,
    strategy: tf.distribute.Strategy | None = None,
) -> Classifier:
    """Train a classifier on a backbone with differential privacy, or what is left to train of it.

    Args:
      run: gets the logs, privacy.json and what was decided.
      backbone: public: what it knows of its own training data is not protected.
      splits: of images; their batch size is the expected one of the samples.
      config: what to train, and the privacy asked for.
      strategy: of the training; None: the one that the settings name.

    Raises:
      PrivacyError: no epsilon would hold, or none as small as the target.
    """
    run.record({"time/features_seconds": 0.0})
    strategy = strategy or strategies.strategy(config.strategy)
    chosen = _choose(config, splits)
    run.note(chosen.summary)
    run.decide(**chosen.settings_of_run)
    whole = functools.partial(models.whole_model, backbone, len(splits.class_names), spec=splits.spec)
    if not config.features:
        settings = chosen.settings(None)
        build = functools.partial(whole, trainable="all", **settings)
        trained = _train(run, build, splits, config, chosen, strategy=strategy)
        run.record({"time/train_seconds": trained.seconds})
        return observe(whole(trainable="none", head=trained.model, **settings), splits)
    extraction = hub.extract(backbone, splits)
    run.say(extraction.summary)  # not kept: it counts private examples
    features = extraction.splits
    trained, settings = train_private_head(run, backbone, features, config, strategy=strategy)
    run.record({"time/features_seconds": extraction.seconds, "time/train_seconds": trained.seconds})
    return Classifier(
        model=whole(trainable="none", head=trained.model, **settings),
        evaluation=evaluate(trained.model, features),
        test_features=features.source.read(features.indices["test"]),
    )


def train_private_light(
    run: Run, splits: Splits, config: PrivateConfig, *, max_length: int, strategy: tf.distribute.Strategy
) -> Classifier:
    """Train the light model of texts, its embedding included, with differential privacy.

    Its vocabulary is the public one of the bundled encoder: one made of the private texts would tell what is in them.

    Args:
      run: gets the logs, privacy.json and what was decided.
      splits: of texts; their batch size is the expected one of the samples.
      config: the privacy asked for.
      max_length: tokens of a text at most; all are filled up to it.
      strategy: of the training.
    """
    chosen = _choose(dataclasses.replace(config, features=False), splits)
    run.note(f"{chosen.summary} The vocabulary is that of {ENCODER}, which is public.")
    run.decide(**chosen.settings_of_run, features=False, max_length=max_length)
    tokenizer = hub.load_model(ENCODER, max_length=max_length).tokenizer
    assert tokenizer is not None, "it is bundled"
    build = functools.partial(
        light, tokenizer, len(splits.class_names), length=max_length, **chosen.settings(None)
    )
    trained = _train(run, build, splits, config, chosen, strategy=strategy)
    run.record({"time/features_seconds": 0.0, "time/train_seconds": trained.seconds})
    return observe(trained.model, splits)


def train_private_head(
    run: Run,
    backbone: Encoder,
    features: Splits,
    config: PrivateConfig,
    *,
    strategy: tf.distribute.Strategy | None = None,
    verbose: int | None = None,
) -> tuple[Trained, dict[str, Any]]:
    """The head alone, on features that are stored already, as `train_private` trains it.

    Returns:
      What training left, and the settings of `models.head` and `models.whole` that it was built with.
    """
    strategy = strategy or strategies.strategy(config.strategy)
    chosen = _choose(config, features)
    settings = chosen.settings(_mean(run, features, config, chosen, strategy=strategy))
    build = functools.partial(models.head, backbone.feature_size, len(features.class_names), **settings)
    return _train(run, build, features, config, chosen, strategy=strategy, verbose=verbose), settings


def _mean(
    run: Run,
    features: Splits,
    config: PrivateConfig,
    chosen: Chosen,
    *,
    strategy: tf.distribute.Strategy,
) -> np.ndarray | None:
    """The noisy mean of the training examples' features: released once for a run, however often it is resumed.

    Of several workers the chief draws it: each of them with noise of its own would be as many releases.
    """
    from tfkit.distribution.replicas import Together

    if not chosen.privacy.release_noise:
        return None
    path = run.backup / STAGE / MEAN
    Ledger(run, STAGE)  # a mean that is lost is not released once more
    if run.is_chief and not path.is_file():
        _release_mean(path, features, config, chosen)
    Together(strategy).barrier()
    return np.load(io.BytesIO(files.read_hashed(path)), allow_pickle=False)


def _release_mean(path: Path, features: Splits, config: PrivateConfig, chosen: Chosen) -> None:
    mean = privacy.noisy_mean(
        features.source.read(features.indices["train"]),
        noise_multiplier=chosen.privacy.release_noise,
        seed=config.seed if config.deterministic_noise else None,
    )
    content = io.BytesIO()
    np.save(content, mean)
    files.write_hashed(path, content.getvalue())


def _train(
    run: Run,
    build_model: Callable[[], keras.Model],
    splits: Splits,
    config: PrivateConfig,
    chosen: Chosen,
    *,
    strategy: tf.distribute.Strategy,
    verbose: int | None = None,
) -> Trained:
    return train(
        build_model,
        splits.replace(global_batch_size=chosen.batch),
        run=run,
        stage=STAGE,
        epochs=chosen.epochs,
        strategy=strategy,
        seed=config.seed,
        privacy=chosen.privacy,
        verbose=verbose,
    )


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The settings with nothing left out.

    What is left out was found on mnist5k: by the validation split, on 500, 1,255 and 3,500 training examples, at
    epsilon 1, 3 and 8.
    """

    privacy: DPSGD
    batch: int
    epochs: int
    steps: int
    learning_rate: float

    @property
    def summary(self) -> str:
        """One sentence for the notes of a run."""
        return (
            f"Private training: {self.epochs} epochs of samples of {self.batch} expected examples, learning rate"
            f" {self.learning_rate:.3g}, clipping norm {self.privacy.l2_norm_clip:.3g}"
            + (", features less their noisy mean." if self.privacy.release_noise else ".")
        )

    @property
    def settings_of_run(self) -> dict[str, Any]:
        """Return what may be left out of a config, by name."""
        return {
            "epochs": self.epochs,
            "learning_rate": float(self.learning_rate),
            "global_batch_size": self.batch,
        }

    def settings(self, mean: np.ndarray | None) -> dict[str, Any]:
        """For `models.head` and `models.whole`."""
        return {"learning_rate": self.learning_rate, "steps": self.steps, "top": models.private_top(mean)}


def _choose(config: PrivateConfig, splits: Splits) -> Chosen:
    examples = len(splits.indices["train"])
    batch = config.global_batch_size or min(
        examples, LARGEST_BATCH if config.features else LARGEST_BATCH_OF_IMAGES
    )
    epochs = config.epochs or (EPOCHS if config.features else EPOCHS_OF_IMAGES)
    asked = mechanism(config)
    plan = asked.plan(examples=examples, expected_batch_size=batch, epochs=epochs)
    epsilon = config.target_epsilon or min(plan.epsilon(plan.steps), 10.0)
    # Below that the mean is mostly noise.
    if (
        config.features
        and config.mean_budget
        and epsilon * examples >= FEWEST_FOR_MEAN
        and plan.noise_multiplier
    ):
        alone = privacy.calibrate(target_epsilon=epsilon, delta=plan.delta, sampling_probability=1.0, steps=1)
        asked = dataclasses.replace(asked, release_noise=privacy.noise_for_share(alone, config.mean_budget))
    rate = config.learning_rate
    if rate is None:
        rate = 8.0 * min(max((min(epsilon, 10.0) * examples / 6000) ** (2 / 3), 1 / 8), 2.0)
        rate *= 1.0 if config.features else 1 / 16
    return Chosen(privacy=asked, batch=batch, epochs=epochs, steps=plan.steps, learning_rate=rate)


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

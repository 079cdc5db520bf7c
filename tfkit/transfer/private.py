"""Private transfer: a head on a frozen public model's features, or the whole model, trained by DP-SGD."""

from __future__ import annotations

import dataclasses
import functools
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tfkit import hub, privacy
from tfkit.data.splits import Splits
from tfkit.environment import files
from tfkit.hub.encoders import Encoder
from tfkit.metrics import evaluate
from tfkit.privacy.ledger import MEAN, Ledger
from tfkit.privacy.plan import DPSGD
from tfkit.run import Run
from tfkit.settings.options import ENCODER, PrivateConfig
from tfkit.training.loop import train
from tfkit.training.stage import Stage, Trained
from tfkit.transfer import models
from tfkit.transfer.light import light
from tfkit.transfer.models import Classifier, observe

if TYPE_CHECKING:
    from tfkit.environment.stack import keras, tf

STAGE = "private"
LARGEST_BATCH, EPOCHS = 4096, 80
LARGEST_BATCH_OF_IMAGES, EPOCHS_OF_IMAGES = 256, 15
LIGHT_LENGTH = 64
FEWEST_FOR_MEAN = 1000  # examples times epsilon


def train_private(
    run: Run,
    encoder: Encoder,
    splits: Splits,
    config: PrivateConfig,
    *,
    strategy: tf.distribute.Strategy,
) -> Classifier:
    """Train a classifier on a pretrained model with differential privacy, or what is left to train of it.

    Args:
      run: gets the logs, privacy.json and what was decided.
      encoder: public: what it knows of its own training data is not protected.
      splits: of images or texts; their batch size is the expected one of the samples.
      config: what to train, and the privacy asked for.
      strategy: of the training.

    Raises:
      PrivacyError: no epsilon would hold, or none as small as the target.
    """
    run.record({"time/features_seconds": 0.0})
    plan = _plan(config, splits)
    run.note(plan.summary)
    run.decide(**plan.decided)
    whole = functools.partial(models.whole_model, encoder, len(splits.class_names), spec=splits.spec)
    if not config.features:
        settings = plan.settings(None)
        build = functools.partial(whole, trainable="all", **settings)
        trained = _train(run, build, splits, config, plan, strategy=strategy)
        run.record({"time/train_seconds": trained.seconds})
        return observe(whole(trainable="none", head=trained.model, **settings), splits)
    extraction = hub.extract(encoder, splits)
    run.say(extraction.summary)  # not kept: it counts private examples
    features = extraction.splits
    trained, settings = train_private_head(run, encoder, features, config, strategy=strategy)
    run.record({"time/features_seconds": extraction.seconds, "time/train_seconds": trained.seconds})
    return Classifier(
        model=whole(trainable="none", head=trained.model, **settings),
        evaluation=evaluate(trained.model, features),
        test_features=features.source.read(features.indices["test"]),
    )


def train_private_light(
    run: Run, splits: Splits, config: Any, *, strategy: tf.distribute.Strategy
) -> Classifier:
    """Train the light model of texts, its embedding included, with differential privacy.

    Its vocabulary is the public one of the bundled encoder: one made of the private texts would tell what is in them.

    Args:
      run: gets the logs, privacy.json and what was decided.
      splits: of texts; their batch size is the expected one of the samples.
      config: the privacy asked for; all texts are filled up to its max_length, 64 where it is left out.
      strategy: of the training.
    """
    length = config.max_length or LIGHT_LENGTH
    plan = _plan(dataclasses.replace(config, features=False), splits)
    run.note(f"{plan.summary} The vocabulary is that of {ENCODER}, which is public.")
    run.decide(**plan.decided, features=False, max_length=length)
    tokenizer = hub.load_model(ENCODER, max_length=length).tokenizer
    assert tokenizer is not None, "it is bundled"
    build = functools.partial(light, tokenizer, len(splits.class_names), length=length, **plan.settings(None))
    trained = _train(run, build, splits, config, plan, strategy=strategy)
    run.record({"time/features_seconds": 0.0, "time/train_seconds": trained.seconds})
    return observe(trained.model, splits)


def train_private_head(
    run: Run,
    encoder: Encoder,
    features: Splits,
    config: PrivateConfig,
    *,
    strategy: tf.distribute.Strategy,
    verbose: int | None = None,
) -> tuple[Trained, dict[str, Any]]:
    """Train the head alone, on features that are stored already, as `train_private` trains it.

    Returns:
      What training left, and the settings of `models.head` and `models.whole_model` that it was built with.
    """
    plan = _plan(config, features)
    settings = plan.settings(_released_mean(run, features, config, plan, strategy=strategy))
    build = functools.partial(models.head, encoder.feature_size, len(features.class_names), **settings)
    return _train(run, build, features, config, plan, strategy=strategy, verbose=verbose), settings


def _released_mean(
    run: Run, features: Splits, config: PrivateConfig, plan: TrainingPlan, *, strategy: tf.distribute.Strategy
) -> np.ndarray | None:
    """Return the noisy mean of the training examples' features: released once for a run, however often it is resumed.

    Of several workers the chief draws it: each of them with noise of its own would be as many releases.
    """
    from tfkit.distribution.replicas import Together

    if not plan.privacy.release_noise:
        return None
    path = run.backup / STAGE / MEAN
    Ledger(run, STAGE)  # a mean that is lost is not released once more
    if run.is_chief and not path.is_file():
        mean = privacy.noisy_mean(
            features.source.read(features.indices["train"]),
            noise_multiplier=plan.privacy.release_noise,
            seed=config.seed if config.deterministic_noise else None,
        )
        content = io.BytesIO()
        np.save(content, mean)
        files.write_hashed(path, content.getvalue())
    Together(strategy).barrier()
    return np.load(io.BytesIO(files.read_hashed(path)), allow_pickle=False)


def _train(
    run: Run,
    build_model: Callable[[], keras.Model],
    splits: Splits,
    config: PrivateConfig,
    plan: TrainingPlan,
    *,
    strategy: tf.distribute.Strategy,
    verbose: int | None = None,
) -> Trained:
    stage = Stage(name=STAGE, epochs=plan.epochs, seed=config.seed, privacy=plan.privacy, verbose=verbose)
    return train(
        build_model, splits.replace(global_batch_size=plan.batch_size), stage, run=run, strategy=strategy
    )


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """The settings of a private training with nothing left out.

    What is left out was found on mnist5k: by the validation split, on 500, 1,255 and 3,500 training examples, at
    epsilon 1, 3 and 8.
    """

    privacy: DPSGD
    batch_size: int
    epochs: int
    steps: int
    learning_rate: float

    @property
    def summary(self) -> str:
        """One sentence for the notes of a run."""
        return (
            f"Private training: {self.epochs} epochs of samples of {self.batch_size} expected examples, learning rate"
            f" {self.learning_rate:.3g}, clipping norm {self.privacy.l2_norm_clip:.3g}"
            + (", features less their noisy mean." if self.privacy.release_noise else ".")
        )

    @property
    def decided(self) -> dict[str, Any]:
        """The settings that a config may leave out, by name."""
        return {
            "epochs": self.epochs,
            "learning_rate": float(self.learning_rate),
            "global_batch_size": self.batch_size,
        }

    def settings(self, mean: np.ndarray | None) -> dict[str, Any]:
        """Return what `models.head` and `models.whole_model` take."""
        return {"learning_rate": self.learning_rate, "steps": self.steps, "top": models.private_top(mean)}


def _plan(config: PrivateConfig, splits: Splits) -> TrainingPlan:
    examples = len(splits.indices["train"])
    largest, usual = (
        (LARGEST_BATCH, EPOCHS) if config.features else (LARGEST_BATCH_OF_IMAGES, EPOCHS_OF_IMAGES)
    )
    batch_size, epochs = config.global_batch_size or min(examples, largest), config.epochs or usual
    mechanism = mechanism_of(config)
    plan = mechanism.plan(examples=examples, expected_batch_size=batch_size, epochs=epochs)
    epsilon = config.target_epsilon or min(plan.epsilon(plan.steps), 10.0)
    # Below that the mean is mostly noise.
    enough = epsilon * examples >= FEWEST_FOR_MEAN
    if config.features and config.mean_budget and enough and plan.noise_multiplier:
        alone = privacy.calibrate(target_epsilon=epsilon, delta=plan.delta, sampling_probability=1.0, steps=1)
        noise = privacy.noise_for_share(alone, config.mean_budget)
        mechanism = dataclasses.replace(mechanism, release_noise=noise)
    rate = config.learning_rate
    if rate is None:
        rate = 8.0 * min(max((min(epsilon, 10.0) * examples / 6000) ** (2 / 3), 1 / 8), 2.0)
        rate *= 1.0 if config.features else 1 / 16
    return TrainingPlan(
        privacy=mechanism, batch_size=batch_size, epochs=epochs, steps=plan.steps, learning_rate=rate
    )


def mechanism_of(config: PrivateConfig) -> DPSGD:
    """Return the mechanism that a recipe's settings ask for."""
    names = {field.name for field in dataclasses.fields(DPSGD)} & {
        field.name for field in dataclasses.fields(config)
    }
    return DPSGD(**{name: getattr(config, name) for name in names})

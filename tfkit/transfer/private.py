"""Train with DP-SGD: a head on a frozen public model's features, the whole model, or the light model of texts."""

from __future__ import annotations

import dataclasses
import functools
import io
import math
from typing import Any, NamedTuple

import numpy as np

from tfkit import hub, privacy
from tfkit.data.splits import Splits
from tfkit.distribution.replicas import Replicas
from tfkit.environment import files, stack
from tfkit.hub.bundled import MODELS
from tfkit.hub.encoders import Encoder
from tfkit.privacy.ledger import MEAN, Ledger
from tfkit.privacy.plan import DPSGD, Plan
from tfkit.run import Run
from tfkit.settings.options import AUTO, ENCODER, PrivateSettings
from tfkit.training.fit import train
from tfkit.training.stage import Stage, Trained
from tfkit.transfer import models
from tfkit.transfer.continuing import refuse_trained_on
from tfkit.transfer.models import Classifier, Top, measure, measure_head, private_top

STAGE = "private"


class Defaults(NamedTuple):
    """Hold what a private training takes where a setting is left out."""

    largest_batch: int
    epochs: int
    learning_rate: float
    """For 6,000 examples at epsilon 1; it grows with both."""
    largest_rate: float
    """As a multiple of that."""
    l2_norm_clip: float = 0.3
    mean_budget: float = 0.0
    share_of_batch: float = 1.0
    """Of the examples: a batch has no more."""


FEATURES = Defaults(4096, 80, learning_rate=8.0, largest_rate=2.0, mean_budget=0.2)
IMAGES = Defaults(256, 15, learning_rate=0.5, largest_rate=2.0)
# Tramèr and Boneh 2021 (arXiv:2011.11660): batches and epochs for 60,000 examples, and nearly all gradients are cut, so
# that a step is as long as clipping norm times learning rate. Fewer examples take nearly as many steps.
SCATTERING = Defaults(4096, 40, learning_rate=40.0, largest_rate=10.0, l2_norm_clip=0.05, share_of_batch=0.25)
FEWEST_STEPS = 400
LIGHT_LENGTH = 64
FEWEST_FOR_MEAN = 1000  # examples times epsilon


def train_private(
    run: Run,
    encoder: Encoder | None,
    splits: Splits,
    config: PrivateSettings,
    *,
    strategy: stack.tf.distribute.Strategy,
) -> Classifier:
    """Train a classifier with differential privacy, or what is left to train of it.

    The light model is trained with its embedding, on texts filled up to `max_length` (64 where it is left out). Its
    vocabulary is the public one of the bundled encoder: one made of the private texts would tell what is in them.

    Args:
      run: gets the logs, privacy.json and what was decided.
      encoder: public: what it knows of its own training data is not protected; None: the light model of texts.
      splits: of images or texts; their batch size is the expected one of the samples.
      config: what to train, and the privacy asked for.
      strategy: of the training.

    Raises:
      PrivacyError: no epsilon would hold, or none as small as the target.
    """
    if encoder is not None:
        refuse_trained_on(encoder, splits)
    else:
        length = getattr(config, "max_length", None) or LIGHT_LENGTH
        run.decide(max_length=length)
        run.note(f"The vocabulary is that of {ENCODER}, which is public.")
    stage, batches, rate, plan = plan_training(config, splits, encoder)
    if config.group_column is not None and config.examples_per_group is None:
        run.note(
            f"Epsilon is of one example, and not of all of one {config.group_column!r}: --examples-per-group 1 and more"
            " makes it so."
        )
    if config.model_handle == AUTO and encoder is not None and encoder.scatters:
        run.note(
            f"The model is {encoder.handle}: the images have no colour and are small ({splits.side} pixels). Their"
            " format alone decided that, and is taken as public; --model-handle efficientnet-lite0 is the other choice."
        )
    run.note(
        f"Private training: {stage.epochs} epochs of samples of {batches.global_batch_size} expected examples,"
        f" learning rate {rate:.3g}, clipping norm {plan.l2_norm_clip:.3g}"
        + (", features less their noisy mean." if plan.release_noise else ".")
    )
    run.decide(epochs=stage.epochs, learning_rate=float(rate), global_batch_size=batches.global_batch_size)
    run.decide(l2_norm_clip=plan.l2_norm_clip)
    classes, top = len(splits.class_names), private_top(rate, plan.steps, task=splits.task)
    if encoder is None:
        bundled: Any = MODELS[ENCODER]
        tokenizer = bundled.tokenizer(max_length=length)
        build = functools.partial(models.light, tokenizer, classes, top, length=length)
        return measure(train(build, batches, stage, run=run, strategy=strategy).model, splits)
    make = functools.partial(models.whole_model, encoder, classes=classes, spec=splits.spec)
    if config.features:
        extraction = hub.extract(encoder, splits)
        run.say(extraction.summary)  # not kept: it counts private examples
        trained, top = train_private_head(run, encoder, extraction.splits, config, strategy=strategy)
        model = make(head=trained.model, top=top, base=extraction.model)
        return measure_head(model, trained, extraction.splits)
    build = functools.partial(make, trainable="all", top=top)
    trained = train(build, batches, stage, run=run, strategy=strategy)
    return measure(make(head=trained.model, top=top), splits)


def train_private_head(
    run: Run,
    encoder: Encoder,
    features: Splits,
    config: PrivateSettings,
    *,
    strategy: stack.tf.distribute.Strategy,
    verbose: int | None = None,
) -> tuple[Trained, Top]:
    """Train the head alone, on features that are stored already, as `train_private` trains it.

    Returns:
      What training left, and the top that it was built with.
    """
    stage, batches, rate, plan = plan_training(config, features, encoder, verbose=verbose)
    noise = plan.release_noise
    mean = _release_mean(run, features, config, noise, strategy=strategy) if noise else None
    top = private_top(
        rate, plan.steps, mean=mean, final_share=final_share(encoder, config), task=features.task
    )
    build = functools.partial(models.head, encoder.feature_size, len(features.class_names), top)
    return train(build, batches, stage, run=run, strategy=strategy), top


def final_share(encoder: Encoder, config: PrivateSettings) -> float:
    """Return the share of the learning rate that is left at the end of a head's training: all of it, or nothing.

    As measured (docs/manual/explanation/private_heads.md): on learned features of images, classes gain up to 2 points
    by a constant rate; texts and scattering gain nothing. Others keep the usual decay.
    """
    return float(config.task in ("auto", "classes") and not (config.of_texts or encoder.scatters))


def _release_mean(
    run: Run, features: Splits, config: PrivateSettings, noise: float, *, strategy: Any
) -> np.ndarray:
    """Return the noisy mean of the training examples' features: released once for a run, however often it is resumed.

    Of several workers the chief draws it: each of them with noise of its own would be as many releases.
    """
    path = run.backup / STAGE / MEAN
    Ledger(run, STAGE)  # a mean that is lost is not released once more
    if run.is_chief and not path.is_file():
        seed = config.seed if config.deterministic_noise else None
        rows = features.source.read(features.indices["train"])
        mean = privacy.noisy_mean(rows, noise_multiplier=noise, seed=seed)
        content = io.BytesIO()
        np.save(content, mean)
        files.write_hashed(path, content.getvalue())
    Replicas(strategy).barrier()
    return np.asarray(np.load(io.BytesIO(files.read_hashed(path)), allow_pickle=False))


def plan_training(
    config: PrivateSettings, splits: Splits, encoder: Encoder | None, *, verbose: int | None = None
) -> tuple[Stage, Splits, float, Plan]:
    """Return the settings of a private training with nothing left out.

    What is left out was found on mnist5k: by the validation split, on 500, 1,255 and 3,500 training examples, at
    epsilon 1, 3 and 8.

    Returns:
      The stage, the splits in batches of the expected size of a sample, the learning rate, and the plan.
    """
    examples = len(splits.indices["train"])
    # Gradients of classes are never longer than a number; those of values may be, and were not tried.
    scatters = encoder is not None and encoder.scatters and splits.task.name == "classes"
    defaults = SCATTERING if scatters else FEATURES if config.features else IMAGES
    most = min(math.ceil(defaults.share_of_batch * examples), defaults.largest_batch)
    batch_size, epochs = config.global_batch_size or most, config.epochs or defaults.epochs
    if scatters and config.epochs is None:
        epochs = max(epochs, FEWEST_STEPS * batch_size // examples)
    names = {field.name for field in dataclasses.fields(DPSGD)}
    settings = {**vars(config), "l2_norm_clip": config.l2_norm_clip or defaults.l2_norm_clip}
    mechanism = DPSGD(**{name: value for name, value in settings.items() if name in names})
    sizes = {"examples": examples, "expected_batch_size": batch_size, "epochs": epochs}
    plan = mechanism.plan(**sizes)
    epsilon = config.target_epsilon or min(plan.epsilon(plan.steps), 10.0)
    # Below that the mean is mostly noise.
    is_enough = epsilon * examples >= FEWEST_FOR_MEAN
    mean_budget = defaults.mean_budget if config.mean_budget is None else config.mean_budget
    if config.features and mean_budget and is_enough and plan.noise_multiplier:
        noise = privacy.noise_for_share(plan.noise_of_release(epsilon), mean_budget)
        mechanism = dataclasses.replace(mechanism, release_noise=noise)
        plan = mechanism.plan(**sizes)
    rate = config.learning_rate
    if rate is None:
        growth = (min(epsilon, 10.0) * examples / 6000) ** (2 / 3)
        rate = defaults.learning_rate * min(max(growth, 1 / 8), defaults.largest_rate)
        rate *= defaults.l2_norm_clip / plan.l2_norm_clip if scatters else 1.0
    stage = Stage(name=STAGE, epochs=epochs, seed=config.seed, privacy=mechanism, verbose=verbose)
    return stage, splits.replace(global_batch_size=batch_size), rate, plan

"""The audit of a run of a recipe: its data and its settings are found by its folder."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfkit import config as configs
from tfkit import hub, predictions, training, transfer
from tfkit.audit.attacks import check_names
from tfkit.audit.audit import DEFAULT_ATTACKS, audit
from tfkit.audit.lira import lira
from tfkit.audit.result import Audit
from tfkit.audit.scores import Attack
from tfkit.data import Splits
from tfkit.errors import ConfigError, RunError
from tfkit.hub import Backbone, TextEncoder
from tfkit.run import Run


def audit_recipe(
    run: Run, config: Any, *, attacks: Sequence[str] = DEFAULT_ATTACKS, shadows: int = 0, seed: int = 0
) -> Audit:
    """Attack the model of a run of `transfer_image` or `train_private`; arguments and errors as of `audit`.

    Args:
      run: finished.
      config: of the recipe that made it: both an `ImageConfig` and a `TransferConfig` or `PrivateConfig`.
      attacks: of `tfkit.audit.ATTACKS`.
      shadows: models for LiRA, which takes the head on stored features for the whole model; 0: none.
      seed: of lots and of attackers.
    """
    check_names(tuple(attacks))
    if not run.finished:
        raise RunError(f"{run.path} has not come to its end. The command that began it goes on with it.")
    if shadows and not _is_head_alone(config, run):
        raise ConfigError(
            f"{run.path} trained more than a head on stored features: each shadow model would take as long as it did."
            "\n  Leave --shadows out."
        )
    backbone, splits = transfer.load(config, global_batch_size=config.global_batch_size or 1, trainable=False)
    further: Callable[..., list[Attack]] | None = None
    if shadows:
        further = functools.partial(_shadowed, config, backbone, splits, shadows=shadows, seed=seed)
    return audit(run, splits, attacks=attacks, seed=seed, further=further)


def _is_head_alone(config: Any, run: Run) -> bool:
    tuned = any(str(stage).startswith("fine_tune") for stage in run.history.get("stage", []))
    augmented = getattr(config, "augment", "none") != "none"
    return bool(config.features) and not tuned and not augmented


def _shadowed(
    config: Any,
    backbone: Backbone | TextEncoder,
    splits: Splits,
    indices: np.ndarray,
    is_member: np.ndarray,
    target: np.ndarray,
    *,
    shadows: int,
    seed: int,
) -> list[Attack]:
    """LiRA with heads that are trained on halves of the pool, as the run's own was on all of its examples."""
    features = hub.extract(backbone, splits).splits

    def shadow(half: np.ndarray) -> np.ndarray:
        pool = features.replace(
            indices={"train": indices[half], "validation": features.indices["validation"], "test": indices}
        )
        with tempfile.TemporaryDirectory() as folder, Run.create(Path(folder) / "run", config={}) as run:
            if isinstance(config, configs.PrivateConfig):
                batch = min(config.global_batch_size, len(half)) if config.global_batch_size else None
                # The delta of the whole may be too large for half.
                own = dataclasses.replace(config, delta=None, global_batch_size=batch)
                trained, _ = transfer.train_private_head(run, backbone, pool, own, verbose=0)
            else:
                build = transfer.plain_head(config, backbone, pool)
                trained = training.train(build, pool, run=run, epochs=config.epochs, seed=seed, verbose=0)
            return predictions.evaluate(trained.model, pool).probabilities

    labels = splits.source.labels[indices]
    return [lira(target, labels, is_member, shadow=shadow, shadows=shadows, seed=seed)]

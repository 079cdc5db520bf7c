"""The audit of a run of a recipe: its data and its settings are found by its folder."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfkit import hub, predictions, transfer
from tfkit.audit.again import head_again
from tfkit.audit.attacks import check_names
from tfkit.audit.audit import DEFAULT_ATTACKS, audit, claim
from tfkit.audit.lira import lira
from tfkit.audit.result import Audit
from tfkit.audit.scores import Attack
from tfkit.audit.secrets import Exposure, exposure
from tfkit.config import TextColumns
from tfkit.config.texts import LIGHT
from tfkit.data import Splits
from tfkit.errors import ConfigError, RunError
from tfkit.hub import Backbone, TextEncoder
from tfkit.run import Run

HEAD_STAGES = ("head", "private")


def audit_recipe(
    run: Run,
    config: Any,
    *,
    attacks: Sequence[str] = DEFAULT_ATTACKS,
    shadows: int = 0,
    canaries: int = 0,
    seed: int = 0,
) -> Audit:
    """Attack the model of a run of `transfer_image`, `transfer_text` or `train_private`; arguments and errors as of
    `audit`.

    Args:
      run: finished.
      config: of the recipe that made it: an `ImageConfig` or `TextColumns`, and a `TransferConfig` or `PrivateConfig`.
      attacks: of `tfkit.audit.ATTACKS`.
      shadows: models for LiRA, which takes the head on stored features for the whole model; 0: none.
      canaries: codes that a head is trained on anew, for each of 1, 4 and 16 insertions; 0: none.
      seed: of lots and of attackers, of digits and classes.

    Returns:
      As of `audit`; its data are read again by the configuration.
    """
    check_names(tuple(attacks))
    if not run.finished:
        raise RunError(f"{run.path} has not come to its end. The command that began it goes on with it.")
    if canaries and not (isinstance(config, TextColumns) and config.of_texts):
        raise ConfigError(
            f"{run.path} is a run of images; --canaries puts sentences with codes among texts.\n  Leave it out."
        )
    for option, what in {"shadows": "each shadow model", "canaries": "training it anew with them"}.items():
        if {"shadows": shadows, "canaries": canaries}[option] and not _is_head_alone(config, run):
            raise ConfigError(
                f"{run.path} trained more than a head on stored features: {what} would take as long as it did."
                f"\n  Leave --{option} out."
            )
    batch = config.global_batch_size or 1
    if getattr(config, "model_handle", None) == LIGHT:
        return audit(run, transfer.load_texts(config, global_batch_size=batch), attacks=attacks, seed=seed)
    backbone, splits = transfer.load(config, global_batch_size=batch, trainable=False)
    further: Callable[..., list[Attack]] | None = None
    if shadows:
        further = functools.partial(_shadowed, config, backbone, splits, shadows=shadows, seed=seed)
    secrets: Callable[[], Exposure] | None = None
    if canaries and isinstance(backbone, TextEncoder):
        secrets = functools.partial(_exposed, run, config, backbone, splits, canaries=canaries, seed=seed)
    return audit(run, splits, attacks=attacks, seed=seed, further=further, secrets=secrets)


def _is_head_alone(config: Any, run: Run) -> bool:
    more = any(stage not in HEAD_STAGES for stage in run.history.get("stage", []))
    augmented = getattr(config, "augment", "none") != "none"
    return bool(config.features) and not more and not augmented


def _exposed(
    run: Run, config: Any, encoder: TextEncoder, splits: Splits, *, canaries: int, seed: int
) -> Exposure:
    claimed = claim(run)
    return exposure(
        encoder,
        hub.extract(encoder, splits).splits,
        fit=lambda pool: head_again(config, encoder, pool, seed=seed),
        canaries=canaries,
        epsilon=claimed[0] if claimed else None,
        seed=seed,
    )


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
        trained = head_again(config, backbone, pool, seed=seed)
        return predictions.evaluate(trained, pool).probabilities

    labels = splits.source.labels[indices]
    return [lira(target, labels, is_member, shadow=shadow, shadows=shadows, seed=seed)]

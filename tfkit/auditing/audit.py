"""The audit of a run of a recipe: its data and its settings are found by its folder.

What an audit found, as values, as files and in words.

The head of a run, trained once more on other examples: for what compares models with each other.

The audit of a run folder: attackers on its exported model, set beside what the run claims.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfkit import hub
from tfkit.auditing.attacks import Attack, LowerBound, attack, check_names, lira, lower_bound
from tfkit.auditing.exposure import Exposure, exposure
from tfkit.data.splits import Splits
from tfkit.distribution import strategies
from tfkit.environment import files, packages
from tfkit.errors import CheckError, ConfigError, DataError, RunError
from tfkit.hub.images import Backbone
from tfkit.hub.texts import TextEncoder
from tfkit.metrics import evaluate
from tfkit.privacy.ledger import check_data, is_private
from tfkit.reporting.tensorboard import write_audit
from tfkit.run import AUDIT, METRICS, PRIVACY, Run
from tfkit.settings.options import PrivateConfig, TextColumns
from tfkit.training.export import predict
from tfkit.training.loop import train
from tfkit.training.stage import Stage, class_weight
from tfkit.transfer.fine_tuning import build_head
from tfkit.transfer.load import load
from tfkit.transfer.private import train_private_head

if TYPE_CHECKING:
    from tfkit.data.splits import Splits
    from tfkit.environment.stack import keras
    from tfkit.hub.images import Backbone
    from tfkit.hub.texts import TextEncoder

BINS = 40
CURVE_POINTS = 201
LOW_FALSE = {"1_percent": 0.01, "0.1_percent": 0.001}
FEWEST_FALSE = 1
PACKAGES = ("tensorflow", "tensorflow-privacy", "tensorflow-empirical-privacy", "scikit-learn", "numpy")


@dataclass(frozen=True, kw_only=True, eq=False)
class Audit:
    """What attackers found out.

    Attributes:
      attacks: one for each attacker.
      bound: the lower bound on epsilon.
      claimed: epsilon and delta of privacy.json; None where nothing is claimed.
      examples: how many members, and as many others, were attacked.
      seed: of lots, halves and attackers.
      exposure: of codes among the training texts; None where it was not measured.
    """

    attacks: list[Attack]
    bound: LowerBound
    claimed: tuple[float, float] | None
    examples: int
    seed: int
    exposure: Exposure | None = None

    @property
    def best(self) -> Attack:
        """The attacker with the largest AUC."""
        return max(self.attacks, key=lambda attack: attack.auc)

    @property
    def refuted(self) -> bool:
        """Whether the claim is below what was measured."""
        return self.claimed is not None and self.bound.epsilon > self.claimed[0]

    @property
    def verdict(self) -> str:
        """In words, and no more than was found."""
        best, (low, high), bound = self.best, self.best.auc_interval, self.bound
        found = (
            f"The attacker that did best ({best.name}) has an AUC of {best.auc:.3f} (95 % interval {low:.3f} to"
            f" {high:.3f}; 0.5 is a coin). The lower bound on epsilon is {bound.epsilon:.3g} (95 % confidence;"
            f" {bound.attack}: {bound.right} of {bound.guesses} guesses right)"
        )
        return self._concluded(found)

    def _concluded(self, found: str) -> str:
        if self.claimed is None:
            return f"{found}; the run claims none."
        if self.refuted:
            return f"{found}: the claimed {self.claimed[0]:.3g} is refuted."
        return (
            f"{found}, which does not contradict the claimed {self.claimed[0]:.3g}. An audit that finds nothing proves"
            " nothing: stronger attackers may exist."
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as in audit.json."""
        bound = self.bound
        delta = self.claimed[1] if self.claimed else 0.0
        return {
            "verdict": self.verdict,
            "refuted": self.refuted,
            "claimed_epsilon": self.claimed[0] if self.claimed else None,
            "claimed_delta": self.claimed[1] if self.claimed else None,
            "epsilon_lower_bound": bound.epsilon,
            "confidence": bound.confidence,
            "measured_with": {
                "attack": bound.attack,
                "right": bound.right,
                "guesses": bound.guesses,
                "examples": bound.examples,
            },
            "members": self.examples,
            "others": self.examples,
            "seed": self.seed,
            "versions": {name: packages.version(name) for name in ("tfkit", *PACKAGES)},
            "attacks": {one.name: _of_attack(one, delta) for one in self.attacks},
            "exposure": self.exposure.as_dict() if self.exposure else None,
        }

    def published(self) -> dict[str, Any]:
        """Plain values for the folder of a private run: nothing finer than a hundredth, no count, no curve.

        They are measured on training examples without noise: of exact ones somebody who knows all examples but one
        could tell whether that one was there.
        """
        best, bound = self.best, _down(self.bound.epsilon)
        low, high = best.auc_interval
        attacks = {
            one.name: {
                "auc": round(one.auc, 2),
                "auc_interval": [round(value, 2) for value in one.auc_interval],
                "advantage": round(one.advantage, 2),
            }
            for one in self.attacks
        }
        found = (
            f"The attacker that did best ({best.name}) has an AUC of {best.auc:.2f} (95 % interval {low:.2f} to"
            f" {high:.2f}; 0.5 is a coin). The lower bound on epsilon is {bound:.2g} (95 % confidence)"
        )
        whole = self.as_dict()
        kept = ("refuted", "claimed_epsilon", "claimed_delta", "confidence", "versions")
        return {
            "verdict": self._concluded(found),
            **{name: whole[name] for name in kept},
            "epsilon_lower_bound": bound,
            "attacks": attacks,
            "exposure": _rounded(whole["exposure"]),
        }


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    return round(value, 2) if isinstance(value, float) else value


def _down(value: float) -> float:
    """To a hundredth, and still a lower bound."""
    return math.floor(100 * value) / 100


def _of_attack(attack: Attack, delta: float) -> dict[str, Any]:
    found = {
        f"true_positives_at_{name}_false": attack.found(false=share)
        for name, share in LOW_FALSE.items()
        if share * len(attack.others) >= FEWEST_FALSE
    }
    return {
        "auc": attack.auc,
        "auc_interval": list(attack.auc_interval),
        "advantage": attack.advantage,
        **found,
        "epsilon_lower_bound": lower_bound([attack], delta=delta).epsilon,
        "judged_members": len(attack.members),
        "judged_others": len(attack.others),
        "roc": _curve(attack),
        "histogram": _histogram(attack),
    }


def _curve(attack: Attack) -> dict[str, list[float]]:
    """The receiver operating characteristic, at no more points than a picture shows."""
    false, true = attack.roc
    kept = np.unique(np.linspace(0, len(false) - 1, CURVE_POINTS).round().astype(int))
    return {"false": false[kept].tolist(), "true": true[kept].tolist()}


def _histogram(attack: Attack) -> Mapping[str, list[float]]:
    """How many members and others have which score; what is far out is counted in the outer bins."""
    low, high = np.quantile(np.concatenate([attack.members, attack.others]), [0.005, 0.995])
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    members, others = (
        np.histogram(np.clip(scores, edges[0], edges[-1]), edges)[0].tolist()
        for scores in (attack.members, attack.others)
    )
    return {"edges": edges.tolist(), "members": members, "others": others}


def head_again(config: Any, backbone: Backbone | TextEncoder, pool: Splits, *, seed: int) -> keras.Model:
    """A head with the run's own settings, private or not; nothing of its training is left on disk.

    Args:
      config: of the recipe that made the run: a `TransferConfig` or a `PrivateConfig`.
      backbone: that the features are of.
      pool: of features, with the training split in place.
      seed: of what is drawn, but for the noise of private training.

    Returns:
      Features float32 [b, d] to logits float32 [b, classes], compiled.
    """
    examples = len(pool.indices["train"])
    with tempfile.TemporaryDirectory() as folder, Run.create(Path(folder) / "run", config={}) as run:
        if isinstance(config, PrivateConfig):
            # What suited the run's own number of examples may be too large for fewer of them, or for more.
            batch = min(config.global_batch_size, examples) if config.global_batch_size else None
            delta = config.delta if config.delta and config.delta < 1 / examples else None
            own = dataclasses.replace(config, delta=delta, global_batch_size=batch, seed=seed)
            strategy = strategies.strategy(own.strategy)
            return train_private_head(run, backbone, pool, own, strategy=strategy, verbose=0)[0].model
        weights = class_weight(pool, when=config.class_weights)
        stage = Stage(
            epochs=config.epochs, patience=config.patience, class_weight=weights, seed=seed, verbose=0
        )
        return train(build_head(config, backbone, pool), pool, stage, run=run).model


DEFAULT_ATTACKS = ("threshold", "logistic")
FEWEST = 20


def audit(
    run: Run | str | Path,
    splits: Splits,
    *,
    attacks: Sequence[str] = DEFAULT_ATTACKS,
    seed: int = 0,
    further: Callable[[np.ndarray, np.ndarray, np.ndarray], list[Attack]] | None = None,
    secrets: Callable[[], Exposure] | None = None,
) -> Audit:
    """Attack the exported model of a run with its own training and test examples.

    What is found holds as far as training and test examples are alike but for the training: splits that tfkit made
    are; folders `train/` and `test/` that were filled in different ways differ in more than that, and look like a leak.

    Args:
      run: finished; it gets audit.json, metrics `audit/...` and pictures in TensorBoard.
      splits: that it was trained on: of each class as many training as test examples are taken, by lot.
      attacks: of `tfkit.auditing.ATTACKS`.
      seed: of lots, and of attackers that learn.
      further: attackers of your own, from the indices [n] of the examples, who is a member (bool [n]), and what the
        model says of them [n, c].
      secrets: measures what codes among the training texts leave in a model; see `tfkit.auditing.exposure`.

    Returns:
      The attacks, the lower bound, and what was said of them; audit.json holds the same.

    Raises:
      ConfigError: there is no such attacker.
      DataError: these are not the data of the run, or too few.
      RunError: the run holds no exported model.
      CheckError: the lower bound is above the epsilon that the run claims. Everything is written before.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    check_names(tuple(attacks))
    claimed = claim(run)
    check_data(run, splits)
    pair = _by_lot(splits, seed=seed)
    model = run.model
    said = [predict(model, splits, indices) for indices in pair]
    if not all(np.isfinite(probabilities).all() for probabilities in said):
        raise CheckError(f"{run.path} gives probabilities that are no numbers: its training went wrong.")
    labels = splits.source.labels
    done = attack(
        tuple(attacks), members=(said[0], labels[pair[0]]), others=(said[1], labels[pair[1]]), seed=seed
    )
    count = len(pair[0])
    if further is not None:
        done += further(np.concatenate(pair), np.arange(2 * count) < count, np.concatenate(said))
    bound = lower_bound(done, delta=claimed[1] if claimed else 0.0)
    result = Audit(
        attacks=done,
        bound=bound,
        claimed=claimed,
        examples=count,
        seed=seed,
        exposure=secrets() if secrets else None,
    )
    _write(run, result)
    if result.refuted:
        raise CheckError(
            f"{run.path} fails the audit. {result.verdict}\n"
            "  Do not publish the model: find out what its training did that privacy.json does not say."
        )
    return result


def claim(run: Run) -> tuple[float, float] | None:
    """The epsilon and the delta that a run claims in privacy.json; None where it claims none.

    Raises:
      RunError: the file is damaged.
    """
    said = run.read(PRIVACY)
    if not said.get("private", True) or said.get("epsilon") is None:
        return None
    try:
        return float(said["epsilon"]), float(said["delta"])
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{run.path / PRIVACY} claims an epsilon and no delta, or none that is a number ({error!r})."
            "\n  It is not as a private training wrote it: nothing can be set beside it."
        ) from error


def _by_lot(splits: Splits, *, seed: int) -> list[np.ndarray]:
    """Indices of members and of as many others, of each class as many."""
    chance = np.random.default_rng(seed)
    chosen: list[list[np.ndarray]] = [[], []]
    for label in range(len(splits.class_names)):
        of_class = [
            indices[splits.source.labels[indices] == label]
            for indices in (splits.indices["train"], splits.indices["test"])
        ]
        count = min(map(len, of_class))
        for place, indices in enumerate(of_class):
            chosen[place].append(chance.choice(indices, count, replace=False))
    pair = [np.sort(np.concatenate(indices)) for indices in chosen]
    if len(pair[0]) < FEWEST:
        raise DataError(
            f"{splits.origin} has {len(pair[0])} training examples with as many test examples of the same classes;"
            f" at least {FEWEST} are needed to attack."
        )
    return pair


def _write(run: Run, result: Audit) -> None:
    private = is_private(run)
    content = result.published() if private else result.as_dict()
    files.write_json(run.path / AUDIT, content)
    # Those of attackers of an earlier audit are no longer true.
    others = {name: value for name, value in run.metrics.items() if not name.startswith("audit/")}
    files.write_json(run.path / METRICS, others)
    numbers = {"audit/epsilon_lower_bound": content["epsilon_lower_bound"]}
    for name, found in content["attacks"].items():
        numbers[f"audit/{name}_auc"] = found["auc"]
        numbers[f"audit/{name}_advantage"] = found["advantage"]
    if content["exposure"]:
        for times, of in content["exposure"]["insertions"].items():
            numbers[f"audit/exposure_{times}_bits"] = of["mean_bits"]
    run.record(numbers)
    if not private:
        write_audit(run.logdir, content["attacks"])


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
      attacks: of `tfkit.auditing.ATTACKS`.
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
    backbone: Any
    backbone, splits = load(config, global_batch_size=batch)
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
        return evaluate(trained, pool).probabilities

    labels = splits.source.labels[indices]
    return [lira(target, labels, is_member, shadow=shadow, shadows=shadows, seed=seed)]

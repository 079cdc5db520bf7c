"""What an audit found, as values, as files and in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfkit import packages
from tfkit.audit.bound import LowerBound, lower_bound
from tfkit.audit.scores import Attack
from tfkit.audit.secrets import Exposure

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

"""How well one attacker tells members from others."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Scores(NamedTuple):
    """What an attacker thinks of examples; larger means a member."""

    members: np.ndarray
    """float64 [n], of training examples."""

    others: np.ndarray
    """float64 [m], of examples that training has not seen."""


def halves(members: int, others: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Which members and which others belong to the choosing half, by lot: bool [members], bool [others]."""
    chance = np.random.default_rng(seed)
    first, second = (chance.permutation(count) < count // 2 for count in (members, others))
    return first, second


@dataclass(frozen=True, kw_only=True, eq=False)
class Attack:
    """One attacker's success.

    Attributes:
      name: of `tfkit.audit.ATTACKS`, or "lira".
      choosing: of the half of the examples from which the attacker may learn, and by which thresholds are chosen.
      measured: of the other half, of which nothing was known then.
      learned: whether it learnt from the choosing half who is a member: then only the other half judges it.
    """

    name: str
    choosing: Scores
    measured: Scores
    learned: bool = False

    @classmethod
    def by_rule(cls, name: str, members: np.ndarray, others: np.ndarray, *, seed: int) -> Attack:
        """An attacker that follows a rule and has learnt nothing about who is a member."""
        scores = (np.asarray(members, np.float64).ravel(), np.asarray(others, np.float64).ravel())
        choosing = halves(*map(len, scores), seed=seed)
        return cls(
            name=name,
            choosing=Scores(*(values[half] for values, half in zip(scores, choosing, strict=True))),
            measured=Scores(*(values[~half] for values, half in zip(scores, choosing, strict=True))),
        )

    @property
    def members(self) -> np.ndarray:
        """float64 [n], scores of the training examples by which the attacker is judged."""
        return self._judged.members

    @property
    def others(self) -> np.ndarray:
        """float64 [m], of examples that training has not seen."""
        return self._judged.others

    @property
    def auc(self) -> float:
        """Probability that a member's score is above another's; 0.5 is a coin."""
        from sklearn.metrics import roc_auc_score

        return float(roc_auc_score(*self._labelled))

    @property
    def auc_interval(self) -> tuple[float, float]:
        """The 95 % interval of the AUC: all values from which it is less than 1.96 standard deviations away.

        Source: Newcombe 2006 (doi:10.1002/sim.2324), with the variance of Hanley and McNeil 1982.
        """
        from scipy.optimize import brentq

        auc, members, others = self.auc, len(self.members), len(self.others)

        def deviation(value: float) -> float:
            of_members, of_others = value / (2 - value), 2 * value**2 / (1 + value)
            variance = value * (1 - value)
            variance += (members - 1) * (of_members - value**2) + (others - 1) * (of_others - value**2)
            return 1.96 * math.sqrt(max(variance, 0.0) / (members * others))

        inside = min(
            max(auc, 1e-6), 1 - 1e-6
        )  # at 0 and 1 the deviation is nothing, which is no end of an interval
        low = 0.0 if auc == 0 else brentq(lambda value: auc - value - deviation(value), 0, inside)
        high = 1.0 if auc == 1 else brentq(lambda value: value - auc - deviation(value), inside, 1)
        return float(low), float(high)

    @property
    def roc(self) -> tuple[np.ndarray, np.ndarray]:
        """False and true positive rates, both rising from 0 to 1."""
        from sklearn.metrics import roc_curve

        false, true, _ = roc_curve(*self._labelled, drop_intermediate=False)
        return false, true

    @property
    def advantage(self) -> float:
        """The largest difference of true and false positive rate."""
        false, true = self.roc
        return float((true - false).max())

    def found(self, *, false: float) -> float:
        """The share of members found where this share of the others is taken for members (Carlini et al. 2022)."""
        wrong, right = self.roc
        return float(right[wrong <= false].max())

    @property
    def _judged(self) -> Scores:
        if self.learned:
            return self.measured
        return Scores(*(np.concatenate(pair) for pair in zip(self.choosing, self.measured, strict=True)))

    @property
    def _labelled(self) -> tuple[np.ndarray, np.ndarray]:
        labels = np.concatenate([np.ones(len(self.members)), np.zeros(len(self.others))])
        return labels, np.concatenate([self.members, self.others])

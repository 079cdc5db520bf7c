"""A lower bound on epsilon from how well attackers tell members from others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class LowerBound:
    """What was measured on the examples that were not used to choose how to measure.

    Attributes:
      epsilon: any (epsilon, delta) guarantee that holds is at least this large, with the confidence below; 0 where
        nothing was found.
      attack: the attacker that was chosen.
      guess: "member" or "other": which of the two the attacker says at one side of its threshold.
      right: share of those of whom it was right to say so, with a bound from below.
      wrong: share of the others of whom it was said too, with a bound from above.
    """

    epsilon: float
    attack: str
    guess: str
    right: tuple[float, float]
    wrong: tuple[float, float]
    confidence: float = CONFIDENCE


def lower_bound(
    scores: Mapping[str, tuple[np.ndarray, np.ndarray]], *, delta: float = 0.0, seed: int = 0
) -> LowerBound:
    """The largest epsilon that the scores refute everything below of.

    For every test of membership, epsilon is at least log((TPR - delta) / FPR), and so is the same for the test that
    looks for the others (Kairouz et al. 2015, arXiv:1311.0776). Attacker, side and threshold are chosen on one half
    of the examples; both rates are then measured on the other half alone, with Clopper-Pearson intervals whose
    errors add up to 5 %. Choosing and measuring on the same examples would find epsilon in pure chance.

    Args:
      scores: attacker to (of members [n], of others [m]), float; larger means a member.
      delta: of the guarantee that is tested.
      seed: of the halves.
    """
    chance = np.random.default_rng(seed)
    halves = []
    sizes = [len(values) for values in next(iter(scores.values()))]
    for size in sizes:
        order = chance.permutation(size)
        halves.append((order[: size // 2], order[size // 2 :]))
    best = (-math.inf, "", "", 0.0)
    for name, (members, others) in scores.items():
        for guess, (positive, negative) in _sides(members[halves[0][0]], others[halves[1][0]]).items():
            thresholds = np.unique(np.quantile(np.concatenate([positive, negative]), np.linspace(0, 1, 201)))
            found, *_ = _epsilons(positive, negative, thresholds, delta)
            place = int(found.argmax())
            best = max(best, (found[place], name, guess, thresholds[place]), key=lambda entry: entry[0])
    _, name, guess, threshold = best
    members, others = scores[name]
    positive, negative = _sides(members[halves[0][1]], others[halves[1][1]])[guess]
    found, right, wrong = _epsilons(positive, negative, np.array([threshold]), delta)
    return LowerBound(
        epsilon=max(float(found[0]), 0.0),
        attack=name,
        guess=guess,
        right=(float(right[0][0]), float(right[1][0])),
        wrong=(float(wrong[0][0]), float(wrong[1][0])),
    )


def _sides(members: np.ndarray, others: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {"member": (members, others), "other": (-others, -members)}


def _epsilons(
    positive: np.ndarray, negative: np.ndarray, thresholds: np.ndarray, delta: float
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Epsilon, the rate among the positive and its lower end, that of the negative and its upper, by threshold."""
    from statsmodels.stats.proportion import proportion_confint

    hits, slips = (
        len(values) - np.searchsorted(np.sort(values), thresholds, side="left")
        for values in (positive, negative)
    )
    # Two one-sided intervals share what may go wrong; statsmodels counts both sides of each.
    low = proportion_confint(hits, len(positive), alpha=1 - CONFIDENCE, method="beta")[0]
    high = proportion_confint(slips, len(negative), alpha=1 - CONFIDENCE, method="beta")[1]
    with np.errstate(divide="ignore", invalid="ignore"):
        epsilon = np.where(low > delta, np.log(np.maximum(low - delta, 0) / high), -np.inf)
    return epsilon, (hits / len(positive), low), (slips / len(negative), high)

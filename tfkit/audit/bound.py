"""A lower bound on epsilon from how well attackers tell members from others, in one training run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfkit.audit.scores import Attack, Scores

CONFIDENCE = 0.95
LARGEST = 100.0
CANDIDATES = 40


@dataclass(frozen=True, kw_only=True)
class LowerBound:
    """What was measured on the examples that were not used to choose how to measure.

    Attributes:
      epsilon: no smaller epsilon can hold, with the confidence below; 0 where nothing was found.
      attack: the attacker that was chosen.
      guesses: of how many examples it said whether they are members.
      right: how often it was right.
      examples: of how many it could have said it: half of all.
      confidence: with which the bound holds, 0.95.
    """

    epsilon: float
    attack: str
    guesses: int
    right: int
    examples: int
    confidence: float = CONFIDENCE


def lower_bound(attacks: Sequence[Attack], *, delta: float = 0.0) -> LowerBound:
    """The largest epsilon that the attackers refute.

    Who trusts an attacker's highest scores and takes them for members, and its lowest for others, is right no more
    often than by so many tosses of a coin that falls right with probability e^epsilon / (1 + e^epsilon), even though
    all examples went into one training and may have influenced each other (Steinke, Nasr and Jagielski 2023,
    "Privacy Auditing with One (1) Training Run", arXiv:2305.08846). Attacker and thresholds are chosen on one half of
    the examples and the guesses counted on the other: choosing and counting on the same ones would find epsilon in
    pure chance.

    Args:
      attacks: on the same examples, half of them members, with the same halves.
      delta: of the guarantee that is tested.

    Returns:
      The bound, at 95 % confidence; 0 where nothing is refuted.
    """
    chosen, (_, low, high) = max(
        ((attack, _choose(attack.choosing)) for attack in attacks), key=lambda pair: pair[1][0]
    )
    guesses, right = (int(count) for count in _count(chosen.measured, low, high))
    examples = sum(map(len, chosen.measured))
    return LowerBound(
        epsilon=refuted_epsilon(right, guesses, examples=examples, delta=delta),
        attack=chosen.name,
        guesses=guesses,
        right=right,
        examples=examples,
    )


def refuted_epsilon(right: int, guesses: int, *, examples: int, delta: float) -> float:
    """The largest epsilon for which so many right guesses have a probability of at most 5 %.

    Args:
      right: guesses that are right.
      guesses: those made; the attacker kept silent about the other examples.
      examples: of which each was a member with probability 1/2.
      delta: of the guarantee.
    """
    low, high = 0.0, LARGEST
    if _probability(right, guesses, low, examples, delta) > 1 - CONFIDENCE:
        return 0.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        refuted = _probability(right, guesses, middle, examples, delta) <= 1 - CONFIDENCE
        low, high = (middle, high) if refuted else (low, middle)
    return low


def _probability(right: int, guesses: int, epsilon: float, examples: int, delta: float) -> float:
    """Of being right so often or more, at most: theorem 5.2 of Steinke et al."""
    from scipy.stats import binom

    coin = 1 / (1 + math.exp(-epsilon))
    tail = float(binom.sf(right - 1, guesses, coin))
    if delta == 0 or right == 0:
        return tail
    # What one failure of the guarantee, of probability delta an example, can add: it makes i guesses right.
    near = np.cumsum(binom.pmf(np.arange(right - 1, -1, -1), guesses, coin)) / np.arange(1, right + 1)
    return min(tail + 2 * examples * delta * float(near.max()), 1.0)


def _choose(scores: Scores) -> tuple[float, float, float]:
    """The epsilon that looks best, and between which scores nothing is guessed to reach it."""
    from scipy.stats import beta

    ranked = np.sort(np.concatenate(scores))
    counts = np.unique(np.geomspace(1, len(ranked), CANDIDATES).astype(int))
    lows = np.append(ranked[counts - 1], -np.inf)
    highs = np.append(ranked[len(ranked) - counts], np.inf)
    low, high = (grid.ravel() for grid in np.meshgrid(lows, highs))
    apart = low < high
    low, high = low[apart], high[apart]
    guesses, right = _count(scores, low, high)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = beta.ppf(1 - CONFIDENCE, right, guesses - right + 1)
        epsilon = np.where(right > 0, np.log(share / (1 - share)), -np.inf)
    best = int(epsilon.argmax())
    return float(epsilon[best]), float(low[best]), float(high[best])


def _count(scores: Scores, low: Any, high: Any) -> tuple[Any, Any]:
    """How many guesses there are, and how many are right, for pairs of thresholds."""
    members, others = (np.sort(values) for values in scores)
    hits, slips = (len(values) - np.searchsorted(values, high, side="left") for values in (members, others))
    misses, rejected = (np.searchsorted(values, low, side="right") for values in (members, others))
    return hits + slips + misses + rejected, hits + rejected

"""Probabilities that mean something: the temperature of a classifier, and sets of classes with a chosen coverage.

A temperature divides the logits, so that what is said with 90 % is right nine times of ten; which class is the most
probable one does not change. Split conformal sets hold the true class as often as was asked for, on examples of the same
kind as those that the scores come from, however good the model is.

Source: Guo et al. 2017 (arXiv:1706.04599); Vovk, Gammerman and Shafer 2005; Angelopoulos and Bates 2021
(arXiv:2107.07511).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from tfkit.errors import DataError, UsageError

__all__ = [
    "conformal_scores", "expected_calibration_error", "fit_temperature", "prediction_sets", "with_temperature",
]  # fmt: skip

BINS = 15
LOWEST, HIGHEST = 0.05, 20.0
DECIMALS = 6


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature at which the mean cross-entropy of these examples is lowest.

    Args:
      logits: float [n, c], or logarithms of probabilities, which are logits too; of examples that were not trained on.
      labels: int [n], the true classes.

    Returns:
      A number in [0.05, 20], of four digits: above 1 where the model was too sure. 1 where no example is a mistake:
      surer would seem better without end.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    values, truth = np.asarray(logits, np.float64), np.asarray(labels)
    if (values.argmax(axis=1) == truth).all():
        return 1.0

    def cross_entropy(log_temperature: float) -> float:
        scaled = log_softmax(values / math.exp(log_temperature), axis=1)
        return -float(scaled[np.arange(len(truth)), truth].mean())

    found = minimize_scalar(cross_entropy, bounds=(math.log(LOWEST), math.log(HIGHEST)), method="bounded")
    return float(f"{math.exp(found.x):.4g}")


def with_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Return the probabilities, float32 [n, c], that a model gives once its logits are divided by a temperature.

    Args:
      probabilities: float32 [n, c], at a temperature of 1.
      temperature: above 0; its inverse takes it back.

    Raises:
      UsageError: the temperature is not above 0.
    """
    from scipy.special import softmax

    if not temperature > 0:
        raise UsageError(f"The temperature is {temperature:g}; it must be above 0. 1 changes nothing.")
    given = np.asarray(probabilities, np.float32)
    if temperature == 1:
        return given
    return softmax(_log(given) / temperature, axis=1).astype(np.float32)


def _log(probabilities: np.ndarray) -> np.ndarray:
    """Return logarithms, float64; of 0 that of the smallest number that float32 has."""
    smallest = float(np.finfo(np.float32).tiny)
    return np.log(np.maximum(np.asarray(probabilities, np.float64), smallest))


class Reliability(NamedTuple):
    """How often a classifier is right, by how sure it is.

    Attributes:
      confidence: float64 [bins], the mean probability of the predicted class of the examples in each bin.
      accuracy: float64 [bins], the share of them that is right; both are NaN in a bin without examples.
      examples: int64 [bins], how many there are.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    examples: np.ndarray

    @property
    def error(self) -> float:
        """Return the expected calibration error: the mean distance of the two, over the examples."""
        gaps = np.abs(self.confidence - self.accuracy) * self.examples
        return float(np.nansum(gaps) / self.examples.sum())


def reliability(probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS) -> Reliability:
    """Return how often the predicted class is right, in bins of equal width of its probability."""
    confidence, right = probabilities.max(axis=1).astype(np.float64), probabilities.argmax(axis=1) == labels
    places = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(places, minlength=bins)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(places, weights=one, minlength=bins) / counts for one in (confidence, right)]
    return Reliability(*means, counts)


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS) -> float:
    """Return by how much the probability of the predicted class misses the share that is right, on average.

    Args:
      probabilities: float [n, c].
      labels: int [n], the true classes.
      bins: of equal width, over the probability of the predicted class.

    Returns:
      A number in [0, 1]. Of few examples it is above 0 for a perfect model too.
    """
    return reliability(np.asarray(probabilities), np.asarray(labels), bins).error


def conformal_scores(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the sorted scores of examples that neither training nor temperature has seen, float64 [n].

    Args:
      probabilities: float32 [n, c], as the model gives them in use.
      labels: int [n], the true classes.

    Returns:
      1 less the probability of the true class, rounded up to six digits: a set is never smaller for the rounding.
    """
    of_truth = np.asarray(probabilities, np.float64)[np.arange(len(labels)), labels]
    return np.sort(np.ceil((1 - of_truth) * 10**DECIMALS) / 10**DECIMALS)


def prediction_sets(probabilities: np.ndarray, scores: np.ndarray, coverage: float) -> np.ndarray:
    """Return for each example which classes are in its set, bool [n, c].

    Sets hold the true class in `coverage` of all cases, on examples of the kind that the scores are of. A set of
    several classes says that the model cannot tell; an empty one that it is none of these, or like nothing it knows.

    Args:
      probabilities: float32 [n, c], as the model gives them.
      scores: float64 [m], of `conformal_scores`; run.read("calibration.json")["scores"].
      coverage: above 0 and below 1, such as 0.95.

    Raises:
      UsageError: the coverage is no such share.
      DataError: there are too few scores for it.
    """
    if not 0 < coverage < 1:
        raise UsageError(f"The coverage is {coverage:g}; it must be above 0 and below 1, such as 0.95.")
    count = len(scores)
    rank = _rank(count, coverage)
    if rank > count:
        needed = math.ceil(round(coverage / (1 - coverage), 9))
        raise DataError(
            f"A coverage of {coverage:g} needs the scores of {needed:,} examples; there are {count:,}.\n"
            f"  Ask for {math.floor(1000 * count / (count + 1)) / 1000:g} at most, or train with more validation"
            " examples: half of them give scores."
        )
    threshold = np.sort(np.asarray(scores, np.float64))[rank - 1]
    return 1 - np.asarray(probabilities, np.float64) <= threshold


def _rank(count: int, coverage: float) -> int:
    """Return which of the sorted scores, from 1, is the limit; rounded where 20 * 0.95 would be 19.000000000000004."""
    return math.ceil(round((count + 1) * coverage, 9))

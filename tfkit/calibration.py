"""Probabilities that mean something: the temperature of a classifier, and sets of classes with a chosen coverage.

A temperature divides the logits, so that what is said with 90 % is right nine times of ten; which class is the most
probable one does not change. Split conformal sets hold the true class as often as was asked for, on examples of the
kind that the scores come from, however good the model is.

Source: Guo et al. 2017 (arXiv:1706.04599); Vovk, Gammerman and Shafer 2005; Angelopoulos and Bates 2021
(arXiv:2107.07511).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np

from tfkit.data.splits import draw
from tfkit.errors import CheckError, UsageError
from tfkit.metrics import SMALLEST_NORMAL, Evaluation, share_interval
from tfkit.regression import conformal_quantile, examples_needed
from tfkit.run import CALIBRATION, Run
from tfkit.run_files import damaged

__all__ = [
    "calibrate", "conformal_scores", "expected_calibration_error", "fit_temperature", "prediction_sets",
    "with_temperature",
]  # fmt: skip

COVERAGES = (0.9, 0.95, 0.99)
FEWEST, FEWEST_FOR_TEMPERATURE = 19, 100
"""Validation examples: for a coverage of 0.95, and for halves of which one gives a temperature."""

FEWEST_MISTAKES = 5
"""With 2 mistakes of 133, temperatures of 1.35 and 1.5 raised the cross-entropy and the error of other examples."""

MOST_SCORES = 10_000

BINS = 15
LOWEST, HIGHEST = 0.05, 20.0
DECIMALS = 6


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature at which the mean cross-entropy of these examples is lowest.

    Args:
      logits: float [n, c], or logarithms of probabilities, which are logits too; of examples that were not trained on.
      labels: int [n], the true classes.

    Returns:
      A number in [0.05, 20], of four digits: above 1 where the model was too sure. 1 where fewer than 5 examples are
      mistakes: how sure of these it was is chance.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    values, truth = np.asarray(logits, np.float64), np.asarray(labels)
    if (values.argmax(axis=1) != truth).sum() < FEWEST_MISTAKES:
        return 1.0

    def compute_loss(log_temperature: float) -> float:
        log_probabilities = log_softmax(values / math.exp(log_temperature), axis=1)
        return -float(log_probabilities[np.arange(len(truth)), truth].mean())

    result = minimize_scalar(compute_loss, bounds=(math.log(LOWEST), math.log(HIGHEST)), method="bounded")
    return float(f"{math.exp(result.x):.4g}")


def with_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Return the probabilities that a model gives once its logits are divided by a temperature.

    Args:
      probabilities: float32 [n, c], at a temperature of 1.
      temperature: above 0; its inverse takes it back.

    Returns:
      float32 [n, c].

    Raises:
      UsageError: the temperature is not above 0.
    """
    from scipy.special import softmax

    if not temperature > 0:
        raise UsageError(f"The temperature is {temperature:g}; it must be above 0. 1 changes nothing.")
    values = np.asarray(probabilities, np.float32)
    if temperature == 1:
        return values
    return softmax(_log(values) / temperature, axis=1).astype(np.float32)


def _log(probabilities: np.ndarray) -> np.ndarray:
    """Return logarithms, float64; of 0 that of the smallest number that float32 has."""
    return np.log(np.maximum(np.asarray(probabilities, np.float64), SMALLEST_NORMAL))


class Reliability(NamedTuple):
    """Hold how often a classifier is right, by how sure it is.

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
    confidence, hits = probabilities.max(axis=1).astype(np.float64), probabilities.argmax(axis=1) == labels
    places = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(places, minlength=bins)
    with np.errstate(invalid="ignore"):
        confidence, accuracy = (np.bincount(places, x, minlength=bins) / counts for x in (confidence, hits))
    return Reliability(confidence, accuracy, counts)


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
    """Return for each example which classes are in its set.

    Sets hold the true class in `coverage` of all cases, on examples of the kind that the scores are of. A set of
    several classes says that the model cannot tell; an empty one that it is none of these, or like nothing it knows.

    Args:
      probabilities: float32 [n, c], as the model gives them.
      scores: float64 [m], of `conformal_scores`; run.read("calibration.json")["scores"].
      coverage: above 0 and below 1, such as 0.95.

    Returns:
      bool [n, c].

    Raises:
      UsageError: the coverage is no such share.
      DataError: there are too few scores for it.
    """
    return 1 - np.asarray(probabilities, np.float64) <= conformal_quantile(scores, coverage)


def calibrate(
    validation: Evaluation, test: Evaluation, *, seed: int = 0
) -> tuple[Evaluation, dict[str, Any]]:
    """Fit the temperature to one half of the validation split, take the scores of the other, and measure on the test.

    The halves are drawn, of each class one half. Of fewer than 100 examples all give scores, and the temperature is 1.

    Args:
      validation: of the validation split, at a temperature of 1; at least 19 examples.
      test: of the test split, likewise.
      seed: of the halves.

    Returns:
      The test split's evaluation at the temperature, of the same classes, and what calibration.json holds: see
      docs/manual/how-to/calibration.md.

    Raises:
      CheckError: an example would be classified otherwise.
    """
    labels = validation.labels
    order = np.lexsort((np.random.default_rng(seed).random(len(labels)), labels))
    fit, cal = (order[::2], order[1::2]) if len(order) >= FEWEST_FOR_TEMPERATURE else (order[:0], order)
    temperature = fit_temperature(_log(validation.probabilities[fit]), labels[fit])  # of none it is 1
    result = dataclasses.replace(test, probabilities=with_temperature(test.probabilities, temperature))
    confidence = np.take_along_axis(result.probabilities, test.predicted[:, np.newaxis], axis=1)[:, 0]
    if (confidence < result.probabilities.max(axis=1) - 1e-6).any():  # where two are equal, rounding decides
        raise CheckError(f"A temperature of {temperature} changes which class is the most probable one.")
    scores = conformal_scores(with_temperature(validation.probabilities[cal], temperature), labels[cal])
    scores = scores[draw(len(scores), MOST_SCORES, seed=seed)]
    content = {
        "temperature": temperature,
        "examples": {"temperature": len(fit), "scores": len(scores), "test": len(test.labels)},
        "ece_before": expected_calibration_error(test.probabilities, test.labels),
        "ece": expected_calibration_error(result.probabilities, test.labels),
        "nll_before": test.loss,
        "nll": result.loss,
        "coverage": {
            f"{coverage:g}": _measure_sets(result, prediction_sets(result.probabilities, scores, coverage))
            for coverage in COVERAGES
            if examples_needed(coverage) <= len(scores)
        },
        "scores": scores.tolist(),
    }
    return result, content


def _measure_sets(test: Evaluation, sets: np.ndarray) -> dict[str, Any]:
    """Return what sets, bool [n, c], are worth on these examples."""
    sizes, hits = sets.sum(axis=1), int(sets[np.arange(len(sets)), test.labels].sum())
    return {
        "measured": hits / len(sets),
        "interval": [*share_interval(hits, len(sets))],
        "mean_size": float(sizes.mean()),
        "empty_share": float((sizes == 0).mean()),
    }


def temperature_of(run: Run) -> float:
    """Return the temperature that is built into a run's exported model; 1 where it was not calibrated.

    Raises:
      RunError: calibration.json is damaged.
    """
    value = float(run.read(CALIBRATION).get("temperature", 1.0))
    if not LOWEST <= value <= HIGHEST:
        raise damaged(run.path / CALIBRATION, f"its temperature is {value:g}")
    return value


def numbers(content: dict[str, Any]) -> dict[str, float]:
    """Return calibration.json as metrics: `calibration/ece`, `calibration/coverage_95`..."""
    metrics = {name: content[name] for name in ("temperature", "ece_before", "ece", "nll_before", "nll")}
    for coverage, facts in content["coverage"].items():
        percent = f"{100 * float(coverage):g}"
        metrics[f"coverage_{percent}"] = facts["measured"]
        metrics |= {f"{name}_{percent}": facts[name] for name in ("mean_size", "empty_share")}
    return {f"calibration/{name}": value for name, value in metrics.items()}

"""Numbers: what a model says of them is worth, by their error and by how often an interval holds them."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tfkit.errors import DataError, UsageError
from tfkit.metrics import RESAMPLED, Resampled, share_interval, within_95

COVERAGES = (0.9, 0.95)
"""Of the intervals that are measured."""

DEGREES = (3.0, 5.0, 10.0, 30.0, math.inf)
"""Of freedom of Student's t distribution; with infinitely many it is the normal one."""

CLOSE, ROUNDING = 0.01, 1e-6
"""Of the spread of the predictions, and of the largest one: two that are nearer are the same answer."""

NORMAL_90 = 1.6449
"""Standard deviations by which an interval of 90 % goes beyond the mean."""

SMALLEST_ERROR = 1e-6
"""Of the largest one: no distribution is narrower, however many numbers are predicted exactly."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ValueEvaluation(Resampled):
    """Predicted numbers with their scales, and what they are worth.

    Attributes:
      labels: float64 [n], the true numbers.
      probabilities: float32 [n, 2], of each example mean and scale.
      class_names: one: what the number is called.
      quantiles: float64 [2], by how many scales an interval of each of `COVERAGES` goes beyond the mean.
      likelihood: float64 [2], degrees of freedom of the distribution, and what scales are multiplied by in it; NaN
        where nobody knows.
      centre: the mean of the training labels, which one would guess without a model; NaN where nobody may know.

    Example:
      >>> ages = ValueEvaluation(
      ...     labels=[20, 30, 70],
      ...     probabilities=[[22, 2], [29, 2], [50, 3]],
      ...     names=["a", "b", "c"],
      ...     class_names=["age"],
      ... )
      >>> round(ages.metrics()["test/mae"], 3), ages.covered(0.9), ages.mistake(2)
      (7.667, 2, '70, predicted 50 (45.1 to 54.9)')
    """

    quantiles: Any = (NORMAL_90, 1.96)
    likelihood: Any = (math.inf, 1.0)
    centre: Any = math.nan

    figures: ClassVar[tuple[str, ...]] = ("residuals",)
    columns: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        """Bring the fields to their types and check that they belong together."""
        for name in ("labels", "quantiles", "likelihood", "centre"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.float64))
        labels = self.labels
        super().__post_init__()
        object.__setattr__(self, "labels", labels)  # which are whole numbers of classes

    def _find_problems(self) -> list[str]:
        count, shapes = len(self.names), (self.labels.shape, self.probabilities.shape)
        settings = (self.quantiles.shape, self.likelihood.shape, self.centre.shape)
        if shapes != ((count,), (count, 2)) or not count or settings != ((2,), (2,), ()):
            return [f"numbers [n], means and scales [n, 2], n names are needed; found {shapes} and {count}."]
        faults = ~np.isfinite(self.probabilities).all(axis=1) | ~np.isfinite(self.labels.astype(float))
        faults |= self.probabilities[:, 1] <= 0
        return [f"{faults.sum()} examples have no finite mean or no scale above 0."] if faults.any() else []

    @property
    def predicted(self) -> np.ndarray:
        """Return the mean of each example: float64 [n]."""
        return self.probabilities[:, 0].astype(np.float64)

    @property
    def scales(self) -> np.ndarray:
        """Return the scale of each example: float64 [n]."""
        return self.probabilities[:, 1].astype(np.float64)

    @property
    def residuals(self) -> np.ndarray:
        """Return true number less predicted one: float64 [n]."""
        return self.labels - self.predicted

    @property
    def right(self) -> np.ndarray:
        """Return bool [n]: whether the interval of 90 % holds the true number."""
        return np.abs(self.residuals) <= self.quantiles[0] * self.scales

    @property
    def truth(self) -> np.ndarray:
        """Return bool [n, 0]: there are no classes."""
        return np.zeros((len(self.labels), 0), bool)

    def covered(self, coverage: float) -> int:
        """Return how many true numbers the interval of a coverage, one of `COVERAGES`, holds."""
        return int((np.abs(self.residuals) <= self.quantiles[COVERAGES.index(coverage)] * self.scales).sum())

    def agreement(self, probabilities: np.ndarray, *, close: float = CLOSE) -> float:
        """Return the share of examples with nearly the same mean by other outputs [n, 2]: within that of the spread."""
        # A scale that a model does not say is 1 in any unit: by its intervals it is in that of the labels.
        width = np.fmax(self.predicted.std(), self.quantiles[0] * self.scales.mean() / NORMAL_90)
        tolerance = close * width + ROUNDING * np.abs(self.predicted).max()
        return float(np.mean(np.abs(probabilities[:, 0] - self.predicted) <= tolerance))

    @property
    def score(self) -> float:
        """Return R2: the share of the variance that is explained; below 0 for what is worse than the mean."""
        return _score(self.labels, self.residuals)[0]

    @functools.cached_property
    def resampled(self) -> np.ndarray:
        """Return R2, MAE and RMSE of a thousand samples of the examples, float64 [1000, 3]; always the same ones."""
        rng, count = np.random.default_rng(0), len(self.labels)
        samples = (rng.integers(count, size=count) for _ in range(RESAMPLED))
        return np.array([_score(self.labels[rows], self.residuals[rows]) for rows in samples])

    def in_words(self, noun: str) -> str:
        """Return of how many the score is, of examples of that noun."""
        words = f"mean absolute error {np.abs(self.residuals).mean():.4g} on {len(self.labels):,} test {noun}"
        if not np.isnan(self.quantiles[0]):
            words += f"; the 90 % intervals contain {self.covered(0.9):,} of them"
        return words

    @property
    def loss(self) -> float:
        """Return the mean negative log-likelihood in nats."""
        return negative_log_likelihood(self.labels, self.probabilities, *self.likelihood)

    @property
    def counts(self) -> np.ndarray:
        """Return int64 [1]: how many examples there are."""
        return np.array([len(self.labels)])

    def worst(self, k: int) -> np.ndarray:
        """Return int64 [k or fewer]: the examples whose number is most scales off, the farthest first."""
        return np.argsort(-np.abs(self.residuals / self.scales), kind="stable")[:k]

    def shown_class(self, indices: np.ndarray) -> np.ndarray:
        """Return int64 [k]: the output that is the mean."""
        return np.zeros(len(indices), np.int64)

    def mistake(self, index: int) -> str:
        """Return one prediction in words: "3, predicted 4.1 (3.2 to 5)"."""
        mean, reach = self.predicted[index], self.quantiles[0] * self.scales[index]
        return f"{self.labels[index]:.3g}, predicted {mean:.3g} ({mean - reach:.3g} to {mean + reach:.3g})"

    def metrics(self, prefix: str = "test") -> dict[str, float]:
        """Return flat names to finite numbers: errors with intervals, coverage and width of the intervals."""
        count, scores = len(self.labels), _score(self.labels, self.residuals)
        numbers = {"examples": count, "nll": self.loss}
        for name, value, samples in zip(("r2", "mae", "rmse"), scores, self.resampled.T, strict=True):
            low, high = within_95(samples)
            numbers |= {name: value, f"{name}_low": low, f"{name}_high": high}
        for coverage, reach in zip(COVERAGES, self.quantiles, strict=True):
            if math.isnan(reach):  # of a model that says no scale, and nothing was measured
                continue
            hits, name = self.covered(coverage), f"coverage_{100 * coverage:g}"
            low, high = share_interval(hits, count)
            numbers |= {name: hits / count, f"{name}_low": low, f"{name}_high": high}
            numbers[f"mean_width_{100 * coverage:g}"] = float(2 * reach * self.scales.mean())
        _, numbers["mae_of_mean"], numbers["rmse_of_mean"] = _score(self.labels, self.labels - self.centre)
        return {f"{prefix}/{name}": float(value) for name, value in numbers.items() if np.isfinite(value)}


def _score(labels: np.ndarray, residuals: np.ndarray) -> tuple[float, float, float]:
    """Return R2, MAE and RMSE; R2 is NaN where all labels are one."""
    squares, spread = float(np.mean(residuals**2)), float(labels.var())
    return 1 - squares / spread if spread else math.nan, float(np.abs(residuals).mean()), math.sqrt(squares)


def negative_log_likelihood(labels: np.ndarray, outputs: np.ndarray, degrees: float, factor: float) -> float:
    """Return that of numbers [n] under means and scales [n, 2], its mean in nats; the factor multiplies scales."""
    from scipy import stats

    mean, scale = np.asarray(outputs, np.float64).T
    return -float(np.mean(stats.t.logpdf(labels, degrees, mean, scale * factor)))


def fit_likelihood(labels: np.ndarray, outputs: np.ndarray) -> tuple[float, float]:
    """Return degrees of freedom and factor of the scales under which these numbers are likeliest.

    Args:
      labels: float [n], of examples that were not trained on.
      outputs: float32 [n, 2], their means and scales.
    """
    from scipy.optimize import minimize_scalar

    # Between the smallest error and the largest one: of a model that says no scale they are in the unit of the labels.
    errors = np.abs(labels - outputs[:, 0]) / outputs[:, 1]
    if not (largest := float(errors.max())):
        return math.inf, 1.0
    bounds = math.log(max(float(errors.min()), SMALLEST_ERROR * largest)) - 1e-3, math.log(largest) + 1e-3

    def fit(degrees: float) -> tuple[float, float, float]:
        def compute_loss(log_factor: float) -> float:
            return negative_log_likelihood(labels, outputs, degrees, math.exp(log_factor))

        result = minimize_scalar(compute_loss, bounds=bounds, method="bounded", options={"xatol": 1e-3})
        return float(result.fun), degrees, float(math.exp(result.x))

    _, degrees, factor = min(map(fit, DEGREES))
    return degrees, float(f"{factor:.4g}")


def conformal_quantile(scores: Any, coverage: float) -> float:
    """Return by how many scales an interval goes beyond the mean, so that it holds the truth that often.

    Args:
      scores: float [m], |truth - mean| / scale of examples that neither training nor anything else has seen.
      coverage: above 0 and below 1.

    Raises:
      UsageError: the coverage is no such share.
      DataError: there are too few scores for it.

    Source: Lei et al. 2018 (arXiv:1604.04173), split conformal with scaled residuals.
    """
    if not 0 < coverage < 1:
        raise UsageError(f"The coverage is {coverage:g}; it must be above 0 and below 1, such as 0.95.")
    count = len(scores)
    if examples_needed(coverage) > count:
        raise DataError(
            f"A coverage of {coverage:g} needs the scores of {examples_needed(coverage):,} examples; there are"
            f" {count:,}.\n"
            f"  Ask for {math.floor(1000 * count / (count + 1)) / 1000:g} at most, or train with more validation"
            " examples: half of them give scores."
        )
    rank = math.ceil(round((count + 1) * coverage, 9))  # 20 * 0.95 may be 19.000000000000004
    return float(np.sort(np.asarray(scores, np.float64))[rank - 1])


def examples_needed(coverage: float) -> int:
    """Return how many scores a coverage needs at least."""
    return math.ceil(round(coverage / (1 - coverage), 9))

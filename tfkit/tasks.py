"""Tasks: what the labels of examples mean, and all that follows from it for the head, the loss and the measurement.

`Splits.task` says it of data, `Run.task` of a run. What differs between tasks is asked of them here.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tfkit import metrics
from tfkit.environment import stack
from tfkit.errors import ConfigError, DataError
from tfkit.metrics import Evaluation, LabelsEvaluation, OrderEvaluation
from tfkit.regression import COVERAGES, ValueEvaluation, conformal_quantile, fit_likelihood

FEWEST, FEWEST_FITTED, MOST_SCORES = 19, 50, 1000
"""Validation examples for intervals, for a half that chooses a distribution, and how many scores are kept."""

SEPARATOR = "|"
"""Between the labels of an example, where they are written as one text."""

_NUMBER = re.compile(r"[+-]?(\d+([.,]\d+)?|[.,]\d+)([eE][+-]?\d+)?%?")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d+)?%?")


def as_number(text: str) -> float | None:
    """Return the number that a text is, a decimal comma and a percent sign allowed; None where it is none."""
    return float(text.rstrip("%").replace(",", ".")) if _NUMBER.fullmatch(text) else None


def unclear_commas(texts: Iterable[str]) -> list[str]:
    """Return the numbers whose comma may be of thousands; none where another one's shows that it is of decimals."""
    commas = [text for text in texts if "," in text]
    return commas if all(map(_THOUSANDS.fullmatch, commas)) else []


@dataclass(frozen=True, kw_only=True)
class Classes:
    """One of several classes: labels int64 [n], a softmax.

    Attributes:
      name: of the task, in settings and in task.json.
      output: what an exported model gives, one of `tfkit.training.outputs.OUTPUTS`.
      score: the metric by which models are judged, without its prefix.
      share: the metric that `Evaluation.right` is the mean of, likewise.
      metric: what Keras measures beside the loss.
      exclusive: whether an example has one of several classes: these may have weights in the loss, and a temperature
        and prediction sets are defined.
      tunes: whether the validation split decides what turns outputs into answers.
      each: whether an exported model gives a number for each class, else mean and scale.
      noun: what a model tells apart, or says.
      labels: what a loss takes, in words.
      evaluated: what an evaluation of it is.
    """

    evaluated: ClassVar[type[Evaluation]] = Evaluation
    name: ClassVar[str] = "classes"
    output: ClassVar[str] = "probabilities"
    score: ClassVar[str] = "accuracy"
    share: ClassVar[str] = "accuracy"
    metric: ClassVar[str] = "accuracy"
    exclusive: ClassVar[bool] = True
    tunes: ClassVar[bool] = False
    each: ClassVar[bool] = True
    noun: ClassVar[str] = "classes"
    labels: ClassVar[str] = "class numbers, int64 [batch],"

    @property
    def score_name(self) -> str:
        """Return the score in words."""
        return self.score.replace("_f1", " F1").replace("r2", "R2")

    def units(self, classes: int) -> int:
        """Return how many numbers the last dense layer gives."""
        return classes

    def prepared(self, labels: np.ndarray, bounds: tuple[float, float] | None) -> Classes:
        """Return the task of these training labels; of numbers also of a range that is known without them."""
        return self

    def fits(self, units: int, classes: int) -> bool:
        """Return whether a user's own model may give so many numbers."""
        return units == classes or (units, classes) == (1, 2)

    def finish(self, values: Any, classes: int) -> Any:
        """Return what the model gives, of the last dense layer's numbers: logits, as they are."""
        return values

    def ending(self, units: int) -> tuple[str, str, str]:
        """Return the last activation, the name of its loss, and that loss as a class, of a model of so many units."""
        if units == 1:
            return "sigmoid", "binary_crossentropy", "BinaryCrossentropy"
        return "softmax", "sparse_categorical_crossentropy", "SparseCategoricalCrossentropy"

    def loss(self) -> Any:
        """Return the loss of logits."""
        return stack.keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def keras_metrics(self) -> list[Any]:
        """Return what `fit` measures of logits, beside the loss."""
        return [self.metric]

    def probabilities(self, outputs: Any, *, logits: bool, temperature: float = 1.0) -> Any:
        """Return what is exported of a model's outputs: see `tfkit.metrics.to_probabilities`."""
        return metrics.to_probabilities(outputs, logits=logits, temperature=temperature)

    def evaluation(self, outputs: np.ndarray, **examples: Any) -> Evaluation:
        """Return the evaluation of what `probabilities` gives for labelled examples."""
        return self.evaluated(probabilities=outputs, **self.measured_by(outputs), **examples)

    def measured_by(self, outputs: np.ndarray) -> dict[str, Any]:
        """Return what an evaluation of these outputs takes beside them: what the task has chosen."""
        return {}

    def tuned(self, validation: Evaluation) -> tuple[Classes, str]:
        """Return the task with what turns outputs into answers, chosen by the validation split, and a note on it."""
        return self, ""

    def judge(self, measured: Evaluation) -> Evaluation:
        """Return the same evaluation by what this task has chosen."""
        return dataclasses.replace(measured, **self.measured_by(measured.probabilities))

    def at(self, coverage: float) -> Classes:
        """Return the task with intervals of this coverage."""
        return self

    def counts(self, labels: np.ndarray, classes: int) -> np.ndarray:
        """Return int64 [classes]: how many of the labelled examples have each class."""
        return np.bincount(labels, minlength=classes)

    def strata(self, labels: np.ndarray, classes: int) -> np.ndarray:
        """Return int64 [n]: the group of each example, of which each is to be in every sample and split."""
        return labels

    def words(self, label: Any, class_names: Sequence[str]) -> str:
        """Return the label of one example as a text."""
        return str(class_names[label])

    def read(self, text: str | None, names: Sequence[str], cut: Callable[[str], Sequence[str]]) -> Any:
        """Return the label that a text says, as `Splits` have it; None where it says none of these.

        Args:
          text: of a cell, or a folder's name; None: there is nothing.
          names: of the classes.
          cut: makes of a text the labels that it holds.
        """
        return names.index(text) if text in names else None

    def answers(self, probabilities: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Return the columns of predictions that say what outputs [n, units] decide."""
        labels = np.array(names, object)[probabilities.argmax(axis=1)]
        return {"label": labels, "probability": probabilities.max(axis=1)}

    def close(self, probabilities: np.ndarray, tolerance: float) -> np.ndarray:
        """Return bool [n]: whether outputs that far away would decide otherwise."""
        second, first = np.partition(probabilities, -2, axis=1)[:, -2:].T
        return np.asarray(first - second <= 2 * tolerance)

    def sure(self, units: int) -> list[tuple[Any, np.ndarray]]:
        """Return labels that differ, each with float [units] of 0 and 1: the answer of who is sure of it."""
        if units == 1:
            return [(0, np.zeros(1)), (1, np.ones(1))]
        return [(label, np.eye(units)[label]) for label in sorted({0, 1, units - 1})]

    def describe(self) -> dict[str, Any]:
        """Return plain values, as in task.json."""
        return {"name": self.name, **dataclasses.asdict(self)}


@dataclass(frozen=True, kw_only=True)
class Labels(Classes):
    """Any of several labels: labels float32 [n, c] of 0 and 1, a sigmoid for each.

    Attributes:
      thresholds: [c], from which probability on an example has a label; none: 0.5 for all.
    """

    evaluated: ClassVar[type[Evaluation]] = LabelsEvaluation
    name: ClassVar[str] = "labels"
    noun: ClassVar[str] = "labels"
    output: ClassVar[str] = "sigmoid"
    score: ClassVar[str] = "micro_f1"
    share: ClassVar[str] = "subset_accuracy"
    metric: ClassVar[str] = "binary_accuracy"
    exclusive: ClassVar[bool] = False
    tunes: ClassVar[bool] = True
    labels: ClassVar[str] = "labels of 0 and 1, float32 [batch, labels],"

    thresholds: tuple[float, ...] = ()

    def fits(self, units: int, classes: int) -> bool:
        """Return whether a user's own model gives a number for each label."""
        return units == classes

    def ending(self, units: int) -> tuple[str, str, str]:
        """Return the last activation, the name of its loss, and that loss as a class."""
        return "sigmoid", "binary_crossentropy", "BinaryCrossentropy"

    def loss(self) -> Any:
        """Return the mean binary cross-entropy of logits."""
        return stack.keras.losses.BinaryCrossentropy(from_logits=True)

    def keras_metrics(self) -> list[Any]:
        """Return the share of right ones among all yes and no."""
        return [stack.keras.metrics.BinaryAccuracy(name=self.metric, threshold=0.0)]

    def probabilities(self, outputs: Any, *, logits: bool, temperature: float = 1.0) -> Any:
        """Return the probability of each label, float32 [n, c]; there is no temperature."""
        values, _ = metrics.as_rows(outputs)
        return stack.tf.sigmoid(values) if logits else values

    def measured_by(self, outputs: np.ndarray) -> dict[str, Any]:
        """Return the thresholds."""
        return {"thresholds": self.thresholds}

    def tuned(self, validation: Evaluation) -> tuple[Labels, str]:
        """Choose the thresholds: see `tfkit.metrics.best_thresholds`."""
        edges, is_default = metrics.best_thresholds(validation.labels, validation.probabilities)
        names = validation.class_names
        text = ", ".join(f"{name} {threshold:.2f}" for name, threshold in zip(names, edges, strict=True))
        note = f"Thresholds by the best F1 on the validation split: {text}."
        if is_default.any():
            rare_names = ", ".join(itertools.compress(names, is_default))
            note += f" 0.5 for {rare_names}: too few examples there have it, or lack it."
        return dataclasses.replace(self, thresholds=tuple(edges.tolist())), note

    def counts(self, labels: np.ndarray, classes: int) -> np.ndarray:
        """Return int64 [classes]: how many of the examples have each label."""
        return np.asarray(labels).sum(axis=0).astype(np.int64)

    def strata(self, labels: np.ndarray, classes: int) -> np.ndarray:
        """Return of each example the rarest of its labels; `classes` where it has none."""
        rarity = np.where(np.asarray(labels) > 0, self.counts(labels, classes), np.inf)
        return np.where(np.isfinite(rarity.min(axis=1)), rarity.argmin(axis=1), classes)

    def words(self, label: Any, class_names: Sequence[str]) -> str:
        """Return the labels of one example, joined by "|"; "(none)" of one without."""
        names = [name for name, is_present in zip(class_names, label, strict=True) if is_present]
        return SEPARATOR.join(names) or "(none)"

    def read(self, text: str | None, names: Sequence[str], cut: Callable[[str], Sequence[str]]) -> Any:
        """Return 0 and 1 for each label; of an empty text all 0, None of a text with another label."""
        if text is None:
            return None
        labels = [text] if text in names else cut(text)
        return [float(name in labels) for name in names] if {*labels} <= {*names} else None

    def answers(self, probabilities: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Return the labels of each example, joined by "|"."""
        rows = probabilities >= self.edges
        return {"label": np.array([SEPARATOR.join(itertools.compress(names, row)) for row in rows], object)}

    def close(self, probabilities: np.ndarray, tolerance: float) -> np.ndarray:
        """Return whether a probability is that near to its threshold."""
        return np.asarray((np.abs(probabilities - self.edges) <= tolerance).any(axis=1))

    @property
    def edges(self) -> np.ndarray:
        """Return the thresholds, float64 [c], or [] of the same for all."""
        return np.asarray(self.thresholds or 0.5)

    def sure(self, units: int) -> list[tuple[Any, np.ndarray]]:
        """Return no label, the first, the last, and all."""
        rows = np.unique([np.zeros(units), *np.eye(units)[[0, -1]], np.ones(units)], axis=0)
        return [(row.astype(np.float32), row) for row in rows]


@dataclass(frozen=True, kw_only=True)
class Order(Classes):
    """One of several classes in an order: labels int64 [n], cumulative logits; see `tfkit.heads.ClassesInOrder`."""

    evaluated: ClassVar[type[Evaluation]] = OrderEvaluation
    name: ClassVar[str] = "order"

    def units(self, classes: int) -> int:
        """Return how many numbers the last dense layer gives: one for each class but the last."""
        return classes - 1

    def finish(self, values: Any, classes: int) -> Any:
        """Return the probabilities of the classes."""
        from tfkit.heads import ClassesInOrder

        return ClassesInOrder(name="classes_in_order")(values)

    def loss(self) -> Any:
        """Return the loss of probabilities."""
        return stack.keras.losses.SparseCategoricalCrossentropy()


@dataclass(frozen=True, kw_only=True)
class Value(Classes):
    """A number: labels float32 [n]; a mean and a scale, of which intervals are made; see `tfkit.heads.MeanAndScale`.

    Attributes:
      centre: what the mean begins with: of the training labels, or the middle of a range known without them.
      spread: what the scale begins with: their standard deviation, or half of the range.
      bounds: the range; labels beyond it count as its ends. none where the training labels decided.
      degrees: of freedom of the distribution; 0: a normal one.
      factor: what scales are multiplied by in it.
      scores: |truth - mean| / scale of validation examples, sorted; none where nobody may look at them.
      coverage: of the intervals of predictions.
    """

    evaluated: ClassVar[type[Evaluation]] = ValueEvaluation
    name: ClassVar[str] = "value"
    output: ClassVar[str] = "values"
    score: ClassVar[str] = "r2"
    share: ClassVar[str] = "coverage_90"
    metric: ClassVar[str] = "mean_absolute_error"
    exclusive: ClassVar[bool] = False
    tunes: ClassVar[bool] = True
    each: ClassVar[bool] = False
    noun: ClassVar[str] = "number"
    labels: ClassVar[str] = "numbers, float32 [batch],"

    centre: float = 0.0
    spread: float = 1.0
    bounds: tuple[float, ...] = ()
    degrees: float = 0.0
    factor: float = 1.0
    scores: tuple[float, ...] = ()
    coverage: float = COVERAGES[0]

    def prepared(self, labels: np.ndarray, bounds: tuple[float, float] | None) -> Value:
        """Return the task of these training labels, or of a range that is known without them."""
        values = np.asarray(bounds or labels, np.float64)  # the deviation of two ends is half of their range
        centre, spread = float(values.mean()), float(values.std()) or 1.0
        return dataclasses.replace(self, centre=centre, spread=spread, bounds=bounds or ())

    def units(self, classes: int) -> int:
        """Return how many numbers the last dense layer gives: for mean and scale."""
        return 2

    def fits(self, units: int, classes: int) -> bool:
        """Return whether a user's model gives one number."""
        return units == 1

    def finish(self, values: Any, classes: int) -> Any:
        """Return mean and scale in the unit of the labels."""
        from tfkit.heads import MeanAndScale

        return MeanAndScale(centre=self.centre, spread=self.spread, name="mean_and_scale")(values)

    def ending(self, units: int) -> tuple[str, str, str]:
        """Return that nothing stands behind the last layer, and a loss."""
        return "", "mse", "MeanSquaredError"

    def loss(self) -> Any:
        """Return the negative log-likelihood under a normal distribution."""
        from tfkit.heads import NormalLikelihood

        return NormalLikelihood(bounds=self.bounds)

    def keras_metrics(self) -> list[Any]:
        """Return the mean absolute error."""
        from tfkit.heads import mean_absolute_error

        return [mean_absolute_error]

    def probabilities(self, outputs: Any, *, logits: bool, temperature: float = 1.0) -> Any:
        """Return mean and scale, float32 [n, 2]; of a model of one number the scale is 1."""
        values, _ = metrics.as_rows(outputs)
        return values if values.shape[1] == 2 else stack.tf.pad(values, [[0, 0], [0, 1]], constant_values=1.0)

    def measured_by(self, outputs: np.ndarray) -> dict[str, Any]:
        """Return the intervals and the distribution."""
        is_known = self.degrees or self.factor != 1 or not _has_no_scale(outputs)
        return {
            "quantiles": [self.reach(coverage, outputs) for coverage in COVERAGES],
            "likelihood": (self.degrees or math.inf, self.factor if is_known else math.nan),
            "centre": math.nan if self.bounds or self.spread == 1 else self.centre,
        }

    def reach(self, coverage: float, outputs: np.ndarray) -> float:
        """Return by how many scales an interval of this coverage goes beyond the mean; NaN where nobody knows.

        Args:
          coverage: above 0 and below 1.
          outputs: float32 [n, 2], means and scales; NaN of what could not be read.

        Raises:
          DataError: there are too few scores for it.
        """
        from scipy.stats import t

        if self.scores:
            return conformal_quantile(self.scores, coverage)
        if _has_no_scale(outputs):  # nothing is known of its error
            return math.nan
        return float(self.factor * t.ppf((1 + coverage) / 2, self.degrees or math.inf))

    def tuned(self, validation: Evaluation) -> tuple[Value, str]:
        """Choose the distribution by one half of the validation split, and take the scores of the other."""
        labels, outputs = validation.labels, validation.probabilities
        order = np.random.default_rng(0).permutation(len(labels))
        if len(order) < FEWEST:
            return self, f"{len(order)} validation examples are too few for intervals by their errors."
        fit, cal = (order[::2], order[1::2]) if len(order) >= 2 * FEWEST_FITTED else (order[:0], order)
        degrees, factor = fit_likelihood(labels[fit], outputs[fit]) if len(fit) else (math.inf, 1.0)
        scores = np.sort(np.abs(labels - outputs[:, 0])[cal] / outputs[cal, 1])
        kept_scores = scores[np.linspace(0, len(scores) - 1, min(len(scores), MOST_SCORES)).astype(int)]
        task = dataclasses.replace(
            self, degrees=degrees if math.isfinite(degrees) else 0.0, factor=factor,
            scores=tuple(float(f"{score:.6g}") for score in kept_scores),
        )  # fmt: skip
        kind = f"Student's t with {degrees:g} degrees of freedom" if task.degrees else "normal"
        note = f"The scaled errors of {len(scores)} validation examples give the intervals."
        if len(fit):
            note += f" Likeliest for the errors of {len(fit)} others is {kind}, {factor:g} times as wide."
        return task, note

    def counts(self, labels: np.ndarray, classes: int) -> np.ndarray:
        """Return int64 [1]: how many labelled examples there are."""
        return np.array([len(labels)])

    def strata(self, labels: np.ndarray, classes: int) -> np.ndarray:
        """Return of each example its quantile, of ten at most."""
        parts = max(1, min(10, len(labels) // 20))
        edges = np.unique(np.quantile(labels, np.arange(1, parts) / parts))
        return np.searchsorted(edges, labels, side="right")

    def at(self, coverage: float) -> Value:
        """Return the task with intervals of this coverage.

        Raises:
          DataError: there are too few scores for it.
          UsageError: it is no such share.
        """
        self.reach(coverage, np.zeros((0, 2)))  # refuses before minutes are spent
        return dataclasses.replace(self, coverage=coverage)

    def words(self, label: Any, class_names: Sequence[str]) -> str:
        """Return the number of one example as a text."""
        return f"{label:.6g}"

    def read(self, text: str | None, names: Sequence[str], cut: Callable[[str], Sequence[str]]) -> Any:
        """Return the number that a text is, as in training; None where it is none."""
        return as_number(text or "")

    def answers(self, probabilities: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Return the number of each example, and the ends of its interval."""
        mean, scale = probabilities.T.astype(np.float64)
        reach = self.reach(self.coverage, probabilities) * scale
        return {"value": mean, "low": mean - reach, "high": mean + reach}

    def close(self, probabilities: np.ndarray, tolerance: float) -> np.ndarray:
        """Return that nothing is decided."""
        return np.zeros(len(probabilities), bool)

    def sure(self, units: int) -> list[tuple[Any, np.ndarray]]:
        """Return two numbers, each with who says it."""
        return [(0.0, np.zeros(units)), (1.0, np.ones(units))]


def _has_no_scale(outputs: np.ndarray) -> bool:
    """Return whether means and scales [n, 2] are of a model of one number, whose scale is 1 everywhere."""
    scales = outputs[:, 1][~np.isnan(outputs[:, 1])]
    return bool(scales.size and (scales == 1).all())


CLASSES = Classes()
TASKS: dict[str, type[Classes]] = {task.name: task for task in (Classes, Labels, Order, Value)}


EVALUATIONS = {name: task.evaluated for name, task in TASKS.items()}
"""By what evaluation.npz calls them."""


def task_of(content: Mapping[str, Any]) -> Classes:
    """Return the task of what task.json holds; nothing: of classes.

    Raises:
      DataError: there is no such task.
    """
    fields: Any = {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}
    try:
        return TASKS[fields.pop("name", Classes.name)](**fields)
    except (LookupError, TypeError) as error:
        raise DataError(f"There is no task {dict(content)}; there are {', '.join(TASKS)}.") from error


def refuse(task: Classes, *allowed: str, what: str, why: str) -> None:
    """Refuse what is not for a task.

    Args:
      task: of the run or the data.
      allowed: names of the tasks that it is for.
      what: is asked for: the beginning of a sentence.
      why: it is not for this one, and what to do.

    Raises:
      ConfigError: the task is none of those.
    """
    if task.name not in allowed:
        raise ConfigError(f"{what} is for the task {' and '.join(allowed)}, not for {task.name}: {why}")

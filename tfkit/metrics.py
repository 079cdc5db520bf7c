"""Evaluation: the probabilities that a model gives labelled examples, and every number that follows from them.

Of one of several classes (`Evaluation`), or of any of several labels (`LabelsEvaluation`).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from tfkit.environment.timeline import stage
from tfkit.errors import CheckError

if TYPE_CHECKING:
    from tfkit.environment.stack import keras, tf

SUM_TOLERANCE = 1e-3
TIE = 0.01
"""Classes whose probabilities differ by this share, or less, are as probable: of a model that has hardly learned."""
SMALLEST_PROBABILITY = float(np.finfo(np.float32).eps)
SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)
TOP = 5


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """Class probabilities of labelled examples, and what they are worth.

    Attributes:
      labels: int64 [n], the true classes, in [0, c).
      probabilities: float32 [n, c]; each row sums to one.
      names: n of them: what an example is called.
      class_names: c of them. A class may be without examples here: its recall is then not defined.

    Raises:
      CheckError: shapes that do not fit together, values that are no probabilities, labels out of range.

    Example:
      >>> cats = Evaluation(
      ...     labels=[0, 0, 1],
      ...     probabilities=[[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]],
      ...     names=["a.jpg", "b.jpg", "c.jpg"],
      ...     class_names=["cat", "dog"],
      ... )
      >>> cats.worst(1).tolist(), cats.confusion.tolist()
      ([1], [[1, 1], [0, 1]])
      >>> cats.metrics()["test/recall/cat"]
      0.5
    """

    labels: np.ndarray
    probabilities: np.ndarray
    names: Sequence[str]
    class_names: Sequence[str]

    figures: ClassVar[tuple[str, ...]] = ("confusion", "roc")
    """Figures that show it, of `tfkit.reporting.figures`."""

    columns: ClassVar[tuple[str, ...]] = ("recall", "precision", "average_precision")
    """Columns of a table of the classes; the first one sorts it, worst class first."""

    def __post_init__(self) -> None:
        """Bring the fields to their types and check that they belong together."""
        set_field = functools.partial(object.__setattr__, self)
        set_field("labels", np.asarray(self.labels))
        set_field("probabilities", np.asarray(self.probabilities, np.float32))
        set_field("names", tuple(map(str, self.names)))
        set_field("class_names", tuple(map(str, self.class_names)))
        if problems := self._find_problems():
            raise CheckError("An evaluation cannot be made of these:\n  " + "\n  ".join(problems))
        set_field("labels", self.labels.astype(np.int64))

    def numbered(self) -> Evaluation:
        """Return the same with numbers in place of names, as a private run keeps it."""
        return dataclasses.replace(self, names=[f"test/{index}" for index in range(len(self.labels))])

    @functools.cached_property
    def predicted(self) -> np.ndarray:
        """Return the most probable class of each example: int64 [n]."""
        return self.probabilities.argmax(axis=1)

    @property
    def right(self) -> np.ndarray:
        """Return bool [n]: whether an example was classified right."""
        return self.predicted == self.labels

    @property
    def truth(self) -> np.ndarray:
        """Return bool [n, c]: whether an example is of a class."""
        return np.eye(len(self.class_names), dtype=bool)[self.labels]

    def agreement(self, probabilities: np.ndarray) -> float:
        """Return the share of examples that get the same answer by other probabilities [n, c], or one as probable."""
        answers = np.stack([self.predicted, probabilities.argmax(axis=1)], axis=1)
        here, there = np.take_along_axis(self.probabilities, answers, axis=1).T
        return float(np.mean(there >= (1 - TIE) * here))

    @property
    def score(self) -> float:
        """Return the number by which models are judged: the accuracy."""
        return self.accuracy

    @property
    def interval(self) -> tuple[float, float]:
        """Return the 95 % interval of the score on further examples of the same kind (Wilson's score interval)."""
        return share_interval(self.correct, len(self.labels))

    def gain_interval(self, other: Evaluation) -> tuple[float, float]:
        """Return the 95 % interval of the score less that of another model on the same examples."""
        return difference_interval(self.right, other.right)

    def in_words(self, noun: str) -> str:
        """Return of how many the score is, of examples of that noun."""
        return f"{self.correct:,} of {len(self.labels):,} test {noun} correct"

    @property
    def correct(self) -> int:
        """Return how many examples were classified right."""
        return int(self.right.sum())

    @property
    def accuracy(self) -> float:
        """Return the share of examples classified right."""
        return self.correct / len(self.labels)

    @property
    def loss(self) -> float:
        """Return the mean cross-entropy in nats; a probability of 0 counts as 1.2e-7, float32's epsilon."""
        truth_probabilities = self.probabilities[np.arange(len(self.labels)), self.labels].astype(np.float64)
        return float(-np.log(np.maximum(truth_probabilities, SMALLEST_PROBABILITY)).mean())

    @functools.cached_property
    def confusion(self) -> np.ndarray:
        """Return int64 [c, c]: the examples of class `row` that were taken for class `column`."""
        from sklearn.metrics import confusion_matrix

        return confusion_matrix(self.labels, self.predicted, labels=np.arange(len(self.class_names)))

    @property
    def counts(self) -> np.ndarray:
        """Return int64 [c]: how many examples each class has."""
        return self.confusion.sum(axis=1)

    @property
    def recall(self) -> np.ndarray:
        """Return float64 [c]: the share of a class that was recognised; NaN for a class without examples."""
        return _divide(self.confusion.diagonal(), self.counts)

    @property
    def precision(self) -> np.ndarray:
        """Return float64 [c]: the share of right ones where this class was predicted; NaN for one that never was."""
        return _divide(self.confusion.diagonal(), self.confusion.sum(axis=0))

    @functools.cached_property
    def average_precision(self) -> np.ndarray:
        """Return float64 [c]: the area below each class's precision-recall curve; NaN for a class without examples."""
        from sklearn.metrics import average_precision_score

        pairs = zip(self.truth.T, self.probabilities.T, strict=True)
        return np.array([average_precision_score(*pair) if pair[0].any() else np.nan for pair in pairs])

    def worst(self, k: int) -> np.ndarray:
        """Return int64 [k or fewer]: the mistakes that the model was surest of, the surest first."""
        mistakes = np.flatnonzero(self.predicted != self.labels)
        sureness = self.probabilities[mistakes, self.predicted[mistakes]]
        return mistakes[np.argsort(-sureness, kind="stable")][:k]

    def shown_class(self, indices: np.ndarray) -> np.ndarray:
        """Return int64 [k]: of mistakes the class that the model took them for."""
        return self.predicted[indices]

    def mistake(self, index: int) -> str:
        """Return one prediction in words: "cat, predicted dog (0.93)"."""
        truth, guess = self.labels[index], self.predicted[index]
        sureness = self.probabilities[index, guess]
        return f"{self.class_names[truth]}, predicted {self.class_names[guess]} ({sureness:.2f})"

    def metrics(self, prefix: str = "test") -> dict[str, float]:
        """Return flat names to finite numbers: accuracy, loss, examples, macro F1, recall and precision of each class.

        A class without examples has no recall, and one that was never predicted no precision. Top-5 accuracy is there
        for more than five classes.
        """
        numbers: dict[str, float] = {
            f"{prefix}/accuracy": self.accuracy,
            f"{prefix}/loss": self.loss,
            f"{prefix}/examples": len(self.labels),
        }
        if (classes := len(self.class_names)) > TOP:
            from sklearn.metrics import top_k_accuracy_score

            shares = top_k_accuracy_score(self.labels, self.probabilities, k=TOP, labels=range(classes))
            numbers[f"{prefix}/top_5_accuracy"] = float(shares)
        either = self.counts + self.confusion.sum(axis=0)
        numbers[f"{prefix}/macro_f1"] = f1_scores(self.confusion.diagonal(), either)[1]
        for of in ("recall", "precision"):
            shares = zip(self.class_names, getattr(self, of), strict=True)
            numbers |= {f"{prefix}/{of}/{name}": float(share) for name, share in shares if np.isfinite(share)}
        return numbers

    def _find_problems(self) -> list[str]:
        """Return what does not fit together, or what no probability or label can be, one sentence each."""
        labels, probabilities = self.labels, self.probabilities
        classes, names = len(self.class_names), len(self.names)
        is_list = labels.ndim == 1 and labels.size > 0 and labels.dtype.kind in "iu"
        if not is_list or probabilities.shape != (labels.size, classes) or names != labels.size:
            content = f"{labels.dtype} {list(labels.shape)}, {list(probabilities.shape)} and {names}"
            return [
                f"integer labels [n], probabilities [n, {classes}] and n names are needed; found {content}."
            ]
        sums = probabilities.sum(axis=1, dtype=np.float64)
        faults = {
            f"a label outside 0..{classes - 1}": (labels < 0) | (labels >= classes),
            "a probability that is not finite": ~np.isfinite(probabilities).all(axis=1),
            "a negative probability": (probabilities < 0).any(axis=1),
            "probabilities that do not sum to one (logits?)": ~(np.abs(sums - 1) <= SUM_TOLERANCE),
        }
        return _describe_faults(self, faults)


class Resampled(Evaluation):
    """An evaluation whose score is no share of the examples: its intervals are percentiles of a bootstrap."""

    resampled: Any
    """Scores of examples drawn with replacement, float64 [draws, scores]; the same draws for all models."""

    @property
    def interval(self) -> tuple[float, float]:
        """Return the 95 % interval of the score on further examples of the same kind."""
        return within_95(self.resampled[:, 0])

    def gain_interval(self, other: Evaluation) -> tuple[float, float]:
        """Return the 95 % interval of the score less that of another model on the same examples."""
        return within_95(self.resampled[:, 0] - other.resampled[:, 0])  # type: ignore[attr-defined]


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelsEvaluation(Resampled):
    """Probabilities of labels, of which an example may have any number, and what they are worth.

    What an `Evaluation` says of a class holds here of a label: who has it, and who was said to have it.

    Attributes:
      labels: int64 [n, c] of 0 and 1.
      probabilities: float32 [n, c] in [0, 1], each for itself.
      thresholds: float64 [c], from which probability on an example has the label; none: 0.5 for all.

    Example:
      >>> films = LabelsEvaluation(
      ...     labels=[[1, 0], [1, 1], [0, 0]],
      ...     probabilities=[[0.9, 0.1], [0.8, 0.4], [0.2, 0.1]],
      ...     names=["a", "b", "c"],
      ...     class_names=["comedy", "war"],
      ...     thresholds=[0.5, 0.3],
      ... )
      >>> films.score, films.predicted[1].tolist()
      (1.0, [1, 1])
    """

    thresholds: Any = ()

    figures: ClassVar[tuple[str, ...]] = ("roc",)
    columns: ClassVar[tuple[str, ...]] = ("f1", "recall", "precision", "average_precision", "thresholds")

    def __post_init__(self) -> None:
        """Bring the fields to their types and check that they belong together."""
        thresholds = self.thresholds if np.size(self.thresholds) else np.full(len(self.class_names), 0.5)
        object.__setattr__(self, "thresholds", np.asarray(thresholds, np.float64))
        super().__post_init__()

    def _find_problems(self) -> list[str]:
        labels, probabilities, classes = self.labels, self.probabilities, len(self.class_names)
        shape, thresholds = (len(self.names), classes), self.thresholds
        fits = labels.shape == probabilities.shape == shape and labels.size and thresholds.shape == (classes,)
        if not fits or not ((thresholds > 0) & (thresholds <= 1)).all():
            content = f"{list(labels.shape)}, {list(probabilities.shape)} and {thresholds.tolist()[:8]}"
            return [
                f"labels, probabilities {list(shape)} and thresholds in (0, 1] are needed; found {content}."
            ]
        faults = {
            "a label that is neither 0 nor 1": ~np.isin(labels, (0, 1)).all(axis=1),
            "a probability outside 0..1 (logits?)": ~(np.abs(probabilities - 0.5) <= 0.5).all(axis=1),
        }
        return _describe_faults(self, faults)

    @functools.cached_property
    def predicted(self) -> np.ndarray:
        """Return int64 [n, c]: 1 where an example is said to have a label."""
        return (self.probabilities >= self.thresholds).astype(np.int64)

    @property
    def right(self) -> np.ndarray:
        """Return bool [n]: whether an example got all its labels, and no other."""
        return (self.predicted == self.labels).all(axis=1)

    @property
    def truth(self) -> np.ndarray:
        """Return bool [n, c]: whether an example has a label."""
        return self.labels.astype(bool)

    def agreement(self, probabilities: np.ndarray) -> float:
        """Return the share of the same yes and no by other probabilities [n, c]."""
        return float(np.mean((probabilities >= self.thresholds) == self.predicted))

    @functools.cached_property
    def _tally(self) -> np.ndarray:
        """Return int64 [n, 2, c]: right ones, and those of labels and answers together."""
        return np.stack([self.labels & self.predicted, self.labels + self.predicted], axis=1)

    @property
    def score(self) -> float:
        """Return micro F1: of all pairs of an example and a label."""
        return f1_scores(*self._tally.sum(axis=0))[0]

    @functools.cached_property
    def resampled(self) -> np.ndarray:
        """Return micro and macro F1 of examples drawn with replacement, float64 [1000, 2]; the same draws for all.

        Of very many examples and labels there are fewer draws, 100 at least.
        """
        rng, count = np.random.default_rng(0), len(self.labels)
        yes, scores = self._tally.astype(np.float32), []
        for _ in range(max(FEWEST_RESAMPLED, min(RESAMPLED, MOST_RESAMPLED // yes.size))):
            times = np.bincount(rng.integers(count, size=count), minlength=count)
            scores.append(f1_scores(*np.tensordot(times.astype(np.float32), yes, axes=1)))
        return np.array(scores)

    def in_words(self, noun: str) -> str:
        """Return of how many the score is, of examples of that noun."""
        labels = f"{len(self.class_names):,} labels on {len(self.labels):,} test {noun}"
        return f"{labels}; {self.correct:,} have all labels correct"

    @property
    def loss(self) -> float:
        """Return the mean binary cross-entropy in nats, over examples and labels."""
        of_truth = np.where(self.truth, self.probabilities, 1 - self.probabilities).astype(np.float64)
        return float(-np.log(np.maximum(of_truth, SMALLEST_PROBABILITY)).mean())

    @property
    def counts(self) -> np.ndarray:
        """Return int64 [c]: how many examples have each label."""
        return self.labels.sum(axis=0)

    @functools.cached_property
    def f1(self) -> np.ndarray:
        """Return float64 [c]: the harmonic mean of precision and recall; NaN where there is no yes."""
        return 2 * _divide(*self._tally.sum(axis=0))

    @property
    def recall(self) -> np.ndarray:
        """Return float64 [c]: the share of those with a label who were found; NaN of a label that nobody has."""
        return _divide(self._tally[:, 0].sum(axis=0), self.counts)

    @property
    def precision(self) -> np.ndarray:
        """Return float64 [c]: the share of right ones where a label was said; NaN of one that never was."""
        return _divide(self._tally[:, 0].sum(axis=0), self.predicted.sum(axis=0))

    @property
    def _errors(self) -> np.ndarray:
        """Return float64 [n, c]: how far the probability of a wrong yes or no is from the truth; 0 of a right one."""
        return np.abs(self.labels - self.probabilities) * (self.predicted != self.labels)

    def worst(self, k: int) -> np.ndarray:
        """Return int64 [k or fewer]: the examples with the labels that the model was surest and wrong of."""
        errors = self._errors.max(axis=1)
        return np.argsort(-errors, kind="stable")[: min(k, np.count_nonzero(errors))]

    def shown_class(self, indices: np.ndarray) -> np.ndarray:
        """Return int64 [k]: of mistakes the label that is most wrong."""
        return self._errors[indices].argmax(axis=1)

    def mistake(self, index: int) -> str:
        """Return the most wrong label in words: "war: no, predicted yes (0.93)"."""
        (label,) = self.shown_class(np.array([index]))
        truth, guess = (("no", "yes")[int(rows[index, label])] for rows in (self.labels, self.predicted))
        sureness = f"{self.probabilities[index, label]:.2f}"
        return f"{self.class_names[label]}: {truth}, predicted {guess} ({sureness})"

    def metrics(self, prefix: str = "test") -> dict[str, float]:
        """Return flat names to finite numbers: F1 with intervals, mean average precision, what is wrong, each label."""
        (low, high), (macro_low, macro_high) = map(within_95, self.resampled.T)
        areas = self.average_precision
        numbers: dict[str, float] = {
            "micro_f1": self.score, "micro_f1_low": low, "micro_f1_high": high,
            "macro_f1": f1_scores(*self._tally.sum(axis=0))[1], "macro_f1_low": macro_low, "macro_f1_high": macro_high,
            "mean_average_precision": float(np.nanmean(areas)) if np.isfinite(areas).any() else np.nan,
            "hamming_loss": float(np.mean(self.predicted != self.labels)),
            "subset_accuracy": self.accuracy, "loss": self.loss, "examples": len(self.labels),
        }  # fmt: skip
        for key in self.columns:
            numbers |= zip((f"{key}/{name}" for name in self.class_names), getattr(self, key), strict=True)
        return {f"{prefix}/{name}": value for name, value in numbers.items() if np.isfinite(value)}


@dataclass(frozen=True, kw_only=True, eq=False)
class OrderEvaluation(Evaluation):
    """Probabilities of classes in an order, and what they are worth: how many steps off they are counts too."""

    def metrics(self, prefix: str = "test") -> dict[str, float]:
        """Return those of classes, the mean error in steps, and Cohen's kappa with quadratic weights."""
        from sklearn.metrics import cohen_kappa_score

        classes = np.arange(len(self.class_names))  # else a class that is not there would be no step
        kappa = float(cohen_kappa_score(self.labels, self.predicted, weights="quadratic", labels=classes))
        steps = float(np.abs(self.predicted - self.labels).mean())
        extras = {f"{prefix}/mae_steps": steps, f"{prefix}/quadratic_weighted_kappa": kappa}
        return super().metrics(prefix) | {name: value for name, value in extras.items() if np.isfinite(value)}


def largest_difference(outputs: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference of two models' outputs, of numbers beyond 1 as a share of the largest.

    It is infinite where an output is NaN, which is beyond no tolerance.

    Args:
      outputs: float32 [n, units].
      expected: likewise, by whose largest number it is divided where that is above 1: float32 has seven digits.
    """
    difference = float(np.abs(outputs - expected).max() / max(1.0, float(np.abs(expected).max())))
    return math.inf if math.isnan(difference) else difference


def share_interval(part: int, total: int) -> tuple[float, float]:
    """Return the 95 % interval of a share, of so many examples out of so many (Wilson's score interval)."""
    from scipy.stats import binomtest

    interval = binomtest(part, total).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def difference_interval(right: np.ndarray, right_there: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of the difference of two accuracies on the same examples.

    Only examples that one has right and the other wrong tell them apart, so it is narrower than two intervals of
    their own, where the two models mostly fail together.

    Args:
      right: bool [n], of the one.
      right_there: bool [n], of the other, on the same examples.

    Source: Agresti and Min 2005 (Statistics in Medicine 24:729): Wald's for paired proportions, half an example added
    to each of the four cells.
    """
    won, lost = int((right & ~right_there).sum()), int((~right & right_there).sum())
    count = len(right) + 2
    difference = (won - lost) / count
    half_width = 1.959964 * math.sqrt(max(won + lost + 1 - (won - lost) ** 2 / count, 0.0)) / count
    return max(difference - half_width, -1.0), min(difference + half_width, 1.0)


RESAMPLED, FEWEST_RESAMPLED, MOST_RESAMPLED = 1000, 100, 1_000_000_000
"""Bootstrap samples, and numbers that they may take in all."""

FEWEST_OF_LABEL = 10
"""Examples with a label, and without it, by which a threshold is chosen."""


def f1_scores(both: np.ndarray, either: np.ndarray) -> tuple[float, float]:
    """Return micro and macro F1, over the labels with any yes; 0 where there is none.

    Args:
      both: [c], of each label how many have it and were said to.
      either: [c], how many have it and how many were said to, together.
    """
    scores = _divide(2 * both, either)[either > 0]
    return float(2 * both.sum() / max(either.sum(), 1)), float(scores.mean()) if len(scores) else 0.0


def within_95(values: np.ndarray) -> tuple[float, float]:
    """Return what 95 % of values lie within, as many below it as above; what is not defined (NaN) does not count."""
    finite_values = values[~np.isnan(values)]
    low, high = np.percentile(finite_values, [2.5, 97.5]) if finite_values.size else (math.nan, math.nan)
    return float(low), float(high)


def best_thresholds(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for each label the threshold of the best F1.

    It is halfway between two probabilities; of equally good ones the nearest to 0.5. Where fewer than 10 examples have
    a label, or lack it, the best one would be chance: 0.5 stays.

    Args:
      labels: int [n, c] of 0 and 1, of examples that were not trained on.
      probabilities: float32 [n, c].

    Returns:
      float64 [c] in (0, 1), and bool [c]: where 0.5 was left.
    """
    from sklearn.metrics import precision_recall_curve

    counts = labels.sum(axis=0)
    is_default = np.minimum(counts, len(labels) - counts) < FEWEST_OF_LABEL
    thresholds = np.full(labels.shape[1], 0.5)
    for place in np.flatnonzero(~is_default):
        precision, recall, edges = precision_recall_curve(labels[:, place], probabilities[:, place])
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        # An edge is the lowest probability that is a yes: above it stands the highest one that is a no.
        lower = np.concatenate([[0.0], edges[:-1]])
        midpoints = ((lower + edges) / 2)[f1[:-1] >= f1[:-1].max() - 1e-12]
        thresholds[place] = np.clip(midpoints[np.abs(midpoints - 0.5).argmin()], 1e-6, 1 - 1e-6)
    return thresholds, is_default


def _describe_faults(evaluation: Evaluation, faults: dict[str, Any]) -> list[str]:
    """Return what is wrong with which examples, bool [n], a sentence each, with the first of them."""
    labels, probabilities = evaluation.labels, evaluation.probabilities
    return [
        f"{fault} in {int(mask.sum())} of {len(labels)} examples, first in {evaluation.names[int(mask.argmax())]!r}:"
        f" label {labels[mask.argmax()]}, probabilities {probabilities[mask.argmax()].round(4).tolist()[:8]}."
        for fault, mask in faults.items()
        if mask.any()
    ]


def _divide(part: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Return part / whole, NaN where there is nothing to have a share in."""
    return np.divide(part, total, out=np.full(len(part), np.nan), where=total > 0)


Outputs = Literal["auto", "probabilities", "logits"]
"""Meanings of a model's outputs; of one unit, the probability or the logit of the second class."""


def gives_logits(model: keras.Model) -> bool:
    """Return whether the model's loss takes logits, and no activation makes probabilities of its outputs."""
    return activation(model) not in ("softmax", "sigmoid") and any(map(from_logits, losses(model)))


def losses(model: keras.Model) -> list[Any]:
    """Return the losses that a model was compiled with, however they were given."""
    from tfkit.environment.stack import tf

    return [loss for loss in tf.nest.flatten(getattr(model, "loss", None)) if loss is not None]


def from_logits(loss: Any) -> bool | None:
    """Return whether a loss takes logits; None where it does not say."""
    from tfkit.environment.stack import keras

    if isinstance(loss, str):
        loss = keras.losses.get(loss)
        loss = loss() if isinstance(loss, type) else loss
    if hasattr(loss, "get_config") and not isinstance(loss, type):
        logits = loss.get_config().get("from_logits")
        return logits if logits is None else bool(logits)
    # Of Keras's own functions all cross-entropies take probabilities, unless they are told otherwise.
    is_keras = str(getattr(loss, "__module__", "")).startswith(("keras.", "tf_keras."))
    return False if is_keras and "crossentropy" in getattr(loss, "__name__", "") else None


def activation(model: keras.Model) -> str | None:
    """Return the name of what a functional or Sequential model ends with ("softmax", "linear"), if it is known."""
    from tfkit.environment.stack import keras

    outputs = getattr(model, "outputs", None) or []
    layer = getattr(getattr(outputs[0], "_keras_history", None), "layer", None) if len(outputs) == 1 else None
    if isinstance(layer, keras.Model):
        return activation(layer)
    name = getattr(getattr(layer, "activation", None), "__name__", None)
    return "softmax" if isinstance(layer, keras.layers.Softmax) else name


def as_rows(outputs: Any) -> tuple[tf.Tensor, Any]:
    """Return what a model gives, one tensor, also within a list or dict, as float32 [n, units]; and its own dtype."""
    from tfkit.environment.stack import tf

    (tensor,) = map(tf.convert_to_tensor, tf.nest.flatten(outputs))
    values = tf.cast(tensor, tf.float32)
    if tensor.shape.rank != 2:
        values = tf.reshape(values, [-1, int(np.prod(tensor.shape[1:], dtype=np.int64))])
    return values, tensor.dtype


def to_probabilities(outputs: Any, *, logits: bool, temperature: float = 1.0) -> tf.Tensor:
    """Return class probabilities float32 [n, classes] of what a classifier gives.

    Args:
      outputs: one tensor, also within a list or dict: [n, classes], with further axes of size 1 or without; or of one
        unit [n, 1] or [n], of the second of two classes.
      logits: whether they are logits; else they are probabilities.
      temperature: what logits are divided by, and of probabilities their logarithms; see `tfkit.calibration`.
    """
    from tfkit.environment.stack import tf

    values, dtype = as_rows(outputs)
    if logits and temperature != 1:
        values /= temperature
    if values.shape[1] == 1:
        first, second = (tf.sigmoid(-values), tf.sigmoid(values)) if logits else (1.0 - values, values)
        values = tf.concat([first, second], axis=1)
    elif logits:
        values = tf.nn.softmax(values)
    elif dtype != tf.float32:  # a softmax in float16 does not quite sum to one
        values /= tf.reduce_sum(values, axis=1, keepdims=True)
    if not logits and temperature != 1:
        return tf.nn.softmax(tf.math.log(tf.maximum(values, SMALLEST_NORMAL)) / temperature)
    return values


@stage("measure", "Measuring")
def evaluate(
    model: keras.Model, splits: Any, *, logits: bool | None = None, split: str = "test"
) -> Evaluation:
    """Evaluate a model on the test split, or another one.

    Args:
      model: compiled.
      splits: `Splits` that it was trained on.
      logits: whether it gives logits; None: what its loss takes.
      split: "validation" or "test".
    """
    logits = gives_logits(model) if logits is None else logits
    outputs = model.predict(splits.in_order(split), verbose=0)
    return evaluation(np.asarray(splits.task.probabilities(outputs, logits=logits)), splits, split=split)


def evaluation(probabilities: np.ndarray, splits: Any, *, split: str = "test") -> Evaluation:
    """Return the evaluation of what the task of `Splits` gives of a split, [n, classes], in its stable order."""
    indices = splits.indices[split]
    result: Evaluation = splits.task.evaluation(
        probabilities,
        labels=splits.source.labels[indices],
        names=[splits.source.names[index] for index in indices],
        class_names=splits.class_names,
    )
    return result

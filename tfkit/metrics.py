"""Evaluation: the class probabilities that a model gives labelled examples, and every number that follows from them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tfkit.data.splits import Splits
from tfkit.errors import CheckError

if TYPE_CHECKING:
    from tfkit.environment.stack import keras, tf

SUM_TOLERANCE = 1e-3
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

    def __post_init__(self) -> None:
        """Bring the fields to their types and check that they belong together."""
        set_field = functools.partial(object.__setattr__, self)
        set_field("labels", np.asarray(self.labels))
        set_field("probabilities", np.asarray(self.probabilities, np.float32))
        set_field("names", tuple(map(str, self.names)))
        set_field("class_names", tuple(map(str, self.class_names)))
        if problems := _problems(self):
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
    def correct(self) -> int:
        """Return how many examples were classified right."""
        return int((self.predicted == self.labels).sum())

    @property
    def accuracy(self) -> float:
        """Return the share of examples classified right."""
        return self.correct / len(self.labels)

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """Return the 95 % interval of the accuracy on further examples of the same kind (Wilson's score interval)."""
        from scipy.stats import binomtest

        interval = binomtest(self.correct, len(self.labels)).proportion_ci(method="wilson")
        return float(interval.low), float(interval.high)

    @property
    def loss(self) -> float:
        """Return the mean cross-entropy in nats; a probability of 0 counts as 1.2e-7, float32's epsilon."""
        of_truth = self.probabilities[np.arange(len(self.labels)), self.labels].astype(np.float64)
        return float(-np.log(np.maximum(of_truth, SMALLEST_PROBABILITY)).mean())

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
        return _share(self.confusion.diagonal(), self.counts)

    @property
    def precision(self) -> np.ndarray:
        """Return float64 [c]: the share of right ones where this class was predicted; NaN for one that never was."""
        return _share(self.confusion.diagonal(), self.confusion.sum(axis=0))

    @functools.cached_property
    def average_precision(self) -> np.ndarray:
        """Return float64 [c]: the area below each class's precision-recall curve; NaN for a class without examples."""
        from sklearn.metrics import average_precision_score

        areas = np.full(len(self.class_names), np.nan)
        for index in np.flatnonzero(self.counts):
            areas[index] = average_precision_score(self.labels == index, self.probabilities[:, index])
        return areas

    def worst(self, k: int) -> np.ndarray:
        """Return int64 [k or fewer]: the mistakes that the model was surest of, the surest first."""
        mistakes = np.flatnonzero(self.predicted != self.labels)
        sureness = self.probabilities[mistakes, self.predicted[mistakes]]
        return mistakes[np.argsort(-sureness, kind="stable")][:k]

    def mistake(self, index: int) -> str:
        """Return one prediction in words: "cat → dog (93 %)"."""
        truth, guess = self.labels[index], self.predicted[index]
        sureness = self.probabilities[index, guess]
        return f"{self.class_names[truth]} → {self.class_names[guess]} ({sureness:.0%})".replace("%", " %")

    def metrics(self, prefix: str = "test") -> dict[str, float]:
        """Return flat names to finite numbers: accuracy, loss, examples, recall of every class that occurs.

        Top-5 accuracy is there for more than five classes.
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
        for name, recall in zip(self.class_names, self.recall, strict=True):
            if np.isfinite(recall):
                numbers[f"{prefix}/recall/{name}"] = float(recall)
        return numbers


def _problems(evaluation: Evaluation) -> list[str]:
    """Return what does not fit together, or what no probability or label can be, one sentence each."""
    labels, probabilities = evaluation.labels, evaluation.probabilities
    classes, names = len(evaluation.class_names), len(evaluation.names)
    is_list = labels.ndim == 1 and labels.size > 0 and labels.dtype.kind in "iu"
    if not is_list or probabilities.shape != (labels.size, classes) or names != labels.size:
        found = f"{labels.dtype} {list(labels.shape)}, {list(probabilities.shape)} and {names}"
        return [f"integer labels [n], probabilities [n, {classes}] and n names are needed; found {found}."]
    sums = probabilities.sum(axis=1, dtype=np.float64)
    wrong = {
        f"a label outside 0..{classes - 1}": (labels < 0) | (labels >= classes),
        "a probability that is not finite": ~np.isfinite(probabilities).all(axis=1),
        "a negative probability": (probabilities < 0).any(axis=1),
        "probabilities that do not sum to one (logits?)": ~(np.abs(sums - 1) <= SUM_TOLERANCE),
    }
    return [
        f"{what} in {int(where.sum())} of {len(labels)} examples, first in {evaluation.names[where.argmax()]!r}:"
        f" label {labels[where.argmax()]}, probabilities {probabilities[where.argmax()].round(4).tolist()[:8]}."
        for what, where in wrong.items()
        if where.any()
    ]


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return part / whole, NaN where there is nothing to have a share in."""
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


Outputs = Literal["auto", "probabilities", "logits"]
"""How the outputs of a model are read; of one unit, the probability or the logit of the second class."""


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


def to_probabilities(outputs: Any, *, logits: bool, temperature: float = 1.0) -> tf.Tensor:
    """Return class probabilities float32 [n, classes] of what a classifier gives.

    Args:
      outputs: one tensor, also within a list or dict: [n, classes], with further axes of size 1 or without; or of one
        unit [n, 1] or [n], of the second of two classes.
      logits: whether they are logits; else they are probabilities.
      temperature: what logits are divided by, and of probabilities their logarithms; see `tfkit.calibration`.
    """
    from tfkit.environment.stack import tf

    (given,) = map(tf.convert_to_tensor, tf.nest.flatten(outputs))
    units = int(np.prod(given.shape[1:], dtype=np.int64))
    values = tf.cast(given, tf.float32)
    values = values if given.shape.rank == 2 else tf.reshape(values, [-1, units])
    if logits and temperature != 1:
        values /= temperature
    if units == 1:
        first, second = (tf.sigmoid(-values), tf.sigmoid(values)) if logits else (1.0 - values, values)
        values = tf.concat([first, second], axis=1)
    elif logits:
        values = tf.nn.softmax(values)
    elif given.dtype != tf.float32:  # a softmax in float16 does not quite sum to one
        values /= tf.reduce_sum(values, axis=1, keepdims=True)
    if not logits and temperature != 1:
        return tf.nn.softmax(tf.math.log(tf.maximum(values, SMALLEST_NORMAL)) / temperature)
    return values


def evaluate(
    model: keras.Model, splits: Splits, *, logits: bool | None = None, split: str = "test"
) -> Evaluation:
    """Evaluate a model on the test split, or another one.

    Args:
      model: compiled.
      splits: that it was trained on.
      logits: whether it gives logits; None: what its loss takes.
      split: "validation" or "test".
    """
    logits = gives_logits(model) if logits is None else logits
    outputs = model.predict(splits.in_order(split), verbose=0)
    return evaluation(np.asarray(to_probabilities(outputs, logits=logits)), splits, split=split)


def evaluation(probabilities: np.ndarray, splits: Splits, *, split: str = "test") -> Evaluation:
    """Return the evaluation of probabilities [n, classes] of a split, in its stable order."""
    indices = splits.indices[split]
    return Evaluation(
        labels=splits.source.labels[indices],
        probabilities=probabilities,
        names=[splits.source.names[index] for index in indices],
        class_names=splits.class_names,
    )

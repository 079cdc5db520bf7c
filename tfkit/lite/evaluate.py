"""evaluate: a .tflite on all test examples, beside the model that it was made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tfkit.lite import outputs as kinds
from tfkit.litert import ParallelInterpreter

_CLOSE = 0.1  # of the spread
AT_A_TIME = 256
"""Examples that are read and run at a time: memory stays flat whatever their number."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """What a variant says beside what the original says.

    Attributes:
      outputs: float32 [n, ...] of the variant.
      output: what they are, one of `tfkit.lite.outputs.OUTPUTS`.
      accuracy: of the variant's classes, or yes and no; None of values, and without labels.
      accuracy_drop: accuracy of the original less that; without labels the share of other answers, which no drop can
        exceed; not a number of values.
      agreement: share of answers (classes, yes and no) that are the original's; of values, of those within a tenth of
        the spread.
      r2: of values, with labels: share of the labels' variance that the variant explains, the mean over the outputs.
      r2_drop: R2 of the original less that.
      rmse: of values, with labels: root mean square of the differences from them.
      error: of values: root mean square difference from the original, as a share of the spread (standard deviation)
        of each of its outputs; 1 - error^2 is R2 against the original.
      max_difference: the largest one of an output.
      class_drop: by class, recall of the original less the variant's.
      worst: int64 [k], examples that get another answer, those that the original was surest of first; of values those
        with the largest differences.
    """

    outputs: np.ndarray
    output: str
    accuracy: float | None = None
    accuracy_drop: float = float("nan")
    agreement: float
    r2: float | None = None
    r2_drop: float | None = None
    rmse: float | None = None
    error: float | None = None
    max_difference: float
    class_drop: dict[str, float] = field(default_factory=dict)
    worst: np.ndarray

    @property
    def drop(self) -> float:
        """Return what limits apply to, see `lost`."""
        return lost(self)


def lost(measured: Any) -> float:
    """Return what limits apply to: the drop of accuracy or R2; without labels the share of other answers, or 1 - R2."""
    if measured.output == "values":
        return float(measured.error**2 if measured.r2_drop is None else measured.r2_drop)
    return float(measured.accuracy_drop)


def predict(
    model: bytes, read: Callable[[np.ndarray], np.ndarray], count: int, *, cores: int | None = None
) -> np.ndarray:
    """A .tflite on many examples, one on each core.

    Args:
      model: the content of the file; one input, one output.
      read: examples by their positions, as real numbers: images as pixels in 0..255.
      count: how many there are.
      cores: how many to keep busy; None takes all.

    Returns:
      float32 [count, ...].
    """
    with ParallelInterpreter(model, cores=cores) as interpreter:
        return np.concatenate(
            [
                interpreter(read(np.arange(start, min(start + AT_A_TIME, count))))
                for start in range(0, count, AT_A_TIME)
            ]
        )


def compare_outputs(
    outputs: np.ndarray,
    expected: np.ndarray,
    *,
    output: str = "probabilities",
    labels: np.ndarray | None = None,
    class_names: Sequence[str] = (),
) -> Comparison:
    """Set what a variant says beside what the original said.

    Args:
      outputs: float32 [n, ..., c].
      expected: of the original, likewise.
      output: what they are, one of `tfkit.lite.outputs.OUTPUTS`.
      labels: as `tfkit.lite.outputs.as_labels` gives them.
      class_names: c of them, or of one sigmoid those of no and yes.
    """
    found, wanted = with_units(outputs), with_units(expected)
    differences = np.abs(found - wanted)
    common: dict[str, Any] = {
        "outputs": outputs,
        "output": output,
        "max_difference": float(differences.max()),
    }
    before = quality(wanted, output, labels)
    after: dict[str, Any] = dict(quality(found, output, labels))
    if output == "values":
        largest = differences.reshape(len(found), -1).max(axis=1)
        worst = np.argsort(-largest, kind="stable")[: np.count_nonzero(largest)]
        drop = before["r2"] - after["r2"] if labels is not None else None
        error = float(np.sqrt(np.mean(_residual(found, wanted))))
        close = float(np.mean(differences <= _CLOSE * np.sqrt(_spread(wanted))))
        return Comparison(agreement=close, error=error, worst=worst, r2_drop=drop, **after, **common)
    said, original = kinds.answers(found, output), kinds.answers(wanted, output)
    sureness = wanted.max(axis=-1) if output in kinds.OF_CLASSES else np.abs(wanted - kinds.YES_OR_NO[output])
    other = (said != original).reshape(len(said), -1)
    places = np.flatnonzero(other.any(axis=1))
    surest = np.where(other, sureness.reshape(other.shape), -np.inf).max(axis=1)
    disagreement = float(other.mean())
    return Comparison(
        agreement=1.0 - disagreement,
        worst=places[np.argsort(-surest[places], kind="stable")],
        accuracy_drop=before["accuracy"] - after["accuracy"] if labels is not None else disagreement,
        class_drop={} if labels is None else _class_drop(said, original, labels, class_names),
        **after,
        **common,
    )


def quality(outputs: np.ndarray, output: str, labels: np.ndarray | None) -> dict[str, float]:
    """Return how good outputs are by their labels: `accuracy`, or of values `r2` and `rmse`; nothing without labels."""
    if labels is None:
        return {}
    outputs = with_units(outputs)
    if output != "values":
        return {"accuracy": float(np.mean(kinds.answers(outputs, output) == labels))}
    return {
        "r2": 1.0 - float(np.mean(_residual(outputs, labels))),
        "rmse": float(np.sqrt(np.mean((outputs - labels) ** 2))),
    }


def with_units(outputs: np.ndarray) -> np.ndarray:
    """Return outputs [n, ..., c] as they are, and [n] as [n, 1]."""
    return outputs[:, np.newaxis] if outputs.ndim == 1 else outputs


def _residual(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Mean square difference of each unit, as a share of the variance of what is wanted of it: 1 - R2."""
    squares = (found.astype(np.float64) - wanted) ** 2
    return np.asarray(squares.reshape(-1, wanted.shape[-1]).mean(axis=0) / _spread(wanted))


def _spread(wanted: np.ndarray) -> np.ndarray:
    """Variance of each unit; one that never changes has that of all, and where none does their size."""
    flat = wanted.reshape(-1, wanted.shape[-1]).astype(np.float64)
    variances = flat.var(axis=0)
    usual = float(variances.mean()) or float(np.mean(flat**2)) or 1.0
    return np.asarray(np.where(variances > 1e-9 * usual, variances, usual))


def _class_drop(
    said: np.ndarray, original: np.ndarray, labels: np.ndarray, class_names: Sequence[str]
) -> dict[str, float]:
    """Recall of the original less the variant's; where each unit has its own yes and no, that of the yes."""
    if labels.shape[-1:] == (1,) and len(class_names) == 2:  # one sigmoid
        parts = [(name, labels == place) for place, name in enumerate(class_names)]
    elif said.ndim > 1 and labels.shape[-1] == len(class_names) and said.max(initial=0) <= 1:
        parts = [
            (name, (labels == 1) & (np.arange(labels.shape[-1]) == place))
            for place, name in enumerate(class_names)
        ]
    else:
        parts = [(name, labels == place) for place, name in enumerate(class_names)]
    return {
        str(name): float(np.mean((original == labels)[where]) - np.mean((said == labels)[where]))
        for name, where in parts
        if where.any()
    }

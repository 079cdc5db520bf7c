"""evaluate: a .tflite on all test examples, beside the model that it was made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tfkit.evaluation import Evaluation
from tfkit.litert import ParallelInterpreter

AT_A_TIME = 256
"""Examples that are read and run at a time: memory stays flat whatever their number."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """What a variant says beside what the original says.

    Attributes:
      outputs: float32 [n, ...] of the variant.
      accuracy: of the variant; None without labels.
      accuracy_drop: accuracy of the original less that; without labels the share of examples that get another class,
        which no drop can exceed.
      agreement: share of examples that get the same class; for outputs that are no classes, of close ones.
      max_difference: the largest one of an output.
      class_drop: by class, recall of the original less the variant's.
      worst: int64 [k], examples that get another class, those that the original was surest of first.
    """

    outputs: np.ndarray
    accuracy: float | None
    accuracy_drop: float
    agreement: float
    max_difference: float
    class_drop: dict[str, float] = field(default_factory=dict)
    worst: np.ndarray


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
    labels: np.ndarray | None = None,
    class_names: Sequence[str] = (),
    names: Sequence[str] = (),
) -> Comparison:
    """Set what a variant says beside what the original said.

    Args:
      outputs: float32 [n, c], class probabilities or logits, or [n, ...].
      expected: of the original, likewise.
      labels: int64 [n].
      class_names: c of them, with labels.
      names: n of them, with labels.
    """
    found, wanted = outputs.reshape(len(outputs), -1), expected.reshape(len(expected), -1)
    classes, original = found.argmax(axis=1), wanted.argmax(axis=1)
    other = np.flatnonzero(classes != original)
    worst = other[np.argsort(-wanted[other, original[other]], kind="stable")]
    agreement = 1.0 - len(other) / len(found)
    common: dict[str, Any] = {
        "outputs": outputs,
        "agreement": agreement,
        "max_difference": float(np.abs(found - wanted).max()),
        "worst": worst,
    }
    if labels is None:
        return Comparison(accuracy=None, accuracy_drop=1.0 - agreement, **common)
    said, before = (
        Evaluation(labels=labels, probabilities=even(values), names=names, class_names=class_names)
        for values in (found, wanted)
    )
    drops = before.recall - said.recall
    return Comparison(
        accuracy=said.accuracy,
        accuracy_drop=before.accuracy - said.accuracy,
        class_drop={
            name: float(drop) for name, drop in zip(class_names, drops, strict=True) if np.isfinite(drop)
        },
        **common,
    )


def even(outputs: np.ndarray) -> np.ndarray:
    """Probabilities of quantized outputs, [n, c], made to sum to one again: steps of 1/256 leave a rest."""
    sums = outputs.sum(axis=1, keepdims=True)
    return np.asarray(outputs / np.where(sums > 0, sums, 1.0), np.float32)

"""What a trained model says of the test split."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tfkit.data import Splits
from tfkit.errors import DataError
from tfkit.evaluation import Evaluation

if TYPE_CHECKING:
    from tfkit.stack import keras


def gives_logits(model: keras.Model) -> bool:
    """Whether the model's loss was told that its outputs are logits."""
    loss = model.loss
    if hasattr(loss, "get_config"):
        return bool(loss.get_config().get("from_logits", False))
    return False


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities, float32 [n, classes], of logits of the same shape."""
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponents / exponents.sum(axis=1, keepdims=True), np.float32)


def evaluate(model: keras.Model, splits: Splits) -> Evaluation:
    """What a compiled model of logits or probabilities says of the test split."""
    outputs = np.asarray(model.predict(splits.test, verbose=0), np.float32)
    return evaluation(softmax(outputs) if gives_logits(model) else outputs, splits)


def evaluation(probabilities: np.ndarray, splits: Splits) -> Evaluation:
    """Probabilities [n, classes] of the test split, in its stable order, beside the truth."""
    indices = splits.indices["test"]
    if probabilities.shape != (len(indices), len(splits.class_names)):
        raise DataError(
            f"The model gives {probabilities.shape[1:]} numbers an example; the data has {len(splits.class_names)}"
            f" classes ({', '.join(splits.class_names[:5])}, ...). Its last layer must have as many units."
        )
    return Evaluation(
        labels=splits.source.labels[indices],
        probabilities=probabilities,
        names=[splits.source.names[index] for index in indices],
        class_names=splits.class_names,
    )

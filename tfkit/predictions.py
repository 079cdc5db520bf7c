"""What a classifier's outputs are, and what it says of the test split."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tfkit.data import Splits
from tfkit.errors import DataError
from tfkit.evaluation import Evaluation

if TYPE_CHECKING:
    from tfkit.stack import keras, tf

Outputs = Literal["auto", "probabilities", "logits"]
"""How the outputs of a model are read; of one unit, the probability or the logit of the second class."""


def gives_logits(model: keras.Model) -> bool:
    """Whether the model's loss was told that its outputs are logits, and no activation makes probabilities of them."""
    return activation(model) not in ("softmax", "sigmoid") and any(map(from_logits, losses(model)))


def losses(model: keras.Model) -> list[Any]:
    """The losses that a model was compiled with, however they were given."""
    from tfkit.stack import tf

    return [loss for loss in tf.nest.flatten(getattr(model, "loss", None)) if loss is not None]


def from_logits(loss: Any) -> bool | None:
    """Return what a loss says of the outputs that it takes; None: nothing."""
    from tfkit.stack import keras

    if isinstance(loss, str):
        loss = keras.losses.get(loss)
        loss = loss() if isinstance(loss, type) else loss
    if hasattr(loss, "get_config") and not isinstance(loss, type):
        said = loss.get_config().get("from_logits")
        return said if said is None else bool(said)
    # Of Keras's own functions all cross-entropies take probabilities, unless they are told otherwise.
    return False if "crossentropy" in getattr(loss, "__name__", "") and _is_keras(loss) else None


def _is_keras(function: Any) -> bool:
    return str(getattr(function, "__module__", "")).startswith(("keras.", "tf_keras."))


def activation(model: keras.Model) -> str | None:
    """The name of what a functional or Sequential model ends with ("softmax", "linear"); None: nobody knows."""
    from tfkit.stack import keras

    outputs = getattr(model, "outputs", None) or []
    layer = getattr(getattr(outputs[0], "_keras_history", None), "layer", None) if len(outputs) == 1 else None
    if isinstance(layer, keras.Model):
        return activation(layer)
    if isinstance(layer, keras.layers.Softmax):
        return "softmax"
    return getattr(getattr(layer, "activation", None), "__name__", None)


def to_probabilities(outputs: Any, *, logits: bool) -> tf.Tensor:
    """Return class probabilities float32 [n, classes] of what a classifier gives.

    Args:
      outputs: one tensor, also within a list or dict: [n, classes], with further axes of size 1 or without; or of one
        unit [n, 1] or [n], of the second of two classes.
      logits: whether they are logits; else they are probabilities.
    """
    from tfkit.stack import tf

    (given,) = map(tf.convert_to_tensor, tf.nest.flatten(outputs))
    units = int(np.prod(given.shape[1:], dtype=np.int64))
    values = tf.cast(given, tf.float32)
    if given.shape.rank != 2:
        values = tf.reshape(values, [-1, units])
    if units == 1:
        first, second = (tf.sigmoid(-values), tf.sigmoid(values)) if logits else (1.0 - values, values)
        return tf.concat([first, second], axis=1)
    if logits:
        return tf.nn.softmax(values)
    if given.dtype != tf.float32:  # a softmax in float16 does not quite sum to one
        values /= tf.reduce_sum(values, axis=1, keepdims=True)
    return values


def evaluate(model: keras.Model, splits: Splits, *, logits: bool | None = None) -> Evaluation:
    """Return what a model says of the test split.

    Args:
      model: compiled.
      splits: that it was trained on.
      logits: whether it gives logits; None: what its loss was told.
    """
    logits = gives_logits(model) if logits is None else logits
    outputs = model.predict(splits.test, verbose=0)
    return evaluation(np.asarray(to_probabilities(outputs, logits=logits)), splits)


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

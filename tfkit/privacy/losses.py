"""The loss of each example by itself, from the loss that a model was compiled with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tfkit.errors import PrivacyError
from tfkit.stack import keras, tf

PerExampleLoss = Callable[[Any, Any], Any]


def per_example_loss(model: keras.Model) -> PerExampleLoss:
    """A function from labels and outputs to each example's loss, float32 [batch].

    Args:
      model: compiled with one loss: a name, a function of (labels, outputs), or a Keras loss.

    Raises:
      PrivacyError: the model has several losses or none, or its loss mixes the examples of a batch.
    """
    loss = model.loss
    if loss is None or isinstance(loss, dict | list | tuple):
        found = "no loss" if loss is None else f"{len(loss)} losses"
        raise PrivacyError(
            f"The model is compiled with {found}; private training takes one: its gradient is clipped for each"
            ' example.\n  compile(loss="sparse_categorical_crossentropy"), with several outputs joined into one.'
        )
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    function = _unreduced(loss)
    name = getattr(loss, "name", None) or getattr(loss, "__name__", type(loss).__name__)

    def of_each(labels: Any, outputs: Any) -> Any:
        labels = _shaped_like(labels, outputs)
        values = tf.convert_to_tensor(function(labels, outputs))
        if values.shape.rank == 0 or values.shape[0] != outputs.shape[0]:
            raise PrivacyError(
                f"The loss {name!r} gives {values.shape} numbers for a batch of {outputs.shape[0]}: it mixes the"
                " examples, which then cannot be clipped one by one.\n"
                "  Return one value an example, without a mean over the first axis."
            )
        values = tf.cast(values, tf.float32)
        return tf.reduce_mean(values, [*range(1, values.shape.rank)]) if values.shape.rank > 1 else values

    return of_each


def _unreduced(loss: Any) -> Any:
    """The function below a Keras loss, which takes the mean over the batch only when it is called as a whole."""
    if isinstance(loss, keras.losses.Loss):
        return loss.call
    return loss


def _shaped_like(labels: Any, outputs: Any) -> Any:
    """Labels [batch] beside outputs [batch, 1] become [batch, 1], as in fit: they would broadcast to all pairs."""
    labels = tf.convert_to_tensor(labels)
    if outputs.shape.rank == labels.shape.rank + 1 and outputs.shape[-1] == 1:
        labels = labels[..., tf.newaxis]
    return labels

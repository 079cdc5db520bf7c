"""The loss of each example by itself, from the loss that a model was compiled with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tfkit.errors import PrivacyError
from tfkit.stack import keras, tf

PerExampleLoss = Callable[[Any, Any], Any]

_FIX = "Return one value an example, without a mean over the first axis."


def per_example_loss(model: keras.Model) -> PerExampleLoss:
    """A function from labels and outputs to each example's loss, float32 [batch].

    It is what Keras would take the mean of: with the settings of the loss (from_logits, label_smoothing), and with
    labels that are cast and shaped as `fit` does. An example with several values, as of a sequence, has their mean;
    where the outputs carry a mask, that of the values which are kept.

    Args:
      model: compiled with one loss: a name, a function of (labels, outputs), or a Keras loss.

    Raises:
      PrivacyError: the model has several losses or none, or a loss without values for single examples; the
        function raises it too, when it finds the examples mixed by the shape of what it gets.
    """
    loss = _only_loss(model)
    name = getattr(loss, "name", None) or type(loss).__name__

    def of_each(labels: Any, outputs: Any) -> Any:
        labels, outputs = tf.convert_to_tensor(labels), tf.convert_to_tensor(outputs)
        # As Keras does with the `call` of a user's own loss.
        autograph = tf.__internal__.autograph
        unreduced = autograph.tf_convert(loss.call, autograph.control_status_ctx())
        values = tf.convert_to_tensor(unreduced(_beside(labels, outputs), outputs))
        _check_batch(name, values, outputs)
        return _mean_of_each(tf.cast(values, tf.float32), getattr(outputs, "_keras_mask", None))

    return of_each


def _only_loss(model: keras.Model) -> Any:
    """The loss that the model was compiled with, as a Keras loss object."""
    losses = [one for one in tf.nest.flatten(getattr(model, "loss", None)) if one is not None]
    if len(losses) != 1:
        found = "several losses" if losses else "no loss"
        raise PrivacyError(
            f"The model is compiled with {found}; private training takes one, and clips its gradient for each"
            ' example.\n  compile(loss="sparse_categorical_crossentropy"), with several outputs joined into one.'
        )
    (loss,) = losses
    if getattr(getattr(model, "compiled_loss", None), "_user_loss_weights", None) is not None:
        raise PrivacyError(
            "The model is compiled with loss_weights, which say nothing with one loss.\n"
            "  Leave them out; multiply the learning rate instead."
        )
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    if isinstance(loss, type):
        raise PrivacyError(
            f"The loss {loss.__name__} is a class.\n  Make an object of it: loss={loss.__name__}()."
        )
    if not isinstance(loss, keras.losses.Loss):
        named = getattr(loss, "__name__", type(loss).__name__)
        return keras.__internal__.losses.LossFunctionWrapper(loss, name=named)
    if type(loss).__call__ is not keras.losses.Loss.__call__:
        raise PrivacyError(
            f"The loss {type(loss).__name__} has a __call__ of its own, which gives one number for the batch.\n"
            "  Put what it does into call(labels, outputs). " + _FIX
        )
    return loss


def _beside(labels: Any, outputs: Any) -> Any:
    """Labels as `fit` hands them to the loss; [batch] beside [batch, 1] would broadcast to all pairs of examples."""
    if labels.shape.rank == 1 and outputs.shape.rank == 2:
        labels = labels[:, tf.newaxis]
    elif labels.shape.rank == outputs.shape.rank + 1 and labels.shape[-1] == 1:
        labels = tf.squeeze(labels, [-1])
    both_floating = labels.dtype.is_floating and outputs.dtype.is_floating
    return tf.cast(labels, outputs.dtype) if both_floating else labels


def _check_batch(name: str, values: Any, outputs: Any) -> None:
    shape, size = values.shape, outputs.shape[0]
    if not shape.rank or (size is not None and shape[0] != size):
        found = "one number" if shape.rank == 0 else f"values of shape {shape}"
        fix = "Give the model an output of shape [batch, 1]." if outputs.shape.rank == 1 else _FIX
        raise PrivacyError(
            f"The loss {name!r} gives {found} for a batch of {size or 'any number of'} examples: what belongs to one"
            f" example cannot be clipped by itself.\n  {fix}"
        )


def _mean_of_each(values: Any, mask: Any) -> Any:
    """Mean over all axes but the first; of the kept values where there is a mask."""
    axes = [*range(1, values.shape.rank)]
    if not axes:
        return values
    if mask is None or mask.shape.rank != values.shape.rank:
        return tf.reduce_mean(values, axes)
    kept = tf.cast(mask, tf.float32)
    return tf.math.divide_no_nan(tf.reduce_sum(values * kept, axes), tf.reduce_sum(kept, axes))


def weight_penalties(model: keras.Model) -> list[Callable[[], Any]]:
    """What gives the losses of a model's weights alone: its regularisers, which know nothing of the data."""
    return [one for layer in model._flatten_layers() for one in getattr(layer, "_callable_losses", ())]

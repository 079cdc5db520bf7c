"""The sum of the examples' clipped gradients, from one forward and one backward pass over the batch.

Source: Abadi et al. 2016 (arXiv:1607.00133) for the clipping; Bu et al. 2022 (arXiv:2210.00038) for the way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tfkit.errors import PrivacyError
from tfkit.privacy.contributions import together
from tfkit.privacy.recorder import Recorder, engines
from tfkit.stack import keras, tf

__all__ = ["Clipped", "clipped_sum", "engines"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Clipped:
    """What a batch gives.

    Attributes:
      gradients: one for each of the model's trainable variables: the sum over the examples of
        min(1, C / norm) times the example's gradient, dense; without the gradients of regularisers.
      norms: float32 [batch], of the examples' gradients over all variables, unclipped.
      losses: float32 [batch], times the weights.
      outputs: what the model gave.
    """

    gradients: list[tf.Tensor]
    norms: tf.Tensor
    losses: tf.Tensor
    outputs: tf.Tensor


def clipped_sum(
    model: keras.Model,
    inputs: Any,
    labels: tf.Tensor,
    weights: tf.Tensor | None,
    *,
    per_example_loss: Callable[[Any, Any], tf.Tensor],
    l2_norm_clip: float | tf.Tensor,
    training: bool = True,
) -> Clipped:
    """The sum of the examples' clipped gradients.

    Args:
      model: built; each example must be computed by itself (see `tfkit.privacy.validator`).
      inputs: [batch, ...], as the model takes them.
      labels: [batch, ...].
      weights: float32 [batch] that multiply the losses before anything is clipped; 0 is padding. None: all 1.
      per_example_loss: from labels and outputs to float32 [batch].
      l2_norm_clip: C, above 0.
      training: as the model is called.

    Returns:
      See `Clipped`. An example whose gradient is not finite contributes nothing.

    Raises:
      PrivacyError: a layer's gradients cannot be told apart by example.
    """
    whole: list[Any] = []
    while True:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            recorder = Recorder(model, tape, tf.nest.flatten(inputs)[0].shape[0], whole)
            with recorder.recording():
                outputs = model(inputs, training=training)
            losses = per_example_loss(labels, outputs)
            losses = losses if weights is None else losses * tf.cast(weights, losses.dtype)
            total = tf.reduce_sum(losses)
        if recorder.problems:
            listed = "\n  ".join(dict.fromkeys(recorder.problems))
            raise PrivacyError(f"Gradients cannot be told apart by example:\n  {listed}")
        if not recorder.beyond:
            break
        # A weight that is used where nobody notes it: the layer around it is taken whole, and all is done again.
        whole = [*whole, *recorder.beyond]
    watched = [call.outputs for call in recorder.calls]
    at_outputs = tape.gradient(total, watched, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    by_variable: dict[Any, list[Any]] = {variable.ref(): [] for variable in model.trainable_variables}
    for call, gradients in zip(recorder.calls, at_outputs, strict=True):
        for variable, contribution in call.contributions(
            [tf.convert_to_tensor(value) for value in gradients]
        ):
            if variable.ref() in by_variable:
                by_variable[variable.ref()].append(contribution)
    used = [together(found) for found in by_variable.values() if found]
    squares = tf.add_n([contribution.squared_norm() for contribution in used])
    norms = tf.sqrt(squares)
    finite = tf.math.is_finite(squares)
    factors = tf.where(finite, tf.minimum(1.0, l2_norm_clip / tf.maximum(norms, 1e-30)), 0.0)
    sums = tf.cond(
        tf.reduce_all(finite),
        lambda: [contribution.weighted_sum(factors) for contribution in used],
        # 0 times a number that is not finite is not 0.
        lambda: [contribution.kept(finite).weighted_sum(factors) for contribution in used],
    )
    rest = iter(sums)
    gradients = [
        next(rest) if found else tf.zeros(reference.deref().shape, reference.deref().dtype)
        for reference, found in by_variable.items()
    ]
    return Clipped(gradients=gradients, norms=norms, losses=losses, outputs=outputs)

"""Layers behind the last dense layer where labels are numbers or classes in an order, and the loss of numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfkit.environment.stack import keras, tf, tfp

SMALLEST_SCALE = 1e-3
"""Of the spread of the labels: no example is surer than that."""


class MeanAndScale(keras.layers.Layer):
    """The mean and the scale of a number, in the unit of the labels.

    Call: float32 [b, 2] to float32 [b, 2]; zeros become the centre and the spread. The scale is in (0, 2) spreads.
    """

    def __init__(self, *, centre: float, spread: float, **settings: Any) -> None:
        super().__init__(**{"dtype": "float32", **settings})
        self.centre, self.spread = centre, spread

    def call(self, values: Any) -> Any:
        """Return mean and scale, side by side."""
        scale = 2 * tf.sigmoid(values[:, 1:]) + SMALLEST_SCALE
        return tf.concat([self.centre + self.spread * values[:, :1], self.spread * scale], axis=1)

    def get_config(self) -> dict[str, Any]:
        """Return what it was made of."""
        return {**super().get_config(), "centre": self.centre, "spread": self.spread}


class ClassesInOrder(keras.layers.Layer):
    """Probabilities of classes in an order, by logits of being above each but the last.

    Call: float32 [b, c - 1] to float32 [b, c]. The first number shifts all logits, each other one widens the step to
    the next, which is never negative: no class has a probability below 0. Zeros make all classes alike.

    Source: cumulative logits (Agresti 2010, Analysis of Ordinal Categorical Data, chapter 3), with steps of an example.
    """

    def call(self, values: Any) -> Any:
        """Return the probabilities."""
        steps = values.shape[-1]
        shares = np.arange(steps, 0, -1) / (steps + 1)
        offsets = np.log(shares / (1 - shares)).astype(np.float32)  # the logits that make all classes alike
        above = tf.nn.relu(values[:, 1:])
        widths = above + tf.exp(values[:, 1:] - above)  # elu + 1, of operations that int8 files have
        weights = np.triu(np.ones((steps, steps), np.float32))[1:] * np.diff(offsets)[:, np.newaxis]
        logits = offsets[0] + values[:, :1] + (tf.matmul(widths, weights) if steps > 1 else 0.0)
        tail = tf.sigmoid(logits)
        # Rounding may make a difference of two sigmoids a little less than 0.
        return tf.nn.relu(tf.concat([1.0 - tail[:, :1], tail[:, :-1] - tail[:, 1:], tail[:, -1:]], axis=1))


class NormalLikelihood(keras.losses.Loss):
    """The negative logarithm of a number's density under a normal distribution, in nats.

    Call: labels float32 [b] or [b, 1], and mean and scale, float32 [b, 2]; to float32 [b].
    """

    def __init__(self, *, bounds: tuple[float, ...] = (), name: str = "normal_likelihood") -> None:
        super().__init__(name=name)
        self.bounds = bounds

    def call(self, labels: Any, outputs: Any) -> Any:
        """Return one of each example; a label beyond the bounds counts as the nearer one."""
        values = tf.reshape(tf.cast(labels, tf.float32), [-1])
        if self.bounds:
            values = tf.clip_by_value(values, *self.bounds)
        return -tfp.distributions.Normal(outputs[:, 0], outputs[:, 1]).log_prob(values)


def mean_absolute_error(labels: Any, outputs: Any) -> Any:
    """Return how far the means [b, 1 or 2] are from the labels [b] or [b, 1], float32 [b]."""
    return tf.abs(tf.reshape(tf.cast(labels, tf.float32), [-1]) - tf.cast(outputs[:, 0], tf.float32))

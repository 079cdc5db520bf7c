"""Gradients and inputs of layers, brought into the shapes that contributions take."""

from __future__ import annotations

import math
from typing import Any

from tfkit.privacy.contributions import Contributions, Direct
from tfkit.stack import tf


def bias(layer: Any, gradients: tf.Tensor) -> Contributions:
    """Of the bias of a layer, if it has one, from the gradients at its pre-activation."""
    if not layer.use_bias:
        return []
    return [(layer.bias, Direct(gradients=summed(gradients, layer.bias.shape)))]


def rows(values: tf.Tensor) -> tf.Tensor:
    """[batch, d] as it is, [batch, ..., d] as [batch, t, d]."""
    return flat(values, 1)


def flat(values: tf.Tensor, last: int) -> tf.Tensor:
    """[batch, ..., *last axes] as [batch, t, d], or as [batch, d] where there is nothing between."""
    between, width = (
        values.shape[1 : len(values.shape) - last],
        math.prod(values.shape[len(values.shape) - last :]),
    )
    if not between.rank:
        return tf.reshape(values, [-1, width])
    return tf.reshape(
        values, [-1, between.num_elements() if between.is_fully_defined() else _count(values, last), width]
    )


def _count(values: tf.Tensor, last: int) -> tf.Tensor:
    return tf.reduce_prod(tf.shape(values)[1 : len(values.shape) - last])


def summed(gradients: tf.Tensor, shape: Any) -> tf.Tensor:
    """[batch, ...] summed over all axes along which a variable of that shape was broadcast: [batch, *shape]."""
    spare = len(gradients.shape) - 1 - len(shape)
    stretched = [1 + spare + place for place, size in enumerate(shape) if size == 1]
    axes = [*range(1, 1 + spare), *stretched]
    if not axes:
        return gradients
    return tf.reshape(tf.reduce_sum(gradients, axes), [-1, *shape])

"""Book-keeping rules: from what a layer was fed and the gradients at its pre-activation to its contributions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tfkit.privacy import convolutions
from tfkit.privacy.contributions import Contributions, Direct, Lookup, Outer
from tfkit.privacy.shapes import bias, flat, rows, summed
from tfkit.stack import keras, tf

Rule = Callable[[Any, tf.Tensor, tf.Tensor], Contributions]
"""From the layer, what it was fed [batch, ...] and the gradients [batch, ...] at its pre-activation."""


def rule_of(layer: Any, rank: int | None = None) -> Rule | None:
    """The rule for a layer as it is configured; None where there is none.

    Only Keras's own layers have rules: a subclass may compute something else.

    Args:
      layer: built.
      rank: axes of what it is fed, with the batch; None: unknown, any will do.
    """
    found = {
        keras.layers.Dense: (_dense, True),
        keras.layers.EinsumDense: (_einsum_dense, _is_plain_einsum(layer, rank)),
        keras.layers.Conv1D: (convolutions.conv, _is_plain_conv(layer)),
        keras.layers.Conv2D: (convolutions.conv, _is_plain_conv(layer)),
        keras.layers.DepthwiseConv2D: (convolutions.depthwise, _is_plain_conv(layer)),
        keras.layers.DepthwiseConv1D: (convolutions.depthwise, _is_plain_conv(layer)),
        keras.layers.SeparableConv1D: (convolutions.separable, _is_plain_conv(layer)),
        keras.layers.SeparableConv2D: (convolutions.separable, _is_plain_conv(layer)),
        keras.layers.Embedding: (_embedding, not getattr(layer, "sparse", False)),
        keras.layers.LayerNormalization: (_layer_normalization, _normalises_last(layer, rank)),
        keras.layers.GroupNormalization: (_group_normalization, _normalises_last(layer, rank)),
    }.get(type(layer))
    if not found or not found[1]:
        return None
    # An activation that is a layer may have weights too.
    inner = layer._flatten_layers(include_self=False)
    return None if any(one.trainable_weights for one in inner) else found[0]


def _dense(layer: Any, fed: tf.Tensor, gradients: tf.Tensor) -> Contributions:
    return [
        (layer.kernel, Outer(fed=rows(fed), gradients=rows(gradients), shape=tuple(layer.kernel.shape))),
        *bias(layer, gradients),
    ]


def _is_plain_einsum(layer: Any, rank: int | None) -> bool:
    """Whether each example meets the kernel by itself: the batch is no axis of the kernel's."""
    if type(layer) is not keras.layers.EinsumDense:
        return False
    fed, kernel, out = _letters(layer, rank or 3)
    return fed[0] == out[0] and fed[0] not in kernel and not set(fed) & set(kernel) & set(out)


def _letters(layer: Any, rank: int) -> tuple[str, str, str]:
    """The axes of what is fed, of the kernel and of what comes out, one letter each."""
    operands, out = layer.equation.replace(" ", "").split("->")
    fed, kernel = operands.split(",")
    free = [letter for letter in "ABCDEFGHIJKLMNOP" if letter not in layer.equation]
    dots = "".join(free[: rank - (len(fed) - 3)])
    return fed.replace("...", dots), kernel, out.replace("...", dots)


def _einsum_dense(layer: Any, fed: tf.Tensor, gradients: tf.Tensor) -> Contributions:
    fed_letters, kernel_letters, out_letters = _letters(layer, len(fed.shape))
    batch = fed_letters[0]
    inner = [letter for letter in kernel_letters if letter in fed_letters]
    outer = [letter for letter in kernel_letters if letter not in fed_letters]
    positions = [letter for letter in fed_letters[1:] if letter not in kernel_letters]
    if [*inner, *outer] == [*kernel_letters] and {*out_letters[1:]} == {*positions, *outer}:
        sides = [
            flat(tf.einsum(f"{letters}->{''.join([batch, *positions, *last])}", value), len(last))
            for letters, last, value in ((fed_letters, inner, fed), (out_letters, outer, gradients))
        ]
        kernel: Any = Outer(fed=sides[0], gradients=sides[1], shape=tuple(layer.kernel.shape))
    else:
        equation = f"{fed_letters},{out_letters}->{batch}{kernel_letters}"
        kernel = Direct(gradients=tf.einsum(equation, fed, gradients))
    pairs: Contributions = [(layer.kernel, kernel)]
    if layer.bias is not None:
        pairs.append((layer.bias, Direct(gradients=summed(gradients, layer.bias.shape))))
    return pairs


def _is_plain_conv(layer: Any) -> bool:
    return getattr(layer, "data_format", None) == "channels_last" and getattr(layer, "groups", 1) in (1, None)


def _embedding(layer: Any, fed: tf.Tensor, gradients: tf.Tensor) -> Contributions:
    width = layer.embeddings.shape[1]
    looked_up = tf.reshape(tf.cast(fed, tf.int64), [-1, math.prod(fed.shape[1:])])
    at_output = tf.reshape(gradients, [-1, looked_up.shape[1], width])
    return [
        (layer.embeddings, Lookup(rows=looked_up, gradients=at_output, shape=tuple(layer.embeddings.shape)))
    ]


def _normalises_last(layer: Any, rank: int | None) -> bool:
    axes = getattr(layer, "axis", None)
    axes = [axes] if isinstance(axes, int) else [*(axes or [])]
    return len(axes) == 1 and (axes[0] == -1 or rank is None or axes[0] == rank - 1)


def _layer_normalization(layer: Any, fed: tf.Tensor, gradients: tf.Tensor) -> Contributions:
    mean, variance = tf.nn.moments(fed, [-1], keepdims=True)
    return _scale_and_center(layer, (fed - mean) * tf.math.rsqrt(variance + layer.epsilon), gradients)


def _group_normalization(layer: Any, fed: tf.Tensor, gradients: tf.Tensor) -> Contributions:
    channels = fed.shape[-1]
    grouped = tf.reshape(fed, [-1, *fed.shape[1:-1], layer.groups, channels // layer.groups])
    axes = [*range(1, len(fed.shape) - 1), len(fed.shape)]
    mean, variance = tf.nn.moments(grouped, axes, keepdims=True)
    normal = (grouped - mean) * tf.math.rsqrt(variance + layer.epsilon)
    return _scale_and_center(layer, tf.reshape(normal, tf.shape(fed)), gradients)


def _scale_and_center(layer: Any, normal: tf.Tensor, gradients: tf.Tensor) -> Contributions:
    pairs: Contributions = []
    if layer.scale:
        pairs.append((layer.gamma, Direct(gradients=summed(gradients * normal, layer.gamma.shape))))
    if layer.center:
        pairs.append((layer.beta, Direct(gradients=summed(gradients, layer.beta.shape))))
    return pairs

"""Book-keeping rules: from what a layer was fed and the gradients at its pre-activation to its contributions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tfkit.privacy.contributions import Direct, Lookup, Outer
from tfkit.stack import keras, tf

Contributions = list[tuple[Any, Any]]
"""(variable, contribution) pairs; the variable may be a frozen one."""

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
        keras.layers.Conv1D: (_conv, _is_plain_conv(layer)),
        keras.layers.Conv2D: (_conv, _is_plain_conv(layer)),
        keras.layers.DepthwiseConv2D: (_depthwise, _is_plain_conv(layer)),
        keras.layers.DepthwiseConv1D: (_depthwise, _is_plain_conv(layer)),
        keras.layers.SeparableConv1D: (_separable, _is_plain_conv(layer)),
        keras.layers.SeparableConv2D: (_separable, _is_plain_conv(layer)),
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
        (layer.kernel, Outer(fed=_rows(fed), gradients=_rows(gradients), shape=tuple(layer.kernel.shape))),
        *_bias(layer, gradients),
    ]


def _bias(layer: Any, gradients: tf.Tensor) -> Contributions:
    if not layer.use_bias:
        return []
    return [(layer.bias, Direct(gradients=_summed(gradients, layer.bias.shape)))]


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
            _flat(tf.einsum(f"{letters}->{''.join([batch, *positions, *last])}", value), len(last))
            for letters, last, value in ((fed_letters, inner, fed), (out_letters, outer, gradients))
        ]
        kernel: Any = Outer(fed=sides[0], gradients=sides[1], shape=tuple(layer.kernel.shape))
    else:
        equation = f"{fed_letters},{out_letters}->{batch}{kernel_letters}"
        kernel = Direct(gradients=tf.einsum(equation, fed, gradients))
    pairs: Contributions = [(layer.kernel, kernel)]
    if layer.bias is not None:
        pairs.append((layer.bias, Direct(gradients=_summed(gradients, layer.bias.shape))))
    return pairs


def _is_plain_conv(layer: Any) -> bool:
    return getattr(layer, "data_format", None) == "channels_last" and getattr(layer, "groups", 1) in (1, None)


def _conv(layer: Any, fed: tf.Tensor, gradients: tf.Tensor) -> Contributions:
    patches = _patches(layer, fed)
    kernel = Outer(fed=_rows(patches), gradients=_rows(gradients), shape=tuple(layer.kernel.shape))
    return [(layer.kernel, kernel), *_bias(layer, gradients)]


def _depthwise(layer: Any, fed: tf.Tensor, gradients: tf.Tensor) -> Contributions:
    return [(layer.depthwise_kernel, _depthwise_kernel(layer, fed, gradients)), *_bias(layer, gradients)]


def _depthwise_kernel(layer: Any, fed: tf.Tensor, gradients: tf.Tensor) -> Direct:
    """Each channel has a kernel of its own: [h, w, channels, multiplier]."""
    *size, channels, multiplier = layer.depthwise_kernel.shape
    taps = math.prod(size)
    patches = _rows(_patches(layer, fed))
    positions = patches.shape[1]
    windows = tf.reshape(patches, [-1, positions, taps, channels])
    at_output = tf.reshape(gradients, [-1, positions, channels, multiplier])
    each = tf.einsum("btkc,btcm->bkcm", windows, at_output)
    return Direct(gradients=tf.reshape(each, [-1, *layer.depthwise_kernel.shape]))


def _separable(layer: Any, fed: tf.Tensor, gradients: tf.Tensor) -> Contributions:
    """A depthwise convolution, then a matrix on its channels."""
    *_, channels, multiplier = layer.depthwise_kernel.shape
    patches = _patches(layer, fed)
    windows = tf.reshape(patches, [-1, *patches.shape[1:-1], patches.shape[-1] // channels, channels])
    kernel = tf.reshape(layer.depthwise_kernel, [-1, channels, multiplier])
    between = tf.einsum("...kc,kcm->...cm", windows, kernel)
    between = tf.reshape(between, [-1, *patches.shape[1:-1], channels * multiplier])
    matrix = tf.reshape(layer.pointwise_kernel, [channels * multiplier, -1])
    pointwise = Outer(
        fed=_rows(between), gradients=_rows(gradients), shape=tuple(layer.pointwise_kernel.shape)
    )
    at_between = tf.matmul(gradients, matrix, transpose_b=True)
    return [
        (layer.depthwise_kernel, _depthwise_kernel(layer, fed, at_between)),
        (layer.pointwise_kernel, pointwise),
        *_bias(layer, gradients),
    ]


def _patches(layer: Any, fed: tf.Tensor) -> tf.Tensor:
    """What each output position sees, [batch, ..., taps * channels], in the order of the kernel."""
    size, strides, rates = (tuple(value) for value in (layer.kernel_size, layer.strides, layer.dilation_rate))
    if len(size) == 1:
        if layer.padding == "causal":
            fed = tf.pad(fed, [[0, 0], [(size[0] - 1) * rates[0], 0], [0, 0]])
        strides = strides if len(strides) == 1 else strides[:1]
        patches = tf.image.extract_patches(
            fed[:, tf.newaxis],
            sizes=[1, 1, *size, 1],
            strides=[1, 1, *strides, 1],
            rates=[1, 1, *rates[:1], 1],
            padding="SAME" if layer.padding == "same" else "VALID",
        )
        return tf.squeeze(patches, 1)
    return tf.image.extract_patches(
        fed,
        sizes=[1, *size, 1],
        strides=[1, *strides, 1],
        rates=[1, *rates, 1],
        padding="SAME" if layer.padding == "same" else "VALID",
    )


def _embedding(layer: Any, fed: tf.Tensor, gradients: tf.Tensor) -> Contributions:
    width = layer.embeddings.shape[1]
    rows = tf.reshape(tf.cast(fed, tf.int64), [-1, math.prod(fed.shape[1:])])
    at_output = tf.reshape(gradients, [-1, rows.shape[1], width])
    return [(layer.embeddings, Lookup(rows=rows, gradients=at_output, shape=tuple(layer.embeddings.shape)))]


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
        pairs.append((layer.gamma, Direct(gradients=_summed(gradients * normal, layer.gamma.shape))))
    if layer.center:
        pairs.append((layer.beta, Direct(gradients=_summed(gradients, layer.beta.shape))))
    return pairs


def _rows(values: tf.Tensor) -> tf.Tensor:
    """[batch, d] as it is, [batch, ..., d] as [batch, t, d]."""
    return _flat(values, 1)


def _flat(values: tf.Tensor, last: int) -> tf.Tensor:
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


def _summed(gradients: tf.Tensor, shape: Any) -> tf.Tensor:
    """[batch, ...] summed over all axes along which a variable of that shape was broadcast: [batch, *shape]."""
    spare = len(gradients.shape) - 1 - len(shape)
    stretched = [1 + spare + place for place, size in enumerate(shape) if size == 1]
    axes = [*range(1, 1 + spare), *stretched]
    if not axes:
        return gradients
    return tf.reshape(tf.reduce_sum(gradients, axes), [-1, *shape])

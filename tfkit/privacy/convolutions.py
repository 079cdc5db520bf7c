"""Book-keeping rules of convolutions.

TensorFlow's own gradient of a kernel gives each example's, when the examples are laid side by side as the groups of
one grouped convolution. Where that is not to be had, or would need more memory, patches make a matrix product of it.
"""

from __future__ import annotations

import functools
import math
from typing import Any

from tfkit.privacy.contributions import LARGEST_EXAMPLES_GRADIENT, Contributions, Direct, Outer, Sliced
from tfkit.privacy.shapes import bias, rows
from tfkit.stack import tf


def conv(layer: Any, fed: tf.Tensor, gradients: tf.Tensor) -> Contributions:
    """Of Conv1D and Conv2D, channels last, one group."""
    kernel = _kernel(layer, fed, gradients)
    return [(layer.kernel, kernel), *bias(layer, gradients)]


def depthwise(layer: Any, fed: tf.Tensor, gradients: tf.Tensor) -> Contributions:
    """Of DepthwiseConv1D and DepthwiseConv2D."""
    return [(layer.depthwise_kernel, _depthwise_kernel(layer, fed, gradients)), *bias(layer, gradients)]


def separable(layer: Any, fed: tf.Tensor, gradients: tf.Tensor) -> Contributions:
    """Of SeparableConv1D and SeparableConv2D: a depthwise convolution, then a matrix on its channels."""
    *_, channels, multiplier = layer.depthwise_kernel.shape
    patches = _patches(layer, fed)
    windows = tf.reshape(patches, [-1, *patches.shape[1:-1], patches.shape[-1] // channels, channels])
    kernel = tf.reshape(layer.depthwise_kernel, [-1, channels, multiplier])
    between = tf.einsum("...kc,kcm->...cm", windows, kernel)
    between = tf.reshape(between, [-1, *patches.shape[1:-1], channels * multiplier])
    matrix = tf.reshape(layer.pointwise_kernel, [channels * multiplier, -1])
    shape = tuple(layer.pointwise_kernel.shape)
    at_between = tf.matmul(gradients, matrix, transpose_b=True)
    return [
        (layer.depthwise_kernel, _depthwise_kernel(layer, fed, at_between)),
        (layer.pointwise_kernel, Outer(fed=rows(between), gradients=rows(gradients), shape=shape)),
        *bias(layer, gradients),
    ]


def _kernel(layer: Any, fed: tf.Tensor, gradients: tf.Tensor) -> Any:
    shape = tuple(layer.kernel.shape)
    fits = _formed_is_smaller(shape, gradients.shape)
    if not fits or not _is_dense(layer) or not examples_can_be_groups():
        return Outer(fed=rows(_patches(layer, fed)), gradients=rows(gradients), shape=shape)
    fed, gradients, strides = _flat_image(layer, fed, gradients)
    batch, outputs = fed.shape[0], shape[-1]
    formed = _of_groups(
        fed, gradients, size=_two(layer.kernel_size), strides=strides, padding=_padding(layer)
    )
    return Sliced(gradients=tf.reshape(formed, [-1, batch, outputs]), shape=shape)


def _formed_is_smaller(kernel: tuple[int, ...], outputs: Any) -> bool:
    """Whether all examples' gradients take little memory, or less than patches and their products would."""
    if not outputs.is_fully_defined():
        return False
    batch, positions = outputs[0], math.prod(outputs[1:-1])
    numbers, taps = math.prod(kernel), math.prod(kernel[:-1])
    return batch * numbers <= LARGEST_EXAMPLES_GRADIENT or numbers <= positions * (taps + 2 * positions)


def _of_groups(fed: tf.Tensor, gradients: tf.Tensor, *, size: Any, strides: Any, padding: str) -> tf.Tensor:
    """[h, w, channels, batch * outputs]: each example's gradient, from the examples as groups."""
    batch, outputs = fed.shape[0], gradients.shape[-1]
    return tf.raw_ops.Conv2DBackpropFilter(
        input=_side_by_side(fed),
        filter_sizes=[*size, fed.shape[-1], batch * outputs],
        out_backprop=_side_by_side(gradients),
        strides=strides,
        padding=padding,
    )


@functools.cache
def examples_can_be_groups() -> bool:
    """Whether TensorFlow here differentiates grouped convolutions; on a CPU only its oneDNN kernels do."""
    with tf.init_scope():
        fed = tf.reshape(tf.range(24.0), [2, 3, 2, 2])
        gradients = tf.reshape(tf.range(18.0), [2, 3, 1, 3])
        try:
            found = _of_groups(fed, gradients, size=[1, 2], strides=[1, 1, 1, 1], padding="VALID")
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError):
            return False
        # Each of its numbers is below 2**24: a float32 holds it exactly, in whatever order it is summed.
        expected = tf.einsum("bhwc,bhq->wcbq", fed, gradients[:, :, 0])
        return bool(tf.reduce_all(tf.reshape(found, expected.shape) == expected))


def _depthwise_kernel(layer: Any, fed: tf.Tensor, gradients: tf.Tensor) -> Direct:
    """Each channel has a kernel of its own: [h, w, channels, multiplier]."""
    *_, channels, multiplier = layer.depthwise_kernel.shape
    if len(layer.kernel_size) == 1:
        fed, gradients = _causal(layer, fed)[:, tf.newaxis], gradients[:, tf.newaxis]
    height, width = gradients.shape[1:3]
    size, strides = _two(layer.kernel_size), layer.strides[-1]
    rates = _two(layer.dilation_rate)
    if layer.padding == "same":
        fed = _padded(fed, size, strides, rates, (height, width))
    by_channel = tf.reshape(gradients, [-1, height, width, channels, multiplier])
    # One tap at a time: patches would hold all of them at once, and oneDNN's own kernel takes gigabytes for many
    # channels, whose pages cost ten times what the arithmetic does.
    each = []
    for row in range(size[0]):
        for column in range(size[1]):
            top, left = row * rates[0], column * rates[1]
            seen = fed[:, top : top + (height - 1) * strides + 1 : strides]
            seen = seen[:, :, left : left + (width - 1) * strides + 1 : strides]
            each.append(tf.reduce_sum(seen[..., tf.newaxis] * by_channel, [1, 2]))
    return Direct(gradients=tf.reshape(tf.stack(each, 1), [-1, *layer.depthwise_kernel.shape]))


def _padded(
    fed: tf.Tensor, size: list[int], stride: int, rates: list[int], outputs: tuple[int, int]
) -> tf.Tensor:
    """With the zeros that padding "same" puts around an image."""
    pads = []
    for axis in (0, 1):
        stride_here = stride if outputs[axis] > 1 or fed.shape[1 + axis] > 1 else 1
        needed = (outputs[axis] - 1) * stride_here + (size[axis] - 1) * rates[axis] + 1 - fed.shape[1 + axis]
        pads.append([max(needed, 0) // 2, max(needed, 0) - max(needed, 0) // 2])
    return tf.pad(fed, [[0, 0], *pads, [0, 0]])


def _flat_image(layer: Any, fed: tf.Tensor, gradients: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, list[int]]:
    """A sequence as an image of one row; and the strides."""
    strides = tuple(layer.strides)
    if len(layer.kernel_size) == 2:
        return fed, gradients, [1, *strides, 1]
    # The depthwise kernel takes but one stride for both axes; along a single row any will do.
    along = strides[-1]
    return _causal(layer, fed)[:, tf.newaxis], gradients[:, tf.newaxis], [1, along, along, 1]


def _side_by_side(values: tf.Tensor) -> tf.Tensor:
    """[batch, h, w, channels] as one image with the channels of all examples: [1, h, w, batch * channels]."""
    batch, height, width, channels = values.shape
    return tf.reshape(tf.transpose(values, [1, 2, 0, 3]), [1, height, width, batch * channels])


def _is_dense(layer: Any) -> bool:
    return all(rate == 1 for rate in layer.dilation_rate)


def _two(size: Any) -> list[int]:
    return [1, *size] if len(size) == 1 else [*size]


def _padding(layer: Any) -> str:
    return "SAME" if layer.padding == "same" else "VALID"


def _causal(layer: Any, fed: tf.Tensor) -> tf.Tensor:
    if layer.padding != "causal":
        return fed
    return tf.pad(fed, [[0, 0], [(layer.kernel_size[0] - 1) * layer.dilation_rate[0], 0], [0, 0]])


def _patches(layer: Any, fed: tf.Tensor) -> tf.Tensor:
    """What each output position sees, [batch, ..., taps * channels], in the order of the kernel."""
    size, strides, rates = (tuple(value) for value in (layer.kernel_size, layer.strides, layer.dilation_rate))
    image = len(size) == 2
    patches = tf.image.extract_patches(
        fed if image else _causal(layer, fed)[:, tf.newaxis],
        sizes=[1, *_two(size), 1],
        strides=[1, *(strides if image else (1, strides[-1])), 1],
        rates=[1, *(rates if image else (1, rates[-1])), 1],
        padding=_padding(layer),
    )
    return patches if image else tf.squeeze(patches, 1)

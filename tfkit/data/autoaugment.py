"""AutoAugment: the published policies, of which each image draws one pair of operations.

Source: Cubuk et al. 2018 (arXiv:1805.09501), the policies for ImageNet and CIFAR-10 and the ranges of its table
of operations; what a geometric operation brings into view is grey, as in the authors' code.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, TypeAlias

from tfkit.environment import stack

Tensor: TypeAlias = Any

POLICIES = {
    "imagenet": """
        Posterize .4 8 Rotate .6 9;     Solarize .6 5 AutoContrast .6 0;  Equalize .8 0 Equalize .6 0
        Posterize .6 7 Posterize .6 6;  Equalize .4 0 Solarize .2 4;      Equalize .4 0 Rotate .8 8
        Solarize .6 3 Equalize .6 0;    Posterize .8 5 Equalize 1 0;      Rotate .2 3 Solarize .6 8
        Equalize .6 0 Posterize .4 6;   Rotate .8 8 Color .4 0;           Rotate .4 9 Equalize .6 0
        Equalize 0 0 Equalize .8 0;     Invert .6 0 Equalize 1 0;         Color .6 4 Contrast 1 8
        Rotate .8 8 Color 1 2;          Color .8 8 Solarize .8 7;         Sharpness .4 7 Invert .6 0
        ShearX .6 5 Equalize 1 0;       Color .4 0 Equalize .6 0;         Equalize .4 0 Solarize .2 4
        Solarize .6 5 AutoContrast .6 0;  Invert .6 0 Equalize 1 0;       Color .6 4 Contrast 1 8
        Equalize .8 0 Equalize .6 0""",
    "cifar": """
        Invert .1 0 Contrast .2 6;      Rotate .7 2 TranslateX .3 9;      Sharpness .8 1 Sharpness .9 3
        ShearY .5 8 TranslateY .7 9;    AutoContrast .5 0 Equalize .9 0;  ShearY .2 7 Posterize .3 7
        Color .4 3 Brightness .6 7;     Sharpness .3 9 Brightness .7 9;   Equalize .6 0 Equalize .5 0
        Contrast .6 7 Sharpness .6 5;   Color .7 7 TranslateX .5 8;       Equalize .3 0 AutoContrast .4 0
        TranslateY .4 3 Sharpness .2 6; Brightness .9 6 Color .2 8;       Solarize .5 2 Invert 0 0
        Equalize .2 0 AutoContrast .6 0;  Equalize .2 0 Equalize .6 0;    Color .9 9 Equalize .6 0
        AutoContrast .8 0 Solarize .2 8;  Brightness .1 3 Color .7 0;     Solarize .4 5 AutoContrast .9 0
        TranslateY .9 9 TranslateY .7 9;  AutoContrast .9 0 Solarize .8 3;  Equalize .8 0 Invert .1 0
        TranslateY .7 9 AutoContrast .9 0""",
}
"""A pair a sub-policy: operation, probability, magnitude from 0 to 9; operations without a magnitude have 0."""

_LEVELS = 9
_LARGEST = {"ShearX": 0.3, "ShearY": 0.3, "TranslateX": 150 / 331, "TranslateY": 150 / 331, "Rotate": math.pi / 6,
            "Brightness": 0.9, "Color": 0.9, "Contrast": 0.9, "Sharpness": 0.9}  # fmt: skip
"""Size of magnitude 9, to either side: parts of the side, radians, the factor's distance from 1."""


def policy(name: str) -> list[list[tuple[str, float, int]]]:
    """Return the 25 sub-policies of a policy: two operations each, with probability and magnitude (0 to 9).

    Args:
      name: "imagenet" or "cifar".
    """
    pairs = [pair.split() for line in POLICIES[name].strip().split("\n") for pair in line.split(";") if pair]
    return [[(pair[i], float(pair[i + 1]), int(pair[i + 2])) for i in (0, 3)] for pair in pairs]


def autoaugment(name: str) -> Callable[..., Tensor]:
    """Return a graph function that applies to each image one sub-policy of a published policy.

    Args:
      name: "imagenet" or "cifar".

    Returns:
      (images float32 [b, s, s, 3] in [0, 1], seeds int64 [b, 2]) -> images: the same for the same seeds.
    """
    tf, table = stack.tf, policy(name)
    names = sorted({operation for pair in table for operation, _, _ in pair})
    rows = [[(names.index(operation), share, level) for operation, share, level in pair] for pair in table]

    def augment(example: tuple[Tensor, Tensor]) -> Tensor:
        image, seed = example
        drawn = tf.random.stateless_uniform([5], seed=seed)
        pair = tf.constant(rows, tf.float32)[tf.cast(drawn[0] * len(rows), tf.int32)]
        image = tf.floor(image * 255.0 + 0.5)
        for place in range(2):
            number, share, level = tf.unstack(pair[place])
            sign = tf.where(drawn[3 + place] < 0.5, -1.0, 1.0)
            branches = [functools.partial(apply, one, image, level, sign) for one in names]
            changed = tf.switch_case(tf.cast(number, tf.int32), branches)
            image = tf.where(drawn[1 + place] < share, changed, image)
        return tf.clip_by_value(image / 255.0, 0.0, 1.0)

    def batch(images: Tensor, seeds: Tensor) -> Tensor:
        spec = tf.TensorSpec(images.shape[1:], tf.float32)
        return tf.map_fn(augment, (images, seeds), fn_output_signature=spec)

    return batch


def apply(operation: str, image: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Return an image after an operation, as Pillow's ImageOps and ImageEnhance define it.

    Args:
      operation: as in a policy.
      image: float32 [s, s, 3], whole numbers in 0..255.
      level: float32 [], the magnitude from 0 to 9.
      sign: float32 [], 1 or -1: the side to which the magnitude goes.

    Returns:
      float32 [s, s, 3] in 0..255, perhaps between whole numbers.
    """
    tf = stack.tf
    if operation == "Invert":
        return 255.0 - image
    if operation == "Solarize":
        return tf.where(image < 255.0 * (1 - level / _LEVELS), image, 255.0 - image)
    if operation == "Posterize":
        step = 2.0 ** tf.round(level / _LEVELS * 4)
        return tf.floor(image / step) * step
    if operation in ("AutoContrast", "Equalize"):
        channels = tf.transpose(image, [2, 0, 1])
        stretch = _auto_contrast if operation == "AutoContrast" else _equalize
        return tf.transpose(tf.map_fn(stretch, channels), [1, 2, 0])
    amount = sign * level / _LEVELS * _LARGEST[operation]
    if operation in ("Brightness", "Color", "Contrast", "Sharpness"):
        plain = _without(operation, image)
        return tf.clip_by_value(plain + (image - plain) * (1.0 + amount), 0.0, 255.0)
    return _moved(operation, image, amount)


def _without(operation: str, image: Tensor) -> Tensor:
    """Return the image that Pillow's enhancement of this name blends with: black, grey, even, or smoothed."""
    tf = stack.tf
    if operation == "Brightness":
        return tf.zeros_like(image)
    if operation == "Sharpness":
        kernel = tf.constant([[1, 1, 1], [1, 5, 1], [1, 1, 1]], tf.float32)[:, :, tf.newaxis, tf.newaxis] / 13
        smooth = tf.nn.depthwise_conv2d(
            image[tf.newaxis], tf.tile(kernel, [1, 1, 3, 1]), [1, 1, 1, 1], "VALID"
        )
        inner = tf.pad(tf.ones_like(smooth[0]), [[1, 1], [1, 1], [0, 0]])
        return tf.where(inner > 0, tf.pad(smooth[0], [[1, 1], [1, 1], [0, 0]]), image)
    grey = tf.tensordot(image, [0.299, 0.587, 0.114], 1)[..., tf.newaxis] + tf.zeros_like(image)
    return grey if operation == "Color" else tf.zeros_like(image) + tf.floor(tf.reduce_mean(grey) + 0.5)


def _auto_contrast(channel: Tensor) -> Tensor:
    """Return a channel [s, s] of which the darkest value is 0 and the lightest 255."""
    tf = stack.tf
    low, high = tf.reduce_min(channel), tf.reduce_max(channel)
    return tf.where(high > low, tf.floor((channel - low) * 255.0 / tf.maximum(high - low, 1.0)), channel)


def _equalize(channel: Tensor) -> Tensor:
    """Return a channel [s, s] of which all values are about equally frequent."""
    tf = stack.tf
    values = tf.cast(channel, tf.int32)
    counts = tf.math.bincount(tf.reshape(values, [-1]), minlength=256, maxlength=256)
    last = tf.gather(counts, tf.reduce_max(values))
    step = (tf.reduce_sum(counts) - last) // 255
    table = (tf.cumsum(counts, exclusive=True) + step // 2) // tf.maximum(step, 1)
    return tf.where(step > 0, tf.cast(tf.gather(tf.minimum(table, 255), values), tf.float32), channel)


def _moved(operation: str, image: Tensor, amount: Tensor) -> Tensor:
    tf, side = stack.tf, float(image.shape[0])
    one, zero, middle = tf.ones([]), tf.zeros([]), (side - 1) / 2
    matrix = {"ShearX": [one, amount, zero, zero, one, zero], "ShearY": [one, zero, zero, amount, one, zero],
              "TranslateX": [one, zero, amount * side, zero, one, zero],
              "TranslateY": [one, zero, zero, zero, one, amount * side]}.get(operation)  # fmt: skip
    if matrix is None:  # a rotation about the middle
        cos, sin = tf.cos(amount), tf.sin(amount)
        across, down = middle - middle * (cos - sin), middle - middle * (sin + cos)
        matrix = [cos, -sin, across, sin, cos, down]
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=image[tf.newaxis], transforms=tf.stack([*matrix, zero, zero])[tf.newaxis],
        output_shape=tf.shape(image)[:2], fill_value=128.0, interpolation="BILINEAR", fill_mode="CONSTANT",
    )  # fmt: skip
    return tf.ensure_shape(moved[0], image.shape)

"""Pixels: what images of any size and depth become before a model sees them, in training and in the exported graph."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from tfkit.environment import stack
from tfkit.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

RECIPE = "upright, alpha over white, antialiased bilinear; 2"
"""Part of the fingerprint of images, by which a run knows its data: change it where they are others to a model."""

PIXELS = 3
"""Part of every key under which something made from prepared pixels is stored: raise it with any change of them."""

OVERSHOOT = 0.5
"""Of floats beyond [0, 1] or [0, 255]: bicubic resizing leaves these by less, another range is left by more."""

Tensor: TypeAlias = Any
"""A tf.Tensor; TensorFlow is imported when the first one is made."""

TINY, SMALL = 16, 96  # longer sides, of the median image

Range = tuple[int, int]

FULL_RANGE: Range = (0, 65535)
"""Black and white of an image of 16 bits, where nothing else is known."""


class PixelRange(NamedTuple):
    """Say how the images of 16 bits of a set become 8-bit ones: one range for all of them."""

    low: int = 0
    """This value, and what is below it, becomes 0."""

    high: int = 65535
    """This value, and what is above it, becomes 255."""

    images: int = 0
    """Number of images of 16 bits."""

    measured: bool = False
    """True where the training images decided it."""


WHOLE_RANGE = PixelRange()


def as_bytes(values: np.ndarray, pixel_range: tuple[int, int]) -> np.ndarray:
    """Return 16-bit values as uint8: `pixel_range` to 0..255, rounded half up, clipped."""
    low, high = pixel_range
    offsets = np.clip(np.arange(65536), low, high) - low
    return ((offsets * 510 + (high - low)) // (2 * (high - low))).astype(np.uint8)[values]


_MIN_RANGE = 65536 // 4
"""A set that uses as much of 0..65535 keeps 64 grey levels or more: it is scaled as a whole."""

_TAIL_SHARE = 1e-4  # of an image's pixels, at either end: dead and hot ones
_BROKEN_SHARE = 0.01  # of the images


def used_range(values: np.ndarray) -> tuple[int, int]:
    """Return what all but 1 in 10,000 values of an image of 16 bits are not below, and not above.

    Args:
      values: uint16 [h, w, channels]; its alpha does not count.
    """
    colours = values[..., :-1] if values.shape[-1] in (2, 4) else values
    counts = np.cumsum(np.bincount(colours.ravel(), minlength=65536))
    tail = int(_TAIL_SHARE * counts[-1])
    return int(np.searchsorted(counts, tail, side="right")), int(np.searchsorted(counts, counts[-1] - tail))


def choose_range(training: Sequence[tuple[int, int]], *, images: int) -> PixelRange:
    """Return the one range for all 16-bit images of a set: what the training images use, or all of 0..65535.

    Args:
      training: what its training images of 16 bits use, in any order.
      images: how many of its images have 16 bits.
    """
    if not training:
        return PixelRange(images=images)
    lows, highs = zip(*training, strict=True)
    low = int(np.quantile(lows, _BROKEN_SHARE, method="lower"))
    high = int(np.quantile(highs, 1 - _BROKEN_SHARE, method="higher"))
    if high - low >= _MIN_RANGE or high == low:
        return PixelRange(images=images)
    return PixelRange(low, high, images=images, measured=True)


def to_square(image: Tensor, size: int) -> Tensor:
    """Resize to [size, size, 3] by antialiased bilinear interpolation; the aspect ratio is not kept.

    Part of the exported graph. Training reads what `resize` made, and these are the same values: with Pillow's weights
    in whole numbers, one axis after the other, rounding after each.

    Args:
      image: uint8 or float [h, w, 3] or [batch, h, w, 3], whole numbers in [0, 255], of any height and width.
      size: side of the square in pixels.

    Returns:
      float32 [size, size, 3] or [batch, size, size, 3], whole numbers in [0, 255].
    """
    tf = stack.tf
    pixels = tf.cast(image, tf.float32)

    def resize_pixels() -> Tensor:
        batch = tf.reshape(pixels, tf.concat([[-1], tf.shape(pixels)[-3:]], 0))
        columns = _resize_first_axis()(tf.transpose(batch, [2, 0, 1, 3]), size)
        rows = _resize_first_axis()(tf.transpose(columns, [2, 1, 0, 3]), size)
        shape = tf.concat([tf.shape(pixels)[:-3], [size, size, 3]], 0)
        return tf.reshape(tf.transpose(rows, [1, 0, 2, 3]), shape)

    square = tf.cond(tf.reduce_all(tf.equal(tf.shape(image)[-3:-1], size)), lambda: pixels, resize_pixels)
    return tf.ensure_shape(square, [*image.shape[:-3], size, size, 3])


_WEIGHT_BITS = 22
"""Pillow's weights are multiples of 2 to the power of minus this."""


@functools.cache
def _resize_first_axis() -> Callable[[Tensor, int], Tensor]:
    """Return what resizes float32 [n, ...], whole numbers, to [size, ...] by the weights of Pillow's Resample.c.

    One graph, traced once: it costs a tenth of a second, and an export calls it for each dtype.
    """
    tf = stack.tf

    def resize(lines: Tensor, size: Tensor) -> Tensor:
        count = tf.shape(lines)[0]
        scale = tf.cast(count, tf.float64) / tf.cast(size, tf.float64)
        reach = tf.maximum(scale, 1.0)
        centres = (tf.cast(tf.range(size), tf.float64) + 0.5) * scale
        first = tf.maximum(tf.cast(centres - reach + 0.5, tf.int32), 0)
        end = tf.minimum(tf.cast(centres + reach + 0.5, tf.int32), count)
        positions = first[:, tf.newaxis] + tf.range(2 * tf.cast(tf.math.ceil(reach), tf.int32) + 1)
        distances = tf.abs(tf.cast(positions, tf.float64) + 0.5 - centres[:, tf.newaxis]) / reach
        is_inside = positions < end[:, tf.newaxis]
        weights = tf.where(is_inside, tf.maximum(1.0 - distances, 0.0), 0.0)
        weights = weights / tf.reduce_sum(weights, axis=1, keepdims=True)
        units = tf.cast(weights * 2.0**_WEIGHT_BITS + 0.5, tf.int32)
        places = tf.stack([tf.where(is_inside)[:, 0], tf.cast(positions[is_inside], tf.int64)], axis=1)
        matrix = tf.SparseTensor(places, units[is_inside], tf.cast([size, count], tf.int64))
        sums = tf.sparse.sparse_dense_matmul(matrix, tf.cast(tf.reshape(lines, [count, -1]), tf.int32))
        result = tf.cast(tf.bitwise.right_shift(sums + 2 ** (_WEIGHT_BITS - 1), _WEIGHT_BITS), tf.float32)
        return tf.reshape(tf.minimum(result, 255.0), tf.concat([[size], tf.shape(lines)[1:]], 0))

    specs = [tf.TensorSpec([None, None, None, 3], tf.float32), tf.TensorSpec([], tf.int32)]
    return tf.function(resize, input_signature=specs, autograph=False)


def resize(image: Image.Image, size: int) -> np.ndarray:
    """Compute `to_square` by Pillow: several times faster, and needs no TensorFlow.

    Args:
      image: an RGB image.
      size: side of the square in pixels.

    Returns:
      uint8 [size, size, 3].
    """
    from PIL import Image

    # In one call, Pillow 13 begins with the axis that makes less work, others with the width: other values come of it.
    for shape in ((size, image.height), (size, size)):
        image = image.resize(shape, Image.Resampling.BILINEAR)
    return np.asarray(image)


def choose_size(longer_sides: np.ndarray, *, image_size: int | None, native_size: int) -> int:
    """Return the side to train at: what was asked, else 64 (tiny images), 96 (small ones) or the model's own."""
    if image_size is not None:
        if image_size < 1:
            raise DataError(f"image_size is {image_size}: a side has 1 pixel or more.")
        return image_size
    median_side = np.median(longer_sides)
    return min(64 if median_side <= TINY else 96 if median_side <= SMALL else native_size, native_size)


def as_pixels(images: np.ndarray, *, white: int | None = None) -> np.ndarray:
    """Return uint8 or uint16; floats as the exported model takes them, of which `white` is 1 or 255; None: by them."""
    text = f"An array of images is {images.dtype} {list(images.shape)}"
    if images.dtype.kind == "f" and images.size:
        low, high = float(images.min()), float(images.max())
        if not -OVERSHOOT <= low <= high <= 255 + OVERSHOOT:
            raise DataError(f"{text}, from {low:g} to {high:g}; floats are in [0, 1] or [0, 255].")
        white = white or (255 if high > 1 + OVERSHOOT else 1)
        values = images.astype(np.float32) * np.float32(255 // white)
        images = np.floor(np.clip(values, 0, 255) + np.float32(0.5)).astype(np.uint8)
    if images.dtype not in (np.uint8, np.uint16) or not 1 <= images.shape[-1] <= 4 or not images.size:
        raise DataError(f"{text}; it must be uint8, uint16 or float, with 1 to 4 channels in the last axis.")
    return images

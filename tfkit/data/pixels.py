"""The one resize: the same pixels for training and for the exported model."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf
    from PIL import Image

RECIPE = "upright, alpha over white, antialiased bilinear; 2"
"""Part of every key under which something made from prepared pixels is stored: change it with the pixels."""

TINY, SMALL = 16, 96  # longer sides, of the median image

FULL_RANGE = (0, 65535)
"""What black and white are in an image of 16 bits, where nothing else is known."""


class PixelRange(NamedTuple):
    """How the images of 16 bits of a set become 8-bit ones: one range for all of them."""

    low: int = 0
    """This value, and what is below it, becomes 0."""

    high: int = 65535
    """This value, and what is above it, becomes 255."""

    images: int = 0
    """How many images have 16 bits."""

    measured: bool = False
    """Whether the training images decided it."""


WHOLE_RANGE = PixelRange()


def as_bytes(values: np.ndarray, pixel_range: tuple[int, int]) -> np.ndarray:
    """Return 16-bit values as uint8: `pixel_range` to 0..255, rounded half up, clipped."""
    low, high = pixel_range
    above = np.clip(values.astype(np.int32), low, high) - low
    return ((above * 510 + (high - low)) // (2 * (high - low))).astype(np.uint8)


def to_square(image: tf.Tensor, size: int) -> tf.Tensor:
    """Resize to [size, size, 3] by antialiased bilinear interpolation; the aspect ratio is not kept.

    Part of the exported graph. Training reads what `resize` made: equal in 99 % of the values, which otherwise
    are 1 of 255 apart. It takes two passes, rounding after each, because Pillow does; one pass would make a tenth
    to a fifth of the values differ.

    Args:
      image: uint8 or float [h, w, 3] or [batch, h, w, 3] in [0, 255], any height and width, known or not.
      size: side of the square in pixels.

    Returns:
      float32 [size, size, 3] or [batch, size, size, 3], whole numbers in [0, 255].
    """
    from tfkit.stack import tf

    def whole(values: tf.Tensor) -> tf.Tensor:
        return tf.clip_by_value(tf.floor(values + 0.5), 0.0, 255.0)

    height = tf.shape(image)[-3]
    wide = whole(
        tf.image.resize(tf.cast(image, tf.float32), [height, size], method="bilinear", antialias=True)
    )
    square = whole(tf.image.resize(wide, [size, size], method="bilinear", antialias=True))
    return tf.ensure_shape(square, [*image.shape[:-3], size, size, 3])


def resize(image: Image.Image, size: int) -> np.ndarray:
    """What `to_square` computes, by Pillow: several times faster, and needs no TensorFlow.

    Args:
      image: an RGB image.
      size: side of the square in pixels.

    Returns:
      uint8 [size, size, 3].
    """
    from PIL import Image

    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def choose_size(longer_sides: np.ndarray, *, image_size: int | None, native_size: int) -> int:
    """The side to train at: what was asked, else 64 for tiny images, 96 for small ones, else the model's own size."""
    if image_size is not None:
        return image_size
    usual = np.median(longer_sides)
    return min(64 if usual <= TINY else 96 if usual <= SMALL else native_size, native_size)

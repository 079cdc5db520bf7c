"""An exported model of images: pixels of any size to probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tfkit.data import Splits, pixels
from tfkit.export.module import classifier, module_of

if TYPE_CHECKING:
    from tfkit.stack import keras

_OVERSHOOT = 0.5
"""Bicubic resizing leaves [0, 1] by less; what is meant as [-1, 1] or [0, 255] by more."""


def image_module(model: keras.Model, splits: Splits, *, logits: bool) -> Any:
    """What is saved of a classifier of images; see `tfkit.export.save`."""
    from tfkit.stack import tf

    size = int(splits.spec.shape[0])
    spec = tf.TensorSpec([None, size, size, 3], tf.float32)
    ways = {training: classifier(model, spec, logits=logits, training=training) for training in (False, True)}

    @tf.function(autograph=False)
    def call(images: Any, training: bool = False) -> Any:
        # [h, w], [h, w, c] and [b, h, w, c] by one graph, which leaves the rank open.
        shape, rank = tf.shape(images), tf.rank(images)
        single = tf.fill([tf.cast(rank < 4, tf.int32)], 1)
        grey = tf.fill([tf.cast(rank < 3, tf.int32)], 1)
        batch = images if images.shape.rank == 4 else tf.reshape(images, tf.concat([single, shape, grey], 0))
        colours = over_white(to_bytes(batch, splits.pixel_range[:2]))
        probabilities = ways[training](pixels.to_square(colours, size) / 255.0)
        if images.shape.rank == 4:
            return probabilities
        return tf.reshape(
            probabilities, tf.concat([shape[: tf.maximum(rank - 3, 0)], tf.shape(probabilities)[1:]], 0)
        )

    deep = splits.pixel_range.images == len(splits.source.names)
    served = tf.uint16 if deep else tf.uint8
    # Each takes a tenth of a second, and more in loading: batches of what is served, and of floats, as TF Hub's models
    # take them and are trained on; the rest by open ranks, which come last, for whatever fits is taken.
    for shape, dtype, training in (
        ([None] * 4, tf.float32, False),
        ([None] * 4, served, False),
        ([None] * 4, tf.float32, True),
        *((None, dtype, False) for dtype in (tf.float32, tf.uint8, tf.uint16)),
    ):
        call.get_concrete_function(tf.TensorSpec(shape, dtype, name="images"), training=training)
    return module_of(model, call, tf.TensorSpec([None] * 4, served, name="images"), classify=ways[False])


def to_bytes(images: Any, pixel_range: tuple[int, int] = pixels.FULL_RANGE) -> Any:
    """Return pixels as whole float32 numbers in 0..255, as training rounds them.

    Args:
      images: uint8; uint16, of which `pixel_range` becomes 0 to 255; or float in [0, 1], or in [0, 255] where any of
        the whole batch is above 1.5 (a frame that is all but black does not show which: give uint8).
      pixel_range: see `tfkit.load_images`.

    Raises:
      tf.errors.InvalidArgumentError: floats are in neither range.
    """
    from tfkit.stack import tf

    if images.dtype == tf.uint8:
        return tf.cast(images, tf.float32)
    if images.dtype == tf.uint16:
        low, high = pixel_range
        above = tf.clip_by_value(tf.cast(images, tf.int32), low, high) - low
        return tf.cast((above * 510 + (high - low)) // (2 * (high - low)), tf.float32)
    fits = tf.reduce_all((images >= -_OVERSHOOT) & (images <= 255 + _OVERSHOOT))
    words = "Floating-point images must be in [0, 1] or in [0, 255]; uint8 leaves no doubt. Found:"
    found = [words, tf.reduce_min(images), tf.reduce_max(images)]
    with tf.control_dependencies([tf.debugging.Assert(fits, found)]):
        scaled = tf.where(tf.reduce_max(images) > 1 + _OVERSHOOT, images, images * 255.0)
    return tf.floor(tf.clip_by_value(scaled, 0.0, 255.0) + 0.5)


def over_white(images: Any) -> Any:
    """Return colours, float32 [b, h, w, 3], of grey or colour with or without alpha; all in 0..255.

    What is transparent is laid over white, rounded as Pillow does.
    """
    from tfkit.stack import tf

    channels = tf.shape(images)[-1]
    words = "Images must have 1 (grey), 3 (RGB) or 4 (RGBA) channels, or 2 (grey and alpha), in the last axis. Shape:"
    known = tf.debugging.Assert((channels >= 1) & (channels <= 4), [words, tf.shape(images)])

    def composed() -> Any:
        alpha = images[..., -1:]
        return tf.floor((images[..., :-1] * alpha + 255.0 * (255.0 - alpha)) / 255.0 + 0.5)

    with tf.control_dependencies([known]):
        opaque = tf.cond(channels % 2 == 0, composed, lambda: images)
    wide = tf.concat([tf.shape(opaque)[:-1], [3]], axis=0)
    colours = tf.cond(tf.shape(opaque)[-1] == 1, lambda: tf.broadcast_to(opaque, wide), lambda: opaque)
    return tf.ensure_shape(colours, [None, None, None, 3])

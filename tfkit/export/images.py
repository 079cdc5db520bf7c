"""An exported model of images: pixels of any size to probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tfkit.data import Splits, pixels
from tfkit.export.module import module_of
from tfkit.predictions import to_probabilities

if TYPE_CHECKING:
    from tfkit.stack import keras


def image_module(model: keras.Model, splits: Splits, *, logits: bool) -> Any:
    """What is saved of a classifier of images; see `tfkit.export.save`."""
    from tfkit.stack import tf

    size = int(splits.spec.shape[0])

    # Traced once and called by each of the signatures: tracing a backbone takes seconds.
    @tf.function(input_signature=[tf.TensorSpec([None, size, size, 3], tf.float32)])
    def classify(images: Any) -> Any:
        return to_probabilities(model(images, training=False), logits=logits)

    @tf.function
    def call(images: Any) -> Any:
        single = images.shape.rank == 3
        batch = images[tf.newaxis] if single else images
        probabilities = classify(pixels.to_square(to_bytes_range(batch), size) / 255.0)
        return probabilities[0] if single else probabilities

    for dtype in (tf.uint8, tf.float32):
        for shape in ([None, None, None, 3], [None, None, 3]):
            call.get_concrete_function(tf.TensorSpec(shape, dtype, name="images"))
    spec = tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")
    return module_of(model, call, spec, classify=classify)


def to_bytes_range(images: Any) -> Any:
    """Pixels as float32 in 0..255: uint8 as they are, floats by the largest value of each image."""
    from tfkit.stack import tf

    if images.dtype == tf.uint8:
        return tf.cast(images, tf.float32)
    largest = tf.reduce_max(images, axis=[1, 2, 3], keepdims=True)
    return tf.where(largest > 2.0, images, images * 255.0)

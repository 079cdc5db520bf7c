"""RandAugment with Keras's own operations, drawn from a seed for each image."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tensorflow as tf

_OPERATIONS = (
    "random_shear",
    "random_translation",
    "random_rotation",
    "random_brightness",
    "random_color_degeneration",
    "random_contrast",
    "random_sharpness",
    "random_posterization",
    "solarization",
    "auto_contrast",
    "equalization",
)


def rand_augment(*, strength: float, operations: int = 2) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """A graph function that applies random operations to each image, one after the other.

    `keras.layers.RandAugment` itself draws from a counter that it keeps, takes the same operations for a
    whole batch, and computes all eleven to use one. Here each image draws from its own seed, so that an epoch
    can be repeated bit for bit, and only the drawn operations run. The operations are the layer's own.

    Args:
      strength: 0 to 1, the layer's `factor`.
      operations: how many for each image.

    Returns:
      (images float32 [b, s, s, 3] in [0, 1], seeds int64 [b, 2]) -> images. Made outside of a graph,
      since Keras's layers make variables.

    Source: Cubuk et al. 2019 (arXiv:1909.13719).
    """
    from tfkit.stack import keras_3, tf

    # Some of the operations have amounts in [0, 255] whatever the range is said to be.
    layer = keras_3.layers.RandAugment(value_range=(0, 255), factor=strength)
    steps = [getattr(layer, name) for name in _OPERATIONS]
    for step in steps:
        step.backend.set_backend("tensorflow")

    def branch(step: Any, batch: tf.Tensor, seed: tf.Tensor) -> Callable[[], tf.Tensor]:
        def run() -> tf.Tensor:
            drawn = step.get_random_transformation(batch, training=True, seed=_example_seeds(seed))
            return tf.ensure_shape(step.transform_images(batch, drawn, training=True), batch.shape)

        return run

    def one(given: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        image, seed = given
        chosen = tf.random.stateless_uniform([operations], seed=seed, maxval=len(steps), dtype=tf.int32)
        batch = image[tf.newaxis] * 255.0
        for number in range(operations):
            branches = [branch(step, batch, tf.add(seed, [number + 1, 0])) for step in steps]
            batch = tf.switch_case(chosen[number], branches)
        return tf.clip_by_value(batch[0] / 255.0, 0.0, 1.0)

    def batch(images: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
        return tf.map_fn(
            one, (images, seeds), fn_output_signature=tf.TensorSpec(images.shape[1:], tf.float32)
        )

    return batch


def _example_seeds(seed: tf.Tensor) -> Any:
    """What Keras asks for its next seed: each asked once gives another, all of them decided by `seed`."""
    from tfkit.stack import keras_3, tf

    class ExampleSeeds(keras_3.random.SeedGenerator):
        def __init__(self) -> None:
            """Without the variable that Keras counts in."""
            self.asked = 0

        def next(self, ordered: bool = True) -> tf.Tensor:
            self.asked += 1
            return tf.bitcast(tf.cast(seed, tf.int32), tf.uint32) + tf.constant(
                [0, self.asked * 7919], tf.uint32
            )

    return ExampleSeeds()

"""Augmentation: random changes of training images, the same ones whenever the same epoch is run again."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

from tfkit.data.autoaugment import autoaugment, randaugment
from tfkit.data.pixels import Tensor
from tfkit.environment import stack
from tfkit.errors import ConfigError
from tfkit.settings import fields

PRESETS = ("none", "light", "standard", "randaugment", "autoaugment", "autoaugment-cifar")


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Say how far an image may be changed in training. All zero leaves it as it is.

    Each amount is drawn evenly from [-amount, +amount], anew for every example and epoch, from
    (seed, epoch, position of the example in the epoch) alone: repeated, it is bit-equal.

    Example:
      >>> augment = Augmentation.preset("light")
      >>> augment.flip, augment.rotation_degrees
      (True, 10.0)
    """

    flip: bool = False
    """Left to right, every other image. Not for digits, letters, or anything that has a right side."""

    rotation_degrees: Annotated[float, fields.Range(ge=0, le=180)] = 0.0
    """About the middle; what comes into view is the mirrored image."""
    zoom: fields.Share = 0.0
    """0.1 shows an image 0.9 to 1.1 times as large."""

    shift: fields.Share = 0.0
    """Part of the side by which an image moves, horizontally and vertically."""

    brightness: fields.Share = 0.0
    """Added, in parts of full white."""

    contrast: fields.Share = 0.0
    """0.2 takes a pixel's distance to the image's mean 0.8 to 1.2 times."""

    saturation: fields.Share = 0.0
    """0.2 takes a pixel's distance to its own grey 0.8 to 1.2 times."""

    randaugment: fields.Share = 0.0
    """Strength of two random operations of RandAugment, 0 to 1."""

    autoaugment: Literal["", "imagenet", "cifar"] = ""
    """One sub-policy of this policy of AutoAugment for each image."""

    def __post_init__(self) -> None:
        """Refuse amounts that have no meaning."""
        fields.check(self)

    @classmethod
    def preset(cls, name: str) -> Augmentation | None:
        """Return a set of amounts by name: one of `PRESETS`; "none" is None.

        Raises:
          ConfigError: there is no preset of this name.
        """
        presets = {
            "none": None,
            "light": cls(flip=True, rotation_degrees=10.0, zoom=0.1),
            "standard": cls(
                flip=True,
                rotation_degrees=20.0,
                zoom=0.2,
                shift=0.1,
                brightness=0.1,
                contrast=0.2,
                saturation=0.2,
            ),
            "randaugment": cls(flip=True, randaugment=0.3),
            "autoaugment": cls(flip=True, autoaugment="imagenet"),
            "autoaugment-cifar": cls(flip=True, autoaugment="cifar"),
        }
        if name not in presets:
            raise ConfigError(f"There is no augmentation '{name}'; there are {', '.join(PRESETS)}.")
        return presets[name]

    def function(self, *, seed: int) -> Callable[..., Tensor]:
        """Return a graph function that changes a batch.

        Args:
          seed: of the run.

        Returns:
          (images float32 [b, s, s, 3] in [0, 1], epoch int64 [b], position int64 [b]) -> images, where
          position is where in its epoch an example stands.
        """
        tf = stack.tf
        operations = [randaugment(self.randaugment)] if self.randaugment else []
        operations += [autoaugment(self.autoaugment)] if self.autoaugment else []

        def change(images: Tensor, epoch: Tensor, position: Tensor) -> Tensor:
            seeds = tf.stack([tf.constant(seed, tf.int64) * _PRIME + epoch, position], axis=1)
            draws = _draw_amounts(seeds)
            if self.flip or self.rotation_degrees or self.zoom or self.shift:
                transforms, shape = self._compute_transforms(draws, images.shape[1]), tf.shape(images)[1:3]
                result = tf.raw_ops.ImageProjectiveTransformV3(
                    images=images, transforms=transforms, output_shape=shape, fill_value=0.0,
                    interpolation="BILINEAR", fill_mode="REFLECT",
                )  # fmt: skip
                images = tf.ensure_shape(result, images.shape)
            if self.brightness or self.contrast or self.saturation:
                images = self._adjust_colours(images, draws)
            for operation in operations:
                images = operation(images, seeds)
            return images

        return change

    def _compute_transforms(self, draws: dict[str, Tensor], side: int) -> Tensor:
        """Return for each image the 8 numbers that take an output pixel to the input pixel: [b, 8]."""
        tf = stack.tf
        angle = draws["rotation"] * self.rotation_degrees * (math.pi / 180)
        scale = 1.0 / (1.0 + draws["zoom"] * self.zoom)
        mirror = tf.where(draws["flip"] > 0, -1.0, 1.0) if self.flip else tf.ones_like(angle)
        a, b = tf.cos(angle) * scale * mirror, -tf.sin(angle) * scale
        c, d = tf.sin(angle) * scale * mirror, tf.cos(angle) * scale
        # Around the middle of the image, then moved.
        middle = (side - 1.0) / 2.0
        shift_x = middle - a * middle - b * middle + draws["right"] * self.shift * side
        shift_y = middle - c * middle - d * middle + draws["down"] * self.shift * side
        zero = tf.zeros_like(a)
        return tf.stack([a, b, shift_x, c, d, shift_y, zero, zero], axis=1)

    def _adjust_colours(self, images: Tensor, draws: dict[str, Tensor]) -> Tensor:
        """Do what tf.image.adjust_saturation, _contrast and _brightness do, with one amount for each image."""
        amounts = {name: draws[name][:, None, None, None] * getattr(self, name) for name in _AMOUNTS[-3:]}
        grey = stack.tf.image.rgb_to_grayscale(images)
        images = grey + (images - grey) * (1.0 + amounts["saturation"])
        mean = stack.tf.reduce_mean(images, axis=[1, 2], keepdims=True)
        images = mean + (images - mean) * (1.0 + amounts["contrast"])
        return stack.tf.clip_by_value(images + amounts["brightness"], 0.0, 1.0)


_AMOUNTS = ("flip", "rotation", "zoom", "right", "down", "brightness", "contrast", "saturation")


# Keeps the seeds of neighbouring runs apart for as many epochs.
_PRIME = 1_000_003


def _draw_amounts(seeds: Tensor) -> dict[str, Tensor]:
    """Return for each example and amount a number in [-1, 1): name -> float32 [b]."""
    tf = stack.tf
    table = tf.map_fn(
        lambda seed: tf.random.stateless_uniform([len(_AMOUNTS)], seed=seed, minval=-1.0, maxval=1.0),
        seeds,
        fn_output_signature=tf.TensorSpec([len(_AMOUNTS)], tf.float32),
    )
    return dict(zip(_AMOUNTS, tf.unstack(table, axis=1), strict=True))

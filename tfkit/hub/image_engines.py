"""The engines that compute the features of images."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from tfkit.hub.backbone import Backbone
from tfkit.hub.engines import Engine, converted
from tfkit.litert import ParallelInterpreter, to_tflite


class ImageEngines:
    """Of a backbone: uint8 [b, s, s, 3] to float32 [b, d]; see `tfkit.hub.engines.Engines`."""

    unit = "image"
    at_a_time = 32
    cut = 0

    def __init__(self, backbone: Backbone) -> None:
        self.handle = backbone.handle
        self._backbone = backbone
        self._layer: Any = None

    def tensorflow(self) -> Engine:
        """The model itself."""
        from tfkit.stack import tf

        backbone = self._backbone
        self._layer = layer = backbone.layer()

        @tf.function(autograph=False, reduce_retracing=True)
        def compute(images: Any) -> Any:
            return layer(backbone.scale(tf.cast(images, tf.float32) / 255.0))

        return lambda images: np.asarray(compute(images), np.float32)

    @contextlib.contextmanager
    def litert(self, probe: np.ndarray) -> Iterator[Engine]:
        """The model converted for images of one size, some of them at a time."""
        backbone, size = self._backbone, probe.shape[1]
        shape = (images_per_call(size), size, size, 3)
        model = converted(
            backbone.digest,
            size,
            make=lambda: to_tflite(self._layer or backbone.layer(), input_shape=shape),
        )

        def prepare(images: np.ndarray) -> np.ndarray:
            # The very operations, in the very order, in which TensorFlow gets its images.
            return np.asarray(backbone.scale(images.astype(np.float32) / np.float32(255)))

        with ParallelInterpreter(model) as interpreter:
            yield lambda images: interpreter(images, prepare=prepare)


def images_per_call(image_size: int) -> int:
    """How many images LiteRT computes fastest at a time: enough to use the weights that it loads.

    Measured with EfficientNet-Lite0, CPU time for an image: at 96 pixels 3.0 ms one by one, 2.0 ms by eight;
    at 224 pixels 10.8 ms one by one, 12.2 ms by eight, whose activations leave the processor's cache.

    Example:
      >>> [images_per_call(size) for size in (64, 96, 128, 224, 300)]
      [16, 8, 4, 1, 1]
    """
    pixels = 8 * 96**2
    return min(16, 1 << max(1, pixels // image_size**2).bit_length() - 1)

"""What computes features: TensorFlow, or on a CPU the LiteRT interpreter, if it gives the same."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np

from tfkit import files, packages, stack
from tfkit.errors import CheckError, StackError
from tfkit.hub.backbone import Backbone
from tfkit.litert import ParallelInterpreter, to_tflite

TOLERANCE = 1e-3
"""How far LiteRT may be from TensorFlow, relative to the length of a feature vector."""

_CONVERSION = 1  # part of the cache key of converted models: raise it when they become others


class Engine(Protocol):
    """uint8 [b, s, s, 3] to float32 [b, d]."""

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """The features of the images."""


class Choice(NamedTuple):
    """The engine that computes, and why it does."""

    name: str
    compute: Engine
    reason: str
    difference: float
    """The largest one between LiteRT and TensorFlow on the probe; 0 where TensorFlow computes."""


class TensorFlow:
    """The model itself, in TensorFlow."""

    def __init__(self, backbone: Backbone) -> None:
        """Load it."""
        from tfkit.stack import tf

        layer = backbone.layer()

        @tf.function(autograph=False, reduce_retracing=True)
        def compute(images: Any) -> Any:
            return layer(backbone.scale(tf.cast(images, tf.float32) / 255.0))

        self.layer = layer
        self._compute = compute

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """The features of the images."""
        return np.asarray(self._compute(images), np.float32)


@contextlib.contextmanager
def choose(backbone: Backbone, probe: np.ndarray, *, engine: str) -> Iterator[Choice]:
    """The engine for a model on this machine, checked, ready to compute while the block runs.

    Args:
      backbone: the model.
      probe: uint8 [b, s, s, 3], the images that both engines must agree on.
      engine: "litert" or "tensorflow" to have no other, "auto" to have LiteRT where it can be had and is
        the faster one.

    Raises:
      CheckError: LiteRT was asked for and cannot compute these features.
    """
    reference = TensorFlow(backbone)
    if engine == "tensorflow" or (engine == "auto" and stack.has_gpu()):
        reason = "asked for" if engine == "tensorflow" else "there is a GPU"
        yield Choice("tensorflow", reference, reason, 0.0)
        return
    try:
        model = _converted(backbone, reference, image_size=probe.shape[1])
        interpreter = ParallelInterpreter(model)
    except (CheckError, StackError, RuntimeError, ValueError) as err:
        if engine == "litert":
            raise
        yield Choice("tensorflow", reference, str(err).splitlines()[0], 0.0)
        return
    with interpreter:

        def litert(images: np.ndarray) -> np.ndarray:
            # The very operations, in the very order, in which TensorFlow gets its images.
            return interpreter(
                images, prepare=lambda some: backbone.scale(some.astype(np.float32) / np.float32(255))
            )

        expected = reference(probe)
        difference = relative_difference(litert(probe), expected)
        if difference <= TOLERANCE:
            yield Choice("litert", litert, "faster on a CPU", difference)
            return
    found = f"LiteRT's features differ from TensorFlow's by {difference:.2g} (at most {TOLERANCE:g})"
    if engine == "litert":
        raise CheckError(f"{backbone.handle}: {found}.\n  Let TensorFlow compute them: engine='tensorflow'.")
    yield Choice("tensorflow", reference, found, 0.0)


def relative_difference(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest distance between two feature vectors, relative to the length of the expected one.

    Example:
      >>> relative_difference(np.array([[3.0, 4.1]]), np.array([[3.0, 4.0]]))  # doctest: +ELLIPSIS
      0.0199...
    """
    distance = np.linalg.norm(found - expected, axis=-1)
    length = np.maximum(np.linalg.norm(expected, axis=-1), np.finfo(np.float32).tiny)
    return float(np.max(distance / length))


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


def _converted(backbone: Backbone, reference: TensorFlow, *, image_size: int) -> bytes:
    """The model as TFLite, converted once and cached under a name that says its content."""
    shelf = files.cache_dir("tflite")
    key = files.digest(backbone.digest, image_size, packages.version("tensorflow"), _CONVERSION)
    for path in shelf.glob(f"{key}-*.tflite"):
        content = path.read_bytes()
        if path.stem == f"{key}-{_checksum(content)}":
            return content
        path.unlink()
    shape = (images_per_call(image_size), image_size, image_size, 3)
    content = to_tflite(reference.layer, input_shape=shape)
    files.write_bytes(shelf / f"{key}-{_checksum(content)}.tflite", content)
    return content


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]

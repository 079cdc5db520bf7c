"""Images in memory: NumPy arrays as Splits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfkit.data.splits import RECIPE, Cutting, Splits, choose_size, cut_by_class, listed, resize
from tfkit.environment.files import digest_of
from tfkit.errors import DataError


class ArraySource:
    """Images of one size in memory, resized when they are read."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, *, image_size: int, prefix: str) -> None:
        """Keep `images` as they are: uint8 [n, h, w] or [n, h, w, 1|3|4], not copied."""
        self.labels = labels
        self.names: Sequence[str] = [f"{prefix}/{index}" for index in range(len(images))]
        self.shape: tuple[int, ...] = (image_size, image_size, 3)
        self.fingerprint = digest_of(images.shape, images.tobytes(), image_size, RECIPE)
        self._images = images

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Return uint8 [b, s, s, 3]."""
        if self._images.shape[1:] == self.shape:
            return self._images[indices]
        from PIL import Image

        return np.stack([resize(Image.fromarray(self.raw(int(index))), self.shape[0]) for index in indices])

    def raw(self, index: int) -> np.ndarray:
        """Return uint8 [h, w, 3]."""
        image = self._images[index]
        if image.ndim == 2 or image.shape[-1] == 1:
            return np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=-1)
        if image.shape[-1] == 4:
            alpha = image[..., 3:].astype(np.float32) / 255
            return np.rint(image[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
        return image


def from_arrays(
    images: np.ndarray,
    labels: np.ndarray,
    *,
    class_names: Sequence[str] | None = None,
    image_size: int | None = None,
    native_size: int = 224,
    global_batch_size: int = 32,
    seed: int = 0,
    validation_fraction: float = 0.15,
    test_fraction: float = 0.15,
    name: str = "arrays",
) -> Splits:
    """Return Splits of images in memory.

    Args:
      images: [n, h, w], [n, h, w, 1], [n, h, w, 3] or (alpha, laid over white) [n, h, w, 4];
        uint8 in [0, 255] or float in [0, 1].
      labels: integers [n], from 0.
      class_names: one for each label; the numbers themselves when left out.
      image_size: side of the square to train at; None takes `native_size`, or 96 for small images and 64
        for tiny ones (of at most 96 and 16 pixels).
      native_size: what the model was made for.
      global_batch_size: examples in a batch, over all replicas.
      seed: decides the splits and the order of training.
      validation_fraction: of each class.
      test_fraction: of each class.
      name: what the examples are called: "arrays/17".

    Returns:
      Splits; every class is in every split.

    Raises:
      DataError: shapes, types or ranges do not fit, or a class is too small to be cut.

    Example:
      >>> rng = np.random.default_rng(0)
      >>> images = rng.integers(0, 256, size=(40, 28, 28), dtype=np.uint8)
      >>> splits = from_arrays(images, np.arange(40) % 2, class_names=["even", "odd"], image_size=32)
      >>> sum(map(len, splits.indices.values())), splits.source.shape
      (40, (32, 32, 3))
    """
    pictures = _as_uint8(np.asarray(images))
    numbers = _as_labels(labels, len(pictures))
    count = min(numbers.max() + 1, len(numbers))  # what is beyond is refused
    names = tuple(map(str, range(count)) if class_names is None else class_names)
    if numbers.max() >= len(names) or len(set(names)) < len(names) or len(names) < 2:
        twice = {name for name in names if names.count(name) > 1}
        raise DataError(
            f"labels reach {numbers.max()}, and there are {len(names)} class_names, {listed(sorted(twice) or names)}"
            f"{' more than once' * bool(twice)}; a classifier needs two or more classes, each with a name of its own.\n"
            "  From numbers with gaps: numpy.unique(labels, return_inverse=True), whose first result are class_names."
        )
    size = choose_size(np.max(pictures.shape[1:3]), image_size=image_size, native_size=native_size)
    source = ArraySource(pictures, numbers, image_size=size, prefix=name)
    held_out = {"validation": validation_fraction, "test": test_fraction}
    indices = cut_by_class(source.names, numbers, class_names=names, held_out=held_out, seed=seed)
    cutting = Cutting(held_out, seed, global_batch_size)
    return cutting.splits(source, indices, class_names=names, origin="images in memory")


def _as_uint8(images: np.ndarray) -> np.ndarray:
    channels = images.shape[3] if images.ndim == 4 else 1
    if images.ndim not in (3, 4) or channels not in (1, 3, 4) or 0 in images.shape:
        raise DataError(
            f"images has shape {images.shape}; expected [n, height, width] or [n, height, width, 1|3|4]."
        )
    if images.dtype == np.uint8:
        return images
    if not np.issubdtype(images.dtype, np.floating):
        raise DataError(f"images has type {images.dtype}; expected uint8 in [0, 255] or float in [0, 1].")
    if not (np.isfinite(images).all() and images.min() >= 0 and images.max() <= 1):
        raise DataError(
            f"images is {images.dtype} from {images.min():g} to {images.max():g}; floats must be in [0, 1].\n"
            "  For pixels in [0, 255]: images.astype('uint8'), or images / 255."
        )
    return np.rint(images * 255).astype(np.uint8)


def _as_labels(given: Any, count: int) -> np.ndarray:
    try:
        labels = np.asarray(given)
    except ValueError:  # lists of different lengths
        labels = np.asarray([*map(list, given)], object)
    if labels.dtype == bool:
        labels = labels.astype(np.int64)
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"labels is {labels.dtype} {list(labels.shape)}; expected integers [{count}], one class an image.\n"
            "  One-hot rows or probabilities: labels.argmax(1). Names: numpy.unique(labels, return_inverse=True).\n"
            "  Floats as classes: labels.astype(int). Quantities: numpy.digitize(labels, edges).\n"
            "  Several labels an image: for each of them a training on yes or no, labels[:, 0].astype(int)."
        )
    if labels.min() < 0:
        raise DataError(f"labels contains {labels.min()}; they count from 0.")
    return labels.astype(np.int64)

"""load_images: one call for whatever holds the images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfkit.data.embedded import EMBEDDED, load_embedded
from tfkit.data.splits import Splits
from tfkit.errors import DataError

if TYPE_CHECKING:
    import numpy as np


def read_image(path: str | Path) -> np.ndarray:
    """Read an image file as an exported model takes it: upright, with transparency and depth as they are.

    `run.model(tfkit.read_image("photo.jpg"))` sees what training would have made of that file.

    Args:
      path: a JPEG, PNG, GIF (first frame), BMP or WebP file.

    Returns:
      uint8 [h, w, 3], or [h, w, 4] with transparency; uint16 with 1 to 4 channels of a PNG of 16 bits.

    Raises:
      DataError: the file cannot be read.
    """
    from tfkit.data.decode import read_pixels

    return read_pixels(path)


def load_images(
    source: str | Path,
    *,
    image_size: int | None = None,
    native_size: int = 224,
    pixel_range: tuple[int, int] | None = None,
    global_batch_size: int = 32,
    seed: int = 0,
    strict: bool = False,
    validation_fraction: float = 0.15,
    test_fraction: float = 0.15,
) -> Splits:
    """Splits of images.

    Args:
      source: a folder with one subfolder a class, or with train/, validation/ and test/ of such folders;
        an embedded set ("digits", "mnist5k"); or "tfds:NAME", a dataset of tensorflow-datasets.
      image_size: side of the square to train at; None takes `native_size`, or 96 for small images and 64
        for tiny ones (of at most 96 and 16 pixels).
      native_size: what the model was made for.
      pixel_range: what becomes black and white of PNGs of 16 bits; None: what the training images use, one range
        for all of them, where that is less than a quarter of 0..65535. For private training give it.
      global_batch_size: examples in a batch, over all replicas.
      seed: decides the splits and the order of training.
      strict: an image that cannot be read is an error, not skipped.
      validation_fraction: of each class.
      test_fraction: of each class.

    Returns:
      Batches of (images float32 [b, size, size, 3] in 0..1, labels int64 [b]) for training, validation and test;
      the same for the same seed.

    Raises:
      DataError: the images cannot be found, or cannot serve to train a classifier.
    """
    if pixel_range is not None and not 0 <= pixel_range[0] < pixel_range[1] <= 65535:
        raise DataError(
            f"pixel_range is {tuple(pixel_range)}: two values of 0 to 65535, the lower one first. 12 bits: (0, 4095)."
        )
    options: dict[str, Any] = {
        "image_size": image_size,
        "native_size": native_size,
        "global_batch_size": global_batch_size,
        "seed": seed,
        "validation_fraction": validation_fraction,
        "test_fraction": test_fraction,
    }
    # A command line gives a Path, also for the name of a set; a folder of that name then goes first.
    if str(source) in EMBEDDED and (isinstance(source, str) or not source.is_dir()):
        return load_embedded(str(source), **options)
    if str(source).startswith("tfds:"):
        from tfkit.data.tfds import load_tfds

        return load_tfds(str(source), strict=strict, pixel_range=pixel_range, **options)
    # Pillow only now: a command line that asks for help does not pay for it.
    from tfkit.data.folder import load_folder

    return load_folder(source, strict=strict, pixel_range=pixel_range, **options)

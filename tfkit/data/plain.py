"""Images of a folder without classes: for what only has to see some."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tfkit.data import pixels
from tfkit.data.decode import Unreadable, read_image
from tfkit.data.drawn import draw
from tfkit.data.scan import is_image
from tfkit.errors import DataError


def read_images(
    folder: Path, *, image_size: int, count: int, pixel_range: tuple[int, int] = pixels.FULL_RANGE
) -> tuple[np.ndarray, list[str]]:
    """Images below a folder, whatever its subfolders, prepared as training prepares them.

    Args:
      folder: with images.
      image_size: side of the square in pixels.
      count: no more are read: drawn, of each folder as many as can be; what cannot be read is passed over.
      pixel_range: what becomes 0 and 255 of 16-bit values.

    Returns:
      uint8 [n, s, s, 3], and the name of each, relative to the folder.

    Raises:
      DataError: there are none.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder. Give one with images in it, with or without subfolders.")
    paths = sorted(path for path in folder.rglob("*") if is_image(path) and path.is_file())
    chosen = draw(len(paths), count, classes=[str(path.parent) for path in paths])
    images, names, reasons = [], [], []
    for path in (paths[place] for place in chosen):
        try:
            image = read_image(path, at_least=2 * image_size, pixel_range=pixel_range)
            images.append(pixels.resize(image, image_size))
            names.append(str(path.relative_to(folder)))
        except Unreadable as err:
            reasons.append(f"{path.name}: {err}")
    if not images:
        why = f" ({reasons[0]})" if reasons else ""
        raise DataError(
            f"{folder} holds no image that can be read: {len(paths)} files with an image's ending{why}."
        )
    return np.stack(images), names

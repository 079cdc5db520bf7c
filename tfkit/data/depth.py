"""Images of 16 bits: which values a set of them uses, so that they do not all become nearly one grey."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tfkit import files
from tfkit.data.decode import has_sixteen_bits, read_pixels
from tfkit.data.pixels import FULL_RANGE, PixelRange
from tfkit.data.scan import FoundFile
from tfkit.errors import DataError

ENOUGH = 65536 // 4
"""A set that uses as much of 0..65535 keeps 64 grey levels or more: it is scaled as a whole, as it always was."""

_TAIL = 1e-4  # of an image's pixels, at either end: dead and hot ones
_BROKEN = 0.01  # of the images
_COARSE = 32  # grey levels


class Depth(NamedTuple):
    """What one image of 16 bits uses."""

    low: int
    """All but 1 in 10,000 of its values are not below this."""

    high: int
    """All but 1 in 10,000 of its values are not above this."""

    values: int
    """How many different ones."""

    levels: int
    """How many of them are left where 0..65535 is scaled to 0..255."""


def depths(root: Path, images: Sequence[FoundFile]) -> dict[str, Depth]:
    """Return what each image of 16 bits uses, by its name; kept for as long as the files stay as they are.

    The first time the head of every file is read, and those of 16 bits are decoded; others cost nothing more.
    """
    place = files.cache_dir("depths") / f"{files.digest(str(root.resolve()))}.json"
    stamp = files.digest([(image.name, image.size, image.mtime_ns) for image in images])
    try:
        known = json.loads(place.read_text())
        if known["stamp"] == stamp:
            return {name: Depth(*map(int, numbers)) for name, numbers in known["depths"].items()}
    except (OSError, ValueError, KeyError, TypeError):
        pass
    found = dict(_measured(root, images))
    files.write_json(place, {"stamp": stamp, "depths": found})
    return found


def _measured(root: Path, images: Sequence[FoundFile]) -> Iterator[tuple[str, Depth]]:
    for image in images:
        try:
            with (root / image.name).open("rb") as file:
                deep = has_sixteen_bits(file)
            if deep:
                yield image.name, measure(read_pixels(root / image.name))
        except (OSError, DataError):
            continue  # whoever prepares it says why


def measure(values: np.ndarray) -> Depth:
    """Return what an image uses, uint16 [h, w, channels]; its alpha does not count."""
    colours = values[..., :-1] if values.shape[-1] in (2, 4) else values
    counts = np.bincount(colours.ravel(), minlength=65536)
    below = np.cumsum(counts)
    tail = int(_TAIL * below[-1])
    return Depth(
        low=int(np.searchsorted(below, tail, side="right")),
        high=int(np.searchsorted(below, below[-1] - tail)),
        values=int(np.count_nonzero(counts)),
        levels=int(np.count_nonzero(counts.reshape(256, 256).sum(axis=1))),
    )


def used(of_training: Sequence[Depth], *, images: int) -> PixelRange:
    """Return the one range for all 16-bit images of a set: what the training images use, or all of 0..65535.

    Args:
      of_training: of its training images of 16 bits, in any order.
      images: how many of its images have 16 bits.
    """
    if not of_training:
        return PixelRange(images=images)
    low = int(np.quantile([one.low for one in of_training], _BROKEN, method="lower"))
    high = int(np.quantile([one.high for one in of_training], 1 - _BROKEN, method="higher"))
    if high - low >= ENOUGH or high == low:
        return PixelRange(images=images)
    return PixelRange(low, high, images=images, measured=True)


def notes(pixel_range: PixelRange, found: dict[str, Depth], *, total: int) -> Iterator[str]:
    """Yield what was decided about images of 16 bits, and what became of those that it does not suit.

    Args:
      pixel_range: that they are scaled by.
      found: of all of them.
      total: images of any depth.
    """
    low, high = pixel_range[:2]
    if not found:
        return
    who = "The images have" if len(found) == total else f"{len(found)} of {total} images have"
    why = "what the training images use" if pixel_range.measured else "all of 16 bits"
    if (low, high) != FULL_RANGE and not pixel_range.measured:
        why = "as was asked"
    rest = "" if len(found) == total else "; those of 8 bits are taken as they are"
    yield f"{who} 16 bits: {low} to {high} ({why}) becomes 0 to 255{rest}. --pixel-range sets another range."
    beyond = [name for name, one in found.items() if one.low < low or one.high > high]
    if beyond:
        # A range that was asked for may be that of a private run, which names no file.
        example = f" ({beyond[0]}, ...)" if pixel_range.measured else ""
        yield f"{len(beyond)} of them go beyond {low} to {high}, and are clipped there{example}."
    levels = np.median([one.levels for one in found.values()])
    if (low, high) == FULL_RANGE and levels < _COARSE < np.median([one.values for one in found.values()]):
        middle = np.median([[one.low, one.high] for one in found.values()], axis=0).astype(int)
        yield (
            f"Of these 16-bit images, half keep {levels:.0f} grey levels or fewer: a few values far off decide their"
            f" range. The median image goes from {middle[0]} to {middle[1]}: --pixel-range LOW HIGH cuts it."
        )

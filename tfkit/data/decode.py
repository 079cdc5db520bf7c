"""One image file -> upright 8-bit RGB, whatever its format."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, WebPImagePlugin  # noqa: F401  (registers WebP)

_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")

LARGE = 20_000_000
"""Pixels from which on an image is decoded while no other thread decodes such a one, and made small in bands."""

MOST_WEBP = 40_000_000
"""Pixels of a WebP image: its decoder takes 28 bytes for each of them, seven times as many as others."""

_BAND = 1 << 20  # pixels
_large_one = threading.Lock()

# Threads would race to register the other formats on their first image.
Image.preinit()


class Unreadable(Exception):
    """This file gives no picture; the message says why in a few words."""


def read_image(path: Path, *, at_least: int | None = None) -> Image.Image:
    """Decode a JPEG, PNG, GIF (first frame), BMP or WebP file.

    EXIF rotation is applied, transparency is laid over white, 16 bits a channel become 8.

    Args:
      path: the file; its content decides the format, not its name.
      at_least: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, and any image of over 20 million pixels be made
        smaller by a whole number, but to no side below this.

    Returns:
      An RGB image.

    Raises:
      Unreadable: the file cannot be opened or decoded, or would be a decompression bomb.
    """
    try:
        with path.open("rb") as file:
            return decode(file, at_least=at_least)
    except OSError as err:
        raise Unreadable((err.strerror or str(err)).lower()) from err


def decode(file: IO[bytes], *, at_least: int | None = None) -> Image.Image:
    """`read_image` from an open file."""
    try:
        image = Image.open(file, formats=_FORMATS)
        pixels, is_webp = image.width * image.height, image.format == "WEBP"
        if is_webp and pixels > MOST_WEBP:
            raise Unreadable(
                f"{pixels:,} pixels, and of a WebP image {MOST_WEBP:,} are read: save it smaller, or as JPEG"
            )
        # A JPEG that is drafted takes 3 bytes a pixel if it is progressive, and hardly any if it is not.
        weight = 7.0 if is_webp else 0.2 if image.format == "JPEG" and at_least else 1.0
        with _large_one if pixels * weight >= LARGE else contextlib.nullcontext():
            if at_least is not None:
                image.draft(None, (at_least, at_least))
            if image.width * image.height >= LARGE:
                return _upright(_smaller(image, at_least))
            image.load()
            return _rgb(_upright(image))
    except Unreadable:
        raise
    except UnidentifiedImageError as err:
        raise Unreadable("not an image, or damaged at its start") from err
    except Image.DecompressionBombError as err:
        raise Unreadable(
            f"over {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels, as a decompression bomb"
        ) from err
    # Decoders fail on damaged files in many ways: OSError, SyntaxError, ValueError, struct.error, zlib.error, ...
    except Exception as err:
        raise Unreadable(str(err) or type(err).__name__) from err


def longer_side(path: Path) -> int | None:
    """The longer side in pixels, from the head of the file alone; None if there is none."""
    try:
        with Image.open(path, formats=_FORMATS) as image:
            return max(image.size)
    except Exception:
        return None


def _smaller(image: Image.Image, at_least: int | None) -> Image.Image:
    """The image in RGB at a whole fraction of its size, as a draft of a JPEG is, made band by band.

    Whole copies of it in other modes would take five times the memory.
    """
    image.load()
    by = max(1, min(image.size) // at_least) if at_least else 1
    made = Image.new("RGB", (-(-image.width // by), -(-image.height // by)))
    rows = by * max(1, _BAND // (image.width * by))
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        made.paste(_rgb(band).reduce(by), (0, top // by))
    made.info = image.info
    return made


def _upright(image: Image.Image) -> Image.Image:
    # A damaged EXIF block loses its rotation, not the picture.
    with contextlib.suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # 16-bit grey: 65535 is white. Pillow's own conversion would clip at 255.
        grey = (np.asarray(image).astype(np.uint32) + 128) // 257
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        pixels = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), pixels).convert("RGB")
    return image.convert("RGB")

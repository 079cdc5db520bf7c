"""Image files as upright pixels, whatever their format: 8-bit RGB for training, or all that they hold."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError, WebPImagePlugin  # noqa: F401  (registers WebP)

from tfkit.data.pixels import FULL_RANGE, as_bytes
from tfkit.errors import DataError

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


def read_image(
    path: Path, *, at_least: int | None = None, pixel_range: tuple[int, int] = FULL_RANGE
) -> Image.Image:
    """Decode a JPEG, PNG, GIF (first frame), BMP or WebP file.

    EXIF rotation is applied, transparency is laid over white, 16 bits a channel become 8.

    Args:
      path: the file; its content decides the format, not its name.
      at_least: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, and any image of over 20 million pixels be made
        smaller by a whole number, but to no side below this.
      pixel_range: what becomes 0 and 255 of 16-bit values.

    Returns:
      An RGB image.

    Raises:
      Unreadable: the file cannot be opened or decoded, or would be a decompression bomb.
    """
    image = _load(path, at_least=at_least)
    if isinstance(image, Image.Image):
        return _rgb(image)
    height, width = image.shape[:2]
    if at_least is not None and height * width >= LARGE:
        return _smaller(_Band(image, pixel_range), (width, height), at_least)
    return _rgb(_picture(as_bytes(image, pixel_range)))


def read_pixels(path: str | Path) -> np.ndarray:
    """See `tfkit.read_image`."""
    try:
        image = _load(Path(path))
    except Unreadable as err:
        raise DataError(f"{path} cannot be read as an image: {err}.") from err
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))
    return image


def _load(path: Path, *, at_least: int | None = None) -> Image.Image | np.ndarray:
    """Decode a file and turn it upright: an image of Pillow's, or uint16 [h, w, channels] where it has 16 bits."""
    try:
        with path.open("rb") as file:
            return _decode(file, at_least)
    except OSError as err:
        raise Unreadable((err.strerror or str(err)).lower()) from err


def _decode(file: IO[bytes], at_least: int | None) -> Image.Image | np.ndarray:
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
            deep = has_sixteen_bits(file)
            image.load()
            if deep:
                return _sixteen_bits(file, image)
            if at_least is not None and image.width * image.height >= LARGE:
                return _upright(_smaller(image, image.size, at_least))
            return _upright(image)
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


def has_sixteen_bits(file: IO[bytes]) -> bool:
    """Return whether an open file is a PNG of 16 bits a channel; its position stays."""
    place = file.tell()
    file.seek(0)
    head = file.read(25)
    file.seek(place)
    return head.startswith(b"\x89PNG\r\n\x1a\n") and head[24:] == b"\x10"


def longer_side(path: Path) -> int | None:
    """The longer side in pixels, from the head of the file alone; None if there is none."""
    try:
        with Image.open(path, formats=_FORMATS) as image:
            return max(image.size)
    except Exception:
        return None


class _Band(NamedTuple):
    """Values of 16 bits, of which bands are cut as they are of Pillow's images."""

    values: np.ndarray
    pixel_range: tuple[int, int]

    def crop(self, box: tuple[int, int, int, int]) -> Image.Image:
        """Return rows box[1] to box[3] in 8 bits."""
        return _picture(as_bytes(self.values[box[1] : box[3]], self.pixel_range))


def _smaller(image: Image.Image | _Band, size: tuple[int, int], at_least: int) -> Image.Image:
    """The image in RGB at a whole fraction of its size, as a draft of a JPEG is, made band by band.

    Whole copies of it in other modes would take five times the memory.
    """
    width, height = size
    by = max(1, min(size) // at_least)
    made = Image.new("RGB", (-(-width // by), -(-height // by)))
    rows = by * max(1, _BAND // (width * by))
    for top in range(0, height, rows):
        band = image.crop((0, top, width, min(top + rows, height)))
        made.paste(_rgb(band).reduce(by), (0, top // by))
    made.info = dict(getattr(image, "info", {}))
    return made


def _upright(image: Image.Image) -> Image.Image:
    # A damaged EXIF block loses its rotation, not the picture.
    with contextlib.suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _sixteen_bits(file: IO[bytes], image: Image.Image) -> np.ndarray:
    """Return uint16 [h, w, channels], upright, of an image that is loaded from the file."""
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.uint16)[..., np.newaxis]
    else:
        # Pillow keeps the upper 8 bits of colours.
        from tfkit.stack import tf

        file.seek(0)
        values = tf.io.decode_png(file.read(), dtype=tf.uint16).numpy()
    if "transparency" in image.info:
        opaque = (values != np.asarray(image.info["transparency"])).any(axis=-1, keepdims=True)
        values = np.concatenate([values, opaque * np.uint16(65535)], axis=-1)
    if not _is_turned(image):
        return values
    places = Image.fromarray(np.arange(image.width * image.height, dtype=np.int32).reshape(image.size[::-1]))
    places.info = dict(image.info)
    return values.reshape(-1, values.shape[-1])[np.asarray(_upright(places))]


def _is_turned(image: Image.Image) -> bool:
    with contextlib.suppress(Exception):
        return bool(image.getexif().get(ExifTags.Base.Orientation, 1) != 1)
    return False


def _picture(values: np.ndarray) -> Image.Image:
    """Return uint8 [h, w, 1|2|3|4] as Pillow's image."""
    return Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values)


def _rgb(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        pixels = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), pixels).convert("RGB")
    return image.convert("RGB")

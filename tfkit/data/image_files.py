"""Images of a folder without classes: for what only has to see some.

Image files as upright pixels, whatever their format: 8-bit RGB for training, or all that they hold.

Images of 16 bits: which values a set of them uses, so that they do not all become nearly one grey.

Prepared images: every file is hashed, decoded and resized once, and read back as plain bytes ever after.

An image folder as Splits: scanned, prepared once, cut, and read back row by row.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple, TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError, WebPImagePlugin  # noqa: F401  (registers WebP)
from tqdm.auto import tqdm

from tfkit.data.folders import FoundFile, Scan, is_image, scan
from tfkit.data.splits import (
    FULL_RANGE,
    RECIPE,
    SPLIT_NAMES,
    WHOLE_RANGE,
    PixelRange,
    Skipped,
    Splits,
    as_bytes,
    check_enough,
    check_fractions,
    choose_size,
    cut_by_class,
    draw,
    listed,
    resize,
)
from tfkit.environment import files
from tfkit.environment.files import CACHE_LIMIT, DISK_RESERVE, digest_of, make_room, remove_leftovers
from tfkit.environment.process import watched
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
        from tfkit.environment.stack import tf

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
    place = files.cache_dir("depths") / f"{files.digest_of(str(root.resolve()))}.json"
    stamp = files.digest_of([(image.name, image.size, image.mtime_ns) for image in images])
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


THREADS = max(2, len(os.sched_getaffinity(0)))

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Entry(NamedTuple):
    """What is known about one file."""

    name: str
    size: int
    mtime_ns: int
    digest: str
    """Of its bytes; empty when it cannot be read."""

    reason: str
    """Why it cannot be read; empty when it can."""

    row_digest: str
    """Of its prepared pixels; empty when it cannot be read."""


@dataclass(frozen=True, eq=False)
class Store:
    """The prepared images of one folder at one size."""

    folder: Path
    root: Path
    """The folder of the images."""

    image_size: int
    pixel_range: tuple[int, int]
    """What became 0 and 255 of 16-bit values."""

    entries: tuple[Entry, ...]
    descriptor: int | None
    """Of the open file of pixels: one row for each readable entry. None when the disk had no room for it."""

    unchecked: set[int] = field(default_factory=set)
    """The rows whose digest nobody has compared yet: each is when it is first read."""

    said: list[bool] = field(default_factory=list)
    """Whether it was said that some are damaged."""

    def __post_init__(self) -> None:
        """Close the file when nobody reads it any more."""
        if self.descriptor is not None:
            weakref.finalize(self, os.close, self.descriptor)

    @property
    def row_bytes(self) -> int:
        """Of one image."""
        return self.image_size * self.image_size * 3

    @functools.cached_property
    def readable(self) -> list[Entry]:
        """The entries of the rows."""
        return [entry for entry in self.entries if not entry.reason]

    def row(self, number: int) -> bytes:
        """The pixels of the readable entry with this number, uint8 [s * s * 3]; made anew where they are damaged.

        Raises:
          DataError: they are damaged, and so is the image, or it is gone or another one.
        """
        assert self.descriptor is not None
        row = os.pread(self.descriptor, self.row_bytes, number * self.row_bytes)
        if number in self.unchecked:
            if _digest(row) != self.readable[number].row_digest:
                row = self._again(number)
            self.unchecked.discard(number)
        return row

    def _again(self, number: int) -> bytes:
        entry = self.readable[number]
        if not self.said:
            # No names: this may be private training, and its output may be kept.
            files.say_damaged(self.folder)
            self.said.append(True)
        made, row = _read(self.root / entry.name, entry[:3], self.image_size, self.pixel_range)
        if made != entry:
            (self.folder / "index.json").unlink(missing_ok=True)
            raise DataError(
                f"An image below {self.root} has changed since this run began to read it, and its copy in\n"
                f"  {self.folder} is damaged. Run again: it is prepared anew."
            )
        assert self.descriptor is not None
        os.pwrite(self.descriptor, row, number * self.row_bytes)
        return row


def prepare(
    root: Path,
    images: Sequence[FoundFile],
    *,
    image_size: int,
    pixel_range: tuple[int, int] = FULL_RANGE,
    reserve: int = DISK_RESERVE,
    limit: int = CACHE_LIMIT,
) -> Store:
    """The store of these images: an earlier one if nothing changed, else a new one with what did not change.

    A file is known by its name, size and modification time. The new store replaces the old one when it is
    complete; whoever reads the old one keeps it. Another process that prepares the same folder is waited for.

    Args:
      root: the folder that the names are relative to.
      images: what to prepare, in this order.
      image_size: side of the square.
      pixel_range: what becomes 0 and 255 of 16-bit values.
      reserve: bytes to leave free on the disk; without them the pixels are not stored.
      limit: bytes that all stores together may take; others are removed for it.
    """
    shelf = files.cache_dir("images")
    key = files.digest_of(str(root.resolve()), image_size, pixel_range, RECIPE)
    row_bytes = image_size * image_size * 3
    with files.lock_or_wait(shelf / f"{key}.lock", another="prepares the same images"):
        remove_leftovers(shelf, key)
        old = _open(shelf / key, root, image_size, pixel_range)
        if old and [entry[:3] for entry in old.entries] == [(i.name, i.size, i.mtime_ns) for i in images]:
            os.utime(shelf / key)
            return old
        needed = len(images) * row_bytes
        make_room(shelf, keep=key, limit=limit - needed)
        keep_pixels = shutil.disk_usage(shelf).free - needed >= reserve
        with files.new_folder(shelf / key) as folder:
            _write(
                folder, root, images, image_size=image_size, pixel_range=pixel_range, old=old,
                keep_pixels=keep_pixels,
            )  # fmt: skip
        store = _open(shelf / key, root, image_size, pixel_range)
        assert store is not None
        store.unchecked.clear()  # it was written just now
        return store


def _write(
    folder: Path,
    root: Path,
    images: Sequence[FoundFile],
    *,
    image_size: int,
    pixel_range: tuple[int, int],
    old: Store | None,
    keep_pixels: bool,
) -> None:
    known = _rows(old) if old else {}

    def one(image: FoundFile) -> tuple[Entry, bytes]:
        stamp = (image.name, image.size, image.mtime_ns)
        if old and stamp in known:
            entry, number = known[stamp]
            if not keep_pixels or entry.reason:
                return entry, b""
            if old.descriptor is not None:
                return entry, old.row(number)
        return _read(root / image.name, stamp, image_size, pixel_range)

    entries = []
    with contextlib.ExitStack() as stack:
        file = stack.enter_context((folder / "pixels").open("wb")) if keep_pixels else None
        for entry, row in tqdm(
            in_parallel(one, images),
            total=len(images),
            desc="Preparing images",
            unit="image",
            delay=1,
            disable=not watched(),
        ):
            entries.append(entry)
            if file is not None:
                file.write(row)
    (folder / "index.json").write_text(json.dumps([files.digest_of(entries), entries]))


def _read(
    path: Path, stamp: tuple[str, int, int], image_size: int, pixel_range: tuple[int, int]
) -> tuple[Entry, bytes]:
    try:
        image = read_image(path, at_least=2 * image_size, pixel_range=pixel_range)
        row = resize(image, image_size).tobytes()
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except Unreadable as err:
        return Entry(*stamp, "", str(err), ""), b""
    return Entry(*stamp, digest, "", _digest(row)), row


def _digest(row: bytes) -> str:
    return hashlib.sha256(row).hexdigest()[:32]


def _rows(store: Store) -> dict[tuple[str, int, int], tuple[Entry, int]]:
    """Name, size and time -> the entry and the number of its row."""
    number = 0
    found = {}
    for entry in store.entries:
        found[entry.name, entry.size, entry.mtime_ns] = entry, number
        number += not entry.reason
    return found


def _open(folder: Path, root: Path, image_size: int, pixel_range: tuple[int, int]) -> Store | None:
    """The store in the folder if it is there and whole; its pixels are compared with their digests as they are read."""
    if not folder.is_dir():
        return None
    descriptor = None
    try:
        written, found = json.loads((folder / "index.json").read_text())
        entries = [Entry(*values) for values in found]
        # For writing too: a damaged row is mended in its place.
        descriptor = os.open(folder / "pixels", os.O_RDWR) if (folder / "pixels").exists() else None
        store = Store(folder, root, image_size, pixel_range, tuple(entries), descriptor)
        size = len(store.readable) * store.row_bytes
        if written == files.digest_of(entries) and (
            descriptor is None or os.fstat(descriptor).st_size == size
        ):
            store.unchecked.update(range(len(store.readable)))
            return store
    except (OSError, ValueError, TypeError):
        pass
    files.say_damaged(folder)
    return None


def in_parallel(function: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """`map` over threads, in order, with no more results waiting than threads times four."""
    waiting: deque[Future[_Result]] = deque()
    with ThreadPoolExecutor(THREADS) as pool:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 4 * THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


_SIZES_LOOKED_AT = 500


class FolderSource:
    """Image files of a folder; read from their prepared pixels, or decoded each time where those have no room."""

    def __init__(
        self,
        root: Path,
        images: Sequence[FoundFile],
        store: Store,
        *,
        image_size: int,
        pixel_range: tuple[int, int] = FULL_RANGE,
    ) -> None:
        """Take the readable ones among `images`, in the order of the store."""
        self.images = [image for image, entry in zip(images, store.entries, strict=True) if not entry.reason]
        self.labels = np.asarray([image.label for image in self.images], np.int64)
        self.names: Sequence[str] = [image.name for image in self.images]
        self.shape: tuple[int, ...] = (image_size, image_size, 3)
        self.digests = [entry.digest for entry in store.entries if not entry.reason]
        self.fingerprint = digest_of(self.digests, image_size, pixel_range, RECIPE)
        self._root = root
        self._store = store
        self._pixel_range = pixel_range

    def read(self, indices: np.ndarray) -> np.ndarray:
        """uint8 [b, s, s, 3]."""
        out = np.empty((len(indices), *self.shape), np.uint8)
        if self._store.descriptor is None:
            for row, image in enumerate(in_parallel(self._decode, indices)):
                out[row] = image
        else:
            for row, index in enumerate(indices):
                out[row] = np.frombuffer(self._store.row(int(index)), np.uint8).reshape(self.shape)
        return out

    def raw(self, index: int) -> np.ndarray:
        """Decode its file: see `read_pixels`."""
        return read_pixels(self._root / self.names[index])

    def _decode(self, index: int) -> np.ndarray:
        size = self.shape[0]
        image = read_image(self._root / self.names[index], at_least=2 * size, pixel_range=self._pixel_range)
        return resize(image, size)


def load_folder(
    folder: str | Path,
    *,
    image_size: int | None,
    native_size: int,
    pixel_range: tuple[int, int] | None,
    global_batch_size: int,
    seed: int,
    strict: bool,
    validation_fraction: float,
    test_fraction: float,
) -> Splits:
    """Splits of `folder`/<class>/<image> or of `folder`/<split>/<class>/<image>; see `load_images`."""
    found = scan(folder)
    given = [split for split in SPLIT_NAMES[1:] if any(image.split == split for image in found.files)]
    fractions = {"validation": validation_fraction, "test": test_fraction}
    held_out = {split: fraction for split, fraction in fractions.items() if split not in given}
    check_fractions(held_out)
    _check_counts(found, found.files, held_out)

    size = _size(found, image_size=image_size, native_size=native_size)
    deep = depths(found.root, found.files)
    scaling = _pixel_range(found, deep, held_out, seed=seed, asked=pixel_range)
    store = prepare(found.root, found.files, image_size=size, pixel_range=scaling[:2])
    skipped = (
        *found.skipped,
        *(Skipped(entry.name, entry.reason) for entry in store.entries if entry.reason),
    )
    if strict and skipped:
        raise DataError(f"{found.root}/ has {_skipped_text(skipped)}.\n  Without strict they are skipped.")
    source = FolderSource(found.root, found.files, store, image_size=size, pixel_range=scaling[:2])
    _check_counts(found, source.images, held_out, hint=f"\n  {_skipped_text(skipped)}." if skipped else "")

    indices = _indices(found, source.images, held_out, seed)
    duplicates = _leaked(source.digests, indices)
    return Splits(
        source=source,
        indices=indices,
        class_names=found.class_names,
        global_batch_size=global_batch_size,
        seed=seed,
        origin=f"{found.root}/",
        skipped=skipped,
        other_files=found.others.total(),
        duplicates=duplicates,
        pixel_range=scaling,
        notes=(
            *_notes(found, source, store, skipped, given, held_out, duplicates),
            *notes(scaling, deep, total=len(source.names)),
        ),
    )


def _check_counts(
    found: Scan, images: Sequence[FoundFile], held_out: Mapping[str, float], *, hint: str = ""
) -> None:
    for split, members in _by_split(images).items():
        check_enough(
            np.asarray([images[index].label for index in members], np.int64),
            class_names=found.class_names,
            splits=("train", *held_out) if split in (None, "train") else (split,),
            where=f"{found.root}/{split or ''}: ",
            hint=hint,
            noun="images",
        )


def _by_split(images: Sequence[FoundFile]) -> dict[str | None, np.ndarray]:
    splits = np.asarray([image.split for image in images], dtype=object)
    return {split: np.flatnonzero(splits == split) for split in dict.fromkeys(splits)}


def _indices(
    found: Scan, images: Sequence[FoundFile], held_out: Mapping[str, float], seed: int
) -> dict[str, np.ndarray]:
    indices = {}
    for split, members in _by_split(images).items():
        parts = cut_by_class(
            [images[index].name for index in members],
            np.asarray([images[index].label for index in members], np.int64),
            class_names=found.class_names,
            held_out=held_out if split in (None, "train") else {},
            seed=seed,
        )
        rest = parts.pop("train")
        indices[split or "train"] = members[rest]
        indices.update({name: members[part] for name, part in parts.items()})
    return {split: indices[split] for split in SPLIT_NAMES}


def _pixel_range(
    found: Scan,
    deep: Mapping[str, Depth],
    held_out: Mapping[str, float],
    *,
    seed: int,
    asked: tuple[int, int] | None,
) -> PixelRange:
    """Return what was asked, else what the training images use."""
    if asked is not None:
        return PixelRange(*asked, images=len(deep))
    if not deep:
        return WHOLE_RANGE
    names = [found.files[index].name for index in _indices(found, found.files, held_out, seed)["train"]]
    return used([deep[name] for name in names if name in deep], images=len(deep))


def _size(found: Scan, *, image_size: int | None, native_size: int) -> int:
    if image_size is not None:
        return image_size
    some = found.files[:: len(found.files) // _SIZES_LOOKED_AT + 1]
    sides = [side for side in in_parallel(longer_side, [found.root / image.name for image in some]) if side]
    return choose_size(np.asarray(sides or [native_size]), image_size=None, native_size=native_size)


def _leaked(digests: Sequence[str], indices: Mapping[str, np.ndarray]) -> int:
    """Validation and test images with the very bytes of an image in an earlier split."""
    seen: set[str] = set()
    leaked = 0
    for split in SPLIT_NAMES:
        here = [digests[index] for index in indices[split]]
        leaked += sum(one in seen for one in here)
        seen.update(here)
    return leaked


def _contradictions(source: FolderSource) -> int:
    """Images with the very bytes of an image in another class."""
    classes: dict[str, set[int]] = {}
    for one, label in zip(source.digests, source.labels, strict=True):
        classes.setdefault(one, set()).add(int(label))
    return sum(len(classes[one]) > 1 for one in source.digests)


def _skipped_text(skipped: Sequence[Skipped]) -> str:
    return f"{len(skipped)} images that cannot be used: {listed([f'{path} ({why})' for path, why in skipped], 3)}"


def _notes(
    found: Scan,
    source: FolderSource,
    store: Store,
    skipped: Sequence[Skipped],
    given: Sequence[str],
    held_out: Mapping[str, float],
    duplicates: int,
) -> Iterator[str]:
    yield from found.notes
    if skipped:
        yield f"{found.root}/ has {_skipped_text(skipped)}."
    if found.others:
        others = listed([f"{ending} {count}" for ending, count in found.others.most_common()])
        yield f"Passed over, because hidden or no images: {found.others.total()} ({others})."
    if given:
        for split, fraction in held_out.items():
            yield f"There is no {split} folder: {fraction:.0%} of train/ is held out for it."
    if duplicates:
        yield (
            f"{duplicates} validation or test images are byte for byte in an earlier split too: they are easy, "
            "and flatter the result."
        )
    if contradictions := _contradictions(source):
        yield f"{contradictions} images are byte for byte in two classes: no classifier can have both right."
    if store.descriptor is None:
        yield (
            f"The disk of {store.folder.parent} has no room for the prepared images: "
            "they are decoded again in every epoch."
        )
    else:
        megabytes = len(source.names) * store.row_bytes / 1e6
        yield f"The images are prepared at {source.shape[0]} pixels in {store.folder} ({megabytes:.0f} MB)."


def read_images(
    folder: Path, *, image_size: int, count: int, pixel_range: tuple[int, int] = FULL_RANGE
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
            images.append(resize(image, image_size))
            names.append(str(path.relative_to(folder)))
        except Unreadable as err:
            reasons.append(f"{path.name}: {err}")
    if not images:
        why = f" ({reasons[0]})" if reasons else ""
        raise DataError(
            f"{folder} holds no image that can be read: {len(paths)} files with an image's ending{why}."
        )
    return np.stack(images), names

"""An image folder as Splits: scanned, prepared once, cut, and read back row by row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from tfkit.data import depth, pixels
from tfkit.data.cut import check_enough, check_fractions, cut_by_class, listed
from tfkit.data.decode import longer_side, read_image, read_pixels
from tfkit.data.scan import FoundFile, Scan, scan
from tfkit.data.splits import SPLIT_NAMES, Skipped, Splits
from tfkit.data.store import Store, in_parallel, prepare
from tfkit.errors import DataError
from tfkit.files import digest

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
        pixel_range: tuple[int, int] = pixels.FULL_RANGE,
    ) -> None:
        """Take the readable ones among `images`, in the order of the store."""
        self.images = [image for image, entry in zip(images, store.entries, strict=True) if not entry.reason]
        self.labels = np.asarray([image.label for image in self.images], np.int64)
        self.names: Sequence[str] = [image.name for image in self.images]
        self.shape: tuple[int, ...] = (image_size, image_size, 3)
        self.digests = [entry.digest for entry in store.entries if not entry.reason]
        self.fingerprint = digest(self.digests, image_size, pixel_range, pixels.RECIPE)
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
        return pixels.resize(image, size)


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
    deep = depth.depths(found.root, found.files)
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
            *depth.notes(scaling, deep, total=len(source.names)),
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
    deep: Mapping[str, depth.Depth],
    held_out: Mapping[str, float],
    *,
    seed: int,
    asked: tuple[int, int] | None,
) -> pixels.PixelRange:
    """Return what was asked, else what the training images use."""
    if asked is not None:
        return pixels.PixelRange(*asked, images=len(deep))
    if not deep:
        return pixels.WHOLE_RANGE
    names = [found.files[index].name for index in _indices(found, found.files, held_out, seed)["train"]]
    return depth.used([deep[name] for name in names if name in deep], images=len(deep))


def _size(found: Scan, *, image_size: int | None, native_size: int) -> int:
    if image_size is not None:
        return image_size
    some = found.files[:: len(found.files) // _SIZES_LOOKED_AT + 1]
    sides = [side for side in in_parallel(longer_side, [found.root / image.name for image in some]) if side]
    return pixels.choose_size(np.asarray(sides or [native_size]), image_size=None, native_size=native_size)


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

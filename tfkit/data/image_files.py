"""Image files: decode them upright, whatever their format and depth, and read a folder of them as Splits."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple

import numpy as np
from joblib import Parallel, delayed
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError, WebPImagePlugin  # noqa: F401  (registers WebP)

from tfkit.data.folders import (
    IMAGES,
    FoundFile,
    Scan,
    class_name_warnings,
    files_below,
    scan,
    splits_of_folder,
)  # fmt: skip
from tfkit.data.groups import cut_groups, group_digests, group_notes
from tfkit.data.labels import LabelCleaner, Targets, Task, in_order, make_targets, settle_task
from tfkit.data.pixels import (
    FULL_RANGE,
    PIXELS,
    RECIPE,
    PixelRange,
    Range,
    as_bytes,
    choose_range,
    choose_size,
    resize,
    used_range,
)
from tfkit.data.splits import Cutting, Skipped, Source, Splits, cut_by_class, cut_rest, draw, listed
from tfkit.data.store import Store, Writer, has_room, prepare
from tfkit.data.tables import Table, as_split, choose_columns, open_table, with_joined_columns
from tfkit.data.text_decoding import short
from tfkit.environment import files
from tfkit.environment.pieces import CONTENT, Pieces
from tfkit.environment.timeline import doing, track
from tfkit.errors import DataError
from tfkit.tasks import CLASSES

_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")

LARGE = 20_000_000
"""Pixels from which on an image is decoded while no other thread decodes such a one, and made small in bands."""

MOST_WEBP = 40_000_000
"""Pixels of a WebP image: its decoder takes 28 bytes for each of them, seven times as many as others."""

_BAND_PIXELS = 1 << 20  # pixels
_large_image_lock = threading.Lock()

# Threads would race to register the other formats on their first image.
Image.preinit()


class Unreadable(Exception):
    """This file gives no picture; the message says why in a few words."""


def decode_image(path: Path, *, at_least: int | None = None, pixel_range: Range = FULL_RANGE) -> Image.Image:
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
    image = _decode(path, at_least)
    if isinstance(image, np.ndarray):
        values = as_bytes(image, pixel_range)
        image = _shrink(Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values), at_least)
    return _to_rgb(image)


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
    try:
        image = _decode(Path(path), None)
    except Unreadable as err:
        raise DataError(f"{path} cannot be read as an image: {err}.") from err
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))
    return image


def _decode(path: Path, at_least: int | None) -> Image.Image | np.ndarray:
    """Return an upright image of Pillow's, or uint16 [h, w, channels] where the file has 16 bits."""
    try:
        with path.open("rb") as file:
            is_deep = _has_sixteen_bits(file)
            image = Image.open(file, formats=_FORMATS)
            pixels, is_webp = image.width * image.height, image.format == "WEBP"
            if is_webp and pixels > MOST_WEBP:
                raise Unreadable(
                    f"{pixels:,} pixels; of a WebP image {MOST_WEBP:,} are read: save it as JPEG"
                )
            # A JPEG that is drafted takes 3 bytes a pixel if it is progressive, and hardly any if it is not.
            weight = 7.0 if is_webp else 0.2 if image.format == "JPEG" and at_least else 1.0
            with _large_image_lock if pixels * weight >= LARGE else contextlib.nullcontext():
                if at_least is not None:
                    image.draft(None, (at_least, at_least))
                image.load()
                return _read_sixteen_bits(file, image) if is_deep else _orient(_shrink(image, at_least))
    except Unreadable:
        raise
    except UnidentifiedImageError as err:
        raise Unreadable("not an image, or damaged at its start") from err
    except Image.DecompressionBombError as err:
        raise Unreadable(f"over {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels: a decompression bomb") from err
    # Decoders fail on damaged files in many ways: OSError, SyntaxError, ValueError, struct.error, zlib.error, ...
    except Exception as err:
        raise Unreadable((getattr(err, "strerror", None) or str(err) or type(err).__name__).lower()) from err


def _has_sixteen_bits(file: IO[bytes]) -> bool:
    """Return whether a file, opened at its beginning, is a PNG of 16 bits a channel."""
    head = file.read(25)
    file.seek(0)
    return head.startswith(b"\x89PNG\r\n\x1a\n") and head[24:] == b"\x10"


def read_head(path: Path) -> tuple[int, bool] | None:
    """Return the longer side in pixels and whether there is no colour, by the head of the file; None if it has none."""
    try:
        with Image.open(path, formats=_FORMATS) as image:
            return max(image.size), image.mode[:1] in "1LI"
    except Exception:
        return None


def _shrink(image: Image.Image, at_least: int | None) -> Image.Image:
    """Return a large image in RGB at a whole fraction of its size, as a draft of a JPEG is, band by band.

    Whole copies of it in other modes would take five times the memory.
    """
    width, height = image.size
    if at_least is None or width * height < LARGE:
        return image
    factor = max(1, min(image.size) // at_least)
    result = Image.new("RGB", (-(-width // factor), -(-height // factor)))
    rows = factor * max(1, _BAND_PIXELS // (width * factor))
    for top in range(0, height, rows):
        band = image.crop((0, top, width, min(top + rows, height)))
        result.paste(_to_rgb(band).reduce(factor), (0, top // factor))
    # For its rotation; what is transparent is white by now.
    result.info = {name: value for name, value in image.info.items() if name != "transparency"}
    return result


def _orient(image: Image.Image) -> Image.Image:
    # A damaged EXIF block loses its rotation, not the picture.
    with contextlib.suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _read_sixteen_bits(file: IO[bytes], image: Image.Image) -> np.ndarray:
    """Return uint16 [h, w, channels], upright, of an image that is loaded from the file."""
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.uint16)[..., np.newaxis]
    else:
        # Pillow keeps the upper 8 bits of colours.
        from tfkit.environment.stack import tf

        file.seek(0)
        values = tf.io.decode_png(file.read(), dtype=tf.uint16).numpy()
    if "transparency" in image.info:
        is_opaque = (values != np.asarray(image.info["transparency"])).any(axis=-1, keepdims=True)
        values = np.concatenate([values, is_opaque * np.uint16(65535)], axis=-1)
    with contextlib.suppress(Exception):
        if image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
            return values
    places = Image.fromarray(np.arange(image.width * image.height, dtype=np.int32).reshape(image.size[::-1]))
    places.info = dict(image.info)
    return values.reshape(-1, values.shape[-1])[np.asarray(_orient(places))]


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        pixels = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), pixels).convert("RGB")
    return image.convert("RGB")


def _measure_ranges(tree: Scan) -> dict[str, tuple[int, int]]:
    """Return what each image of 16 bits uses, by its name; kept for as long as the files stay as they are.

    The first time the head of every file is read, and those of 16 bits are decoded; others cost nothing more.
    """

    def write(writer: Writer, _: Store | None) -> None:
        ranges, unread_paths = {}, []
        for image in tree.files:
            try:  # whoever prepares it says why it cannot be read
                with (tree.root / image.name).open("rb") as file:
                    is_deep = _has_sixteen_bits(file)
                if is_deep:
                    ranges[image.name] = used_range(read_image(tree.root / image.name))
            except DataError:
                pass
            except OSError:
                unread_paths.append(str(root / image.name))
        writer.finish({"stamp": stamp, "used": ranges, "unread": unread_paths})

    root, stamp = tree.root.resolve(), _digest_status(tree.files)
    key = files.digest_of(str(root), 3)
    return dict(prepare("depths", key, write, size=0, stamp=stamp).entry["used"])


def _note_ranges(scaling: PixelRange, ranges: Mapping[str, tuple[int, int]], *, total: int) -> Iterator[str]:
    """Yield what was decided about images of 16 bits, and what became of those that it does not suit."""
    low, high = scaling[:2]
    if not ranges:
        if (low, high) != FULL_RANGE:
            yield f"The pixel range {low} to {high} changes nothing: no image has 16 bits."
        return
    reason = "what the training images use" if scaling.measured else "as was asked"
    reason = "all of 16 bits" if (low, high) == FULL_RANGE else reason
    yield (
        f"{len(ranges)} of {total} images have 16 bits: {low} to {high} ({reason}) becomes 0 to 255; those of 8 bits"
        " are taken as they are. --pixel-range sets another range."
    )
    if names := [name for name, (lowest, highest) in ranges.items() if lowest < low or highest > high]:
        # A range that was asked for may be that of a private run, which names no file.
        example = f" ({names[0]}, ...)" if scaling.measured else ""
        yield f"{len(names)} of them go beyond {low} to {high}, and are clipped there{example}."


_SIZES_READ, _NEARLY_ALL = 500, 0.95
_DARK = 64  # of 255: such as digits of 16 grey levels, or floats of 0 to 1 that were made integers
_DARK_READ = 200


class _File(NamedTuple):
    """Hold what the store knows of one file."""

    name: str
    size: int
    mtime_ns: int
    """-1: it is to be read again."""

    digest: str
    """Of its bytes; empty when it cannot be read."""

    reason: str
    """Reason that it cannot be read; empty when it can."""


_UNIT = 32  # images of which a piece has a multiple


def prepare_images(
    root: Path, images: Sequence[FoundFile], *, image_size: int, pixel_range: Range = FULL_RANGE
) -> Store:
    """Return the store of these images: uint8 [s, s, 3] of each that can be read. What did not change is kept.

    A file is known by its name, size and modification time.

    Args:
      root: the folder that the names are relative to.
      images: what to prepare, in this order.
      image_size: side of the square.
      pixel_range: what becomes 0 and 255 of 16-bit values.
    """

    size, stamp = len(images) * image_size**2 * 3, _digest_status(images)

    def prepare_file(image: FoundFile) -> tuple[_File, bytes]:
        path = root / image.name
        try:
            pixels = _decode_square(path, image_size, pixel_range)
            return _File(image.name, image.size, image.mtime_ns, files.sha256_of(path), ""), pixels.tobytes()
        except Unreadable as err:
            # What is of the machine, such as a permission, and not of the file, may pass.
            cause = err.__cause__
            passes = isinstance(cause, MemoryError) or getattr(cause, "errno", None) is not None
            return _File(image.name, image.size, -1 if passes else image.mtime_ns, "", str(err)), b""

    def make(file: BinaryIO, part: range) -> dict[str, Any]:
        infos = []
        for info, content in in_parallel(prepare_file, images[part.start : part.stop]):
            infos.append(info)
            file.write(content)
            progress.advance()
        return {"files": infos}

    def write(writer: Writer, old: Store | None) -> None:
        # A file that cannot be read has an example too, of no bytes.
        entries = {file[:3]: (file, number) for number, file in enumerate(_list_files(old) if old else ())}

        def keep_or_prepare(image: FoundFile) -> tuple[_File, bytes]:
            file, number = entries.get((image.name, image.size, image.mtime_ns), (None, 0))
            if file and (file.reason or not writer.has_room):
                return file, b""
            if file and old and old.descriptor is not None:
                return file, old.read(number)
            return prepare_file(image)

        def read_pieces() -> Iterator[tuple[_File, bytes]]:
            for piece in pieces.entries():
                with (piece.path / CONTENT).open("rb") as content:
                    for file in map(_File._make, piece.info["files"]):
                        yield file, b"" if file.reason else content.read(image_size**2 * 3)

        infos = []
        results = read_pieces()
        if not in_pieces:
            pairs = in_parallel(keep_or_prepare, images)
            results = track(pairs, "Preparing images", unit="image", total=len(images))
        for file, content in results:
            infos.append(file)
            writer.add(content)
        unread_paths = [str(root.resolve() / file.name) for file in infos if file.mtime_ns < 0]
        writer.finish({"stamp": stamp, "origin": str(root), "files": infos, "unread": unread_paths})

    key = files.digest_of(str(root.resolve()), image_size, pixel_range, RECIPE, PIXELS)
    cache = files.cache_dir("images")
    pieces = Pieces(files.digest_of(key, stamp), len(images), unit=_UNIT, make=make, result=cache / key)
    # What was prepared before, in whatever state, is brought up to date by one process: little of it has changed.
    in_pieces = pieces.are_worth_it and not (cache / key).is_dir()
    in_pieces &= has_room(cache, 2 * size)  # pieces and store
    display = doing("Preparing images", total=len(images), unit="image")
    progress: Any
    with display if in_pieces else contextlib.nullcontext() as progress:
        if in_pieces:
            pieces.make_those_left(progress)
        store = prepare("images", key, write, size=size, stamp=stamp)
    if in_pieces:
        pieces.remove()
    return store


def _digest_status(images: Sequence[FoundFile]) -> str:
    return files.digest_of([(image.name, image.size, image.mtime_ns) for image in images])


def _list_files(store: Store) -> list[_File]:
    return [_File(*file) for file in store.entry["files"]]


def _decode_square(path: Path, image_size: int, pixel_range: Range) -> np.ndarray:
    return resize(decode_image(path, at_least=2 * image_size, pixel_range=pixel_range), image_size)


def in_parallel(function: Callable[..., Any], items: Iterable[Any]) -> Iterator[Any]:
    """Return what `map` does, over threads, with no more results waiting than threads times four."""
    threads = max(2, len(os.sched_getaffinity(0)))
    parallel = Parallel(
        threads, prefer="threads", return_as="generator", pre_dispatch=4 * threads, batch_size=1
    )
    return parallel(delayed(function)(item) for item in items)


class FolderSource:
    """Image files of a folder; read from their prepared pixels, or decoded each time where those have no room."""

    def __init__(
        self,
        root: Path,
        images: Sequence[FoundFile],
        store: Store,
        *,
        image_size: int,
        pixel_range: Any = FULL_RANGE,
    ) -> None:
        """Take the readable ones among `images`, in the order of the store."""
        infos = _list_files(store)
        self._rows = [number for number, file in enumerate(infos) if not file.reason]
        self.images = [images[number] for number in self._rows]
        self.labels = np.asarray([image.label for image in self.images], np.int64)
        self.names: Sequence[str] = [image.name for image in self.images]
        self.shape: tuple[int, ...] = (image_size, image_size, 3)
        self.digests = [infos[number].digest for number in self._rows]
        groups = [image.group for image in self.images]
        self.groups = group_digests(groups) if groups and None not in groups else None
        self.fingerprint = files.digest_of(self.digests, image_size, pixel_range, RECIPE)
        self._root, self._store, self._pixel_range = root, store, pixel_range

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Return uint8 [b, s, s, 3]."""
        if self._store.descriptor is None:
            return np.stack([*in_parallel(self._decode, indices)])
        rows = b"".join(self._store.read(self._rows[index]) for index in indices)
        return np.frombuffer(bytearray(rows), np.uint8).reshape(-1, *self.shape)

    def raw(self, index: int) -> np.ndarray:
        """Decode its file: see `tfkit.read_image`."""
        return read_image(self._root / self.names[index])

    def _decode(self, index: int) -> np.ndarray:
        return _decode_square(self._root / self.names[index], self.shape[0], self._pixel_range)


def load_folder(folder: str | Path, cutting: Cutting, **sizes: Any) -> Splits:
    """Load `folder`/<class>/<image> or `folder`/<split>/<class>/<image>; see `load_images`."""
    tree = scan(folder)
    return _load_tree(tree, cutting, lambda labels: Targets(CLASSES, tree.class_names, labels), **sizes)


def _load_tree(
    tree: Scan,
    cutting: Cutting,
    as_targets: Callable[[np.ndarray], Targets],
    *,
    image_size: int | None,
    native_size: int,
    pixel_range: Range | None,
) -> Splits:
    """Load files; `as_targets` says what labels mean, by which they are cut."""

    def cut(images: Sequence[FoundFile], members: np.ndarray, **opts: Any) -> dict[str, np.ndarray]:
        part = [images[index] for index in members]
        parts, names = as_targets(np.asarray([image.label for image in part], np.int64)).strata()
        if part and part[0].group is not None:
            digests = group_digests(image.group for image in part)
            return cut_groups(digests, parts, class_names=names, **opts)
        return cut_by_class([image.name for image in part], parts, class_names=names, noun="images", **opts)

    # Before anything is decoded: what is too little is refused, and the training images decide the range.
    training = cut_rest(
        [file.split for file in tree.files], cutting, functools.partial(cut, tree.files), has=tree.splits,
        where=f"{tree.root}/",
    )["train"]  # fmt: skip
    paths = [tree.root / tree.files[place].name for place in draw(len(tree.files), _SIZES_READ)]
    sides, greys = np.asarray([*filter(None, in_parallel(read_head, paths))] or [(native_size, False)]).T
    size = choose_size(sides, image_size=image_size, native_size=native_size)
    ranges = _measure_ranges(tree)
    if pixel_range is not None:
        scaling = PixelRange(*pixel_range, images=len(ranges))
    else:
        names = (tree.files[index].name for index in training)
        scaling = choose_range([ranges[name] for name in names if name in ranges], images=len(ranges))
    store = prepare_images(tree.root, tree.files, image_size=size, pixel_range=scaling[:2])
    source = FolderSource(tree.root, tree.files, store, image_size=size, pixel_range=scaling[:2])
    return splits_of_folder(
        tree, source, source.images, cutting, functools.partial(cut, source.images),
        digests=source.digests,
        unreadable=[Skipped(file.name, file.reason) for file in _list_files(store) if file.reason],
        pixel_range=scaling, side=int(np.median(sides)), grey=bool(greys.mean() >= _NEARLY_ALL),
        notes=[*_note_source(source, store), *_note_ranges(scaling, ranges, total=len(source.names))],
    )  # fmt: skip


def load_image_table(
    path: Path,
    cutting: Cutting,
    flags: Mapping[str, str | None],
    *,
    task: Task,
    class_order: Sequence[str],
    **sizes: Any,
) -> Splits:
    """Load the images that a table names, by their paths from its folder on; see `load_images` and `choose_columns`."""
    table = with_joined_columns(open_table(path), flags["label_column"])
    fields, notes = choose_columns(table, flags)
    column_name = table.columns[fields["label_column"]]
    where = f"The label column '{short(column_name)}' of {path}"
    tree = Scan(table.path.parent, notes=[*table.notes, *notes])
    rows = _read_table(table, fields, tree)
    labels = {name: row["label_column"] for name, row in rows.items()}
    counts = Counter(filter(None, labels.values()))
    task, task_notes = settle_task(task, counts, where=where, is_joined=table.is_joined)
    tree.notes += task_notes
    names = in_order({*labels.values()} if task == "labels" else {*counts})
    codes = {label: code for code, label in enumerate(names)}
    for name, label in labels.items():
        if label in codes:
            status = (tree.root / name).stat()
            split, group = rows[name].get("split_column"), rows[name].get("group_column")
            tree.files.append(FoundFile(name, codes[label], split, status.st_size, status.st_mtime_ns, group))
        else:
            tree.skipped.append(Skipped(name, "has no label"))

    targets = functools.partial(
        make_targets, names, task=task, where=where, class_order=class_order, name=column_name
    )
    splits = _load_tree(tree, cutting, targets, **sizes)
    target = targets(splits.source.labels)
    target.check_cut(splits.indices, where=where)
    splits.source.labels = target.labels
    notes = class_name_warnings(target.class_names)
    if "group_column" in fields:
        where = f"The column '{short(table.columns[fields['group_column']])}' of {path}"
        notes += group_notes(splits.indices, getattr(splits.source, "groups"), where=where)  # noqa: B009
    return splits.replace(
        origin=str(path), class_names=target.class_names, task=target.task, notes=(*splits.notes, *notes)
    )


def _read_table(table: Table, fields: Mapping[str, int], tree: Scan) -> dict[str, dict[str, str]]:
    """Return of each image that is there what it has in each field, and its label, as it is written; empty: none.

    Raises:
      DataError: a path leads out of the folder, or has several labels, groups or splits; none is there.
    """
    as_label, images, root = LabelCleaner(), dict[str, dict[str, str]](), tree.root.resolve()
    repeated = 0
    rows = table.rows(tuple(fields.values()))
    for row in track(rows, "Reading the table", unit="row"):
        if isinstance(row, Skipped):
            tree.skipped.append(row)
            continue
        place, name = f"{table.path.name}:{row.line}", (row.cells[0] or "").strip()
        try:
            image_path = (root / name).resolve()
            is_file = bool(name) and name.isprintable() and image_path.is_file()
        except (OSError, ValueError, RuntimeError):  # too long, or a zero byte
            image_path, is_file = root, False
        if not image_path.is_relative_to(root):
            raise DataError(
                f"{place} names {short(name)!r}, which leads to {image_path.parent}, out of the folder of the table.\n"
                f"  Paths are relative to {root}: move the images there, or the table to where they are."
            )
        if not is_file or image_path.suffix.lower() not in IMAGES.suffixes:
            reason = "names no image" if is_file else "names a file that is not there"
            tree.skipped.append(Skipped(f"{place} {short(name)}", reason if name else "names no file"))
            continue
        name = image_path.relative_to(root).as_posix()  # one file has one name
        cells = {flag: (cell or "").strip() for flag, cell in zip(fields, row.cells, strict=True)}
        del cells["image_column"]
        if "split_column" in fields:
            column = table.columns[fields["split_column"]]
            cells["split_column"] = as_split(cells["split_column"], column=column, path=table.path)
        if (label := as_label(cells["label_column"])) is None:
            tree.skipped.append(Skipped(place, "has no label"))
        elif not cells.get("group_column", "group"):
            tree.skipped.append(Skipped(place, "has no group"))
        elif name not in images:
            images[name] = {**cells, "label_column": label}
        elif images[name]["label_column"] != label:
            old_label = images[name]["label_column"]
            raise DataError(
                f"{place} has another label for {name} than a row above: {short(label)!r}, {short(old_label)!r}.\n"
                "  Several labels of one stand in one cell: frame.groupby(IMAGE)[LABEL].agg('|'.join).reset_index()"
            )
        elif images[name] == {**cells, "label_column": label}:
            repeated += 1
        else:
            raise DataError(f"{place} has another group or split for {name} than a row above: remove one.")
    tree.notes += as_label.notes()
    if repeated:
        tree.notes.append(
            f"{table.path.name}: Rows that repeat an image and its label, which counts once: {repeated}."
        )
    if not images:
        raise DataError(
            f"{table.path} names no image that is there ({listed([skip.path for skip in tree.skipped], 3)}).\n"
            f"  Paths are relative to {root}, with the ending: {', '.join(sorted(IMAGES.suffixes))}."
        )
    return images


def contradictions(digests: Sequence[str], labels: np.ndarray, plural: str) -> Iterator[str]:
    """Yield a sentence on images of one content and two labels, int64 [n]."""
    classes = Counter(digest for digest, _ in {*zip(digests, labels.tolist(), strict=True)})
    if count := sum(classes[digest] > 1 for digest in digests):
        yield f"Identical {plural} in two classes: {count}. No classifier can get both right."


def darkness(images: Sequence[np.ndarray]) -> Iterator[str]:
    """Yield a sentence on images that are all nearly black, uint8 [h, w, channels]."""
    if len(images) and (brightest := int(max(image[..., :3].max() for image in images))) < _DARK:
        yield (
            f"The images are nearly black: none of {len(images)} has a value above {brightest} of 255. Those of fewer"
            " grey levels: divide by the highest, for floats in [0, 1]."
        )


def dark_notes(source: Source) -> Iterator[str]:
    """Yield the same on some images of a source, drawn from all."""
    yield from darkness([*source.read(draw(len(source.names), _DARK_READ))])


def _note_source(source: FolderSource, store: Store) -> Iterator[str]:
    yield from contradictions(source.digests, source.labels, "image files")
    yield from dark_notes(source)
    size = source.shape[0]
    if store.descriptor is None:
        yield f"{store.folder.parent} has no room for the prepared images: they are decoded in every epoch."
    else:
        megabytes = len(source.names) * size**2 * 3 / 1e6
        yield f"The images are prepared at {size} pixels in {store.folder} ({megabytes:.0f} MB)."


def read_images(
    folder: str | Path, *, image_size: int, count: int, pixel_range: Range = FULL_RANGE
) -> np.ndarray:
    """Read images below a folder, whatever its subfolders but hidden ones, prepared as training prepares them.

    Args:
      folder: with images.
      image_size: side of the square in pixels.
      count: no more are read: drawn, of each folder as many as can be; what cannot be read is passed over.
      pixel_range: what becomes 0 and 255 of 16-bit values.

    Returns:
      uint8 [n, s, s, 3].

    Raises:
      DataError: there are none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder. Give one with images in it, with or without subfolders.")
    paths = sorted(files_below(folder, IMAGES)[0])
    indices = draw(len(paths), count, classes=[str(path.parent) for path in paths])
    images, reasons = [], []
    for path in (paths[place] for place in indices):
        try:
            images.append(_decode_square(path, image_size, pixel_range))
        except Unreadable as err:
            reasons.append(f"{path.name}: {err}")
    if not images:
        why = f" ({reasons[0]})" if reasons else ""
        raise DataError(
            f"{folder} holds no image that can be read, of {len(paths)} with such an ending{why}."
        )
    return np.stack(images)

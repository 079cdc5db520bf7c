"""Examples in memory, as files of the cache: whatever reads a run's examples later on reads them there."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from tfkit.data.pixels import OVERSHOOT, as_pixels
from tfkit.data.splits import no_such_path
from tfkit.data.tables import as_text
from tfkit.data.text_decoding import decode, is_binary
from tfkit.environment import files, stack
from tfkit.environment.timeline import doing, track
from tfkit.errors import DataError

TABLE, EXAMPLE, LABEL = "examples.parquet", "example", "label"


def cache_examples(data: Any, *, image_column: str | None = None, task: str | None = None) -> dict[str, Any]:
    """Write examples in memory into the cache, unless they are there, and return the settings that read them.

    Args:
      data: a DataFrame (of pandas, or with a method `to_pandas`), of texts or of the paths of images in `image_column`;
        a pair (examples, labels); or a finite tf.data.Dataset of such pairs, batched or not. Examples are images, the
        pathlib.Path of images, or texts. Images have 1 to 4 channels and any size: of PIL, uint8, uint16 [h, w], or
        float in [0, 1] or [0, 255], of which the nearest of 256 greys is kept. Labels are class numbers or names [n],
        for the task "labels" 0 and 1 [n, c], for "value" numbers [n]. Where a dataset has `class_names`, as Keras gives
        them, the numbers count these.
      image_column: of a DataFrame.
      task: what the labels of a pair or a dataset mean, see `tfkit.load_images`; None: classes.

    Returns:
      `data_file`, a table with the images, or copies of those that paths name, beside it; of what is no DataFrame also
      its columns and the task. The same examples give the same file, those of a dataset in whatever order they come.

    Raises:
      DataError: it is of another kind, or a dataset yields other examples each time.
    """
    import pandas as pd

    data = data.to_pandas() if hasattr(data, "to_pandas") else data
    is_frame, is_dataset = hasattr(data, "columns"), hasattr(data, "element_spec")
    frame: Any = data.rename(columns=str) if is_frame else None
    if is_frame:
        column = frame.get(image_column, [])
        paths = [Path(cell).expanduser() if isinstance(cell, str | Path) else None for cell in column]
        pairs: Any = lambda: ((path, None) for path in paths)  # noqa: E731
    else:
        pairs = _to_pairs(data)
    cells, digests, labels, white = list[Any](), list[str](), list[Any](), 1
    for place, (example, label) in enumerate(track(pairs(), "Reading the examples", unit="example")):
        digests.append(_get_digest(example))
        cells.append(_to_cell(example, digests[-1] if is_dataset else f"{place:06d}"))
        labels.append(label)
        white = max(white, _get_white(example))
    settings: dict[str, Any] = {}
    if not is_frame:
        if not cells:
            raise DataError("There are no examples.")
        task = task or "classes"
        titles = getattr(data, "class_names", None) if is_dataset else getattr(data[1], "columns", None)
        names = None if titles is None else [*map(str, titles)]
        columns = _build_columns(labels, names if is_dataset or task == "labels" else None, task=task)
        kind = "image" if any(digests) else "text"
        frame = pd.DataFrame({EXAMPLE: cells, **columns})
        settings = {f"{kind}_column": EXAMPLE, "label_column": ",".join(columns), "task": task}
        if is_dataset:
            frame = frame.sort_values([*frame.columns], ignore_index=True)
        if is_dataset and kind == "image":  # whose copies are examples too, in whatever order they come
            numbers = frame.groupby(EXAMPLE).cumcount() + 1
            frame[EXAMPLE] = [f"{n} {name}" for n, name in zip(numbers, frame[EXAMPLE], strict=True)]
    elif cells:
        frame[image_column] = cells
    kinds = {name: {*of.dropna().map(type)} for name, of in frame.items() if of.dtype == object}
    mixed = [name for name, of in kinds.items() if str in of and len(of) > 1]  # as in sheets of Excel
    try:
        table = frame.assign(**{name: frame[name].map(as_text) for name in mixed}).to_parquet(index=False)
    except (ValueError, TypeError, OverflowError, NotImplementedError) as err:
        raise DataError(
            f"The DataFrame cannot be kept as Parquet: {err}\n"
            "  Give the columns that are used alone, frame[[TEXT, LABEL]], of texts or numbers."
        ) from err

    def make(folder: Path) -> dict[str, Any]:
        (folder / TABLE).write_bytes(table)
        if "text_column" in settings:
            return {}
        copies = Counter[str]()
        for place, (example, _) in enumerate(track(pairs(), "Keeping the images", unit="image")):
            name = str(_to_cell(example, _get_digest(example) if is_dataset else f"{place:06d}"))
            copies[name] += 1
            _write_image(example, folder / (f"{copies[name]} {name}" if is_dataset else name), white=white)
        if is_dataset and {path.name for path in folder.glob("*.png")} != {*frame[EXAMPLE]}:
            raise DataError(
                "The tf.data.Dataset yields other images each time, as with random augmentation.\n  Give it without;"
                " tfkit.train augments by itself: augment='light'."
            )
        return {}

    cache = files.Cache("examples")
    with doing("Checking the examples in the cache"):
        entry = cache.get(files.digest_of(_get_key(), [] if is_dataset else digests, table), make)
    return {"data_file": entry.path / TABLE, **settings}


def from_dataset(dataset: Any) -> list[Any]:
    """Return the images (uint8 or uint16) or texts of a finite tf.data.Dataset of these, or of pairs with labels."""

    def read_all() -> Iterator[Any]:
        return (item[0] if isinstance(item, tuple) else item for item in _iterate(dataset))

    white = max(map(_get_white, read_all()), default=1)
    return [_to_pixels(item, white) if isinstance(item, np.ndarray) else _decode(item) for item in read_all()]


def _to_pairs(data: Any) -> Callable[[], Iterator[tuple[Any, Any]]]:
    """Return a function that yields examples and labels, each time anew."""
    is_dataset = hasattr(data, "element_spec")
    if is_dataset and isinstance(data.element_spec, tuple) and len(data.element_spec) == 2:
        return functools.partial(_iterate, data)
    if isinstance(data, tuple | list) and [hasattr(part, "__len__") for part in data] == [True, True]:
        # What iterates over a DataFrame gets the names of its columns.
        examples, labels = (part.to_numpy() if hasattr(part, "columns") else part for part in data)
        examples = examples[:, 0] if getattr(data[0], "shape", ())[1:] == (1,) else examples
        if len(examples) != len(labels):
            raise DataError(f"There are {len(examples)} examples and {len(labels)} labels.")
        return lambda: zip(map(as_array, examples), labels, strict=True)
    kind = f"dataset of {data.element_spec}" if is_dataset else type(data).__name__
    raise DataError(
        "Examples in memory are a DataFrame, a pair (examples, labels), or a tf.data.Dataset of such pairs, and"
        f" not a {kind}.\n  A model of your own: tfkit.fit(build_model, tfkit.from_arrays(...))."
    )


def _iterate(dataset: Any) -> Iterator[Any]:
    """Yield the elements of a dataset, taken out of its batches, as numpy has them."""
    spec = dataset.element_spec
    example = spec[0] if isinstance(spec, tuple) else spec
    if int(dataset.cardinality()) == -1:
        raise DataError("The tf.data.Dataset never ends: leave out .repeat(), or add .take(n).")
    if not hasattr(example, "dtype"):
        raise DataError(f"Examples of the tf.data.Dataset are {example}: .map(...) to images or texts.")
    shape, rank = example.shape, 0 if example.dtype == "string" else 3
    # The last axis of a batch of grey images is none of channels.
    is_batch = shape.rank == rank + 1 or (shape.rank == rank == 3 and (shape[-1] or 1) > 4)
    try:
        yield from (dataset.unbatch() if is_batch else dataset).as_numpy_iterator()
    except stack.tf.errors.OpError as err:
        culprit = next((path for path in getattr(dataset, "file_paths", ()) if not _is_decoded(path)), None)
        cause = (
            f"{culprit} cannot be decoded"
            if culprit
            else err.message.splitlines()[0].rpartition("}} ")[2].rstrip(".")
        )
        raise DataError(
            f"The tf.data.Dataset breaks off: {cause}.\n  Of a folder of files: give the folder, tfkit.train(FOLDER),"
            " which skips and names those that cannot be read."
        ) from err


def _is_decoded(path: str) -> bool:
    try:
        stack.tf.io.decode_image(stack.tf.io.read_file(path))
    except stack.tf.errors.OpError:
        return False
    return True


def _build_columns(values: list[Any], class_names: list[str] | None, *, task: str) -> dict[str, Any]:
    """Return the columns of a table that say the labels.

    Raises:
      DataError: they do not fit the task.
    """
    try:
        labels = np.asarray(values)
    except ValueError as err:
        raise DataError(
            "labels have several lengths. Of several each: 0 and 1 [n, labels], as sklearn's MultiLabelBinarizer makes"
            " them, with task='labels'; or a column of a DataFrame, which may hold lists."
        ) from err
    if labels.dtype.kind in "SO":
        labels = np.array([decode(name)[0] if isinstance(name, bytes) else name for name in labels.tolist()])
    if task == "labels" and labels.ndim == 2:
        return dict(zip(class_names or map(str, range(labels.shape[1])), labels.T, strict=True))
    labels = labels[:, 0] if labels.shape[1:] == (1,) else labels
    are_whole = labels.dtype.kind in "iub" or (labels.dtype.kind == "f" and np.all(labels == np.rint(labels)))
    if labels.ndim != 1 or (labels.dtype.kind == "f" and task != "value" and not are_whole):
        raise DataError(
            f"labels is {labels.dtype} {list(labels.shape)}; expected a class number or name for each example.\n"
            "  One-hot rows or probabilities: labels.argmax(1). Quantities: task='value'.\n"
            "  Several labels each, 0 and 1 [n, labels]: task='labels'."
        )
    if are_whole and task != "value":
        labels = labels.astype(np.int64)
        if class_names is not None:
            if labels.min() < 0 or labels.max() >= len(class_names):
                raise DataError(
                    f"labels go from {labels.min()} to {labels.max()}: {len(class_names)} class_names."
                )
            labels = np.asarray(class_names)[labels]
    return {LABEL: labels}


def _to_cell(example: Any, name: str) -> str | None:
    """Return a text, or what the file of an image is called; None of what is missing in a column of paths."""
    if isinstance(example, Path):
        return f"{name} {example.name}"
    return None if example is None else f"{name}.png" if isinstance(example, np.ndarray) else _decode(example)


def _decode(example: Any) -> str:
    """Return a text.

    Raises:
      DataError: it is none.
    """
    if isinstance(example, bytes) and not is_binary(example):
        return decode(example)[0]
    if isinstance(example, str):
        return example
    raise DataError(
        f"Examples are images, their pathlib.Path, or texts, and not {type(example).__name__} such as"
        f" {example!r:.40}.\n  Of the content of files of images: tf.io.decode_image."
    )


def _get_digest(example: Any) -> str:
    """Return one of an image or of the file of one, and nothing of a text, which the table has.

    Raises:
      DataError: there is no such file.
    """
    if isinstance(example, Path):
        if not example.is_file():
            raise no_such_path(example, "image")
        return files.sha256_of(example)
    if isinstance(example, np.ndarray):
        return hashlib.sha256(f"{example.dtype}{example.shape}".encode() + example.tobytes()).hexdigest()
    return ""


def _write_image(example: Any, path: Path, *, white: int) -> None:
    """Write an image, or copy the file of one."""
    if isinstance(example, Path):
        shutil.copyfile(example, path)
    elif isinstance(example, np.ndarray):
        pixels = _to_pixels(example, white)
        if pixels.dtype == np.uint16 and pixels.shape[-1] > 1:
            raise DataError(f"An image is uint16 {list(pixels.shape)}: give grey ones, or files.")
        Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(path, compress_level=1)


def _get_white(example: Any) -> int:
    """Return what white is in floats: 255 where a value is above 1; a dark image does not show it.

    Raises:
      DataError: it is a row of numbers: no image, or one that was made flat.
    """
    if isinstance(example, np.ndarray) and example.ndim not in (2, 3):
        raise DataError(
            f"An image is {example.dtype} {list(example.shape)}; it must be [height, width] or [height, width,"
            " channels].\n  Of rows of pixels: images.reshape(-1, height, width)."
        )
    is_float = isinstance(example, np.ndarray) and example.dtype.kind == "f"
    return 255 if is_float and example.max(initial=0) > 1 + OVERSHOOT else 1


def _to_pixels(image: np.ndarray, white: int) -> np.ndarray:
    """Return uint8 or uint16 [h, w, c] of [h, w] or [h, w, c]."""
    return as_pixels(image if image.ndim == 3 else image[..., np.newaxis], white=white)


def as_array(example: Any) -> Any:
    """Return a tensor as an array, and an image of Pillow's as its file would be read: upright, as PNG has it."""
    if not isinstance(example, Image.Image):
        return example.numpy() if hasattr(example, "numpy") else example
    with contextlib.suppress(Exception):  # a damaged EXIF block loses its rotation, not the picture
        example = ImageOps.exif_transpose(example)
    key = example.info.get("transparency")
    if example.mode[0] in "IF":  # of 16 and 32 bits; what is transparent is white
        pixels = np.asarray(example)
        return pixels if key is None else np.where(pixels == key, np.uint16(65535), pixels)
    if key is not None or example.mode not in ("L", "LA", "RGB", "RGBA"):
        mode = "L" if example.mode == "1" else "RGB"
        example = example.convert("RGBA" if example.has_transparency_data else mode)
    return np.asarray(example)


def _get_key() -> Path:
    """Return a secret file: with it in the name, config.yaml of a private run tells nothing of the examples.

    It is not beside them: who deletes them, and gives the same again, has them under the same name.
    """
    key = files.cache_dir() / f".key-{os.getuid()}"  # of a cache that several people share
    with files.lock(key.with_suffix(".lock")):
        if not key.exists():
            with files.new_file(key, mode=0o600) as file:
                file.write(secrets.token_bytes(32))
    return key

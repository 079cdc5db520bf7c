"""load_texts: one call for whatever holds the texts.

A dataset of tensorflow-datasets, unpacked once into a folder of image files.

load_images: one call for whatever holds the images.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from tfkit.data.embedded import EMBEDDED, load_docstrings, load_embedded
from tfkit.data.image_files import load_folder
from tfkit.data.splits import SPLIT_NAMES, Splits, check_fractions
from tfkit.environment import files
from tfkit.environment.process import watched
from tfkit.errors import DataError

if TYPE_CHECKING:
    import numpy as np


def load_tfds(source: str, **options: Any) -> Splits:
    """Splits of "tfds:NAME": its images as they are stored, in folders of the cache, then as any folder.

    The splits train, validation and test of the dataset are kept; one that it lacks is cut from train.

    Args:
      source: "tfds:" and a name, config and version as `tfds.builder` takes them: "tfds:beans".
      options: what `load_folder` takes.

    Raises:
      DataError: tensorflow-datasets is not installed, has no such dataset, cannot prepare it, or
        it does not hold (image, label) pairs with a train split.
    """
    builder = _builder(source)
    _check(source, builder)
    folder = files.cache_dir("tfds") / files.digest_of(builder.info.full_name, str(builder.data_path))
    with files.lock(folder.with_suffix(".lock")):
        if not folder.exists():
            _unpack_all(builder, folder)
        splits = load_folder(folder, **options)
        if not _is_whole(folder, splits):
            files.say_damaged(folder)
            shutil.rmtree(folder)
            _unpack_all(builder, folder)
            splits = load_folder(folder, **options)
    note = f"The images of {source} are unpacked in {folder}."
    return splits.replace(origin=f"tfds:{builder.info.full_name}", notes=(*splits.notes, note))


def _builder(source: str) -> Any:
    if importlib.util.find_spec("tensorflow_datasets") is None:
        raise DataError(
            f"{source} needs tensorflow-datasets, which is not installed: pip install tensorflow-datasets"
        )
    from tfkit.environment.stack import tf  # noqa: F401  (before tensorflow-datasets imports it)

    import tensorflow_datasets as tfds  # isort: skip

    try:
        builder = tfds.builder(source.removeprefix("tfds:"))
        builder.download_and_prepare()
    # Whatever a dataset's own code, its host or its licence page raises.
    except Exception as err:
        raise DataError(
            f"tensorflow-datasets cannot prepare {source}: {_first_line(err)}\n"
            "  The names are at https://www.tensorflow.org/datasets/catalog/overview."
        ) from err
    return builder


def _check(source: str, builder: Any) -> None:
    import tensorflow_datasets as tfds

    features = builder.info.features
    parts = dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}
    image, label = parts.get("image"), parts.get("label")
    if not isinstance(image, tfds.features.Image) or not isinstance(label, tfds.features.ClassLabel):
        raise DataError(f"{source} has {features}; expected an 'image' (Image) and a 'label' (ClassLabel).")
    if "train" not in builder.info.splits:
        raise DataError(f"{source} has no split 'train', but {', '.join(builder.info.splits)}.")


def _unpack(builder: Any, split: str, folder: Path) -> None:
    """Write the encoded images of a split as <class>/<digest of the image>.<ending>."""
    label = builder.info.features["label"]
    total = builder.info.splits[split].num_examples
    for name, content in tqdm(
        _encoded(builder, split), total=total, desc=f"Unpacking {split}", delay=1, disable=not watched()
    ):
        ending = ".jpg" if content.startswith(b"\xff\xd8") else ".png"
        place = folder / label.int2str(name).replace("/", "_")
        place.mkdir(parents=True, exist_ok=True)
        stem = hashlib.sha256(content).hexdigest()[:24]
        # An image that a dataset holds twice in a class is one image.
        (place / f"{stem}{ending}").write_bytes(content)


def _is_whole(folder: Path, splits: Splits) -> bool:
    """Whether each image is what its name, a digest, says: as it was prepared, or where that failed, as it is."""
    source: Any = splits.source
    found = dict(zip(source.names, source.digests, strict=True))
    for skipped in splits.skipped:
        path = folder / skipped.path
        found[skipped.path] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    return all(digest.startswith(Path(name).stem) for name, digest in found.items())


def _unpack_all(builder: Any, folder: Path) -> None:
    with files.new_folder(folder) as unpacked:
        for split in SPLIT_NAMES:
            if split in builder.info.splits:
                _unpack(builder, split, unpacked / split)


def _encoded(builder: Any, split: str) -> Iterator[tuple[int, bytes]]:
    import tensorflow_datasets as tfds

    decoders = {"image": tfds.decode.SkipDecoding()}
    for example in tfds.as_numpy(builder.as_dataset(split=split, decoders=decoders)):
        yield int(example["label"]), bytes(example["image"])


def _first_line(err: Exception) -> str:
    return (str(err).strip().splitlines() or [type(err).__name__])[0]


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
    from tfkit.data.image_files import read_pixels

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
    }
    # A command line gives a Path, also for the name of a set; a folder of that name then goes first.
    if str(source) in EMBEDDED and (isinstance(source, str) or not source.is_dir()):
        return load_embedded(
            str(source), **options, validation_fraction=validation_fraction, test_fraction=test_fraction
        )
    options |= {
        "strict": strict,
        "pixel_range": pixel_range,
        "held_out": {"validation": validation_fraction, "test": test_fraction},
    }
    return (
        load_tfds(str(source), **options)
        if str(source).startswith("tfds:")
        else load_folder(source, **options)
    )


EMBEDDED_TEXTS = ("docstrings",)


def load_texts(
    source: str | Path,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    language_column: str | None = None,
    global_batch_size: int = 32,
    seed: int = 0,
    strict: bool = False,
    validation_fraction: float = 0.15,
    test_fraction: float = 0.15,
) -> Splits:
    """Splits of texts, each with one label.

    A table is read once, row by row, into a store in the cache; from then on a text is read when it is needed, so
    that a file may be larger than the memory. What had to be found out is in `Splits.notes`: the encoding where it
    is not UTF-8, the columns where they were not given, rows that cannot be used, texts that are there twice.

    Args:
      source: a .csv, .tsv, .json, .jsonl or .parquet file, the former also as .gz, .bz2, .xz or .zip; a folder with one
        subfolder a class and one .txt file a document,
        or with train/, validation/ and test/ of such folders; or an embedded set ("docstrings").
      text_column: of a table; left out, the one whose name says it.
      label_column: of a table; left out, the one whose name says it, or the other one of two.
      language_column: of a table; its values become `splits.source.languages`.
      global_batch_size: examples in a batch, over all replicas.
      seed: decides the splits and the order of training.
      strict: a row without text or label, or with a wrong number of fields, is an error, not skipped.
      validation_fraction: of each class.
      test_fraction: of each class.

    Returns:
      Splits of strings: (string [b], label int64 [b]). A text that is there several times, but for white space, is in
      one split.

    Raises:
      DataError: the texts cannot be found, or cannot serve to train a classifier.

    Example:
      >>> splits = load_texts("mails.csv", text_column="body", label_column="folder")  # doctest: +SKIP
      >>> splits.spec  # doctest: +SKIP
      TensorSpec(shape=(), dtype=tf.string, name=None)
    """
    options: dict[str, Any] = {
        "global_batch_size": global_batch_size,
        "seed": seed,
        "held_out": {"validation": validation_fraction, "test": test_fraction},
    }
    check_fractions(options["held_out"])
    if not isinstance(source, str | Path):
        raise DataError(
            f"load_texts reads files and folders, not a {type(source).__name__}.\n"
            "  A DataFrame: frame.to_parquet('texts.parquet'), or to_csv('texts.csv', index=False), and give that file."
        )
    path = Path(source)
    # A command line gives a Path, also for the name of a set; a file or folder of that name then goes first.
    if str(source) in EMBEDDED_TEXTS and (isinstance(source, str) or not path.exists()):
        return load_docstrings(**options)
    if path.is_dir():
        if text_column or label_column or language_column:
            raise DataError(f"{path} is a folder: its subfolders are the classes, and it has no columns.")
        from tfkit.data.text_files import load_documents

        return load_documents(path, strict=strict, **options)
    from tfkit.data.text_files import load_table

    return load_table(
        path,
        text_column=text_column,
        label_column=label_column,
        language_column=language_column,
        strict=strict,
        **options,
    )

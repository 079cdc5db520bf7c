"""load_images and load_texts: one call for whatever holds the examples."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from tfkit.data.embedded import EMBEDDED, load_docstrings, load_embedded
from tfkit.data.image_files import load_folder
from tfkit.data.splits import SPLIT_NAMES, Cutting, Splits, check_fractions
from tfkit.data.tables import FLAGS
from tfkit.data.text_files import load_documents, load_table
from tfkit.environment import files, packages
from tfkit.environment.process import watched
from tfkit.errors import DataError


def _load_tfds(source: str, cutting: Cutting, **options: Any) -> Splits:
    """Load "tfds:NAME": its images as they are stored, in folders of the cache, then as any folder.

    The splits train, validation and test of the dataset are kept; one that it lacks is cut from train.
    """
    builder = _tfds_builder(source)
    folder = files.cache_dir("tfds") / files.digest_of(builder.info.full_name, str(builder.data_path))
    with files.lock(folder.with_suffix(".lock")):
        if not folder.exists():
            with files.new_folder(folder) as unpacked:
                for split in [*filter(builder.info.splits.__contains__, SPLIT_NAMES)]:
                    _unpack(builder, split, unpacked / split)
    splits = load_folder(folder, cutting, **options)
    note = f"The images of {source} are unpacked in {folder}."
    return splits.replace(origin=f"tfds:{builder.info.full_name}", notes=(*splits.notes, note))


def _tfds_builder(source: str) -> Any:
    """Return the builder of a prepared dataset of (image, label) pairs with a train split."""
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
            f"tensorflow-datasets cannot prepare {source}: {packages.first_line(err)}\n"
            "  The names are at https://www.tensorflow.org/datasets/catalog/overview."
        ) from err
    features = builder.info.features
    parts = dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}
    kinds = {"image": tfds.features.Image, "label": tfds.features.ClassLabel}
    whole = all(isinstance(parts.get(name), kind) for name, kind in kinds.items())
    if not whole or "train" not in builder.info.splits:
        raise DataError(
            f"{source} has {features} and the splits {', '.join(builder.info.splits)}; expected an 'image' (Image), a"
            " 'label' (ClassLabel) and a split 'train'."
        )
    return builder


def _unpack(builder: Any, split: str, folder: Path) -> None:
    """Write the encoded images of a split as <class>/<digest of the image>.<ending>."""
    import tensorflow_datasets as tfds

    info, decoders = builder.info, {"image": tfds.decode.SkipDecoding()}
    examples = tfds.as_numpy(builder.as_dataset(split=split, decoders=decoders))
    total = info.splits[split].num_examples
    for example in tqdm(examples, total=total, desc=f"Unpacking {split}", delay=1, disable=not watched()):
        content = bytes(example["image"])
        place = folder / info.features["label"].int2str(int(example["label"])).replace("/", "_")
        place.mkdir(parents=True, exist_ok=True)
        ending = ".jpg" if content.startswith(b"\xff\xd8") else ".png"
        # An image that a dataset holds twice in a class is one image.
        (place / f"{hashlib.sha256(content).hexdigest()[:24]}{ending}").write_bytes(content)


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
    """Load images as Splits.

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
    cutting = Cutting(
        {"validation": validation_fraction, "test": test_fraction}, seed, global_batch_size, strict
    )
    sizes: dict[str, Any] = {"image_size": image_size, "native_size": native_size}
    # A command line gives a Path, also for the name of a set; a folder of that name then goes first.
    if str(source) in EMBEDDED and (isinstance(source, str) or not source.is_dir()):
        return load_embedded(str(source), cutting, **sizes)
    if str(source).startswith("tfds:"):
        return _load_tfds(str(source), cutting, **sizes, pixel_range=pixel_range)
    return load_folder(source, cutting, **sizes, pixel_range=pixel_range)


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
    """Load texts as Splits, each with one label.

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
    held_out = {"validation": validation_fraction, "test": test_fraction}
    cutting = Cutting(held_out, seed, global_batch_size, strict)
    check_fractions(held_out)
    if not isinstance(source, str | Path):
        raise DataError(
            f"load_texts reads files and folders, not a {type(source).__name__}.\n"
            "  A DataFrame: frame.to_parquet('texts.parquet'), or to_csv('texts.csv', index=False), and give that file."
        )
    path = Path(source)
    # A command line gives a Path, also for the name of a set; a file or folder of that name then goes first.
    if str(source) in EMBEDDED_TEXTS and (isinstance(source, str) or not path.exists()):
        return load_docstrings(cutting)
    asked = dict(zip(FLAGS, (text_column, label_column, language_column), strict=True))
    if not path.is_dir():
        return load_table(path, cutting, asked)
    if any(asked.values()):
        raise DataError(f"{path} is a folder: its subfolders are the classes, and it has no columns.")
    return load_documents(path, cutting)

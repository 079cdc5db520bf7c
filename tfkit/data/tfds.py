"""A dataset of tensorflow-datasets, unpacked once into a folder of image files."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from tfkit import files
from tfkit.data.folder import load_folder
from tfkit.data.splits import SPLIT_NAMES, Splits
from tfkit.errors import DataError
from tfkit.process import watched


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
    folder = files.cache_dir("tfds") / files.digest(builder.info.full_name, str(builder.data_path))
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
    from tfkit.stack import tf  # noqa: F401  (before tensorflow-datasets imports it)

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

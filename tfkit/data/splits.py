"""Splits: what a job trains on, validates on and is tested on, as stock tf.data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np

from tfkit import files
from tfkit.data.pixels import WHOLE_RANGE, PixelRange

if TYPE_CHECKING:
    import tensorflow as tf

    from tfkit.data.augment import Augmentation
    from tfkit.data.pipeline import Share

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


class Source(Protocol):
    """Random access to examples: images, texts, or features that were computed from them."""

    labels: np.ndarray
    """int64 [n], in [0, number of classes)."""

    names: Sequence[str]
    """What an example is called: the relative path of a file, "digits/17", or the line of a table, "mails.csv:17"."""

    shape: tuple[int, ...]
    """Of one example. Three axes are an image (uint8), none is a text (a string), any other number is float32."""

    fingerprint: str
    """Digest of the contents and of how they are prepared: what is computed from them is stored under it."""

    def read(self, indices: np.ndarray) -> np.ndarray:
        """The examples as they are trained on: [b, *shape], images uint8, features float32, texts bytes in UTF-8."""

    def raw(self, index: int) -> Any:
        """One example as the user has it: an image as `tfkit.read_image` gives it, a text str."""

    # A source of features that are all in memory may offer them as `rows`, float32 [n, *shape].
    # A source of texts has `lengths`, int32 [n], in characters, and `languages`, n str or None.


@dataclass(frozen=True, kw_only=True, eq=False)
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
    """What the examples are read from."""
    indices: Mapping[str, np.ndarray]
    """For each of "train", "validation" and "test": int64 indices into the source, in the stable order."""

    class_names: tuple[str, ...]
    """By label: the name of label 0 comes first."""
    global_batch_size: int
    """Examples in a batch, over all replicas."""
    seed: int
    """Of the splits and of the order of training."""
    origin: str
    """Where the examples come from: "photos/", "digits (scikit-learn 1.6.1)"."""

    skipped: tuple[Skipped, ...] = ()
    """Examples that could not be read, have no label, or are files that are there twice."""

    other_files: int = 0
    """Hidden files and files of another kind: passed over."""

    duplicates: int = 0
    """Validation and test examples whose very content is also in an earlier split: they flatter the result.

    Of a table there are none: a text that stands in several rows is in one split with all of them."""

    pixel_range: PixelRange = WHOLE_RANGE
    """How images of 16 bits become those of 8 bits that `train`, `validation` and `test` hold."""

    notes: tuple[str, ...] = ()
    """What was decided on the way and why, one sentence each."""

    @property
    def train(self) -> tf.data.Dataset:
        """The training batches, in the order of epoch 0."""
        return self.epochs(0, 1)

    @property
    def validation(self) -> tf.data.Dataset:
        """The validation batches, always in the same order."""
        return self.in_order("validation")

    @property
    def test(self) -> tf.data.Dataset:
        """The test batches, always in the same order."""
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
    ) -> tf.data.Dataset:
        """The training batches of the epochs [first, last), one epoch after the other.

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
        from tfkit.data import pipeline

        return pipeline.shuffled(
            self.source,
            self.indices["train"],
            batch_size=self.global_batch_size,
            seed=self.seed,
            epochs=(first, last),
            skip=skip,
            augment=augment,
            class_weight=class_weight,
            share=share,
        )

    def in_order(self, split: str, *, share: Share | None = None) -> tf.data.Dataset:
        """The batches of one split, always in the same order.

        Args:
          split: `train`, `validation` or `test`.
          share: of the replicas of this process; None for the whole batches.
        """
        from tfkit.data import pipeline

        return pipeline.in_order(
            self.source, self.indices[split], batch_size=self.evaluation_batch_size, share=share
        )

    @property
    def evaluation_batch_size(self) -> int:
        """Examples in a batch of validation or test."""
        if self.source.shape == ():
            return self.global_batch_size * TEXT_BATCHES
        return max(self.global_batch_size, 1 if len(self.source.shape) == 3 else FEATURES_AT_A_TIME)

    def evaluation_steps(self, split: str) -> int:
        """Batches of `in_order(split)`, over all replicas."""
        return math.ceil(len(self.indices[split]) / self.evaluation_batch_size)

    @property
    def steps_per_epoch(self) -> int:
        """Training batches in one epoch."""
        return math.ceil(len(self.indices["train"]) / self.global_batch_size)

    @property
    def spec(self) -> tf.TensorSpec:
        """Shape and type of one example, without the batch."""
        from tfkit.stack import tf

        return tf.TensorSpec(self.source.shape, tf.float32 if self.source.shape else tf.string)

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """How many examples of each class are in each split: {"train": {"cat": 70, "dog": 71}, ...}."""
        return {
            split: dict(zip(self.class_names, map(int, self._class_counts(indices)), strict=True))
            for split, indices in self.indices.items()
        }

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the examples came from and how they were dealt out, as plain values."""
        return {
            "origin": self.origin,
            "fingerprint": self.source.fingerprint,
            "division": self._division,
            "examples": sum(map(len, self.indices.values())),
            "classes": len(self.class_names),
            "counts": self.counts,
            "shape": list(self.source.shape),
            "seed": self.seed,
            "skipped": [list(skipped) for skipped in self.skipped],
            "other_files": self.other_files,
            "duplicates": self.duplicates,
            **({"pixel_range": list(self.pixel_range[:2])} if self.pixel_range.images else {}),
        }

    @property
    def kind(self) -> Literal["images", "texts", "features"]:
        """What the examples are."""
        return {3: "images", 0: "texts"}.get(len(self.source.shape), "features")  # type: ignore[return-value]

    def replace(self, **changes: Any) -> Splits:
        """The same splits with some fields changed, such as another source over the same examples."""
        return dataclasses.replace(self, **changes)

    @property
    def _division(self) -> str:
        """Tells whether two splits deal the same examples out in the same way, under the same labels."""
        dealt = {name: np.asarray(indices, np.int64).tobytes() for name, indices in self.indices.items()}
        return files.digest(dealt, np.asarray(self.source.labels, np.int64).tobytes())

    def _class_counts(self, indices: np.ndarray) -> np.ndarray:
        return np.bincount(self.source.labels[indices], minlength=len(self.class_names))

"""The subject of a compression: a model, what it says of test examples, and the examples that stand for its inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tfkit import exhibits
from tfkit import run as runs
from tfkit.data.drawn import draw
from tfkit.data.pixels import FULL_RANGE
from tfkit.errors import CheckError, RunError
from tfkit.lite import evaluate
from tfkit.lite.source import pixel_function

if TYPE_CHECKING:
    from tfkit.data import Splits
    from tfkit.run import Run

DEVICE, DEVICE_IDS, PROBABILITIES = "device", "device_ids", "probabilities"
"""Signatures of an exported model of texts, and what they give."""

_CHECKED = 8
_TOLERANCE = 1e-3
_TYPICAL_OF = 1000


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """What is converted and what it is measured on.

    Attributes:
      model: see `tfkit.lite.source.saved`.
      input_shape: of its input with a batch of 1, where the model does not say.
      read: examples by their positions, as the model takes them: [b, ...], images as pixels in 0..255.
      count: how many there are.
      expected: float32 [n, ..., c], what the original says of them.
      output: what that is, of `tfkit.lite.outputs.OUTPUTS`.
      judged: a sentence, how that was known.
      labels: as `tfkit.lite.outputs.as_labels` gives them; None where nobody knows.
      class_names: c of them; none where nobody knows.
      names: what the examples are called.
      examples: representative inputs [m, ...] as the model takes them, of several inputs by name; None where it may
        have none.
      takes: "images" (pixels in 0..255), "texts" (UTF-8) or "arrays".
      signature: of the model, where it has several.
      pixel_range: of images, what becomes 0 and 255 of 16-bit values.
    """

    model: Any
    input_shape: tuple[int, ...] | None
    read: Callable[[np.ndarray], np.ndarray]
    count: int
    expected: np.ndarray
    labels: np.ndarray | None
    class_names: Sequence[str]
    names: Sequence[str]
    examples: Any
    takes: str
    output: str = "probabilities"
    judged: str = ""
    signature: str | None = None
    pixel_range: tuple[int, int] = FULL_RANGE

    @property
    def typical(self) -> np.ndarray | None:
        """The input [1, ...] by which times are taken: for texts the one of median length, otherwise anything."""
        if self.takes != "texts":
            return None
        texts = self.read(draw(self.count, _TYPICAL_OF))
        by_length = np.argsort([len(text) for text in texts], kind="stable")
        return texts[by_length[[len(texts) // 2]]]

    @property
    def example_count(self) -> int:
        """Return how many representative examples there are: a sample already."""
        several = isinstance(self.examples, Mapping)
        return len(next(iter(self.examples.values())) if several else self.examples)

    @property
    def quality(self) -> dict[str, float]:
        """Of the original, see `tfkit.lite.evaluate.quality`."""
        return evaluate.quality(self.expected, self.output, self.labels)


def of_run(run: Run, splits: Splits, *, examples: np.ndarray | None) -> Subject:
    """The exported model of a run, with the test split that it was measured on.

    Args:
      run: finished.
      splits: that it was trained on.
      examples: representative images, float32 [m, s, s, 3] in 0..255, or texts, bytes [m]; None for a private run
        without public ones.

    Raises:
      RunError: the run is of an earlier tfkit, or of other data.
      CheckError: its model does not say what evaluation.npz says.
    """
    loaded = run.model
    if not hasattr(loaded, "classify"):
        raise RunError(f"{run.path / runs.SAVED_MODEL} was written by an earlier tfkit. Make the run anew.")
    measured, _ = exhibits.load(run.path / runs.EVALUATION)
    test = np.asarray(splits.indices["test"])
    if len(measured.labels) != len(test) or (measured.labels != splits.source.labels[test]).any():
        raise RunError(f"{run.path} was measured on other test examples than {splits.origin} has now.")
    tried = draw(len(test), _CHECKED)
    examples_tried = splits.source.read(test[tried])
    if splits.kind == "texts":
        said, specific = _of_texts(run, loaded, examples_tried)
    else:
        said, specific = _of_images(loaded, examples_tried, splits.pixel_range[:2])
    difference = float(np.abs(said - measured.probabilities[tried]).max())
    if difference > _TOLERANCE:
        raise CheckError(
            f"{run.path / runs.SAVED_MODEL} gives other probabilities than {runs.EVALUATION} holds"
            f" (by {difference:.3g}).\n  One of them was changed after the run. Make the run anew."
        )
    return Subject(
        read=lambda positions: splits.source.read(test[positions]),
        count=len(test),
        expected=measured.probabilities,
        labels=measured.labels,
        class_names=measured.class_names,
        names=measured.names,
        examples=examples,
        **specific,
    )


def _of_images(
    loaded: Any, images: np.ndarray, pixel_range: tuple[int, int]
) -> tuple[np.ndarray, dict[str, Any]]:
    """What the model says of some test images, and what a subject of images is."""
    model = pixel_function(loaded.classify, keep=loaded)
    return np.asarray(model(images.astype(np.float32))), {
        "model": model,
        "input_shape": (1, *images.shape[1:]),
        "takes": "images",
        "pixel_range": pixel_range,
    }


def _of_texts(run: Run, loaded: Any, texts: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """What the model says of some test texts as a device asks it, and what a subject of texts is."""
    from tfkit.stack import tf

    if DEVICE not in loaded.signatures:
        raise RunError(
            f"{run.path / runs.SAVED_MODEL} has no signature {DEVICE!r}: its encoder is a SavedModel that makes ids by"
            " operations that TFLite lacks.\n"
            "  Train on the bundled encoder, or with --model-handle light, whose tokenizers TFLite has."
        )
    said = [loaded.signatures[DEVICE](texts=tf.constant([text])) for text in texts]
    return np.concatenate([np.asarray(one[PROBABILITIES]) for one in said]), {
        "model": loaded,
        "signature": DEVICE,
        "input_shape": None,
        "takes": "texts",
    }

"""Representative data: the examples by which the ranges of int8 activations are measured."""

from __future__ import annotations

import heapq
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from tfkit.errors import DataError
from tfkit.lite.inputs import MOST_READ, Inputs

if TYPE_CHECKING:
    from tfkit.data import Splits

EXAMPLES = 200
"""So many are drawn of large inputs, such as images of 224 x 224: each costs the converter tens of milliseconds."""

_NUMBERS, _MOST = 20_000_000, 20_000  # in all examples, and examples: some seconds

_APART = 3.0  # standard deviations of a channel's mean over the images


def from_splits(splits: Splits, *, count: int = EXAMPLES, seed: int = 0) -> np.ndarray:
    """Training examples, of each class as many as can be, as a converted model takes them.

    Args:
      splits: of images or texts.
      count: about so many; at least one of each class.
      seed: of the lots.

    Returns:
      Of images float32 [n, s, s, 3] in 0..255, see `pinned`; of texts bytes [n].
    """
    indices = np.asarray(splits.indices["train"])
    labels = splits.source.labels[indices]
    chance = np.random.default_rng(seed)
    classes = np.unique(labels)
    each = max(1, count // len(classes))
    chosen = [
        chance.choice(of_class, min(each, len(of_class)), replace=False)
        for of_class in (indices[labels == label] for label in classes)
    ]
    examples = splits.source.read(chance.permutation(np.concatenate(chosen)))
    return examples if splits.kind == "texts" else pinned(examples.astype(np.float32))


def pinned(images: np.ndarray) -> np.ndarray:
    """The same images with one black and one white value in the first: the input then has scale 1, zero point 0.

    A pixel of 0..255 is thus its own quantized value, whatever the examples happen to hold.

    Args:
      images: float32 [n, s, s, 3] in 0..255.
    """
    images = images.copy()
    images[0].flat[0], images[0].flat[-1] = 0.0, 255.0
    return images


def collect(data: Any, inputs: Inputs, *, count: int | None = None, seed: int = 0) -> dict[str, np.ndarray]:
    """Draw representative examples of all that is given, in any form, by the name of the input.

    Where the data have labels (pairs of inputs and classes), each class has as many as can be. What does not say where
    it ends, a dataset that repeats or a generator, is read for `tfkit.lite.inputs.MOST_READ` examples.

    Args:
      data: as of `Inputs.batches`.
      inputs: of the model.
      count: no more are taken; None: `affordable`.
      seed: of the lots.

    Returns:
      Name to array [m, ...], in the order of the data.

    Raises:
      DataError: there is none, shapes do not fit, or values are not finite.
    """
    batch = max(shape[0] for shape, _ in inputs.shapes.values())
    count = max(batch, affordable(inputs) if count is None else count)
    lots = _Lots(count, seed)
    ends = isinstance(data, list | tuple) or hasattr(data, "__len__") or hasattr(data, "__array__")
    if hasattr(data, "cardinality"):
        ends = int(data.cardinality()) >= 0
    for given, labels in inputs.batches(data):
        for name, values in given.items():
            if values.dtype != object and values.dtype.kind not in "SU" and not np.isfinite(values).all():
                raise DataError(
                    f"The representative dataset has values of {name!r} that are not finite numbers."
                )
        lots.add(given, labels)
        if lots.seen >= MOST_READ and not ends:
            warnings.warn(
                f"{lots.seen} examples of the representative dataset were read: it does not say where it ends.",
                stacklevel=2,
            )
            break
    if lots.seen < batch:
        raise DataError(
            f"The representative dataset holds {lots.seen} examples; at least {batch} is needed, some hundred are good."
            "\n  Give examples of what the model will see: without them no range of int8 is known."
        )
    return lots.drawn()


def affordable(inputs: Inputs) -> int:
    """Return on how many examples ranges are measured in seconds: `EXAMPLES` of large inputs, more of small ones."""
    numbers = sum(int(np.prod(shape[1:])) for shape, _ in inputs.shapes.values())
    return int(np.clip(_NUMBERS // max(numbers, 1), EXAMPLES, _MOST))


class _Lots:
    """A sample of a stream, uniform within each class; of the largest class the lots are dropped where room ends.

    Each example gets a random number, and each class keeps its smallest ones.
    """

    def __init__(self, room: int, seed: int) -> None:
        self.seen = 0
        self._room = room
        self._chance = np.random.default_rng(seed)
        self._kept: dict[Any, list[tuple[float, int, dict[str, np.ndarray]]]] = {}
        self._bound: dict[Any, float] = {}  # the smallest number that a class has dropped
        self._dtypes: dict[str, Any] = {}

    def add(self, batch: dict[str, np.ndarray], labels: np.ndarray | None) -> None:
        """Take a batch; labels that are no classes are passed over."""
        count = len(next(iter(batch.values())))
        numbers, classes = self._chance.random(count), _classes(labels, count)
        self._dtypes = {name: object if one.dtype.kind in "SUO" else one.dtype for name, one in batch.items()}
        for one in np.unique(classes):
            where = np.flatnonzero(classes == one)
            where = where[np.argsort(numbers[where])][: self._room]
            for place in where[numbers[where] < self._bound.get(one, 1.0)]:
                example = {
                    name: values[place].copy() if values.ndim > 1 else values[place]
                    for name, values in batch.items()
                }
                lot = (-float(numbers[place]), self.seen + int(place), example)
                heapq.heappush(self._kept.setdefault(one, []), lot)
                if sum(map(len, self._kept.values())) > self._room:
                    largest = max(self._kept, key=lambda key: (len(self._kept[key]), -self._kept[key][0][0]))
                    self._bound[largest] = -heapq.heappop(self._kept[largest])[0]
                    if not self._kept[largest]:
                        del self._kept[largest]
                    if self._bound.get(one, 1.0) <= numbers[place]:
                        break
        self.seen += count

    def drawn(self) -> dict[str, np.ndarray]:
        """The sample by name, in the order of the stream."""
        chosen = sorted((lot for lots in self._kept.values() for lot in lots), key=lambda lot: lot[1])
        return {
            name: np.array([lot[2][name] for lot in chosen], dtype) for name, dtype in self._dtypes.items()
        }


def _classes(labels: np.ndarray | None, count: int) -> np.ndarray:
    """The class of each example; one for all where labels are not given, or no classes."""
    if labels is None:
        return np.zeros(count, np.int64)
    wide = labels.ndim == 2 and labels.shape[1] > 1 and labels.dtype.kind in "iubf"
    if wide and (labels.sum(axis=1) == 1).all():
        labels = labels.argmax(axis=1)
    if labels.size != count or (labels.dtype.kind == "f" and (labels % 1).any()):
        return np.zeros(count, np.int64)
    return labels.reshape(count).astype(str) if labels.dtype.kind in "OSU" else labels.reshape(count)


def lint(images: np.ndarray, trained: np.ndarray) -> list[str]:
    """What tells that representative images are not as those that the model was trained on.

    Args:
      images: float32 [n, s, s, 3], given for representative ones.
      trained: of training, likewise prepared.

    Returns:
      A sentence for each thing that does not fit; none where all does.
    """
    found = []
    high, expected = float(images.max()), float(trained.max())
    if high <= 0.1 * expected or high >= 10 * max(expected, 1e-9):
        found.append(
            f"the representative values reach {high:g}, those of training {expected:g}: they were scaled differently"
        )
        return found
    means, usual = images.mean(axis=(1, 2)), trained.mean(axis=(1, 2))
    for channel, colour in enumerate(("red", "green", "blue")[: images.shape[-1]]):
        spread = max(float(usual[:, channel].std()), 0.02 * expected)
        here, there = float(means[:, channel].mean()), float(usual[:, channel].mean())
        if abs(here - there) > _APART * spread:
            found.append(
                f"their mean {colour} is {here:.3g}, that of training {there:.3g} (its spread is {spread:.2g}):"
                " they show something else"
            )
    return found

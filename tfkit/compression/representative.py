"""Representative data: the examples by which the ranges of int8 activations are measured.

Inputs in every form in which `model.predict` and `model.fit` take them, as arrays by the name of the input.
"""

from __future__ import annotations

import heapq
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tfkit.errors import DataError

if TYPE_CHECKING:
    from tfkit.data.splits import Splits

MOST_READ = 50_000
"""So many examples are read of what does not say where it ends: a dataset that repeats, a generator."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a model takes.

    Attributes:
      shapes: name to shape with its batch, and dtype; in the model's order.
      aliases: other names by which it is known: the keys of a Keras model whose inputs are a dict.
      ordered: whether arrays can be told apart by their order; those of a SavedModel are sorted by their names, and
        not as the model had them.
    """

    shapes: Mapping[str, tuple[tuple[int, ...], str]]
    aliases: Mapping[str, str] = field(default_factory=dict)
    ordered: bool = True

    def batches(self, data: Any) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray | None]]:
        """Yield arrays [b, ...] by name, and their labels where the data have some.

        Args:
          data: an array [n, ...]; arrays by name or in a list; (inputs, labels) or (inputs, labels, weights) of these;
            a tf.data.Dataset, a keras Sequence, a function that yields, or any other iterable, of elements of these
            forms, with or without batches.

        Raises:
          DataError: it is none of these, names are missing, or shapes do not fit.
        """
        for element in self._elements(data):
            given, labels = self._unpacked(element)
            named = self._named(given)
            single = all(
                np.shape(values) == shape[1:] and len(shape) > 1
                for values, (shape, _) in zip(named.values(), self.shapes.values(), strict=True)
            )
            found = {name: self._batch(np.asarray(values), name) for name, values in named.items()}
            counts = {name: len(values) for name, values in found.items()}
            if len(set(counts.values())) > 1:
                raise DataError(f"The inputs hold different numbers of examples: {counts}.")
            given_labels = np.asarray(labels) if hasattr(labels, "__array__") or np.isscalar(labels) else None
            if given_labels is None and isinstance(labels, list):
                given_labels = np.asarray(labels)
            yield (
                found,
                None if given_labels is None else given_labels[np.newaxis] if single else given_labels,
            )

    def _elements(self, data: Any) -> Iterator[Any]:
        if isinstance(data, Mapping) or hasattr(data, "__array__") or self._is_one(data):
            yield data
        elif hasattr(data, "as_numpy_iterator"):
            yield from data.as_numpy_iterator()
        elif callable(data) and not hasattr(data, "__getitem__"):
            yield from data()
        elif hasattr(data, "__len__") and hasattr(data, "__getitem__") and not isinstance(data, str | bytes):
            yield from (
                data[place] for place in range(len(data))
            )  # a keras Sequence repeats where it is iterated
        elif isinstance(data, Iterable) and not isinstance(data, str | bytes):
            yield from data
        else:
            raise DataError(
                f"A {type(data).__name__} is no representative dataset, and no inputs. Give an array [n, ...], arrays"
                " by the names of the inputs, a tf.data.Dataset, or a function that yields lists of inputs."
            )

    def _is_one(self, data: Any) -> bool:
        """Return whether a list or tuple is one element with all examples, and not one element for each."""
        if not isinstance(data, list | tuple) or not data:
            return False
        first = data[0]
        if isinstance(data, tuple) and isinstance(first, Mapping | list | tuple) and len(data) in (2, 3):
            return True  # (inputs, labels)
        ranks = [len(shape) for shape, _ in self.shapes.values()]
        if len(ranks) > 1 and len(data) == len(ranks):
            return all(np.ndim(one) == rank for one, rank in zip(data, ranks, strict=True))
        return isinstance(data, tuple) and len(data) in (2, 3) and np.ndim(first) == ranks[0]

    def _unpacked(self, element: Any) -> tuple[Any, Any]:
        """Inputs and labels of (inputs, labels, weights), as Keras takes elements apart."""
        several = len(self.shapes)
        if isinstance(element, tuple) and element:
            nested = isinstance(element[0], Mapping | list | tuple)
            if nested or (several == 1 and len(element) in (2, 3)):
                return element[0], element[1] if len(element) > 1 else None
        if isinstance(element, list) and several == 1 and len(element) == 2 and np.ndim(element[0]):
            return element[0], element[1]
        return element, None

    def _named(self, given: Any) -> dict[str, Any]:
        names = list(self.shapes)
        if isinstance(given, Mapping):
            known = {
                self.aliases.get(str(key), str(key).split(":")[0].replace("/", "_")): key for key in given
            }
            if missing := [name for name in names if name not in known]:
                raise DataError(
                    f"The inputs lack {', '.join(missing)}; there is {', '.join(map(str, given))}."
                    f"\n  The model takes {self.described}."
                )
            return {name: given[known[name]] for name in names}
        flat = isinstance(given, list) and len(names) == 1 and not any(np.ndim(one) for one in given)
        values = list(given) if isinstance(given, tuple | list) and not flat else [given]
        if len(values) != len(names):
            raise DataError(
                f"An element of the data holds {len(values)} arrays; the model takes {len(names)}: {self.described}."
                "\n  Labels go beside them: ((a, b), labels)."
            )
        if len(names) > 1 and not self.ordered and len(set(self.shapes.values())) < len(names):
            raise DataError(
                f"A SavedModel has its inputs sorted by name, and not in the order of the model: a list of"
                f" {len(names)} arrays could be mixed up.\n  Give them by name: {self.described}."
            )
        return dict(zip(names, values, strict=True))

    @property
    def described(self) -> str:
        """Names and shapes."""
        return ", ".join(
            f"{name} [{', '.join(['n', *map(str, shape[1:])])}]" for name, (shape, _) in self.shapes.items()
        )

    def _batch(self, values: np.ndarray, name: str) -> np.ndarray:
        shape, _ = self.shapes[name]
        if values.shape == shape[1:]:
            values = values[np.newaxis]
        if shape[1:] == (1,) and values.ndim == 1:  # as Keras has it
            values = values[:, np.newaxis]
        if values.shape[1:] != shape[1:] or values.ndim != len(shape):
            raise DataError(
                f"The data give {name!r} the shape {list(values.shape)}; the model takes"
                f" {['n', *shape[1:]]}.".replace("'n'", "n")
            )
        return values


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


def collect_representative(
    data: Any, inputs: Inputs, *, count: int | None = None, seed: int = 0
) -> dict[str, np.ndarray]:
    """Draw representative examples of all that is given, in any form, by the name of the input.

    Where the data have labels (pairs of inputs and classes), each class has as many as can be. What does not say where
    it ends, a dataset that repeats or a generator, is read for `tfkit.compression.representative.MOST_READ` examples.

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

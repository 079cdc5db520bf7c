"""Read inputs in every form in which Keras takes them, and draw the sample by which int8 ranges are measured."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tfkit.data.splits import Splits, draw
from tfkit.environment.process import counted
from tfkit.errors import DataError

MOST_READ = 50_000
"""So many examples are read of what does not say where it ends: a dataset that repeats, a generator."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Describe what a model takes.

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
          DataError: it is none of these, names are missing, shapes do not fit, or values are not finite.
        """
        for element in self._yield_elements(data):
            values, labels = self._unpack(element)
            raw_arrays = self._name_arrays(values)
            shapes = {name: shape for name, (shape, _) in self.shapes.items()}
            is_single = all(np.shape(raw_arrays[name]) == shape[1:] != () for name, shape in shapes.items())
            arrays = {name: self._to_batch(np.asarray(values), name) for name, values in raw_arrays.items()}
            counts = {name: len(values) for name, values in arrays.items()}
            if len(set(counts.values())) > 1:
                raise DataError(f"The inputs hold different numbers of examples: {counts}.")
            for name, values in arrays.items():
                if values.dtype.kind in "fc" and not np.isfinite(values).all():
                    raise DataError(f"The data have values of {name!r} that are not finite numbers (NaN).")
            if isinstance(labels, list) or hasattr(labels, "__array__") or np.isscalar(labels):
                yield arrays, np.asarray(labels)[np.newaxis] if is_single else np.asarray(labels)
            else:
                yield arrays, None

    def _yield_elements(self, data: Any) -> Iterator[Any]:
        if isinstance(data, Mapping) or hasattr(data, "__array__") or self._is_single_element(data):
            yield data
        elif hasattr(data, "as_numpy_iterator"):
            yield from data.as_numpy_iterator()
        elif hasattr(data, "__len__") and hasattr(data, "__getitem__") and not isinstance(data, str | bytes):
            # A keras Sequence repeats where it is iterated.
            yield from (data[index] for index in range(len(data)))
        elif callable(data) or (isinstance(data, Iterable) and not isinstance(data, str | bytes)):
            yield from data() if callable(data) else data
        else:
            raise DataError(
                f"A {type(data).__name__} is no representative dataset, and no inputs. Give an array [n, ...], arrays"
                " by the names of the inputs, a tf.data.Dataset, or a function that yields lists of inputs."
            )

    def _is_single_element(self, data: Any) -> bool:
        """Return whether a list or tuple is one element with all examples, and not one element for each."""
        if not isinstance(data, list | tuple) or not data:
            return False
        first = data[0]
        if isinstance(data, tuple) and isinstance(first, Mapping | list | tuple) and len(data) in (2, 3):
            return True  # (inputs, labels)
        ranks = [len(shape) for shape, _ in self.shapes.values()]
        if len(ranks) > 1 and len(data) == len(ranks):
            return all(np.ndim(array) == rank for array, rank in zip(data, ranks, strict=True))
        return isinstance(data, tuple) and len(data) in (2, 3) and np.ndim(first) == ranks[0]

    def _unpack(self, element: Any) -> tuple[Any, Any]:
        """Return inputs and labels of (inputs, labels, weights), as Keras takes elements apart."""
        if isinstance(element, tuple) and element:
            is_nested = isinstance(element[0], Mapping | list | tuple)
            if is_nested or (len(self.shapes) == 1 and len(element) in (2, 3)):
                return element[0], element[1] if len(element) > 1 else None
        if isinstance(element, list) and len(self.shapes) == 1 and len(element) == 2 and np.ndim(element[0]):
            return element[0], element[1]
        return element, None

    def _name_arrays(self, element: Any) -> dict[str, Any]:
        names = list(self.shapes)
        if isinstance(element, Mapping):
            plain_names = {key: str(key).split(":")[0].replace("/", "_") for key in element}
            keys = {self.aliases.get(str(key), name): key for key, name in plain_names.items()}
            if missing := [name for name in names if name not in keys]:
                raise DataError(
                    f"The inputs lack {', '.join(missing)}; there is {', '.join(map(str, element))}."
                    f"\n  The model takes {self.description}."
                )
            return {name: element[keys[name]] for name in names}
        is_row = isinstance(element, list) and len(names) == 1 and not any(map(np.ndim, element))
        values = list(element) if isinstance(element, tuple | list) and not is_row else [element]
        if len(values) != len(names):
            raise DataError(
                f"An element of the data holds {len(values)} arrays; the model takes {len(names)}: {self.description}."
                "\n  Labels go beside them: ((a, b), labels)."
            )
        if len(names) > 1 and not self.ordered and len(set(self.shapes.values())) < len(names):
            raise DataError(
                f"A SavedModel has its inputs sorted by name, and not in the order of the model: a list of"
                f" {len(names)} arrays could be mixed up.\n  Give them by name: {self.description}."
            )
        return dict(zip(names, values, strict=True))

    @property
    def description(self) -> str:
        """Return names and shapes."""
        return ", ".join(
            f"{name} [{', '.join(['n', *map(str, shape[1:])])}]" for name, (shape, _) in self.shapes.items()
        )

    def _to_batch(self, values: np.ndarray, name: str) -> np.ndarray:
        shape, _ = self.shapes[name]
        if values.shape == shape[1:]:
            values = values[np.newaxis]
        if shape[1:] == (1,) and values.ndim == 1:  # as Keras has it
            values = values[:, np.newaxis]
        if values.shape[1:] != shape[1:] or values.ndim != len(shape):
            actual = list(values.shape)
            raise DataError(f"The data give {name!r} the shape {actual}; the model takes {self.description}.")
        return values


EXAMPLES = 200
"""So many are drawn of large inputs, such as images of 224 x 224: each costs the converter tens of milliseconds."""

FEW_EXAMPLES = 10
"""Ranges that are measured on fewer examples are warned of."""

_WIDER = 4.0  # times as wide as the other, or a fourth of it: integers of two bits less

_MAX_NUMBERS, _MAX_EXAMPLES = 20_000_000, 20_000  # in all examples, and examples: some seconds

_LOTS, _CLASSES = "\0lots", "\0classes"  # columns beside the inputs


def from_splits(splits: Splits, *, count: int = EXAMPLES, seed: int = 0) -> np.ndarray:
    """Return training examples, of each class as many as can be, as a converted model takes them.

    Args:
      splits: of images or texts.
      count: about so many; at least one of each class.
      seed: of the lots.

    Returns:
      Of images float32 [n, s, s, 3] in 0..255, see `pin_range`; of texts bytes [n].
    """
    indices = np.asarray(splits.indices["train"])
    labels = splits.task.strata(splits.source.labels[indices], len(splits.class_names))
    rng, classes = np.random.default_rng(seed), np.unique(labels)
    per_class = max(1, count // len(classes))
    class_indices = [
        rng.choice(candidates, min(per_class, len(candidates)), replace=False)
        for candidates in (indices[labels == label] for label in classes)
    ]  # not `draw`: with other examples every int8 file would be another
    examples = splits.source.read(rng.permutation(np.concatenate(class_indices)))
    return examples if splits.kind == "texts" else pin_range(examples.astype(np.float32))


def compare_colours(images: np.ndarray, splits: Splits, *, seed: int = 0) -> str:
    """Return in words how representative images differ from those of training, "" where they look alike.

    Args:
      images: float32 [n, s, s, 3] in 0..255.
      splits: what the model was trained on.
      seed: of the training images that are drawn.
    """
    training_colours = from_splits(splits, seed=seed).mean(axis=(1, 2))
    mean, train_mean = images.mean(axis=(0, 1, 2)), training_colours.mean(axis=0)
    if (np.abs(mean - train_mean) <= 3 * np.maximum(training_colours.std(axis=0), 5)).all():
        return ""
    return f"they show something else, by their mean colour {mean.round(1)}; that of training is {train_mean.round(1)}"


def pin_range(images: np.ndarray) -> np.ndarray:
    """Return the same images with one black and one white value in the first: the input then has scale 1, zero point 0.

    A pixel of 0..255 is thus its own quantized value, whatever the examples happen to hold.

    Args:
      images: float32 [n, s, s, 3] in 0..255.
    """
    images = images.copy()
    images[0].flat[0], images[0].flat[-1] = 0.0, 255.0
    return images


def collect_representative(data: Any, inputs: Inputs, *, count: int | None = None) -> dict[str, np.ndarray]:
    """Draw representative examples of all that is given, in any form, by the name of the input.

    Where the data have labels (pairs of inputs and classes), each class has as many as can be. What does not say where
    it ends, a dataset that repeats or a generator, is read for `tfkit.compression.representative.MOST_READ` examples.

    Args:
      data: as of `Inputs.batches`.
      inputs: of the model.
      count: no more are taken; None: `affordable`.

    Returns:
      Name to array [m, ...], in the order of the data.

    Raises:
      DataError: there is none, shapes do not fit, or values are not finite.
    """
    batch = max(shape[0] for shape, _ in inputs.shapes.values())
    count = max(batch, affordable(inputs) if count is None else count)
    has_end = hasattr(data, "__len__") or hasattr(data, "__array__")
    if hasattr(data, "cardinality"):
        has_end = int(data.cardinality()) >= 0
    rng, total, kept_count = np.random.default_rng(0), 0, 0
    parts: list[dict[str, np.ndarray]] = []
    for arrays, labels in inputs.batches(data):
        size = len(next(iter(arrays.values())))
        texts = {name: values.astype(object) for name, values in arrays.items() if values.dtype.kind in "SU"}
        columns = {**arrays, **texts, _LOTS: rng.random(size), _CLASSES: _to_classes(labels, size)}
        parts.append(_draw_rows([columns], count))
        total, kept_count = total + size, kept_count + min(size, count)
        if kept_count > 2 * count:
            parts, kept_count = [_draw_rows(parts, count)], count
        if total >= MOST_READ and not has_end:
            warnings.warn(
                f"{total} examples of the representative dataset were read: it does not say where it ends.",
                stacklevel=2,
            )
            break
    if total < batch:
        raise DataError(
            f"The representative dataset holds {total} examples; at least {batch} is needed, some hundred are good."
            "\n  Give examples of what the model will see: without them no range of int8 is known."
        )
    sample = _draw_rows(parts, count)
    return {name: sample[name] for name in inputs.shapes}


def find_doubts(
    examples: Mapping[str, np.ndarray], inputs: Inputs, *, compared: Mapping[str, np.ndarray] | None = None
) -> list[str]:
    """Return in sentences why ranges of int8 that are measured on examples are not those of what a model will see.

    Args:
      examples: by the name of the input, [m, ...].
      inputs: of the model.
      compared: what the model is compared on, likewise, if that is known.
    """
    problems = []
    if examples and (count := len(next(iter(examples.values())))) < FEW_EXAMPLES:
        problems.append(
            f"The ranges of integers are measured on {counted(count, 'example')}; some hundred are good."
        )
    for name, values in examples.items():
        if not inputs.shapes[name][1].startswith("float"):  # ids have no range
            continue
        low, high = float(values.min()), float(values.max())
        if low == high:
            problems.append(f"All representative values of {name!r} are {low:g}: no range is known by them.")
        elif (
            compared and not 1 / _WIDER <= np.ptp(compared[name].astype(np.float64)) / (high - low) <= _WIDER
        ):
            problems.append(
                f"The representative values of {name!r} are from {low:g} to {high:g}, and those that are compared from"
                f" {compared[name].min():g} to {compared[name].max():g}: ranges of integers are measured on other"
                " numbers. Give both as the model was trained (images in 0..1 or in 0..255, say)."
            )
    if examples and compared:
        measured_rows = {*_to_bytes(examples)}
        rows = [row in measured_rows for row in _to_bytes(compared)]
        if shared := sum(rows):
            problems.append(
                f"{shared} of {counted(len(rows), 'example')} that are compared are among those on which the ranges of"
                " integers are measured, or equal to one: on others an int8 file may be worse. Give representative"
                " data of their own, such as training examples."
            )
    return problems


def _to_bytes(arrays: Mapping[str, np.ndarray]) -> Iterator[bytes]:
    """Yield each example as bytes: equal ones have the same."""
    columns = [np.asarray(arrays[name], np.float32) for name in sorted(arrays)]
    return (b"".join(row.tobytes() for row in rows) for rows in zip(*columns, strict=True))


def _draw_rows(parts: Sequence[Mapping[str, np.ndarray]], count: int) -> dict[str, np.ndarray]:
    """Return at most so many rows of all parts, those with the smallest lots, as copies."""
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    positions = draw(len(columns[_LOTS]), count, classes=columns[_CLASSES], lots=columns[_LOTS])
    return {name: values[positions] for name, values in columns.items()}


def affordable(inputs: Inputs) -> int:
    """Return on how many examples ranges are measured in seconds: `EXAMPLES` of large inputs, more of small ones."""
    numbers = sum(int(np.prod(shape[1:])) for shape, _ in inputs.shapes.values())
    return int(np.clip(_MAX_NUMBERS // max(numbers, 1), EXAMPLES, _MAX_EXAMPLES))


def _to_classes(labels: np.ndarray | None, count: int) -> np.ndarray:
    """Return the class of each example; one for all where labels are not given, or no classes."""
    if labels is None:
        return np.zeros(count, np.int64)
    has_columns = labels.ndim == 2 and labels.shape[1] > 1 and labels.dtype.kind in "iubf"
    if has_columns and (labels.sum(axis=1) == 1).all():
        labels = labels.argmax(axis=1)
    if labels.size != count or (labels.dtype.kind == "f" and (labels % 1).any()):
        return np.zeros(count, np.int64)
    return labels.reshape(count).astype(str) if labels.dtype.kind in "OSU" else labels.reshape(count)

"""Inputs in every form in which `model.predict` and `model.fit` take them, as arrays by the name of the input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tfkit.errors import DataError

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

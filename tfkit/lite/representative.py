"""Representative data: the examples by which the ranges of int8 activations are measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tfkit.errors import DataError

if TYPE_CHECKING:
    from tfkit.data import Splits

EXAMPLES = 200
"""So many are taken at most: ranges hardly change after that."""

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


def collect(
    dataset: Any, inputs: Mapping[str, tuple[tuple[int, ...], str]], *, count: int = EXAMPLES
) -> dict[str, np.ndarray]:
    """Representative examples of any form, by the name of the input.

    Args:
      dataset: an array [n, ...], arrays by name, a tf.data.Dataset (of inputs, or of inputs with labels), or, as
        TFLite has it, a function that yields lists (or dicts) of inputs; any other iterable of such.
      inputs: name to shape with its batch, and dtype.
      count: no more are taken.

    Returns:
      Name to array [n, ...].

    Raises:
      DataError: there is none, shapes do not fit, or values are not finite.
    """
    parts: dict[str, list[np.ndarray]] = {name: [] for name in inputs}
    taken = 0
    for element in _elements(dataset):
        for name, value in _by_name(element, list(inputs)).items():
            parts[name].append(_batched(np.asarray(value), name, inputs[name][0]))
        taken += len(parts[next(iter(inputs))][-1])
        if taken >= count:
            break
    batch = max(shape[0] for shape, _ in inputs.values())
    if taken < batch:
        raise DataError(
            f"The representative dataset holds {taken} examples; at least {batch} is needed, some hundred are good.\n"
            "  Give examples of what the model will see: without them no range of int8 is known."
        )
    collected = {name: np.concatenate(arrays)[: max(count, batch)] for name, arrays in parts.items()}
    for name, values in collected.items():
        if values.dtype != object and not np.isfinite(values).all():
            raise DataError(f"The representative dataset has values of {name!r} that are not finite numbers.")
    return collected


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


def _elements(dataset: Any) -> Iterator[Any]:
    if isinstance(dataset, Mapping) or hasattr(dataset, "__array__"):
        yield dataset
    elif hasattr(dataset, "as_numpy_iterator"):
        yield from dataset.as_numpy_iterator()
    elif callable(dataset):
        yield from dataset()
    elif isinstance(dataset, Iterable) and not isinstance(dataset, str | bytes):
        yield from dataset
    else:
        raise DataError(
            f"A {type(dataset).__name__} is no representative dataset. Give an array [n, ...], a tf.data.Dataset, or a"
            " function that yields lists of inputs."
        )


def _by_name(element: Any, names: list[str]) -> dict[str, Any]:
    if isinstance(element, Mapping):
        if missing := [name for name in names if name not in element]:
            raise DataError(
                f"The representative dataset lacks {', '.join(missing)}; it has {', '.join(map(str, element))}."
            )
        return {name: element[name] for name in names}
    values = list(element) if isinstance(element, tuple | list) else [element]
    if len(values) == len(names) or (len(names) == 1 and len(values) == 2):  # inputs, or inputs with labels
        return dict(zip(names, values, strict=False))
    raise DataError(
        f"An element of the representative dataset holds {len(values)} arrays; the model takes {len(names)}"
        f" ({', '.join(names)})."
    )


def _batched(value: np.ndarray, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if value.shape == shape[1:]:
        value = value[np.newaxis]
    if value.shape[1:] != shape[1:] or value.ndim != len(shape):
        raise DataError(
            f"The representative dataset gives {name!r} the shape {list(value.shape)}; the model takes"
            f" {['n', *shape[1:]]}.".replace("'", "")
        )
    return value

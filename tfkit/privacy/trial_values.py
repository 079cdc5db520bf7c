"""A few random examples for a model that is tried, and whether two runs on them gave the same."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfkit.stack import keras, tf

EXAMPLES = 3  # odd: examples that meet in pairs, or from both ends, cannot be overlooked
SAME = 1e-5  # of the largest number: two outputs of the same operations


def random(model: keras.Model, example_spec: tf.TensorSpec | None) -> Any:
    """A batch of numbers in [0, 1), or of 0 and 1 where they are whole."""
    generator = np.random.default_rng(0)

    def one(spec: Any) -> tf.Tensor:
        shape = [EXAMPLES, *(size or 4 for size in spec.shape)]
        if spec.dtype == tf.string:
            return tf.constant(generator.choice(["a word", "and another"], shape))
        return tf.constant(
            generator.random(shape) if spec.dtype.is_floating else generator.integers(0, 2, shape), spec.dtype
        )

    if example_spec is not None:
        return one(example_spec)
    return tf.nest.map_structure(
        lambda tensor: one(tf.TensorSpec(tensor.shape[1:], tensor.dtype)), model.input
    )


def with_another_first(values: tf.Tensor) -> tf.Tensor:
    """The batch with another first example, and the same others."""
    first, others = values[:1], values[1:]
    return tf.concat([first + " else" if values.dtype == tf.string else 1 - first, others], 0)


def same(first: Any, second: Any) -> bool:
    """Whether two runs gave the same, but for rounding."""
    for one, two in zip(tf.nest.flatten(first), tf.nest.flatten(second), strict=True):
        one, two = np.asarray(one), np.asarray(two)
        if one.shape != two.shape:
            return False
        finite = np.abs(one[np.isfinite(one)])
        if not np.allclose(one, two, rtol=0, atol=SAME * finite.max(initial=0.0), equal_nan=True):
            return False
    return True


def same_rows(*given: Any) -> bool:
    """Whether all examples but the first have the same."""
    return same(*tf.nest.map_structure(lambda value: value[1:], given))

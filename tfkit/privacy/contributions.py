"""What one call of a layer contributes to each example's gradient of one variable, in the form that is cheapest.

Book-keeping (Bu et al. 2022, arXiv:2210.00038): norms of single examples' gradients follow from what a layer was
fed and from the gradients at its output; the gradients themselves need not be formed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tfkit.stack import tf

LARGEST_EXAMPLES_GRADIENT = 2**22
"""Numbers in all examples' gradients of one variable up to which they are formed where that takes fewer operations."""


Contributions = list[tuple[Any, Any]]
"""(variable, contribution) pairs; the variable may be a frozen one."""


class Contribution(Protocol):
    """Each example's gradient of one variable."""

    def squared_norm(self) -> tf.Tensor:
        """float32 [batch]."""

    def weighted_sum(self, factors: tf.Tensor) -> tf.Tensor:
        """Sum over the examples of factors [batch] times gradient: float32 of the variable's shape."""

    def each(self) -> tf.Tensor:
        """float32 [batch, *shape of the variable]."""

    def kept(self, which: tf.Tensor) -> Contribution:
        """The same with zeros for the examples that are not kept, whatever they hold: bool [batch]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Outer:
    """A gradient that is a sum over positions t of outer products a_t g_t^T: of a matrix that rows are multiplied by.

    Attributes:
      fed: float32 [batch, t, p], or [batch, p] for one position.
      gradients: float32 [batch, t, q] or [batch, q], at what came out.
      shape: of the variable, p * q numbers in that order.
    """

    fed: tf.Tensor
    gradients: tf.Tensor
    shape: tuple[int, ...]

    def squared_norm(self) -> tf.Tensor:
        """Source: Goodfellow 2015 (arXiv:1510.01799) for one position; Li et al. 2022 (arXiv:2110.05679) for more."""
        if self._single:
            return square_sum(self.fed) * square_sum(self.gradients)
        if self._formed is not None:
            return square_sum(self._formed)
        of_fed = tf.matmul(self.fed, self.fed, transpose_b=True)
        of_gradients = tf.matmul(self.gradients, self.gradients, transpose_b=True)
        # Rounding may leave the smallest of sums below zero.
        return tf.maximum(tf.reduce_sum(of_fed * of_gradients, [1, 2]), 0.0)

    def weighted_sum(self, factors: tf.Tensor) -> tf.Tensor:
        """One matrix product over examples and positions."""
        if not self._single and self._formed is not None:
            rows = tf.reshape(self._formed, [-1, math.prod(self.shape)])
            return tf.reshape(tf.linalg.matvec(rows, factors, transpose_a=True), self.shape)
        weighted = self.gradients * tf.reshape(factors, [-1] + [1] * (len(self.gradients.shape) - 1))
        fed, weighted = (tf.reshape(value, [-1, value.shape[-1]]) for value in (self.fed, weighted))
        return tf.reshape(tf.matmul(fed, weighted, transpose_a=True), self.shape)

    def each(self) -> tf.Tensor:
        """All gradients, formed."""
        if self._single:
            formed = self.fed[:, :, tf.newaxis] * self.gradients[:, tf.newaxis, :]
        else:
            formed = tf.matmul(self.fed, self.gradients, transpose_a=True)
        return tf.reshape(formed, [-1, *self.shape])

    def kept(self, which: tf.Tensor) -> Outer:
        """Zeros on both sides: 0 times what is not finite is not 0."""
        return Outer(fed=_kept(self.fed, which), gradients=_kept(self.gradients, which), shape=self.shape)

    @property
    def _single(self) -> bool:
        return len(self.fed.shape) == 2

    @functools.cached_property
    def _formed(self) -> tf.Tensor | None:
        """All gradients [batch, p, q], where forming them takes fewer operations than comparing all positions."""
        batch, positions, width = self.fed.shape
        outputs = self.gradients.shape[-1]
        if None in (batch, positions):
            return None
        few = positions * (width + outputs) > 2 * width * outputs
        return self.each() if few and batch * width * outputs <= LARGEST_EXAMPLES_GRADIENT else None


@dataclass(frozen=True, kw_only=True, eq=False)
class Direct:
    """Gradients that are small enough to be formed: of biases, scales, and of layers without a rule.

    Attributes:
      gradients: float32 [batch, *shape of the variable].
    """

    gradients: tf.Tensor

    def squared_norm(self) -> tf.Tensor:
        """Sum of squares."""
        return square_sum(self.gradients)

    def weighted_sum(self, factors: tf.Tensor) -> tf.Tensor:
        """One matrix product."""
        shape = self.gradients.shape[1:]
        rows = tf.reshape(self.gradients, [-1, shape.num_elements()])
        return tf.reshape(tf.linalg.matvec(rows, factors, transpose_a=True), shape)

    def each(self) -> tf.Tensor:
        """As they are."""
        return self.gradients

    def kept(self, which: tf.Tensor) -> Direct:
        """Zeros for the others."""
        return Direct(gradients=_kept(self.gradients, which))


@dataclass(frozen=True, kw_only=True, eq=False)
class Sliced:
    """Formed gradients as convolutions give them, with the examples in the middle.

    Attributes:
      gradients: float32 [p, batch, q].
      shape: of the variable, p * q numbers in that order.
    """

    gradients: tf.Tensor
    shape: tuple[int, ...]

    def squared_norm(self) -> tf.Tensor:
        """Sum of squares, over one axis after the other: TensorFlow is slow at both at once."""
        return tf.reduce_sum(tf.reduce_sum(tf.square(self.gradients), 2), 0)

    def weighted_sum(self, factors: tf.Tensor) -> tf.Tensor:
        """One matrix product a slice."""
        return tf.reshape(tf.matmul(factors[tf.newaxis, tf.newaxis], self.gradients), self.shape)

    def each(self) -> tf.Tensor:
        """With the examples first."""
        return tf.reshape(tf.transpose(self.gradients, [1, 0, 2]), [-1, *self.shape])

    def kept(self, which: tf.Tensor) -> Sliced:
        """Zeros for the others."""
        return Sliced(gradients=tf.where(which[:, tf.newaxis], self.gradients, 0.0), shape=self.shape)


@dataclass(frozen=True, kw_only=True, eq=False)
class Lookup:
    """The gradient of a table: g_t is added to the row that position t looked up.

    Attributes:
      rows: integers [batch, t].
      gradients: float32 [batch, t, d].
      shape: of the table, [rows, d].
    """

    rows: tf.Tensor
    gradients: tf.Tensor
    shape: tuple[int, ...]

    def squared_norm(self) -> tf.Tensor:
        """Positions that looked up the same row meet."""
        same = tf.cast(self.rows[:, :, tf.newaxis] == self.rows[:, tf.newaxis, :], tf.float32)
        products = tf.matmul(self.gradients, self.gradients, transpose_b=True)
        return tf.maximum(tf.reduce_sum(same * products, [1, 2]), 0.0)

    def weighted_sum(self, factors: tf.Tensor) -> tf.Tensor:
        """The table of sums, dense: noise is added to every row."""
        weighted = self.gradients * factors[:, tf.newaxis, tf.newaxis]
        return tf.math.unsorted_segment_sum(
            tf.reshape(weighted, [-1, self.shape[1]]), tf.reshape(self.rows, [-1]), self.shape[0]
        )

    def each(self) -> tf.Tensor:
        """All tables, formed: examples times rows times d numbers."""
        hot = tf.one_hot(self.rows, self.shape[0], dtype=tf.float32)
        return tf.matmul(hot, self.gradients, transpose_a=True)

    def kept(self, which: tf.Tensor) -> Lookup:
        """Zeros for the others' gradients."""
        return Lookup(rows=self.rows, gradients=_kept(self.gradients, which), shape=self.shape)


def together(contributions: Sequence[Any]) -> Any:
    """One contribution for a variable that was used several times.

    Gradients of one example add up before their norm is taken: positions of the same kind are put in a row.
    """
    if len(contributions) == 1:
        return contributions[0]
    kinds = {type(contribution) for contribution in contributions}
    if kinds == {Outer}:
        return Outer(
            fed=tf.concat([_positions(one.fed) for one in contributions], 1),
            gradients=tf.concat([_positions(one.gradients) for one in contributions], 1),
            shape=contributions[0].shape,
        )
    if kinds == {Lookup}:
        return Lookup(
            rows=tf.concat([tf.cast(one.rows, tf.int64) for one in contributions], 1),
            gradients=tf.concat([one.gradients for one in contributions], 1),
            shape=contributions[0].shape,
        )
    return Direct(gradients=tf.add_n([one.each() for one in contributions]))


def square_sum(values: tf.Tensor) -> tf.Tensor:
    """Sum of squares of each example: float32 [batch]."""
    return tf.reduce_sum(tf.square(values), list(range(1, len(values.shape))))


def _kept(values: tf.Tensor, which: tf.Tensor) -> tf.Tensor:
    return tf.where(tf.reshape(which, [-1] + [1] * (len(values.shape) - 1)), values, 0.0)


def _positions(values: tf.Tensor) -> tf.Tensor:
    return values if len(values.shape) == 3 else values[:, tf.newaxis, :]

"""Each example's gradient of one layer's weights, by book-keeping, in the form that is cheapest.

Norms of single examples' gradients follow from what a layer was fed and from the gradients at its pre-activation; the
gradients themselves need not be formed (Bu et al. 2022, arXiv:2210.00038). TensorFlow's own gradient of a convolution's
kernel gives each example's, when the examples are laid side by side as the groups of one grouped convolution. Where
that is not to be had, or would need more memory, patches make a matrix product of it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from tfkit.environment.stack import keras, tf

LARGEST_EXAMPLES_GRADIENT = 2**22
"""Numbers in all examples' gradients of one variable up to which they are formed where that takes fewer operations."""
USUAL_BATCH = 256
"""Examples that are reckoned with where a batch may have any number of them."""


Contributions = list[tuple[Any, Any]]
"""(variable, contribution) pairs; the variable may be a frozen one. A contribution is each example's gradient of it:

squared_norm() is float32 [batch]; weighted_sum(factors [batch]) the sum of factors times gradients, of the variable's
shape; form() the gradients, formed; mask(is_kept bool [batch]) the same with zeros for the others, whatever they hold.
"""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Contribution:
    """Gradients with the examples along one axis, as all contributions have them.

    Attributes:
      gradients: float32, see below.
      shape: of the variable.
    """

    gradients: tf.Tensor
    shape: tuple[int, ...]
    _examples_axis: ClassVar[int] = 0

    def mask(self, is_kept: tf.Tensor) -> Any:
        """Return it with zeros for the others in all floating tensors: 0 times what is not finite is not 0."""
        tensors = {}
        for name, value in vars(self).items():
            if name in ("inputs", "gradients"):
                trailing = [1] * (len(value.shape) - 1 - self._examples_axis)
                tensors[name] = tf.where(tf.reshape(is_kept, [-1, *trailing]), value, 0.0)
        return dataclasses.replace(self, **tensors)


@dataclass(frozen=True, kw_only=True, eq=False)
class Outer(_Contribution):
    """A gradient that is a sum over positions t of outer products a_t g_t^T: of a matrix that rows are multiplied by.

    Attributes:
      fed: float32 [batch, t, p], or [batch, p] for one position.
      gradients: float32 [batch, t, q] or [batch, q], at what came out.
      shape: of the variable, p * q numbers in that order.
    """

    inputs: tf.Tensor

    def squared_norm(self) -> tf.Tensor:
        """Return norms.

        Source: Goodfellow 2015 (arXiv:1510.01799) for one position; Li et al. 2022 (arXiv:2110.05679) for more.
        """
        if self._has_one_position:
            return _sum_squares(self.inputs) * _sum_squares(self.gradients)
        if self._per_example is not None:
            return _sum_squares(self._per_example)
        of_inputs = tf.matmul(self.inputs, self.inputs, transpose_b=True)
        of_gradients = tf.matmul(self.gradients, self.gradients, transpose_b=True)
        return _sum_pairs(of_inputs * of_gradients)

    def weighted_sum(self, factors: tf.Tensor) -> tf.Tensor:
        """Return the sum by one matrix product over examples and positions."""
        if not self._has_one_position and self._per_example is not None:
            rows = tf.reshape(self._per_example, [-1, math.prod(self.shape)])
            return tf.reshape(tf.linalg.matvec(rows, factors, transpose_a=True), self.shape)
        products = self.gradients * tf.reshape(factors, [-1] + [1] * (len(self.gradients.shape) - 1))
        inputs, products = (tf.reshape(value, [-1, value.shape[-1]]) for value in (self.inputs, products))
        return tf.reshape(tf.matmul(inputs, products, transpose_a=True), self.shape)

    def form(self) -> tf.Tensor:
        """Return all gradients, formed."""
        gradients = tf.matmul(_as_positions(self.inputs), _as_positions(self.gradients), transpose_a=True)
        return tf.reshape(gradients, [-1, *self.shape])

    @property
    def _has_one_position(self) -> bool:
        return len(self.inputs.shape) == 2

    @functools.cached_property
    def _per_example(self) -> tf.Tensor | None:
        """Return all gradients [batch, p, q] where forming them takes fewer operations than comparing all positions."""
        batch, positions, width = self.inputs.shape
        outputs, batch = self.gradients.shape[-1], batch or USUAL_BATCH
        if positions is None:
            return None
        is_cheaper = positions * (width + outputs) > 2 * width * outputs
        return self.form() if is_cheaper and batch * width * outputs <= LARGEST_EXAMPLES_GRADIENT else None


@dataclass(frozen=True, kw_only=True, eq=False)
class Formed(_Contribution):
    """Formed gradients with the examples in the middle, as convolutions give them.

    Attributes:
      gradients: float32 [p, batch, q].
      shape: of the variable, p * q numbers in that order.
    """

    _examples_axis: ClassVar[int] = 1

    def squared_norm(self) -> tf.Tensor:
        """Return the sums of squares, over one axis after the other: TensorFlow is slow at both at once."""
        return tf.reduce_sum(tf.square(tf.math.reduce_euclidean_norm(self.gradients, 2)), 0)

    def weighted_sum(self, factors: tf.Tensor) -> tf.Tensor:
        """Return the sum by one matrix product a slice."""
        return tf.reshape(tf.matmul(factors[tf.newaxis, tf.newaxis], self.gradients), self.shape)

    def form(self) -> tf.Tensor:
        """Return them with the examples first."""
        return tf.reshape(tf.transpose(self.gradients, [1, 0, 2]), [-1, *self.shape])


def as_formed(gradients: tf.Tensor) -> Formed:
    """Return gradients [batch, *shape of the variable] that are small: of biases, scales, layers without a rule."""
    shape = tuple(gradients.shape[1:])
    return Formed(gradients=tf.reshape(gradients, [1, -1, math.prod(shape)]), shape=shape)


@dataclass(frozen=True, kw_only=True, eq=False)
class Lookup(_Contribution):
    """The gradient of a table: g_t is added to the row that position t looked up.

    Attributes:
      rows: integers [batch, t].
      gradients: float32 [batch, t, d].
      shape: of the table, [rows, d].
    """

    rows: tf.Tensor

    def squared_norm(self) -> tf.Tensor:
        """Return norms: positions that looked up the same row meet."""
        same = tf.cast(self.rows[:, :, tf.newaxis] == self.rows[:, tf.newaxis, :], tf.float32)
        products = tf.matmul(self.gradients, self.gradients, transpose_b=True)
        return _sum_pairs(same * products)

    def weighted_sum(self, factors: tf.Tensor) -> tf.Tensor:
        """Return the table of sums, dense: noise is added to every row."""
        products = self.gradients * factors[:, tf.newaxis, tf.newaxis]
        return tf.math.unsorted_segment_sum(
            tf.reshape(products, [-1, self.shape[1]]), tf.reshape(self.rows, [-1]), self.shape[0]
        )

    def form(self) -> tf.Tensor:
        """Return all tables, formed: examples times rows times d numbers."""
        hot = tf.one_hot(self.rows, self.shape[0], dtype=tf.float32)
        return tf.matmul(hot, self.gradients, transpose_a=True)


def combine(contributions: Sequence[Any]) -> Any:
    """Return one contribution for a variable that was used several times.

    Gradients of one example add up before their norm is taken: positions of the same kind are put in a row.
    """
    if len(contributions) == 1:
        return contributions[0]
    kind, *other_kinds = {type(contribution) for contribution in contributions}
    shape = contributions[0].shape
    if kind is Formed or other_kinds:
        return as_formed(tf.add_n([item.form() for item in contributions]))
    gradients = tf.concat([_as_positions(item.gradients) for item in contributions], 1)
    if kind is Lookup:
        return Lookup(
            rows=tf.concat([item.rows for item in contributions], 1), gradients=gradients, shape=shape
        )
    inputs = tf.concat([_as_positions(item.inputs) for item in contributions], 1)
    return Outer(inputs=inputs, gradients=gradients, shape=shape)


CANCELLED = 1e-4
"""Of the square of the sum of the positions' lengths: a sum that is less has lost its digits to rounding."""


def _sum_pairs(products: tf.Tensor) -> tf.Tensor:
    """Return the squared norms of sums, float32 [batch], from the products of all pairs of positions [batch, t, t].

    Never less than they are: where positions cancel each other only an upper bound is known, and it is taken. A norm
    that rounding made too small would let a gradient through that is longer than the clipping norm.
    """
    lengths = tf.sqrt(tf.linalg.diag_part(products))
    minimum = CANCELLED * tf.square(tf.reduce_sum(lengths, 1))
    return tf.maximum(tf.reduce_sum(products, [1, 2]), minimum)


def _sum_squares(values: tf.Tensor) -> tf.Tensor:
    """Return the sum of squares of each example: float32 [batch]; in one operation, a third of the time of two."""
    return tf.square(tf.math.reduce_euclidean_norm(values, list(range(1, len(values.shape)))))


def _as_positions(values: tf.Tensor) -> tf.Tensor:
    return values if len(values.shape) == 3 else values[:, tf.newaxis, :]


def _differentiate_bias(layer: Any, gradients: tf.Tensor) -> Contributions:
    """Return the contribution of the bias of a layer, if it has one, from the gradients at its pre-activation."""
    return [] if layer.bias is None else [_reduce_broadcast(layer.bias, gradients)]


def _to_rows(values: tf.Tensor) -> tf.Tensor:
    """Return [batch, d] as it is, [batch, ..., d] as [batch, t, d]."""
    inner, width = values.shape[1:-1], values.shape[-1]
    if not inner.rank:
        return values
    count = inner.num_elements() if inner.is_fully_defined() else tf.reduce_prod(tf.shape(values)[1:-1])
    return tf.reshape(values, [-1, count, width])


def _reduce_broadcast(variable: Any, gradients: tf.Tensor) -> tuple[Any, Formed]:
    """Return the contribution of a variable that was broadcast to [batch, ...]: summed over the axes it lacks."""
    shape = variable.shape
    extra = len(gradients.shape) - 1 - len(shape)
    axes = [*range(1, 1 + extra), *(1 + extra + place for place, size in enumerate(shape) if size == 1)]
    sums = tf.reshape(tf.reduce_sum(gradients, axes), [-1, *shape]) if axes else gradients
    return variable, as_formed(sums)


def _differentiate_conv(layer: Any, inputs: tf.Tensor, gradients: tf.Tensor) -> Contributions:
    """Return the contributions of Conv1D and Conv2D, channels last, one group."""
    shape, strides, size = tuple(layer.kernel.shape), [1, *layer.strides, 1], [*layer.kernel_size]
    at_output = gradients
    if len(size) == 1:
        # A sequence is an image of one row; some kernels take but one stride for both axes, and any will do there.
        strides, size = [1, strides[1], strides[1], 1], [1, *size]
        if layer.padding == "causal":
            inputs = tf.pad(inputs, [[0, 0], [(size[1] - 1) * layer.dilation_rate[0], 0], [0, 0]])
        inputs, at_output = inputs[:, tf.newaxis], gradients[:, tf.newaxis]
    padding = "SAME" if layer.padding == "same" else "VALID"
    is_undilated = all(rate == 1 for rate in layer.dilation_rate)
    if is_undilated and _is_formed_smaller(shape, at_output.shape) and examples_can_be_groups():
        of_kernel = _backprop(inputs, at_output, size=size, strides=strides, padding=padding)
        rows = math.prod(shape[:-1])
        kernel: Any = Formed(gradients=tf.reshape(of_kernel, [rows, -1, shape[-1]]), shape=shape)
    else:
        rates = [1, *([1] * (2 - len(layer.dilation_rate))), *layer.dilation_rate, 1]
        patches = tf.image.extract_patches(inputs, [1, *size, 1], strides, rates, padding)
        kernel = Outer(inputs=_to_rows(patches), gradients=_to_rows(at_output), shape=shape)
    return [(layer.kernel, kernel), *_differentiate_bias(layer, gradients)]


def _is_formed_smaller(kernel: tuple[int, ...], outputs: Any) -> bool:
    """Return whether all examples' gradients take little memory, or less than patches and their products would."""
    if not outputs[1:].is_fully_defined():
        return False
    batch, positions = outputs[0] or USUAL_BATCH, math.prod(outputs[1:-1])
    numbers, taps = math.prod(kernel), math.prod(kernel[:-1])
    return batch * numbers <= LARGEST_EXAMPLES_GRADIENT or numbers <= positions * (taps + 2 * positions)


def _backprop(inputs: tf.Tensor, gradients: tf.Tensor, *, size: Any, strides: Any, padding: str) -> tf.Tensor:
    """Return [h, w, channels, batch * outputs]: each example's gradient, from the examples as groups."""
    batch, outputs = _count(inputs), gradients.shape[-1]
    return tf.raw_ops.Conv2DBackpropFilter(
        input=_as_channels(inputs),
        filter_sizes=[*size, inputs.shape[-1], batch * outputs],
        out_backprop=_as_channels(gradients),
        strides=strides,
        padding=padding,
    )


@functools.cache
def examples_can_be_groups() -> bool:
    """Return whether TensorFlow here differentiates grouped convolutions; on a CPU only its oneDNN kernels do."""
    with tf.init_scope():
        inputs = tf.reshape(tf.range(24.0), [2, 3, 2, 2])
        gradients = tf.reshape(tf.range(18.0), [2, 3, 1, 3])
        try:
            actual = _backprop(inputs, gradients, size=[1, 2], strides=[1, 1, 1, 1], padding="VALID")
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError):
            return False
        # Each of its numbers is below 2**24: a float32 holds it exactly, in whatever order it is summed.
        expected = tf.einsum("bhwc,bhq->wcbq", inputs, gradients[:, :, 0])
        return bool(tf.reduce_all(tf.reshape(actual, expected.shape) == expected))


def _as_channels(values: tf.Tensor) -> tf.Tensor:
    """Return [batch, h, w, channels] as one image with the channels of all examples: [1, h, w, batch * channels]."""
    _, height, width, channels = values.shape
    return tf.reshape(tf.transpose(values, [1, 2, 0, 3]), [1, height, width, _count(values) * channels])


def _count(values: tf.Tensor) -> Any:
    """Return how many examples there are: a number, or a tensor where only the run tells."""
    return values.shape[0] if values.shape[0] is not None else tf.shape(values)[0]


Rule = Callable[[Any, tf.Tensor, tf.Tensor], Contributions]
"""From the layer, what it was fed [batch, ...] and the gradients [batch, ...] at its pre-activation."""


def rule_of(layer: Any, rank: int | None = None) -> Rule | None:
    """Return the rule for a layer as it is configured; None where there is none.

    Only Keras's own layers have rules: a subclass may compute something else.

    Args:
      layer: built.
      rank: axes of what it is fed, with the batch; None: unknown, any will do.
    """

    def is_plain_convolution() -> bool:
        return bool(layer.data_format == "channels_last" and layer.groups == 1)

    def normalises_last() -> bool:
        axes = [layer.axis] if isinstance(layer.axis, int) else [*layer.axis]
        return len(axes) == 1 and (axes[0] == -1 or rank is None or axes[0] == rank - 1)

    rules: dict[Any, tuple[Rule, Callable[[], bool]]] = {
        keras.layers.Dense: (_differentiate_dense, lambda: True),
        keras.layers.EinsumDense: (_differentiate_einsum, lambda: _is_plain_einsum(layer, rank or 3)),
        keras.layers.Conv1D: (_differentiate_conv, is_plain_convolution),
        keras.layers.Conv2D: (_differentiate_conv, is_plain_convolution),
        keras.layers.Embedding: (_differentiate_embedding, lambda: not getattr(layer, "sparse", False)),
        keras.layers.LayerNormalization: (_differentiate_normalization, normalises_last),
        keras.layers.GroupNormalization: (_differentiate_normalization, normalises_last),
    }
    rule, is_for = rules.get(type(layer), (None, lambda: False))
    # An activation that is a layer may have weights too.
    inner = layer._flatten_layers(include_self=False)
    return rule if is_for() and not any(sublayer.trainable_weights for sublayer in inner) else None


def _differentiate_dense(layer: Any, inputs: tf.Tensor, gradients: tf.Tensor) -> Contributions:
    kernel = Outer(inputs=_to_rows(inputs), gradients=_to_rows(gradients), shape=tuple(layer.kernel.shape))
    return [(layer.kernel, kernel), *_differentiate_bias(layer, gradients)]


def _is_plain_einsum(layer: Any, rank: int) -> bool:
    """Return whether each example meets the kernel by itself: the batch is no axis of the kernel's."""
    inputs, kernel, out = _get_letters(layer, rank)
    return inputs[0] == out[0] and inputs[0] not in kernel and not set(inputs) & set(kernel) & set(out)


def _get_letters(layer: Any, rank: int) -> tuple[str, str, str]:
    """Return the axes of what is fed, of the kernel and of what comes out, one letter each."""
    operands, out = layer.equation.replace(" ", "").split("->")
    inputs, kernel = operands.split(",")
    letters = [letter for letter in "ABCDEFGHIJKLMNOP" if letter not in layer.equation]
    dots = "".join(letters[: rank - (len(inputs) - 3)])
    return inputs.replace("...", dots), kernel, out.replace("...", dots)


def _differentiate_einsum(layer: Any, inputs: tf.Tensor, gradients: tf.Tensor) -> Contributions:
    of_inputs, of_kernel, of_out = _get_letters(layer, len(inputs.shape))
    kernel = tf.einsum(f"{of_inputs},{of_out}->{of_inputs[0]}{of_kernel}", inputs, gradients)
    return [(layer.kernel, as_formed(kernel)), *_differentiate_bias(layer, gradients)]


def _differentiate_embedding(layer: Any, inputs: tf.Tensor, gradients: tf.Tensor) -> Contributions:
    shape = tuple(layer.embeddings.shape)
    indices = tf.reshape(tf.cast(inputs, tf.int64), [-1, math.prod(inputs.shape[1:])])
    at_output = tf.reshape(gradients, [-1, indices.shape[1], shape[1]])
    return [(layer.embeddings, Lookup(rows=indices, gradients=at_output, shape=shape))]


def _differentiate_normalization(layer: Any, inputs: tf.Tensor, gradients: tf.Tensor) -> Contributions:
    """Return the contributions of LayerNormalization over the last axis, and of GroupNormalization."""
    groups = getattr(layer, "groups", None)
    if groups is None:
        values, axes = inputs, [-1]
    else:
        values = tf.reshape(inputs, [-1, *inputs.shape[1:-1], groups, inputs.shape[-1] // groups])
        axes = [*range(1, len(inputs.shape) - 1), len(inputs.shape)]
    mean, variance = tf.nn.moments(values, axes, keepdims=True)
    outputs = tf.reshape((values - mean) * tf.math.rsqrt(variance + layer.epsilon), tf.shape(inputs))
    scale = [_reduce_broadcast(layer.gamma, gradients * outputs)] if layer.scale else []
    return [*scale, *([_reduce_broadcast(layer.beta, gradients)] if layer.center else [])]

"""Gradients of a layer without a rule: the layer once more for each example alone, vectorized, and differentiated."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tfkit.errors import PrivacyError
from tfkit.privacy.contributions import Contributions, Direct
from tfkit.stack import keras, tf

LONGEST_UNROLLED = 128
"""Time steps of a recurrent layer up to which its loop is written out: gradients of loops do not vectorize."""

_CHANCE = re.compile("Random|Rng|Multinomial|TruncatedNormal|SampleDistorted")
_CHANGE = re.compile("Assign(Add|Sub)?VariableOp")


@dataclass(eq=False)
class Again:
    """A layer that can be called again with one example of what it was fed.

    Attributes:
      unit: the layer.
      given: its arguments in the batch's call, positional and by name.
      original: its own `call`.
      outputs: all floating outputs [batch, ...] of the batch's call.
    """

    unit: Any
    given: tuple[tuple[Any, ...], dict[str, Any]]
    original: Any
    outputs: list[Any]

    def contributions(self, gradients: list[tf.Tensor]) -> Contributions:
        """Each example's gradients of all the layer's trainable weights.

        Args:
          gradients: of the summed loss at the outputs.

        Raises:
          PrivacyError: the layer draws random numbers or changes variables, so that it cannot be called again.
        """
        variables = self.unit.trainable_weights
        moving = self._moving
        alone = [values[:1] for values in moving]
        _refuse_side_effects(self.unit, tf.function(self._call).get_concrete_function(alone).graph)

        def one(row: Any) -> Any:
            values, at_outputs = row
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(variables)
                outputs = self._call([value[tf.newaxis] for value in values])
            found = tape.gradient(
                outputs,
                variables,
                output_gradients=[value[tf.newaxis] for value in at_outputs],
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )
            return [tf.convert_to_tensor(value) for value in found], [value[0] for value in outputs]

        rows = (moving, gradients)
        each, outputs = _vectorized(one, rows, ([value.dtype for value in variables], _dtypes(self.outputs)))
        size = gradients[0].shape[0]
        with tf.control_dependencies(self._assertions(outputs)):
            return [
                (variable, Direct(gradients=tf.ensure_shape(value, [size, *variable.shape])))
                for variable, value in zip(variables, each, strict=True)
            ]

    def _call(self, values: list[tf.Tensor]) -> list[tf.Tensor]:
        """The floating outputs for other values of what moves with the batch."""
        rest = iter(values)
        flat = []
        for value, mask in self._flat:
            if not any(value is one for one in self._moving):
                flat.append(value)
                continue
            again = tf.identity(next(rest))
            if mask is not None:
                again._keras_mask = next(rest)
            flat.append(again)
        args, kwargs = tf.nest.pack_sequence_as(self.given, flat)
        with _unrolled(self.unit, values[0].shape):
            return floating(self.original(*args, **kwargs))

    @functools.cached_property
    def _flat(self) -> list[tuple[Any, Any]]:
        """The arguments one by one, each with the mask that Keras keeps with it."""
        return [(value, getattr(value, "_keras_mask", None)) for value in tf.nest.flatten(self.given)]

    @functools.cached_property
    def _moving(self) -> list[tf.Tensor]:
        """What has a row for each example; what merely is as long is found out by `_assertions`."""
        size = self.outputs[0].shape[0]
        eager = not hasattr(self.outputs[0], "graph")
        found = []
        for value, mask in self._flat:
            # While a graph is built, what is no part of it cannot depend on the batch.
            fixed = not tf.is_tensor(value) or not (eager or hasattr(value, "graph"))
            if not fixed and value.shape.rank and value.shape[0] == size:
                found += [value] if mask is None else [value, mask]
        return found

    def _assertions(self, alone: list[tf.Tensor]) -> list[Any]:
        """That the layer gave each example alone what it gave it within the batch."""
        checks = []
        for value, within in zip(alone, self.outputs, strict=True):
            known = tf.math.is_finite(within) & tf.math.is_finite(value)
            error = tf.reduce_max(tf.abs(tf.where(known, value - within, 0.0)))
            scale = tf.reduce_max(tf.abs(tf.where(known, within, 0.0)))
            checks.append(
                tf.debugging.assert_less_equal(
                    error,
                    1e-3 * scale + 1e-6,
                    message=f"{self.unit.name!r} ({type(self.unit).__name__}) has no rule of its own, and gives an"
                    " example alone something else than within the batch: gradients cannot be told apart by example."
                    " Take out what mixes the examples, or arguments without a batch axis that are as long as a batch.",
                )
            )
        return [check for check in checks if check is not None]


def floating(given: Any) -> list[tf.Tensor]:
    """The floating tensors in what a layer gave."""
    return [value for value in tf.nest.flatten(given) if tf.is_tensor(value) and value.dtype.is_floating]


def _vectorized(one: Any, rows: Any, dtypes: Any) -> Any:
    """`one` of each row, in one go where TensorFlow can, else one after the other."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel("CRITICAL")  # pages about each operation that does not vectorize
    try:
        return tf.vectorized_map(one, rows, fallback_to_while_loop=False)
    except (TypeError, ValueError, NotImplementedError):
        return tf.map_fn(one, rows, fn_output_signature=dtypes)
    finally:
        logger.setLevel(level)


def _dtypes(values: list[tf.Tensor]) -> list[Any]:
    return [value.dtype for value in values]


def _refuse_side_effects(unit: Any, graph: Any) -> None:
    definition = graph.as_graph_def()
    inner = [node.op for function in definition.library.function for node in function.node_def]
    operations = {*(node.op for node in definition.node), *inner}
    name = f"{unit.name!r} ({type(unit).__name__})"
    if any(_CHANCE.search(operation) for operation in operations):
        raise PrivacyError(
            f"{name} draws random numbers inside and has no rule of its own: called again for each example it would"
            " draw others, and give gradients of another function.\n"
            "  Set its dropout to 0 and put a Dropout layer before or after it."
        )
    if any(_CHANGE.search(operation) for operation in operations):
        raise PrivacyError(
            f"{name} changes variables when it is called, as moving statistics are: they mix the examples of a batch"
            " without clipping or noise.\n"
            "  Freeze it (layer.trainable = False), or use GroupNormalization for BatchNormalization."
        )


@contextlib.contextmanager
def _unrolled(unit: Any, shape: Any) -> Iterator[None]:
    """In this block recurrent layers write out their loop over time, where that is short."""
    short = len(shape) > 1 and shape[1] is not None and shape[1] <= LONGEST_UNROLLED
    recurrent = [layer for layer in unit._flatten_layers() if isinstance(layer, keras.layers.RNN) and short]
    kept = [(layer, name, vars(layer)[name]) for layer in recurrent for name in _LOOPS if name in vars(layer)]
    try:
        for layer, name, _ in kept:
            vars(layer)[name] = _LOOPS[name]
        yield
    finally:
        for layer, name, value in kept:
            vars(layer)[name] = value


_LOOPS = {"unroll": True, "_could_use_gpu_kernel": False}

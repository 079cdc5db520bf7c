"""One forward pass that notes what each layer with trainable weights was fed and what it gave."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tfkit.errors import PrivacyError
from tfkit.privacy.contributions import Direct
from tfkit.privacy.rules import Contributions, rule_of
from tfkit.stack import keras, tf


@dataclass(eq=False)
class Call:
    """One call of a layer.

    Attributes:
      unit: the layer.
      given: its arguments, positional and by name.
      outputs: what is differentiated at: its pre-activation where the layer has a rule, else all that it gave.
      original: its own `call`.
    """

    unit: Any
    given: tuple[tuple[Any, ...], dict[str, Any]]
    outputs: list[Any]
    original: Any
    by_rule: bool

    def contributions(self, gradients: list[tf.Tensor]) -> Contributions:
        """What this call adds to each example's gradients of the layer's variables."""
        if not self.by_rule:
            return _each_by_itself(self, gradients)
        fed = self.given[0][0]
        rule = rule_of(self.unit, len(fed.shape))
        assert rule is not None, f"{self.unit.name} was recorded by a rule that is not there"
        return rule(self.unit, fed, gradients[0])


@dataclass
class Recorder:
    """Notes the calls of a model's layers while it is open.

    Attributes:
      calls: in the order in which they were made.
    """

    model: Any
    tape: Any
    batch_size: int | None
    calls: list[Call] = field(default_factory=list)

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """In this block the layers note their calls; their own `call` is back afterwards, however it ends."""
        found = units(self.model)
        try:
            for unit in found:
                # Not by setattr: Keras would track what is set.
                vars(unit)["call"] = functools.partial(self._call, unit, unit.call)
            yield
        finally:
            for unit in found:
                vars(unit).pop("call", None)

    def _call(self, unit: Any, original: Any, *args: Any, **kwargs: Any) -> Any:
        if not tf.executing_eagerly() and tf.compat.v1.get_default_graph().name.endswith("_scratch_graph"):
            return original(*args, **kwargs)  # Keras finds out shapes
        self._check_batch(unit, (args, kwargs))
        fed = args[0] if args else None
        if fed is not None and tf.is_tensor(fed) and rule_of(unit, len(fed.shape)) is not None:
            with _without_activation(unit) as activation:
                before = original(*args, **kwargs)
            self.tape.watch(before)
            self.calls.append(Call(unit, (args, kwargs), [before], original, by_rule=True))
            return before if activation is None else activation(before)
        _refuse_chance(unit)
        if not type(unit).__module__.startswith(keras.__name__):
            # As Keras does with the `call` of a user's own layer.
            autograph = tf.__internal__.autograph
            original = autograph.tf_convert(original, autograph.control_status_ctx())
        given = original(*args, **kwargs)
        outputs = [value for value in tf.nest.flatten(given) if value.dtype.is_floating]
        for value in outputs:
            self.tape.watch(value)
        self.calls.append(Call(unit, (args, kwargs), outputs, original, by_rule=False))
        return given

    def _check_batch(self, unit: Any, given: Any) -> None:
        """The first axis must be the examples': a merged one would make several rows of one example."""
        first = next((value for value in tf.nest.flatten(given) if tf.is_tensor(value)), None)
        if first is None or first.shape.rank is None or not first.shape.rank:
            raise PrivacyError(
                f"{unit.name!r} is not fed a batch of examples: nothing can be clipped per example."
            )
        size = first.shape[0]
        if None not in (size, self.batch_size) and size != self.batch_size:
            raise PrivacyError(
                f"{unit.name!r} ({type(unit).__name__}) is fed {size} rows for {self.batch_size} examples: something"
                " before it merges the batch with another axis, so that rows are no examples any more.\n"
                "  Keep the batch as the first axis: Dense and EinsumDense take [batch, time, ...] as it is."
            )


def units(model: Any) -> list[Any]:
    """The layers whose calls are noted: with trainable weights, each of which belongs to one of them."""
    found: list[Any] = []
    for layer in model._flatten_layers(include_self=False, recursive=False):
        if not layer.trainable_weights or any(layer is known for known in found):
            continue
        if rule_of(layer) is not None or not _is_container(layer):
            found.append(layer)
        else:
            found += [unit for unit in units(layer) if all(unit is not known for known in found)]
    return found


def engines(model: Any) -> dict[str, str]:
    """How each layer with trainable weights gets its examples' gradients: "book-keeping" or "per-example"."""
    return {unit.name: "per-example" if rule_of(unit) is None else "book-keeping" for unit in units(model)}


def _is_container(layer: Any) -> bool:
    """Whether a layer only calls others, whose calls can be noted."""
    loops = (keras.layers.RNN, keras.layers.Wrapper, keras.layers.StackedRNNCells)
    inner = [*layer._flatten_layers(include_self=False, recursive=False)]
    own = {id(weight) for weight in layer._trainable_weights}
    return bool(inner) and not own and not isinstance(layer, loops)


@contextlib.contextmanager
def _without_activation(unit: Any) -> Iterator[Any]:
    """In this block the layer leaves its activation out."""
    activation = getattr(unit, "activation", None)
    if activation is None:
        yield None
        return
    vars(unit)["activation"] = keras.activations.linear
    try:
        yield activation
    finally:
        vars(unit)["activation"] = activation


def _refuse_chance(unit: Any) -> None:
    """A layer that is computed again, example by example, would draw other random numbers."""
    for layer in unit._flatten_layers():
        rates = [getattr(layer, name, 0) for name in ("rate", "dropout", "recurrent_dropout", "stddev")]
        if any(isinstance(rate, int | float) and rate > 0 for rate in rates):
            raise PrivacyError(
                f"{unit.name!r} ({type(unit).__name__}) draws random numbers inside ({layer.name!r}) and has no rule of"
                " its own: its gradients could not be computed for each example.\n"
                "  Set its dropout to 0 and put a Dropout layer before or after it."
            )


def _each_by_itself(call: Call, gradients: list[tf.Tensor]) -> Contributions:
    """The layer once more for each example alone, vectorized, and differentiated there."""
    variables = call.unit.trainable_weights
    flat = tf.nest.flatten(call.given, expand_composites=True)
    size = gradients[0].shape[0]
    batched = [
        tf.is_tensor(value)
        and value.shape.rank is not None
        and value.shape.rank > 0
        and value.shape[0] == size
        for value in flat
    ]
    moving = [value for value, moves in zip(flat, batched, strict=True) if moves]

    def one(row: Any) -> list[tf.Tensor]:
        values, at_outputs = row
        rest = iter(values)
        again = [
            next(rest)[tf.newaxis] if moves else value for value, moves in zip(flat, batched, strict=True)
        ]
        args, kwargs = tf.nest.pack_sequence_as(call.given, again, expand_composites=True)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            given = call.original(*args, **kwargs)
            outputs = [value for value in tf.nest.flatten(given) if value.dtype.is_floating]
        return tape.gradient(
            outputs,
            variables,
            output_gradients=[value[tf.newaxis] for value in at_outputs],
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )

    try:
        each = tf.vectorized_map(one, (moving, gradients))
    except (TypeError, ValueError, NotImplementedError):
        # Loops and conditions hold lists of tensors that cannot be vectorized: one example after the other.
        each = tf.map_fn(one, (moving, gradients), fn_output_signature=[value.dtype for value in variables])
    return [
        (variable, Direct(gradients=tf.ensure_shape(tf.convert_to_tensor(value), [size, *variable.shape])))
        for variable, value in zip(variables, each, strict=True)
    ]

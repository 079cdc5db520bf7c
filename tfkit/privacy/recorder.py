"""One forward pass that notes what each layer with trainable weights was fed and what it gave."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tfkit.errors import PrivacyError
from tfkit.privacy.contributions import Contributions
from tfkit.privacy.fallback import Again, floating
from tfkit.privacy.rules import Rule, rule_of
from tfkit.stack import keras, tf


@dataclass(eq=False)
class Call:
    """One call of a layer.

    Attributes:
      unit: the layer.
      outputs: what is differentiated at: its pre-activation where the layer has a rule, else all that it gave.
      contributions: from the gradients at the outputs to what the call adds to the gradients of the weights.
    """

    unit: Any
    outputs: list[Any]
    contributions: Callable[[list[tf.Tensor]], Contributions]
    caller: Any


@dataclass(eq=False)
class Recorder:
    """Notes the calls of a model's layers while it is open.

    Attributes:
      model: built.
      tape: that records, and watches no variables.
      batch_size: examples.
      whole: layers that are taken as one, not looked into.
      calls: in the order in which they were made.
      beyond: layers inside of which a weight was used where nobody could note it, so that they must be taken whole.
      problems: what cannot be told apart by example.
    """

    model: Any
    tape: Any
    batch_size: int | None
    whole: list[Any]
    calls: list[Call] = field(default_factory=list)
    beyond: list[Any] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    _callers: list[tuple[Any, Any]] = field(default_factory=list)
    _noting: bool = True

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """In this block the layers note their calls; their own `call` is back afterwards, however it ends."""
        found, containers = partition(self.model, self.whole)
        for unit in found:
            _refuse(unit)
        self._trained = {weight.ref() for weight in self.model.trainable_weights}
        self._autograph = tf.__internal__.autograph.control_status_ctx()
        self._graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        kept = [(layer, vars(layer).get("call")) for layer in [*found, *containers]]
        instead = [
            *[(unit, self._unit) for unit in found],
            *[(layer, self._container) for layer in containers],
        ]
        try:
            for layer, noting in instead:
                # Not by setattr: Keras would track what is set.
                call = functools.partial(noting, layer, layer.call)
                vars(layer)["call"] = tf.autograph.experimental.do_not_convert(call)
            yield
        finally:
            for layer, own in kept:
                if own is None:
                    vars(layer).pop("call", None)
                else:
                    vars(layer)["call"] = own

    def _container(self, layer: Any, original: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a layer that only calls others, and see whether that is so."""
        with self._reads(layer) as read:
            given = self._converted(layer, original)(*args, **kwargs)
        if read() and self._noting:
            self.beyond.append(layer)
        return given

    def _unit(self, unit: Any, original: Any, *args: Any, **kwargs: Any) -> Any:
        if not self._noting or _is_scratch() or not self._is_batch(unit, (args, kwargs)):
            return original(*args, **kwargs)
        rule = rule_of(unit, len(args[0].shape)) if args and isinstance(args[0], tf.Tensor) else None
        if rule is not None and unit not in self.whole:
            return self._by_rule(unit, rule, original, *args, **kwargs)
        original = self._converted(unit, original)
        self._noting = False  # what it calls is part of it
        try:
            with self._reads(unit) as read:
                given = original(*args, **kwargs)
        finally:
            self._noting = True
        own = {weight.ref() for weight in unit.trainable_weights}
        if read() - own:
            self.beyond.append(self._caller())
        outputs = floating(given)
        if not all(self._is_batch(unit, value) for value in outputs):
            return given
        again = Again(unit, (args, kwargs), original, outputs)
        self._note(Call(unit, outputs, again.contributions, self._caller()))
        return given

    def _by_rule(self, unit: Any, rule: Rule, original: Any, fed: Any, *args: Any, **kwargs: Any) -> Any:
        with _without_activation(unit) as activation, self._reads(unit):
            before = original(fed, *args, **kwargs)

        # No branch of a rule depends on a tensor: AutoGraph has nothing to convert in it, and stumbles over some.
        derive = tf.autograph.experimental.do_not_convert(rule)

        def contributions(gradients: list[tf.Tensor]) -> Contributions:
            return derive(unit, fed, gradients[0])

        self._note(Call(unit, [before], contributions, self._caller()))
        return before if activation is None else activation(before)

    def _note(self, call: Call) -> None:
        if any(getattr(value, "graph", None) is not self._graph for value in call.outputs):
            # Inside of a loop, or of a tf.function of its own: nobody can differentiate there from outside.
            self.beyond.append(call.caller)
            return
        for value in call.outputs:
            self.tape.watch(value)
        self.calls.append(call)

    def _caller(self) -> Any:
        return self._callers[-1][0] if self._callers else self.model

    @contextlib.contextmanager
    def _reads(self, layer: Any) -> Iterator[Callable[[], set[Any]]]:
        """Which of the model's trained weights are read in this block, other than by layers that it calls."""
        # A tape tells which variables it saw; the one of the caller must not see these.
        paused = self._callers[-1][1].stop_recording() if self._callers else contextlib.nullcontext()
        with paused, tf.GradientTape() as tape:
            self._callers.append((layer, tape))
            try:
                yield lambda: {variable.ref() for variable in tape.watched_variables()} & self._trained
            finally:
                self._callers.pop()

    def _converted(self, layer: Any, original: Any) -> Any:
        """As Keras does with the `call` of a user's own layer."""
        if type(layer).__module__.startswith(keras.__name__):
            return original
        return tf.__internal__.autograph.tf_convert(original, self._autograph)

    def _is_batch(self, unit: Any, given: Any) -> bool:
        """Whether the first axis is the examples'; a merged one would make several rows of one example."""
        name = f"{unit.name!r} ({type(unit).__name__})"
        tensors = [value for value in tf.nest.flatten(given) if tf.is_tensor(value)]
        if any(not isinstance(value, tf.Tensor) for value in tensors):
            self.problems.append(
                f"{name} is fed sparse or ragged tensors. Use to_dense() or to_tensor() before it."
            )
        elif not tensors or not tensors[0].shape.rank:
            self.problems.append(f"{name} takes or gives something without a first axis for the examples.")
        elif None in (tensors[0].shape[0], self.batch_size):
            self.problems.append(f"{name} is fed a batch of unknown size. Batch with drop_remainder=True.")
        elif tensors[0].shape[0] != self.batch_size:
            self.problems.append(
                f"{name} is fed or gives {tensors[0].shape[0]} rows for {self.batch_size} examples: the batch is merged"
                " with another axis, so that rows are no examples any more. Keep the batch as the first axis: Dense"
                " and EinsumDense take [batch, time, ...] as it is."
            )
        else:
            return True
        return False


def partition(model: Any, whole: list[Any]) -> tuple[list[Any], list[Any]]:
    """The layers whose calls are noted, and those that only call others.

    Each trainable weight belongs to one of the former.

    Args:
      model: built.
      whole: layers to be taken as one.
    """
    units: list[Any] = []
    containers: list[Any] = []

    def visit(layer: Any) -> None:
        if not layer.trainable_weights or any(layer is known for known in [*units, *containers]):
            return
        if layer in whole or rule_of(layer) is not None or not _is_container(layer):
            units.append(layer)
            return
        containers.append(layer)
        for inner in layer._flatten_layers(include_self=False, recursive=False):
            visit(inner)

    visit(model)
    return units, containers


def engines(model: Any) -> dict[str, str]:
    """How each layer with trainable weights gets its examples' gradients.

    Args:
      model: built.

    Returns:
      "book-keeping" or "per-example" for each layer's name; the model's own name where it must be taken whole.

    Raises:
      PrivacyError: a layer's gradients cannot be told apart by example.
    """
    units, _ = partition(model, [])
    for unit in units:
        _refuse(unit)
    return {unit.name: "per-example" if rule_of(unit) is None else "book-keeping" for unit in units}


def _is_container(layer: Any) -> bool:
    """Whether a layer has no weight of its own, and calls others where they can be noted."""
    loops = (keras.layers.RNN, keras.layers.Wrapper, keras.layers.StackedRNNCells)
    inner = [*layer._flatten_layers(include_self=False, recursive=False)]
    return bool(inner) and not layer._trainable_weights and not isinstance(layer, loops)


def _refuse(unit: Any) -> None:
    """Layers whose gradients nobody can tell apart by example."""
    if type(unit).__module__.startswith("tensorflow_hub"):
        raise PrivacyError(
            f"{unit.name!r} (hub.KerasLayer) is trainable, and nobody can see what it does with a batch.\n"
            "  Set trainable=False and train on its features, or use a bundled backbone (python -m tfkit models)."
        )
    low = sorted({weight.dtype.name for weight in unit.trainable_weights} | {unit.compute_dtype or "float32"})
    if low != ["float32"]:
        raise PrivacyError(
            f"{unit.name!r} ({type(unit).__name__}) computes in {', '.join(low)}: norms are float32.\n"
            '  Make it under keras.mixed_precision.set_global_policy("float32").'
        )


def _is_scratch() -> bool:
    """Whether Keras is only finding out shapes."""
    return not tf.executing_eagerly() and tf.compat.v1.get_default_graph().name.endswith("_scratch_graph")


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

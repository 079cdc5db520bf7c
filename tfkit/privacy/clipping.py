"""The sum of the examples' clipped gradients, from one forward and one backward pass over the batch.

Source: Abadi et al. 2016 (arXiv:1607.00133) for the clipping; Bu et al. 2022 (arXiv:2210.00038) for the way.

The loss of each example by itself, from the loss that a model was compiled with.

Gradients of a layer without a rule: the layer once more for each example alone, vectorized, and differentiated.

One forward pass that notes what each layer with trainable weights was fed and what it gave.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tfkit.environment.stack import keras, tf
from tfkit.errors import PrivacyError
from tfkit.privacy.rules import Contributions, Direct, Rule, rule_of, together

PerExampleLoss = Callable[[Any, Any], Any]

_FIX = "Return one value an example, without a mean over the first axis."


def per_example_loss(model: keras.Model) -> PerExampleLoss:
    """A function from labels and outputs to each example's loss, float32 [batch].

    It is what Keras would take the mean of: with the settings of the loss (from_logits, label_smoothing), and with
    labels that are cast and shaped as `fit` does. An example with several values, as of a sequence, has their mean;
    where the outputs carry a mask, that of the values which are kept.

    Args:
      model: compiled with one loss: a name, a function of (labels, outputs), or a Keras loss.

    Raises:
      PrivacyError: the model has several losses or none, or a loss without values for single examples; the
        function raises it too, when it finds the examples mixed by the shape of what it gets.
    """
    loss = _only_loss(model)
    name = getattr(loss, "name", None) or type(loss).__name__

    def of_each(labels: Any, outputs: Any) -> Any:
        labels, outputs = tf.convert_to_tensor(labels), tf.convert_to_tensor(outputs)
        # As Keras does with the `call` of a user's own loss.
        autograph = tf.__internal__.autograph
        unreduced = autograph.tf_convert(loss.call, autograph.control_status_ctx())
        values = tf.convert_to_tensor(unreduced(_beside(labels, outputs), outputs))
        _check_batch(name, values, outputs)
        return _mean_of_each(tf.cast(values, tf.float32), getattr(outputs, "_keras_mask", None))

    return of_each


def _only_loss(model: keras.Model) -> Any:
    """The loss that the model was compiled with, as a Keras loss object."""
    losses = [one for one in tf.nest.flatten(getattr(model, "loss", None)) if one is not None]
    if len(losses) != 1:
        found = "several losses" if losses else "no loss"
        raise PrivacyError(
            f"The model is compiled with {found}; private training takes one, and clips its gradient for each"
            ' example.\n  compile(loss="sparse_categorical_crossentropy"), with several outputs joined into one.'
        )
    (loss,) = losses
    if getattr(getattr(model, "compiled_loss", None), "_user_loss_weights", None) is not None:
        raise PrivacyError(
            "The model is compiled with loss_weights, which say nothing with one loss.\n"
            "  Leave them out; multiply the learning rate instead."
        )
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    if isinstance(loss, type):
        raise PrivacyError(
            f"The loss {loss.__name__} is a class.\n  Make an object of it: loss={loss.__name__}()."
        )
    if not isinstance(loss, keras.losses.Loss):
        named = getattr(loss, "__name__", type(loss).__name__)
        return keras.__internal__.losses.LossFunctionWrapper(loss, name=named)
    if type(loss).__call__ is not keras.losses.Loss.__call__:
        raise PrivacyError(
            f"The loss {type(loss).__name__} has a __call__ of its own, which gives one number for the batch.\n"
            "  Put what it does into call(labels, outputs). " + _FIX
        )
    return loss


def _beside(labels: Any, outputs: Any) -> Any:
    """Labels as `fit` hands them to the loss; [batch] beside [batch, 1] would broadcast to all pairs of examples."""
    if labels.shape.rank == 1 and outputs.shape.rank == 2:
        labels = labels[:, tf.newaxis]
    elif labels.shape.rank == outputs.shape.rank + 1 and labels.shape[-1] == 1:
        labels = tf.squeeze(labels, [-1])
    both_floating = labels.dtype.is_floating and outputs.dtype.is_floating
    return tf.cast(labels, outputs.dtype) if both_floating else labels


def _check_batch(name: str, values: Any, outputs: Any) -> None:
    shape, size = values.shape, outputs.shape[0]
    if not shape.rank or (size is not None and shape[0] != size):
        found = "one number" if shape.rank == 0 else f"values of shape {shape}"
        fix = "Give the model an output of shape [batch, 1]." if outputs.shape.rank == 1 else _FIX
        raise PrivacyError(
            f"The loss {name!r} gives {found} for a batch of {size or 'any number of'} examples: what belongs to one"
            f" example cannot be clipped by itself.\n  {fix}"
        )


def _mean_of_each(values: Any, mask: Any) -> Any:
    """Mean over all axes but the first; of the kept values where there is a mask."""
    axes = [*range(1, values.shape.rank)]
    if not axes:
        return values
    if mask is None or mask.shape.rank != values.shape.rank:
        return tf.reduce_mean(values, axes)
    kept = tf.cast(mask, tf.float32)
    return tf.math.divide_no_nan(tf.reduce_sum(values * kept, axes), tf.reduce_sum(kept, axes))


def weight_penalties(model: keras.Model) -> list[Callable[[], Any]]:
    """What gives the losses of a model's weights alone: its regularisers, which know nothing of the data."""
    return [one for layer in model._flatten_layers() for one in getattr(layer, "_callable_losses", ())]


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


@dataclass(frozen=True, kw_only=True, eq=False)
class Clipped:
    """What a batch gives.

    Attributes:
      gradients: one for each of the model's trainable variables: the sum over the examples of
        min(1, C / norm) times the example's gradient, dense; without the gradients of regularisers.
      norms: float32 [batch], of the examples' gradients over all variables, unclipped.
      losses: float32 [batch], times the weights.
      outputs: what the model gave.
    """

    gradients: list[tf.Tensor]
    norms: tf.Tensor
    losses: tf.Tensor
    outputs: tf.Tensor


def clipped_sum(
    model: keras.Model,
    inputs: Any,
    labels: tf.Tensor,
    weights: tf.Tensor | None,
    *,
    per_example_loss: Callable[[Any, Any], tf.Tensor],
    l2_norm_clip: float | tf.Tensor,
    training: bool = True,
) -> Clipped:
    """The sum of the examples' clipped gradients.

    Args:
      model: built; each example must be computed by itself (see `tfkit.privacy.validation`).
      inputs: [batch, ...], as the model takes them.
      labels: [batch, ...].
      weights: float32 [batch] that multiply the losses before anything is clipped; 0 is padding. None: all 1.
      per_example_loss: from labels and outputs to float32 [batch].
      l2_norm_clip: C, above 0.
      training: as the model is called.

    Returns:
      See `Clipped`. An example whose gradient is not finite contributes nothing.

    Raises:
      PrivacyError: a layer's gradients cannot be told apart by example.
    """
    whole: list[Any] = []
    while True:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            recorder = Recorder(model, tape, tf.nest.flatten(inputs)[0].shape[0], whole)
            with recorder.recording():
                outputs = model(inputs, training=training)
            losses = per_example_loss(labels, outputs)
            losses = losses if weights is None else losses * tf.cast(weights, losses.dtype)
            total = tf.reduce_sum(losses)
        if recorder.problems:
            listed = "\n  ".join(dict.fromkeys(recorder.problems))
            raise PrivacyError(f"Gradients cannot be told apart by example:\n  {listed}")
        if not recorder.beyond:
            break
        # A weight that is used where nobody notes it: the layer around it is taken whole, and all is done again.
        whole = [*whole, *recorder.beyond]
    watched = [call.outputs for call in recorder.calls]
    at_outputs = tape.gradient(total, watched, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    by_variable: dict[Any, list[Any]] = {variable.ref(): [] for variable in model.trainable_variables}
    for call, gradients in zip(recorder.calls, at_outputs, strict=True):
        for variable, contribution in call.contributions(
            [tf.convert_to_tensor(value) for value in gradients]
        ):
            if variable.ref() in by_variable:
                by_variable[variable.ref()].append(contribution)
    used = [together(found) for found in by_variable.values() if found]
    squares = tf.add_n([contribution.squared_norm() for contribution in used])
    norms = tf.sqrt(squares)
    finite = tf.math.is_finite(squares)
    factors = tf.where(finite, tf.minimum(1.0, l2_norm_clip / tf.maximum(norms, 1e-30)), 0.0)
    sums = tf.cond(
        tf.reduce_all(finite),
        lambda: [contribution.weighted_sum(factors) for contribution in used],
        # 0 times a number that is not finite is not 0.
        lambda: [contribution.kept(finite).weighted_sum(factors) for contribution in used],
    )
    rest = iter(sums)
    gradients = [
        next(rest) if found else tf.zeros(reference.deref().shape, reference.deref().dtype)
        for reference, found in by_variable.items()
    ]
    return Clipped(gradients=gradients, norms=norms, losses=losses, outputs=outputs)

"""The sum of the examples' clipped gradients, from one forward and one backward pass over the batch.

The forward pass notes what each layer with trainable weights was fed and what it gave. A layer that has a rule (see
`tfkit.privacy.rules`) is differentiated at its pre-activation; another is called once more for each example alone,
vectorized, and differentiated.

Source: Abadi et al. 2016 (arXiv:1607.00133) for the clipping; Bu et al. 2022 (arXiv:2210.00038) for the way.
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
from tfkit.metrics import losses
from tfkit.privacy.rules import Contributions, Rule, as_formed, combine, rule_of

PerExampleLoss = Callable[[Any, Any], Any]


def per_example_loss(model: keras.Model) -> PerExampleLoss:
    """Return a function from labels and outputs to each example's loss, float32 [batch].

    It is what Keras would take the mean of: with the settings of the loss (from_logits, label_smoothing), and with
    labels that are cast and shaped as `fit` does. An example with several values, as of a sequence, has their mean;
    where the outputs carry a mask, that of the values which are kept.

    Args:
      model: compiled with one loss: a name, a function of (labels, outputs), or a Keras loss.

    Raises:
      PrivacyError: the model has several losses or none, or a loss without values for single examples; the
        function raises it too, when it finds the examples mixed by the shape of what it gets.
    """
    loss = _get_loss(model)
    name = getattr(loss, "name", None) or type(loss).__name__

    def compute_losses(labels: Any, outputs: Any) -> Any:
        labels, outputs = tf.convert_to_tensor(labels), tf.convert_to_tensor(outputs)
        # As Keras does with the `call` of a user's own loss.
        autograph = tf.__internal__.autograph
        call = autograph.tf_convert(loss.call, autograph.control_status_ctx())
        values = tf.convert_to_tensor(call(_align_labels(labels, outputs), outputs))
        shape, size = values.shape, outputs.shape[0]
        if not shape.rank or (size is not None and shape[0] != size):
            raise PrivacyError(
                f"The loss {name!r} gives values of shape {shape} for {size} examples.\n  Return one value an example,"
                " without a mean over the first axis; give the model an output of shape [batch, 1], not [batch]."
            )
        return _average_examples(tf.cast(values, tf.float32), getattr(outputs, "_keras_mask", None))

    return compute_losses


def _get_loss(model: keras.Model) -> Any:
    """Return the loss that the model was compiled with, as a Keras loss object."""
    user_losses, loss_class = losses(model), keras.losses.Loss
    is_weighted = getattr(getattr(model, "compiled_loss", None), "_user_loss_weights", None) is not None
    loss = user_losses[0] if len(user_losses) == 1 and not is_weighted else None
    has_own_call = isinstance(loss, loss_class) and type(loss).__call__ is not loss_class.__call__
    if loss is None or isinstance(loss, type) or has_own_call:
        kinds = (x if isinstance(x, str) else getattr(x, "__name__", type(x).__name__) for x in user_losses)
        names = ", ".join([*kinds, *(["loss_weights"] if is_weighted else [])])
        raise PrivacyError(
            f"The model is compiled with loss {names or None}; private training takes one: a name, a function, or an"
            " object that does all in call(labels, outputs), with a value for each example; several outputs joined."
        )
    loss = keras.losses.get(loss)
    if isinstance(loss, loss_class):
        return loss
    return keras.__internal__.losses.LossFunctionWrapper(
        loss, name=getattr(loss, "__name__", type(loss).__name__)
    )


def _align_labels(labels: Any, outputs: Any) -> Any:
    """Return labels as `fit` hands them to the loss; [batch] beside [batch, 1] would broadcast to all pairs."""
    if labels.shape.rank == 1 and outputs.shape.rank == 2:
        labels = labels[:, tf.newaxis]
    elif labels.shape.rank == outputs.shape.rank + 1 and labels.shape[-1] == 1:
        labels = tf.squeeze(labels, [-1])
    both_floating = labels.dtype.is_floating and outputs.dtype.is_floating
    return tf.cast(labels, outputs.dtype) if both_floating else labels


def _average_examples(values: Any, mask: Any) -> Any:
    """Return the mean over all axes but the first; of the kept values where there is a mask."""
    axes = [*range(1, values.shape.rank)]
    if not axes:
        return values
    if mask is None or mask.shape.rank != values.shape.rank:
        return tf.reduce_mean(values, axes)
    mask = tf.cast(mask, tf.float32)
    return tf.math.divide_no_nan(tf.reduce_sum(values * mask, axes), tf.reduce_sum(mask, axes))


def weight_penalties(model: keras.Model) -> list[Callable[[], Any]]:
    """Return what gives the losses of a model's weights alone: its regularisers, which know nothing of the data."""
    return [loss for layer in model._flatten_layers() for loss in getattr(layer, "_callable_losses", ())]


LONGEST_UNROLLED = 128
"""Time steps of a recurrent layer up to which its loop is written out: gradients of loops do not vectorize."""

DRAWS = "Random|Rng|Multinomial|TruncatedNormal|SampleDistorted"
_SIDE_EFFECTS = {
    DRAWS: "draws random numbers: called again for one example it"
    " would draw others.\n  Set its dropout to 0 and put a Dropout layer before or after it.",
    "Assign(Add|Sub)?VariableOp": "changes variables when it is called, as moving statistics are, which mix the"
    " examples without clipping or noise.\n  Freeze it (layer.trainable = False), or use GroupNormalization.",
}
"""Operations that a layer without a rule must not have, and what to do about them."""


Gradients = Callable[[list[tf.Tensor]], Contributions]
"""From the gradients at the outputs of a layer's call to what it adds to the gradients of the weights."""


def _differentiate_examples(unit: Any, call_args: Any, original: Any, outputs: list[Any]) -> Gradients:
    """Return how a layer contributes that is called again with each example of what it was fed.

    Args:
      unit: the layer.
      call_args: its arguments in the batch's call, positional and by name.
      original: its own `call`.
      outputs: all floating outputs [batch, ...] of the batch's call.
    """
    size, eager = outputs[0].shape[0], not hasattr(outputs[0], "graph")
    arguments, variables = tf.nest.flatten(call_args), unit.trainable_weights
    # What has a row for each example; what is merely as long `_make_assertions` finds out. While a graph is built, what
    # is no part of it cannot depend on the batch.
    places = [
        place
        for place, value in enumerate(arguments)
        if tf.is_tensor(value)
        and (eager or hasattr(value, "graph"))
        and value.shape.rank
        and value.shape[0] == size
    ]
    masks = [
        getattr(arguments[place], "_keras_mask", None) for place in places
    ]  # Keras keeps it with a tensor
    rows = [
        (arguments[place],) if mask is None else (arguments[place], mask)
        for place, mask in zip(places, masks, strict=True)
    ]

    def call(values: list[tuple[tf.Tensor, ...]]) -> list[tf.Tensor]:
        """Return the floating outputs for other values of what moves with the batch, each with its mask."""
        flat = [*arguments]
        for place, (row, *mask) in zip(places, values, strict=True):
            flat[place] = tf.identity(row)
            if mask:
                flat[place]._keras_mask = mask[0]
        args, kwargs = tf.nest.pack_sequence_as(call_args, flat)
        with _unrolling(unit, values[0][0].shape):
            return _get_floating(original(*args, **kwargs))

    def compute_gradients(example: Any) -> Any:
        batch, at_outputs = tf.nest.map_structure(lambda value: value[tf.newaxis], example)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            values = call(batch)
        zero = tf.UnconnectedGradients.ZERO
        gradients = tape.gradient(values, variables, at_outputs, unconnected_gradients=zero)
        return [*map(tf.convert_to_tensor, gradients)], [value[0] for value in values]

    def compute_contributions(gradients: list[tf.Tensor]) -> Contributions:
        first = tf.nest.map_structure(lambda value: value[:1], rows)
        _refuse_side_effects(unit, tf.function(call).get_concrete_function(first))
        dtypes = tf.nest.map_structure(lambda value: value.dtype, (variables, outputs))
        per_example, values = _map_rows(compute_gradients, (rows, gradients), dtypes)
        with tf.control_dependencies(_make_assertions(unit, values, outputs)):
            return [
                (variable, as_formed(tf.ensure_shape(value, [size, *variable.shape])))
                for variable, value in zip(variables, per_example, strict=True)
            ]

    return compute_contributions


def _make_assertions(unit: Any, single_outputs: list[tf.Tensor], outputs: list[tf.Tensor]) -> list[Any]:
    """Assert that the layer gave each example alone what it gave it within the batch."""
    message = (
        f"{_describe(unit)} gives an example alone something else than within the batch: take out what mixes the"
        " examples, or arguments without a batch axis that are as long as a batch."
    )
    checks = []
    for value, target in zip(single_outputs, outputs, strict=True):
        is_finite = tf.math.is_finite(target) & tf.math.is_finite(value)
        error, scale = (tf.reduce_max(tf.abs(tf.where(is_finite, x, 0.0))) for x in (value - target, target))
        checks.append(tf.debugging.assert_less_equal(error, 1e-3 * scale + 1e-6, message=message))
    return [check for check in checks if check is not None]


def _describe(layer: Any) -> str:
    return f"{layer.name!r} ({type(layer).__name__})"


def _get_floating(structure: Any) -> list[tf.Tensor]:
    """Return the floating tensors in what a layer gave."""
    return [value for value in tf.nest.flatten(structure) if tf.is_tensor(value) and value.dtype.is_floating]


def _map_rows(function: Any, rows: Any, dtypes: Any) -> Any:
    """Return `function` of each row, in one go where TensorFlow can, else one after the other."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel("CRITICAL")  # pages about each operation that does not vectorize
    try:
        return tf.vectorized_map(function, rows, fallback_to_while_loop=False)
    except (TypeError, ValueError, NotImplementedError):
        return tf.map_fn(function, rows, fn_output_signature=dtypes)
    finally:
        logger.setLevel(level)


def has_operation(function: Any, pattern: str) -> bool:
    """Return whether a concrete function has an operation of such a name (a regular expression), or calls one."""
    definition = function.graph.as_graph_def()
    nodes = [*definition.node, *(node for inner in definition.library.function for node in inner.node_def)]
    return any(re.search(pattern, node.op) for node in nodes)


def _refuse_side_effects(unit: Any, function: Any) -> None:
    for pattern, problem in _SIDE_EFFECTS.items():
        if has_operation(function, pattern):
            raise PrivacyError(f"{_describe(unit)} has no rule of its own and {problem}")


def _unrolling(unit: Any, shape: Any) -> Any:
    """Return a block in which recurrent layers write out their loop over time, where that is short."""
    is_short = len(shape) > 1 and shape[1] is not None and shape[1] <= LONGEST_UNROLLED
    layers = [layer for layer in unit._flatten_layers() if isinstance(layer, keras.layers.RNN) and is_short]
    loops = {"unroll": True, "_could_use_gpu_kernel": False}
    return _replacing(
        [(layer, name, loops[name]) for layer in layers for name in loops if name in vars(layer)]
    )


@contextlib.contextmanager
def _replacing(attributes: list[tuple[Any, str, Any]]) -> Iterator[None]:
    """Replace attributes of objects in this block; not by setattr, since Keras would track what layers are given."""
    originals = [(vars(layer), name, vars(layer).get(name, _MISSING)) for layer, name, _ in attributes]
    try:
        for layer, name, value in attributes:
            vars(layer)[name] = value
        yield
    finally:
        for namespace, name, value in originals:
            namespace.pop(name, None)
            if value is not _MISSING:
                namespace[name] = value


_MISSING = object()


@dataclass(eq=False)
class _Recorder:
    """Notes the calls of a model's layers while it is open.

    Attributes:
      model: built.
      tape: that records, and watches no variables.
      batch_size: examples; None: any number.
      leaves: layers that are taken as one, not looked into.
      calls: the outputs that are differentiated at (the pre-activation of a layer with a rule, else all that a layer
        gave), and what follows from the gradients there.
      parents: layers inside of which a weight was used where nobody could note it, so that they must be taken whole.
      problems: what cannot be told apart by example.
    """

    model: Any
    tape: Any
    batch_size: int | None
    leaves: list[Any]
    calls: list[tuple[list[Any], Gradients]] = field(default_factory=list)
    parents: list[Any] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    _callers: list[tuple[Any, Any]] = field(default_factory=list)
    _is_recording: bool = True

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Let the layers note their calls in this block; their own `call` is back afterwards, however it ends."""
        self._trained_refs = {weight.ref() for weight in self.model.trainable_weights}
        self._autograph = tf.__internal__.autograph.control_status_ctx()
        self._graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        units, containers = partition(self.model, self.leaves)
        convert = tf.autograph.experimental.do_not_convert
        calls = [(layer, functools.partial(self._call_unit, layer, layer.call)) for layer in units]
        calls += [(layer, functools.partial(self._call_container, layer, layer.call)) for layer in containers]
        with _replacing([(layer, "call", convert(call)) for layer, call in calls]):
            yield

    def _call_container(self, layer: Any, original: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a layer that only calls others, and see whether that is so."""
        with self._reading(layer) as get_reads:
            outputs = self._convert(layer, original)(*args, **kwargs)
        if get_reads() and self._is_recording:
            self.parents.append(layer)
        return outputs

    def _call_unit(self, unit: Any, original: Any, *args: Any, **kwargs: Any) -> Any:
        if not self._is_recording or _is_scratch() or not self._is_batch(unit, (args, kwargs)):
            return original(*args, **kwargs)
        rule = rule_of(unit, len(args[0].shape)) if args and isinstance(args[0], tf.Tensor) else None
        if rule is not None and unit not in self.leaves:
            return self._call_rule(unit, rule, original, *args, **kwargs)
        original = self._convert(unit, original)
        # What it calls is part of it.
        with _replacing([(self, "_is_recording", False)]), self._reading(unit) as get_reads:
            result = original(*args, **kwargs)
        own_refs = {weight.ref() for weight in unit.trainable_weights}
        if get_reads() - own_refs:
            self.parents.append(self._find_caller())
        outputs = _get_floating(result)
        if not all(self._is_batch(unit, value) for value in outputs):
            return result
        self._record(outputs, _differentiate_examples(unit, (args, kwargs), original, outputs))
        return result

    def _call_rule(self, unit: Any, rule: Rule, original: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        activation = getattr(unit, "activation", None)
        with _replacing([(unit, "activation", keras.activations.linear)]), self._reading(unit):
            preactivation = original(inputs, *args, **kwargs)
        # No branch of a rule depends on a tensor: AutoGraph has nothing to convert in it, and stumbles over some.
        derive = tf.autograph.experimental.do_not_convert(rule)
        self._record([preactivation], lambda gradients: derive(unit, inputs, gradients[0]))
        return preactivation if activation is None else activation(preactivation)

    def _record(self, outputs: list[Any], contributions: Gradients) -> None:
        if any(getattr(value, "graph", None) is not self._graph for value in outputs):
            # Inside of a loop, or of a tf.function of its own: nobody can differentiate there from outside.
            self.parents.append(self._find_caller())
            return
        for value in outputs:
            self.tape.watch(value)
        self.calls.append((outputs, contributions))

    def _find_caller(self) -> Any:
        return self._callers[-1][0] if self._callers else self.model

    @contextlib.contextmanager
    def _reading(self, layer: Any) -> Iterator[Callable[[], set[Any]]]:
        """Yield a function: which trained weights are read in this block, other than by layers that it calls."""
        # A tape tells which variables it saw; the one of the caller must not see these.
        pausing = self._callers[-1][1].stop_recording() if self._callers else contextlib.nullcontext()
        with pausing, tf.GradientTape() as tape:
            self._callers.append((layer, tape))
            try:
                yield lambda: {variable.ref() for variable in tape.watched_variables()} & self._trained_refs
            finally:
                self._callers.pop()

    def _convert(self, layer: Any, original: Any) -> Any:
        """Convert as Keras does with the `call` of a user's own layer, and let it do so with those that are within."""
        if type(layer).__module__.startswith(keras.__name__):

            def with_status(*args: Any, **kwargs: Any) -> Any:
                with self._autograph:
                    return original(*args, **kwargs)

            return with_status
        return tf.__internal__.autograph.tf_convert(original, self._autograph)

    def _is_batch(self, unit: Any, structure: Any) -> bool:
        """Return whether the first axis is the examples'; a merged one would make several rows of one example."""
        tensors = [value for value in tf.nest.flatten(structure) if tf.is_tensor(value)]
        is_dense = tensors and all(isinstance(value, tf.Tensor) for value in tensors)
        rows = tensors[0].shape[:1] if is_dense else None
        # Where the batch may have any size `clipped_sum` asserts that all have as many rows, when it runs.
        if rows and rows[0] == self.batch_size:
            return True
        text = "sparse or ragged tensors" if not is_dense else f"{rows[0]} rows" if rows else "one number"
        self.problems.append(
            f"{_describe(unit)} takes or gives {text} for {self.batch_size} examples. Keep the batch as the first axis,"
            " dense (to_dense(), to_tensor()) and of known size: Dense takes [batch, time, ...] as it is."
        )
        return False


def partition(model: Any, leaves: list[Any]) -> tuple[list[Any], list[Any]]:
    """Return the layers whose calls are noted, and those that only call others.

    Each trainable weight belongs to one of the former.

    Args:
      model: built.
      leaves: layers to be taken as one.
    """
    units: list[Any] = []
    containers: list[Any] = []

    def visit(layer: Any) -> None:
        if not layer.trainable_weights or any(layer is other for other in [*units, *containers]):
            return
        inner = [*layer._flatten_layers(include_self=False, recursive=False)]
        loops = (keras.layers.RNN, keras.layers.Wrapper, keras.layers.StackedRNNCells)
        # A container has no weight of its own, and calls others where they can be noted.
        is_container = inner and not layer._trainable_weights and not isinstance(layer, loops)
        if layer in leaves or rule_of(layer) is not None or not is_container:
            units.append(layer)
            return
        containers.append(layer)
        for sublayer in inner:
            visit(sublayer)

    visit(model)
    return units, containers


def _is_scratch() -> bool:
    """Return whether Keras is only finding out shapes."""
    return not tf.executing_eagerly() and tf.compat.v1.get_default_graph().name.endswith("_scratch_graph")


@dataclass(frozen=True, kw_only=True, eq=False)
class Clipped:
    """The clipped sum of a batch, and what came with it.

    Attributes:
      gradients: one for each of the model's trainable variables: the sum over the examples of
        min(1, C / norm) times the example's gradient, dense; without the gradients of regularisers.
      norms: float32 [batch], of the examples' gradients over all variables, unclipped.
      losses: float32 [batch], times the weights.
      outputs: what the model gave.
      at_layers: of each call of a layer, the gradients of the sum of the losses at its outputs [batch, ...].
    """

    gradients: list[tf.Tensor]
    norms: tf.Tensor
    losses: tf.Tensor
    outputs: tf.Tensor
    at_layers: list[list[tf.Tensor]]


def differentiate(
    model: keras.Model,
    inputs: Any,
    labels: tf.Tensor,
    weights: tf.Tensor | None,
    per_example_loss: PerExampleLoss,
) -> tuple[list[tuple[list[tf.Tensor], Gradients]], list[list[tf.Tensor]], tf.Tensor, tf.Tensor]:
    """Run the model forwards and backwards, as far as all examples go together.

    Args:
      model, inputs, labels, weights, per_example_loss: as of `clipped_sum`.

    Returns:
      The calls of the layers with trainable weights as `_Recorder` notes them, the gradients of the sum of the losses
      at their outputs [batch, ...], the losses float32 [batch], and what the model gave.

    Raises:
      PrivacyError: a layer's gradients cannot be told apart by example.
    """
    leaves: list[Any] = []
    while True:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            recorder = _Recorder(model, tape, tf.nest.flatten(inputs)[0].shape[0], leaves)
            with recorder.recording():
                outputs = model(inputs, training=True)
            values = per_example_loss(labels, outputs)
            values = values if weights is None else values * tf.cast(weights, values.dtype)
            total = tf.reduce_sum(values)
        if recorder.problems:
            listed = "\n  ".join(dict.fromkeys(recorder.problems))
            raise PrivacyError(f"Gradients cannot be told apart by example:\n  {listed}")
        if not recorder.parents:
            break
        # A weight that is used where nobody notes it: the layer around it is taken whole, and all is done again.
        leaves = [*leaves, *recorder.parents]
    sources = [outputs for outputs, _ in recorder.calls]
    gradients = tape.gradient(total, sources, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return recorder.calls, tf.nest.map_structure(tf.convert_to_tensor, gradients), values, outputs


def clipped_sum(
    model: keras.Model,
    inputs: Any,
    labels: tf.Tensor,
    weights: tf.Tensor | None,
    *,
    per_example_loss: Callable[[Any, Any], tf.Tensor],
    l2_norm_clip: float | tf.Tensor,
    divisor: float = 1.0,
) -> Clipped:
    """Return the sum of the examples' clipped gradients.

    Args:
      model: built; each example must be computed by itself (see `tfkit.privacy.validation`).
      inputs: [batch, ...], as the model takes them.
      labels: [batch, ...].
      weights: float32 [batch] that multiply the losses before anything is clipped; 0 is padding. None: all 1.
      per_example_loss: from labels and outputs to float32 [batch].
      l2_norm_clip: C, above 0.
      divisor: of the gradients, after they are clipped: a pass over them less than dividing the sums.

    Returns:
      See `Clipped`. An example whose gradient is not finite contributes nothing.

    Raises:
      PrivacyError: a layer's gradients cannot be told apart by example.
    """
    calls, at_outputs, values, outputs = differentiate(model, inputs, labels, weights, per_example_loss)
    by_variable: dict[Any, list[Any]] = {variable.ref(): [] for variable in model.trainable_variables}
    for (_, contribute), gradients in zip(calls, at_outputs, strict=True):
        for variable, contribution in contribute(gradients):
            if variable.ref() in by_variable:
                by_variable[variable.ref()].append(contribution)
    contributions = {ref: combine(parts) for ref, parts in by_variable.items() if parts}
    squares = tf.add_n([contribution.squared_norm() for contribution in contributions.values()])
    if values.shape[0] is None:
        text = f"a layer of {model.name!r} has other rows than the examples: keep the batch as the first axis"
        assertion = tf.debugging.assert_equal(tf.shape(squares), tf.shape(values), message=text)
        with tf.control_dependencies([assertion]):
            squares = tf.identity(squares)
    norms, is_finite = tf.sqrt(squares), tf.math.is_finite(squares)
    factors = tf.where(is_finite, tf.minimum(1.0, l2_norm_clip / tf.maximum(norms, 1e-30)), 0.0) / divisor
    sums = tf.cond(
        tf.reduce_all(is_finite),
        lambda: [item.weighted_sum(factors) for item in contributions.values()],
        # 0 times a number that is not finite is not 0.
        lambda: [item.mask(is_finite).weighted_sum(factors) for item in contributions.values()],
    )
    by_ref = {ref: tf.zeros(ref.deref().shape, ref.deref().dtype) for ref in by_variable}
    gradients = [*(by_ref | dict(zip(contributions, sums, strict=True))).values()]
    return Clipped(gradients=gradients, norms=norms, losses=values, outputs=outputs, at_layers=at_outputs)

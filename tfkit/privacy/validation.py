"""Find whatever stands against an epsilon for a model, all at once, before anything is spent.

What only shows when a model runs is found out on a few random examples; the model is left as it was. A model that
cannot be trained privately because of its batch normalisation is made into one that can.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tfkit.data.splits import listed
from tfkit.environment.foreign import (
    compiled_metrics,
    knows_its_layers,
    modules,
    random_generators,
    repeated_draws,
)
from tfkit.environment.packages import first_line
from tfkit.environment.stack import keras, tf
from tfkit.errors import PrivacyError
from tfkit.privacy.clipping import (
    DRAWS,
    PerExampleLoss,
    clipped_sum,
    differentiate,
    has_operation,
    per_example_loss,
    weight_penalties,
)
from tfkit.privacy.dp_model import DPModelSum, find_problems

EXAMPLES = 3  # odd: examples that meet in pairs, or from both ends, cannot be overlooked
MORE = 16  # examples of a larger batch: a multiple of what samples are padded to
SHUFFLES = 20  # draws of random numbers, of which each may leave the examples apart by chance
SAME = 1e-5  # of the largest number: two outputs of the same operations
SAME_GRADIENT = 1e-3  # of the largest number: two ways to sum up the same gradient
_NOT_DISTRIBUTED = tf.distribute.get_strategy()
PUBLIC = ("epsilon", "l2_norm_clip", "learning_rate", "lr")
"""Numbers of an epoch that tell nothing of the training examples, or no more than is accounted."""


def check(model: keras.Model, **settings: Any) -> None:
    """Raise if no epsilon would hold for the training of this model.

    Args:
      model: as of `problems`.
      settings: as of `problems`.

    Raises:
      PrivacyError: all that stands against it, each with its fix.
    """
    reasons = problems(model, **settings)
    if reasons:
        count = "a problem" if len(reasons) == 1 else f"{len(reasons)} problems"
        numbered = [f"  {number}. {problem}".replace("\n", "") for number, problem in enumerate(reasons, 1)]
        raise PrivacyError(
            "\n".join([f"No epsilon would hold for {model.name!r}, which has {count}:", *numbered])
        )


def problems(
    model: keras.Model,
    *,
    callbacks: Sequence[Any] = (),
    example_spec: tf.TensorSpec | None = None,
    label_spec: tf.TensorSpec | None = None,
    engine: str = "tfkit",
) -> list[str]:
    """Return what stands against an epsilon for the training of this model.

    Dropout is no problem: its masks know nothing of the data. Frozen layers are none, whatever they are. A frozen
    layer, or weights to begin with, that were made from the training examples without privacy cannot be recognised.

    Args:
      model: compiled; it is called on three random examples, and left as it was.
      callbacks: that the training would get.
      example_spec: of one example, without the batch; None: taken from the model.
      label_spec: of what the loss takes for one; None: a class number, int64 [].
      engine: that is to clip, as of `DPSGD`.

    Returns:
      A sentence or two for each, with what to do about it.
    """
    reasons = [*_check_compile(model), *_check_callbacks(callbacks)]
    try:
        if example_spec is None and not getattr(model, "inputs", None):
            raise ValueError("nobody knows the shape of an example")
        if example_spec is not None and not model.built:
            model(tf.zeros([EXAMPLES, *example_spec.shape], example_spec.dtype))
    except Exception as error:
        shape = getattr(example_spec, "shape", "?")
        return [
            f"It does not take examples of shape {shape} ({first_line(error)}). Begin it with keras.Input(shape), or"
            " say example_spec=tf.TensorSpec(shape).",
            *reasons,
        ]
    reasons += _check_layers(model)
    of_tf_privacy = engine == "tensorflow_privacy"
    loss, obstacles = None, [*_check_separable(model), *(find_problems(model) if of_tf_privacy else ())]
    if model.optimizer is not None:
        try:
            loss = per_example_loss(model)
        except PrivacyError as error:
            obstacles.append(str(error))
    if not model.trainable_weights:
        obstacles.append("It has no trainable weights. Set trainable = True on a layer.")
    try:
        with _restoring(model) as run:
            batch = _make_inputs(model, example_spec), _make_labels(label_spec)
            run_problems = [*_check_run(model, run, loss, batch, separable=not obstacles)]
            if of_tf_privacy and loss is not None and not obstacles and not run_problems:
                run_problems += _check_dp_model(model, run, loss, batch)
    except Exception as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        run_problems = [f"It cannot be tried on {EXAMPLES} random examples ({reason}). Mend that first."]
    return [*reasons, *obstacles, *run_problems]


def _make_labels(label_spec: tf.TensorSpec | None) -> tf.Tensor:
    """Return 1 for the first example and 0 for the others: as a rule class numbers, int64 [batch]."""
    spec = label_spec or tf.TensorSpec([], tf.int64)
    return tf.concat(
        [tf.ones([1, *spec.shape], spec.dtype), tf.zeros([EXAMPLES - 1, *spec.shape], spec.dtype)], 0
    )


def _join(names: Sequence[str]) -> str:
    """Return a list in a sentence, which does not grow with the model."""
    return listed([*map(repr, names)])


def _check_compile(model: keras.Model) -> Iterator[str]:
    """Yield what is wrong with what compile() was given."""
    kind = type(model.optimizer)
    if model.optimizer is None:
        yield "It is not compiled. Call model.compile(optimizer, loss)."
    elif issubclass(kind, keras.mixed_precision.LossScaleOptimizer) or any(
        "tensorflow_privacy" in parent.__module__ for parent in kind.__mro__
    ):
        yield (
            f"Its optimizer is a {kind.__name__}, which scales or clips gradients itself. Use the ordinary one within,"
            " such as keras.optimizers.Adam, and the float32 policy: with the noise of tfkit that is DP-Adam."
        )
    steps = getattr(model, "_steps_per_execution", None)  # a variable of the strategy's, or a number
    if steps is not None and (count := int(tf.convert_to_tensor(steps))) != 1:
        yield f"steps_per_execution is {count}, which wants numbers of each step. Leave it out of compile()."
    steps_of_keras = ("train_step", "compute_loss", "make_train_function")
    names = [name for name in steps_of_keras if getattr(type(model), name) is not getattr(keras.Model, name)]
    if names:
        yield (
            f"{type(model).__name__} has its own {' and '.join(names)}, which private training does not call. Put what"
            " it does into call() and into the loss."
        )


def _check_layers(model: keras.Model) -> Iterator[str]:
    """Yield what is wrong with single layers, those of one kind together."""
    names = [layer.name for layer in batch_normalizations(model)]
    if names:
        yield (
            f"{_join(names)} (BatchNormalization) computes with statistics of the batch, without noise."
            " Freeze it (layer.trainable = False), or use tfkit.privacy.make_private_safe(model)."
        )
    names = sorted({layer.name for layer in model._flatten_layers() if _is_adapted(layer)})
    if names:
        yield (
            f"{_join(names)} was adapted to data, and would publish statistics without noise. Give it public ones"
            " (mean=..., variance=..., vocabulary=...), or use LayerNormalization."
        )


def _is_adapted(layer: Any) -> bool:
    """Return whether a layer has taken statistics from data; copies and loaded ones have them, and do not say so."""
    if getattr(layer, "is_adapted", False):
        return True
    if isinstance(layer, keras.layers.Normalization) and layer.built and layer.input_mean is None:
        return bool(np.any(layer.adapt_mean.numpy() != 0) or np.any(layer.adapt_variance.numpy() != 1))
    if isinstance(layer, keras.layers.Discretization):
        return layer.built and layer.input_bin_boundaries is None and layer.summary.numpy().size > 0
    lookups = (keras.layers.StringLookup, keras.layers.IntegerLookup)
    has_vocabulary = getattr(layer, "input_vocabulary", None) is not None
    return (
        isinstance(layer, lookups)
        and not has_vocabulary
        and bool(layer.get_vocabulary(include_special_tokens=False))
    )


def _check_separable(model: keras.Model) -> Iterator[str]:
    """Yield what is known to make gradients inseparable by example, before the model is run."""
    layers = {id(layer): layer for layer in model._flatten_layers()}.values()
    names = [layer.name for layer in layers if isinstance(layer, keras.layers.RNN) and layer.stateful]
    if names:
        yield f"{_join(names)} is stateful: the examples of one batch meet those of the next. Set stateful=False."
    hub = [layer.name for layer in layers if type(layer).__name__ == "KerasLayer" and layer.trainable_weights]
    if hub:
        yield (
            f"{_join(hub)} (hub.KerasLayer) is trainable, and nobody can see what it does with a batch."
            " Set trainable=False and train on its features, or use a bundled backbone (python -m tfkit models)."
        )
    kinds = {
        layer.name: {layer.compute_dtype or "float32", *(weight.dtype.base_dtype.name for weight in weights)}
        for layer in layers
        if (weights := layer._trainable_weights if layer.trainable else [])
    }
    if names := [name for name in kinds if kinds[name] != {"float32"}]:
        yield (
            f"{_join(names)} computes in {' and '.join(sorted(set().union(*kinds.values()) - {'float32'}))}; norms and"
            ' noise are made for float32. Make the model under keras.mixed_precision.set_global_policy("float32").'
        )


def _check_callbacks(callbacks: Sequence[Any]) -> Iterator[str]:
    """Yield callbacks that look at the training examples' own numbers."""
    for callback in callbacks:
        monitor = getattr(callback, "monitor", None)
        of_training = isinstance(monitor, str) and not monitor.startswith("val_") and monitor not in PUBLIC
        unaccounted = (keras.callbacks.EarlyStopping, keras.callbacks.BackupAndRestore)
        # A checkpoint of every epoch only has a monitor.
        if isinstance(callback, unaccounted) or (of_training and getattr(callback, "save_best_only", True)):
            yield (
                f"{type(callback).__name__} decides by {monitor!r}, or repeats steps, which epsilon does not cover."
                ' Monitor "val_loss"; leave EarlyStopping and BackupAndRestore out: tfkit.fit resumes by itself.'
            )


_Run = Callable[..., tuple[Any, list[tuple[str, np.ndarray]]]]
_Batch = tuple[Any, tf.Tensor]
"""Inputs, as the model takes them, and labels."""


@contextlib.contextmanager
def _restoring(model: keras.Model) -> Iterator[_Run]:
    """Try a model in this block: no layer normalises by the batch, no weights are zeros, behind which nothing shows.

    Yields:
      What calls a function as in training: in a graph, where loops are not unrolled, in each replica, from the same
      state and with the same random numbers each time; `draws` times, where it draws any. It returns what the first
      replica gives, where it says `draws` a list of all times, and the names and the values of the model's weights
      thereafter.
    """
    model_weights = _get_replica_values(model.weights)
    recurrent = [layer for layer in modules(model) if isinstance(layer, keras.layers.RNN)]
    states = tf.nest.flatten([layer.states for layer in recurrent if layer.stateful])
    states += [generator.state for generator in random_generators(model).values()]
    weights = [*model_weights, *_get_replica_values([state for state in states if state is not None])]
    initial_values = [weight.numpy() for weight in weights]
    normalizations, strategy = batch_normalizations(model), model.distribute_strategy

    def run(function: Callable[[], Any], draws: int = 0) -> tuple[Any, list[tuple[str, np.ndarray]]]:
        # AutoGraph takes a second to convert ours, for nothing: it converts users' layers and losses as in training.
        @tf.autograph.experimental.do_not_convert
        def call(status: Any) -> Any:
            with status:
                return function()

        def trace() -> Any:
            # Of this function only: the seed of the process is the user's.
            tf.compat.v1.set_random_seed(1)
            status = tf.__internal__.autograph.control_status_ctx()
            return call(status) if strategy is _NOT_DISTRIBUTED else strategy.run(call, (status,))

        concrete = tf.function(trace).get_concrete_function()  # calls of new functions would be warned of
        times = draws if draws and has_operation(concrete, DRAWS) else 1
        first = lambda value: strategy.experimental_local_results(value)[0]  # noqa: E731
        try:
            results = [tf.nest.map_structure(first, concrete()) for _ in range(times)]
            state = [(weight.name, weight.numpy()) for weight in model_weights]
        finally:
            keras.backend.batch_set_value(zip(weights, values, strict=True))
        return results if draws else results[0], state

    try:
        for weight in model.trainable_weights:
            value = weight.numpy()
            if value.size and value.min() == value.max():
                noise = np.random.default_rng(0).normal(size=value.shape, scale=0.1)
                weight.assign(value + noise.astype(value.dtype))
        for layer in normalizations:
            layer.trainable = False
        values = [weight.numpy() for weight in weights]
        yield run
    finally:
        for layer in normalizations:
            layer.trainable = True
        keras.backend.batch_set_value(zip(weights, initial_values, strict=True))


def _check_run(
    model: keras.Model, run: _Run, loss: PerExampleLoss | None, batch: _Batch, *, separable: bool
) -> Iterator[str]:
    """Yield what stands against an epsilon when the model runs as in training."""
    inputs, labels = batch
    added_count = 0

    def forward(values: Any) -> Any:
        def call() -> Any:
            nonlocal added_count
            outputs = model(values, training=True)
            penalties = [penalty() for penalty in weight_penalties(model)]
            added_count = len(model.losses) - sum(penalty is not None for penalty in penalties)
            return outputs

        return run(call, draws=SHUFFLES)

    first, state = forward(inputs)
    second, other_state = forward(tf.nest.map_structure(_replace_first, inputs))
    rest, other_rest = (tf.nest.map_structure(lambda value: value[1:], result) for result in (first, second))
    if not _is_close(rest, other_rest):
        if _is_close(first, forward(inputs)[0]):
            yield (
                "What it says of one example changes when another example of the batch does. Take operations over the"
                " first axis (a mean over the batch, contrastive terms, a reshape or transposition) out."
            )
        else:
            yield (
                "It draws random numbers that no seed repeats: whether examples meet in it cannot be seen. Draw them"
                " with tf.random or by Keras layers."
            )
        return
    first = first[0]
    pairs = zip(state, other_state, strict=True)
    if names := [name for (name, old), (_, new) in pairs if not np.array_equal(old, new, equal_nan=True)]:
        yield (
            f"{_join(names)} takes in a statistic of the examples when the model is called in training, without"
            " clipping or noise. Freeze its layer (layer.trainable = False), or call it with training=False."
        )
    if added_count > 0:
        layers = model._flatten_layers()
        names = sorted({layer.name for layer in layers if getattr(layer, "activity_regularizer", None)})
        by = f"the activity_regularizer of {_join(names)}" if names else "add_loss()"
        yield f"It has losses of the examples by {by}, which are not clipped. Put them into the loss."
    if not tf.is_tensor(first):
        yield "It has several outputs. Join them into one, with one loss."
    elif loss is not None:
        if problem := _check_loss(loss, labels, first):
            yield problem
        elif separable:
            yield from _check_gradients(model, run, loss, batch)


def _check_gradients(model: keras.Model, run: _Run, loss: PerExampleLoss, batch: _Batch) -> Iterator[str]:
    """Yield where the sum of unclipped gradients is not the gradient of the sum."""
    inputs, labels = batch
    variables = model.trainable_variables
    errors: list[str] = []

    def keep_error(function: Callable[[], Any]) -> Any:
        try:
            return function()
        except PrivacyError as error:
            errors[:] = [str(error)]  # tf.function makes another message of it
            raise

    def sum_clipped() -> Any:
        sum_all = functools.partial(clipped_sum, per_example_loss=loss, l2_norm_clip=1e30)
        clipped = keep_error(lambda: sum_all(model, inputs, labels, None))
        return clipped.gradients, clipped.outputs, clipped.at_layers

    def take_two(*values: Any) -> Any:
        return tf.nest.map_structure(lambda value: value[:2], values)

    def run_two(inputs: Any, labels: tf.Tensor) -> Any:
        """Return what the model gives for the first two examples of a batch, and the gradients of its layers."""

        def call() -> Any:
            _, at_layers, _, outputs = keep_error(lambda: differentiate(model, inputs, labels, None, loss))
            return take_two(outputs, at_layers)

        return run(call)[0]

    def sum_plain() -> Any:
        with tf.GradientTape() as tape:
            outputs = model(inputs, training=True)
            total = tf.reduce_sum(loss(labels, outputs))
        gradients = tape.gradient(total, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return [*map(tf.convert_to_tensor, gradients)], outputs

    failure: Exception | None = None
    try:
        # Of layers of Keras: others would be drawn for another number of examples.
        with repeated_draws(model):
            try:
                (gradients, outputs, at_layers), _ = run(sum_clipped)
                outputs_of_two, gradients_of_two = take_two(outputs, at_layers)
            except (PrivacyError, tf.errors.InvalidArgumentError) as error:
                failure = error  # which is said if the layers' gradients, without the sum, show nothing else
                outputs_of_two, gradients_of_two = run_two(inputs, labels)
            among_more = run_two(*tf.nest.map_structure(_extend_batch, (inputs, labels)))
        if not _is_close(outputs_of_two, among_more[0]):
            yield (
                "What it says of one example changes with the number of examples in the batch, which is private: one"
                " more would change all their gradients. Take tf.shape(inputs)[0] out of what is computed, and draw"
                " random numbers by Keras layers."
            )
            return
        if not _is_close(gradients_of_two, among_more[1], SAME_GRADIENT):
            yield (
                "The gradient of one example changes with the others of the batch, though what the model says of it"
                " does not: a tf.custom_gradient, of a layer or of the loss, takes a mean, a norm or the number of the"
                " examples. Compute it for each example."
            )
            return
        if failure is not None:
            raise failure
        with repeated_draws(model):
            (expected, same_outputs), _ = run(sum_plain)
    except (PrivacyError, tf.errors.InvalidArgumentError) as error:
        # Of an assertion the message, without the numbers.
        match = re.search(r"assertion failed: \[(.+?)\] \[", str(error))
        yield from errors or [match[1] if match else first_line(error)]
        return
    if _is_close(outputs, same_outputs) and (names := _find_unequal(variables, gradients, expected)):
        yield (
            f"The gradients of {_join(names)} for single examples do not add up to that of the batch. Take"
            " tf.shape(inputs)[0] out of what is computed, and use each weight in the call of its own layer."
        )


def _find_unequal(variables: Sequence[Any], actual: Sequence[Any], expected: Sequence[Any]) -> list[str]:
    """Return the names of the variables whose gradients are not as expected; what is not finite tells nothing."""
    largest = max(float(tf.reduce_max(tf.abs(value))) for value in expected)
    return [
        variable.name
        for variable, value, target in zip(variables, actual, expected, strict=True)
        if np.abs(value - target).max() > SAME_GRADIENT * (np.abs(target).max() + 1e-2 * largest)
    ]


def _check_dp_model(model: keras.Model, run: _Run, loss: PerExampleLoss, batch: _Batch) -> Iterator[str]:
    """Yield where TF Privacy's sum of clipped gradients is not ours: weights used twice, layers it knows half."""

    def sum_clipped(clip: float) -> Any:
        clipped = clipped_sum(model, *batch, None, per_example_loss=loss, l2_norm_clip=clip)
        return clipped.gradients, clipped.norms

    (_, norms), _ = run(lambda: sum_clipped(1.0))
    clip = max(0.5 * float(tf.reduce_min(norms)), 1e-6)
    (expected, _), _ = run(lambda: sum_clipped(clip))
    try:
        dp_model_sum = DPModelSum(model, per_example_loss=loss, l2_norm_clip=clip)
        actual, _ = run(lambda: dp_model_sum(*batch, tf.ones(EXAMPLES)))
    except Exception as error:
        yield f'TF Privacy\'s DPModel does not take this model ({first_line(error)}). Take engine="tfkit".'
        return
    if names := _find_unequal(model.trainable_variables, actual, expected):
        yield (
            f"TF Privacy's DPModel clips the gradients of {_join(names)} otherwise than each example by itself gives,"
            " so that one example could do more than the norm allows: as where weights are used twice, an Embedding has"
            ' a mask, or an activation weights. Take engine="tfkit".'
        )


def _check_loss(loss: PerExampleLoss, labels: Any, outputs: Any) -> str | None:
    """Return why the loss does not take class numbers, or does not give each example its own, whoever is beside it."""
    parts = (
        slice(1, None),
        slice(-1),
    )  # without the first, of another class, and without the last, of the same
    try:
        values, partial_values = loss(labels, outputs), [loss(labels[part], outputs[part]) for part in parts]
    except (PrivacyError, ValueError, TypeError, tf.errors.OpError) as error:
        return (
            f"Its loss does not take the labels (as a rule class numbers int64 [batch]) beside outputs {outputs.shape}"
            f" ({first_line(error)})."
            ' Use one with a value for each example, such as "sparse_categorical_crossentropy".'
        )
    if _is_close([values[part] for part in parts], partial_values):
        return None
    return (
        "The loss of one example changes when another example of the batch does, or is not there: clipping one gradient"
        " would not bound what one example can do. Take means over the batch, the number of its examples, the counts of"
        " its classes and pairs of examples out of the loss."
    )


def _replace_values(values: tf.Tensor) -> tf.Tensor:
    return values + " else" if values.dtype == tf.string else 1 - values


def _replace_first(values: tf.Tensor) -> tf.Tensor:
    return tf.concat([_replace_values(values[:1]), values[1:]], 0)


def _extend_batch(values: tf.Tensor) -> tf.Tensor:
    """Return a larger batch, which has the first two examples of this one, and others."""
    return tf.concat([values[:2], tf.repeat(_replace_values(values[2:]), MORE - 2, 0)], 0)


def _make_inputs(model: keras.Model, example_spec: tf.TensorSpec | None) -> Any:
    """Return a batch of numbers in [0, 1), or of 0 and 1 where they are whole."""
    generator = np.random.default_rng(0)

    def draw(batch: Any) -> tf.Tensor:
        shape = [EXAMPLES, *(size or 4 for size in batch.shape[1:])]
        words = ["a word", "and another"] if batch.dtype == tf.string else [0, 1]
        values = generator.random(shape) if batch.dtype.is_floating else generator.choice(words, shape)
        return tf.constant(values, batch.dtype)

    if example_spec is not None:
        return draw(tf.TensorSpec([None, *example_spec.shape], example_spec.dtype))
    return tf.nest.map_structure(draw, model.input)


def _is_close(first: Any, second: Any, tolerance: float = SAME) -> bool:
    """Return whether two runs gave the same, but for rounding."""
    for x, y in zip(tf.nest.flatten(first), tf.nest.flatten(second), strict=True):
        x, y = np.asarray(x), np.asarray(y)
        scale = np.abs(x[np.isfinite(x)]).max(initial=0.0)
        if x.shape != y.shape or not np.allclose(x, y, rtol=0, atol=tolerance * scale, equal_nan=True):
            return False
    return True


def _get_replica_values(weights: Sequence[Any]) -> list[Any]:
    """Return each replica's own: the states of its generators are not those of the others. Vocabularies are none."""
    values = [value for weight in weights for value in getattr(weight, "values", [weight])]
    return [value for value in values if isinstance(value, tf.Variable)]


SMALLEST_GROUP = 16
"""Numbers that are normalised together at least, where there are no pixels: two would become +1 and -1."""


def batch_normalizations(model: keras.Model) -> list[Any]:
    """Return the layers of a model, nested ones too, that compute with all examples of a batch; frozen ones do not."""
    kinds = (keras.layers.BatchNormalization, keras.layers.experimental.SyncBatchNormalization)
    unique = {id(layer): layer for layer in model._flatten_layers()}
    return [layer for layer in unique.values() if isinstance(layer, kinds) and layer.trainable]


def make_private_safe(model: keras.Model, *, groups: int = 8) -> keras.Model:
    """Return the same model with GroupNormalization in the place of every BatchNormalization that is not frozen.

    Args:
      model: functional or sequential, and built; it stays as it is.
      groups: into which the channels are cut; where they do not divide, the next smaller number that does. Fewer
        where a layer is fed [batch, channels], since a group must have 16 numbers or so to be normalised.

    Returns:
      A new model with the names, the weights and the frozen layers of the old one, and with scale and shift of its
      normalisations; compiled, if the old one was, with its optimizer in the initial state. Its outputs are others:
      train it before they are used.

    Raises:
      PrivacyError: layers are called by code that cannot be changed from outside: a subclass, a wrapper.

    Source: Wu and He 2018 (arXiv:1803.08494); De et al. 2022 (arXiv:2204.13650) for its use in private training.
    """
    copies: dict[int, tuple[Any, Any]] = {}
    new = _clone(model, groups, copies)
    for old, copy in copies.values():
        _copy_weights(old, copy)
    leftovers = batch_normalizations(new)
    if leftovers:
        raise PrivacyError(
            f"{leftovers[0].name!r} (BatchNormalization) is inside of another layer, which cannot be taken apart.\n"
            "  Use GroupNormalization in that layer, or freeze it (layer.trainable = False)."
        )
    if model.optimizer is not None:
        metrics = [metric for metric in compiled_metrics(model) if metric is not None]
        kind = keras.metrics.Metric  # one counts, and begins anew; names and functions have nothing to count
        metrics = [m.from_config(m.get_config()) if isinstance(m, kind) else m for m in metrics]
        optimizer = type(model.optimizer).from_config(model.optimizer.get_config())
        new.compile(optimizer=optimizer, loss=model.loss, metrics=metrics)
    return new


def _clone(model: keras.Model, groups: int, copies: dict[int, tuple[Any, Any]]) -> keras.Model:
    """Return a new model; copies remembers what came from what, so that a layer in two places stays one layer."""
    if type(model).__module__.split(".")[0] != keras.__name__ or not knows_its_layers(model):
        raise PrivacyError(
            f"{model.name!r} is a {type(model).__name__}, a subclass, which cannot be changed from outside."
            "\n  Use GroupNormalization in it, or freeze its BatchNormalization layers (layer.trainable = False)."
        )
    if not model.built:
        raise PrivacyError(f"{model.name!r} is not built.\n  Begin it with keras.Input(shape).")

    def copy_of(layer: Any) -> Any:
        if id(layer) not in copies:
            copy = _clone(layer, groups, copies) if _is_nested(layer) else _exchange_layer(layer, groups)
            copies[id(layer)] = layer, copy
        return copies[id(layer)][1]

    return keras.models.clone_model(model, clone_function=copy_of)


def _is_nested(layer: Any) -> bool:
    return isinstance(layer, keras.Model) and bool(batch_normalizations(layer))


def _exchange_layer(layer: Any, groups: int) -> Any:
    """Return a new layer without weights: GroupNormalization for batch normalisation, and the same for all else."""
    if layer not in batch_normalizations(layer):
        return type(layer).from_config(layer.get_config())
    axis = layer.axis[0] if isinstance(layer.axis, list | tuple) else layer.axis
    channels = layer.moving_mean.shape[0]
    if len(layer.input_spec.axes) != 1:
        raise PrivacyError(
            f"{layer.name!r} (BatchNormalization) normalises along several axes, which groups cannot.\n"
            "  Use LayerNormalization there."
        )
    if layer.input_spec.ndim == 2:
        groups = max(1, min(groups, channels // SMALLEST_GROUP))
    groups = max(count for count in range(1, min(groups, channels) + 1) if channels % count == 0)
    config = keras.layers.GroupNormalization().get_config()
    config |= {name: value for name, value in layer.get_config().items() if name in config}
    return keras.layers.GroupNormalization(**{**config, "groups": groups, "axis": axis})


def _copy_weights(old: Any, new: Any) -> None:
    if _is_nested(old):
        new._trainable = old._trainable  # not by its setter, which changes all layers inside
    elif old in batch_normalizations(old):
        new.set_weights([weight.numpy() for weight in (old.gamma, old.beta) if weight is not None])
    else:
        new.set_weights(old.get_weights())
        for layer, copy in zip(old._flatten_layers(), new._flatten_layers(), strict=True):
            copy._trainable = layer._trainable

"""A model of the user's own before it is trained: what will be needed in the end is tried on one batch at the start.

Find out what a classifier's outputs are: by its last layer, by its loss, and by what it gives for a batch.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tfkit.environment.packages import first_line, is_keras_3, what
from tfkit.errors import ConfigError, DataError, TfkitError
from tfkit.metrics import Outputs, activation, from_logits, losses

if TYPE_CHECKING:
    from tfkit.data.splits import Splits
    from tfkit.environment.stack import keras, tf

SUM_TOLERANCE = 1e-3
SURE, FAR, MOVED = 0.9, 4.0, 7.0  # a probability, a logit, and by how much logits are moved

Value = Callable[[int, Any], float]
"""From a class and what the model would give, [units], to the loss."""


def gives_logits(
    model: keras.Model, given: np.ndarray, *, class_names: Sequence[str], asked: Outputs = "auto"
) -> tuple[bool, str]:
    """Return whether a model gives logits, and a sentence on what was assumed; none where it is certain.

    A loss is asked by what it does: one of logits does not change when a number is added to all of them, and any loss
    of a classifier is smaller where the model is right.

    Args:
      model: compiled.
      given: float [n, ...], what it gives for examples, before training.
      class_names: of the data.
      asked: what its user says that its outputs are.

    Raises:
      DataError: it has as many outputs as these classes do not have.
      ConfigError: its loss cannot teach it these classes, or its outputs can be read in several ways.
    """
    classes, units = len(class_names), int(np.prod(given.shape[1:], dtype=np.int64))
    if units != classes and (units, classes) != (1, 2):
        single = ", or one with a sigmoid" if classes == 2 else ""
        raise DataError(
            f"The model gives {list(given.shape[1:])} numbers an example; the data has {classes} classes"
            f" ({', '.join(class_names[:5])}{', ...' if classes > 5 else ''}).\n"
            f"  Its last layer must have {classes} units{single}."
        )
    value = _value(model, given.shape)
    ends_with, said = activation(model), [from_logits(loss) for loss in losses(model)]
    if asked == "probabilities" and not _are_probabilities(given):
        raise ConfigError(f"output is 'probabilities'; {_found(given)}.\n  {_fix(units)}")
    if False in said and value is not None and not _are_probabilities(given):
        _refuse_useless(value, model, given, logits=False)
    logits, sentence = (
        (asked == "logits", "") if asked != "auto" else _read(given, ends_with, said, value, units=units)
    )
    if value is not None:
        _refuse_useless(value, model, given, logits=logits)
    return logits, sentence


def _read(
    given: np.ndarray, ends_with: str | None, said: list[bool | None], value: Value | None, *, units: int
) -> tuple[bool, str]:
    """Return whether they are logits, and what was assumed."""
    probable = _are_probabilities(given)
    kind = "the second class's" if units == 1 else "the classes'"
    # Keras takes the numbers before this activation for its loss, whatever the loss was told.
    if ends_with == ("sigmoid" if units == 1 else "softmax"):
        if not probable:
            raise ConfigError(
                f"The model ends with {ends_with}, but {_found(given)}, which do not sum to one.\n"
                "  Take the softmax over the last axis, the classes."
            )
        return False, ""
    if True in said and (units == 1 or not probable):
        return True, ""
    if False in said and not probable:
        raise ConfigError(
            f"The loss was made for probabilities (from_logits=False), but {_found(given)}.\n  {_fix(units)}"
        )
    if units > 1 and probable:
        return False, (
            f"The model's outputs are taken for {kind} probabilities: those of {len(given)} examples are in 0..1 and"
            " sum to one."
        )
    around = {True: _is_of_logits(value, units=units), False: units == 1 and _is_of_one_probability(value)}
    if around[True] and not around[False]:
        shown = (
            "is the same for the other class where signs change"
            if units == 1
            else "ignores what is added to all"
        )
        return True, f"The model's outputs are taken for {kind} logits: its loss {shown}."
    if units == 1 and probable and (around[False] or False in said):
        return (
            False,
            f"The model's output is taken for {kind} probability: it is in 0..1, and its loss fits that.",
        )
    raise ConfigError(
        "Neither the last layer nor the loss says whether the model's outputs are probabilities or logits:"
        f' {_found(given)}.\n  {_fix(units)}\n  Or say what they are: output="probabilities" or output="logits".'
    )


def _are_probabilities(given: np.ndarray) -> bool:
    rows = given.reshape(len(given), -1).astype(np.float64)
    within = bool((rows >= 0).all() and (rows <= 1 + SUM_TOLERANCE).all())
    return within and (rows.shape[1] == 1 or bool((np.abs(rows.sum(axis=1) - 1) <= SUM_TOLERANCE).all()))


def _found(given: np.ndarray) -> str:
    first = np.round(given.reshape(len(given), -1)[0, :4].astype(np.float64), 3).tolist()
    return f"before training the model gives {first}{'' if given[0].size <= 4 else ' ...'} for an example"


def _fix(units: int) -> str:
    made, loss = (
        ("sigmoid", "BinaryCrossentropy") if units == 1 else ("softmax", "SparseCategoricalCrossentropy")
    )
    return f'Compile with keras.losses.{loss}(from_logits=True), or end the model with activation="{made}".'


def _name(loss: Any) -> str:
    return repr(
        loss if isinstance(loss, str) else getattr(loss, "name", None) or getattr(loss, "__name__", "?")
    )


def _value(model: keras.Model, shape: Sequence[int]) -> Value | None:
    """The loss of a model, called as Keras calls it; None where its own test_step computes one.

    Raises:
      ConfigError: it has none.
    """
    from tfkit.environment.stack import keras, tf

    found, stock = losses(model), keras.Model
    if not found:
        if type(model).test_step is not stock.test_step or type(model).compute_loss is not stock.compute_loss:
            return None
        raise ConfigError(
            "The model is compiled without a loss: nothing would compare its outputs with the labels.\n"
            '  model.compile(optimizer, loss="sparse_categorical_crossentropy"); add_loss() may add to it.'
        )
    loss = keras.losses.get(found[0]) if isinstance(found[0], str) else found[0]
    if isinstance(loss, type):
        raise ConfigError(
            f"The loss {loss.__name__} is a class.\n  Make an object of it: loss={loss.__name__}()."
        )
    own_call = getattr(type(loss), "call", None)
    function = loss.call if own_call not in (None, keras.losses.Loss.call) else loss

    def value(label: int, row: Any) -> float:
        outputs = tf.constant(np.broadcast_to(np.reshape(row, shape[1:]), shape), tf.float32)
        labels = tf.fill([shape[0], 1] if len(shape) == 2 else [shape[0]], np.int64(label))
        try:
            return float(tf.reduce_mean(tf.cast(function(labels, outputs), tf.float32)))
        except Exception as error:
            raise ConfigError(
                f"The loss {_name(found[0])} {_takes_no_numbers(shape)} ({type(error).__name__}: {first_line(error)})."
                f"\n  {_right_loss(shape)}"
            ) from error

    return value


def _rows(units: int, *, logits: bool) -> dict[int, np.ndarray]:
    """Return what a model gives that is sure of a class: for the first, the second and the last."""
    if units == 1:
        return {0: np.array([-FAR if logits else 1 - SURE]), 1: np.array([FAR if logits else SURE])}
    low, high = (-FAR / 2, FAR / 2) if logits else ((1 - SURE) / (units - 1), SURE)
    return {label: np.where(np.arange(units) == label, high, low) for label in sorted({0, 1, units - 1})}


def _teaches(value: Value, *, units: int, logits: bool) -> bool:
    """Return whether the loss is smaller where the model is right."""
    rows = _rows(units, logits=logits)
    pairs = itertools.permutations(rows, 2)
    return all(value(right, rows[right]) < value(right, rows[wrong]) for right, wrong in pairs)


def _refuse_useless(value: Value, model: keras.Model, given: np.ndarray, *, logits: bool) -> None:
    if not _teaches(value, units=int(np.prod(given.shape[1:], dtype=np.int64)), logits=logits):
        raise ConfigError(
            f"The loss {_name(losses(model)[0])} is no smaller where the model gives the right class than where it"
            f" gives another: it {_takes_no_numbers(given.shape)}.\n  {_right_loss(given.shape)}"
        )


def _takes_no_numbers(shape: Sequence[int]) -> str:
    sizes = ", ".join(map(str, ["batch", *shape[1:]]))
    return f"does not take class numbers, int64 [batch], beside outputs [{sizes}]"


def _right_loss(shape: Sequence[int]) -> str:
    one = int(np.prod(shape[1:])) == 1
    return f'Use one that does: "{"binary_crossentropy" if one else "sparse_categorical_crossentropy"}".'


def _is_of_logits(value: Value | None, *, units: int) -> bool:
    """Whether a loss is as one of logits: of one, what is true of it for one class is of its negative for the other."""
    if value is None:
        return False
    if units == 1:
        return all(_same(value(1, [z]), value(0, [-z])) for z in (-FAR, -0.5, 0.5, FAR))
    rows = _rows(units, logits=True)
    return all(_same(value(label, row), value(label, row + MOVED)) for label, row in rows.items())


def _is_of_one_probability(value: Value | None) -> bool:
    return value is not None and all(_same(value(1, [p]), value(0, [1 - p])) for p in (0.1, 0.3, 0.7, 0.9))


def _same(one: float, other: float) -> bool:
    return bool(np.isclose(one, other, rtol=1e-3, atol=1e-5))


TRIED = 16
"""Examples that are looked at."""
SAME = 1e-2
"""Of the largest number: what two batches may differ by, in float16 too."""

_EXAMPLE = "def build_model(): model = keras.Sequential([...]); model.compile(...); return model"
_KERAS = "`from tfkit.environment.stack import keras` (tf_keras, also tf.keras after `import tfkit`)"


def make(build_model: Callable[[], keras.Model], splits: Splits) -> keras.Model:
    """Return the model that build_model makes, with its weights.

    Raises:
      ConfigError: it is no function, or what it returns cannot be trained on these examples.
    """
    from tfkit.environment.stack import keras

    if not callable(build_model) or isinstance(build_model, keras.Model) or is_keras_3(build_model):
        raise ConfigError(
            f"build_model is {what(build_model)}, and must be a function that makes a model: it is called in the scope"
            f" of the strategy.\n  {_EXAMPLE}"
        )
    try:
        inspect.signature(build_model).bind()
    except TypeError as error:
        raise ConfigError(
            f"build_model is called without arguments ({error}).\n  Give it what it needs:"
            " functools.partial(build_model, ...)."
        ) from error
    except ValueError:
        pass  # written in C: it has no signature
    try:
        model = build_model()
    except Exception as error:
        if "<keras.src." not in str(error):
            raise
        raise ConfigError(
            f"An object of Keras 3 is in the model ({first_line(error)}).\n  Take {_KERAS}."
        ) from error
    if not isinstance(model, keras.Model):
        raise ConfigError(
            f"build_model() returned {what(model)}, and must return a compiled model of tf_keras.\n"
            f"  {'Build it with ' + _KERAS if is_keras_3(model) else _EXAMPLE}."
        )
    if model.optimizer is None:
        raise ConfigError(
            "build_model() returned a model that is not compiled: call model.compile(...) in it."
        )
    _refuse_structure(model, splits)
    if not model.built or (not model.weights and not model.inputs):
        try:
            model(keras.Input(splits.spec.shape, dtype=splits.spec.dtype))
        except Exception as error:
            raise ConfigError(_does_not_take(model, splits, error)) from error
    return model


def as_callbacks(callbacks: Any) -> list[keras.callbacks.Callback]:
    """Return callbacks as a list, of one too; raise ConfigError for what is none of tf_keras."""
    from tfkit.environment.stack import keras, tf

    callbacks = [] if callbacks is None else tf.nest.flatten(callbacks)
    wrong = [one for one in callbacks if not isinstance(one, keras.callbacks.Callback)]
    if wrong:
        raise ConfigError(
            f"callbacks holds {', '.join(map(what, wrong))}; objects of keras.callbacks.Callback are expected.\n"
            f"  They come from {_KERAS}."
        )
    return callbacks


def try_on_a_batch(
    model: keras.Model, splits: Splits, *, strategy: tf.distribute.Strategy, asked: Outputs
) -> tuple[bool, str]:
    """Return whether the model gives logits, and what was assumed; or raise for what would fail later.

    A batch of the validation split goes through what the export will be made of, and through the validation itself, by
    the functions that `fit` uses thereafter: tracing them is most of the work, and is not done twice.

    Args:
      model: of `make`, ready for `fit`; call this in the scope of its strategy.
      splits: that it will be trained on.
      strategy: of the training.
      asked: what its user says that its outputs are.

    Raises:
      DataError: there are more or fewer outputs than classes.
      ConfigError: anything else that stands against it.
    """
    from tfkit.distribution.replicas import validation
    from tfkit.environment.stack import tf

    given = _forward(model, splits)
    found = gives_logits(model, given, class_names=splits.class_names, asked=asked)
    if not isinstance(strategy, tf.distribute.ParameterServerStrategy):  # they evaluate with `fit` alone
        _validate(model, validation(strategy, splits), given)
    return found


def _refuse_structure(model: keras.Model, splits: Splits) -> None:
    from tfkit.environment.stack import keras

    inputs, spec = getattr(model, "inputs", None) or [], splits.spec
    if len(inputs) > 1:
        names = ", ".join(tensor.name for tensor in inputs)
        raise ConfigError(
            f"The model has {len(inputs)} inputs ({names}); an example of {splits.origin} is one tensor of shape"
            f" {spec.shape}.\n  Begin it with one keras.Input, and derive the others from it."
        )
    if len(getattr(model, "outputs", None) or []) > 1:
        names = ", ".join(model.output_names)
        raise ConfigError(
            f"The model has {len(model.outputs)} outputs ({names}); an example has one label, and one of them would be"
            " judged.\n  Keep that one: keras.Model(model.input, model.outputs[0]), or join them into one."
        )
    if inputs and inputs[0].dtype.is_integer and spec.dtype.is_floating:
        raise ConfigError(
            f"The model's input is {inputs[0].dtype.name}; the examples are {spec.dtype.name}"
            f"{', from 0 to 1,' if splits.kind == 'images' else ''} and would be cut to whole numbers.\n"
            "  Begin it with keras.Input(shape), without a dtype."
        )
    if inputs and inputs[0].shape.rank and inputs[0].shape[0] is not None:
        raise ConfigError(
            f"The model takes batches of {inputs[0].shape[0]} alone; the last of an epoch is smaller, and a user of"
            " the exported model has one example.\n  Begin it with keras.Input(shape), without a batch size."
        )
    stateful = [
        layer.name for layer in model.submodules if isinstance(layer, keras.layers.RNN) and layer.stateful
    ]
    if stateful:
        raise ConfigError(
            f"{', '.join(stateful)} is stateful: what it says of an example would depend on the batch before it, here"
            " of other examples.\n  Leave stateful=True out."
        )


def refuse_splits(splits: Any) -> None:
    """Raise DataError where these are no splits, or labels are out of range."""
    from tfkit.data.splits import Splits

    if not isinstance(splits, Splits):
        raise DataError(
            f"splits is {what(splits)}; tfkit.Splits are expected, which are divided and can be repeated.\n"
            "  tfkit.from_arrays(images, labels), tfkit.load_images(folder) and tfkit.load_texts(file) make them."
        )
    classes = len(splits.class_names)
    labels = {split: np.asarray(splits.source.labels)[indices] for split, indices in splits.indices.items()}
    for split, own in labels.items():
        if len(own) and (own.min() < 0 or own.max() >= classes):
            raise DataError(
                f"The labels of the {split} split reach from {own.min()} to {own.max()}; there are {classes}"
                f" class_names, for 0 to {classes - 1}.\n  Give a name for each label."
            )


def _forward(model: keras.Model, splits: Splits) -> np.ndarray:
    """Return what the model gives for examples, float32 [n, ...], by a function such as the export has."""
    from tfkit.environment.stack import tf

    features, _ = next(iter(splits.validation))
    features = features[:TRIED]
    spec = tf.TensorSpec([None, *splits.spec.shape], splits.spec.dtype)
    function = tf.function(lambda values: model(values, training=False), input_signature=[spec])
    try:
        graph = function.get_concrete_function().graph
        given = tf.nest.flatten(function(features))
    except Exception as error:
        raise ConfigError(_does_not_take(model, splits, error)) from error
    nodes = [
        *graph.as_graph_def().node,
        *(n for f in graph.as_graph_def().library.function for n in f.node_def),
    ]
    python = sorted({node.op for node in nodes} & {"PyFunc", "EagerPyFunc", "PyFuncStateless"})
    if python:
        raise ConfigError(
            f"The model calls Python while it runs ({', '.join(python)}: tf.py_function or tf.numpy_function), which"
            " nobody can load from a SavedModel.\n  Write it with TensorFlow's operations."
        )
    if len(given) != 1 or not isinstance(given[0], tf.Tensor) or not given[0].dtype.is_floating:
        kinds = ", ".join(f"{type(one).__name__} {one.dtype.name} {one.shape}" for one in given)
        raise ConfigError(
            f"The model gives {len(given)} outputs ({kinds}); one tensor of numbers [batch, classes] is judged.\n"
            "  Return that one from the model, and metrics by model.add_metric."
        )
    (found,) = given
    wide = [size for size in found.shape[1:] if size != 1]
    if found.shape.rank == 0 or found.shape[0] != len(features) or len(wide) > 1:
        raise ConfigError(
            f"The model gives {found.shape} for {len(features)} examples; [{len(features)}, {len(splits.class_names)}]"
            " is expected, a number for each class.\n  Put keras.layers.GlobalAveragePooling2D() or"
            " keras.layers.Flatten() before its last layer."
        )
    values, alone, again = (
        np.asarray(tf.cast(tf.nest.flatten(one)[0], tf.float32))
        for one in (given, function(features[:1]), function(features))
    )
    if not np.isfinite(values).all():
        raise ConfigError(
            "The model gives numbers that are not finite before it is trained.\n  Look at its initial weights, and for"
            " logarithms, roots and divisions in it."
        )
    near = SAME * max(float(np.abs(values).max()), 1e-6)
    if not np.allclose(values, again, rtol=0, atol=near) or not np.allclose(
        values[:1], alone, rtol=0, atol=near
    ):
        raise ConfigError(
            "What the model gives for an example, training=False, changes from call to call, or with the other examples"
            " of the batch: what is measured would not be what a user of the model gets.\n  Look for random numbers"
            " that do not look at `training`, and for operations over the first axis (softmax or mean over the batch)."
        )
    distributed = tf.distribute.has_strategy()  # its variables have several handles
    own = set() if distributed else {id(variable.handle) for variable in model.variables}
    strange = [] if distributed else [one.name for one in graph.variables if id(one.handle) not in own]
    if strange:
        raise ConfigError(
            f"The model uses variables that it does not hold ({', '.join(strange)}): they would be neither trained nor"
            " saved.\n  Make them in a layer of your own (self.add_weight), not in a Lambda."
        )
    return values


def _validate(model: keras.Model, validation: Any, given: np.ndarray) -> None:
    """One step of the validation, as `fit` takes them."""
    try:
        logs = model.evaluate(validation, steps=1, verbose=0, return_dict=True)
        model.reset_metrics()
    except TfkitError:
        raise
    except Exception as error:
        wrong = _wrong_metrics(model, given)
        if wrong:
            raise ConfigError(
                f"These metrics do not take class numbers, int64 [batch], beside outputs of shape {given.shape[1:]}: "
                + "; ".join(wrong)
                + '.\n  Leave them out, or take such as do: "accuracy". The run measures'
                " accuracy, recall and curves of each class by itself."
            ) from error
        raise ConfigError(
            f"The model cannot be validated on a batch, so it was not trained ({type(error).__name__}:"
            f" {first_line(error)}).\n  model.evaluate(splits.validation, steps=1) shows where."
        ) from error
    if "loss" not in logs:
        raise ConfigError(
            f"The model's own test_step returns {', '.join(logs) or 'nothing'}, and no 'loss', by which the best epoch"
            " is chosen.\n  Return it too, as keras.Model.test_step does."
        )
    if not np.isfinite(logs["loss"]):
        raise ConfigError(
            f"The loss of a validation batch is {logs['loss']} before the model is trained.\n  Look for logarithms of 0"
            " in the loss, and for labels outside of its units."
        )


def _wrong_metrics(model: keras.Model, given: np.ndarray) -> list[str]:
    """The compiled metrics that fail on labels and outputs, each by itself."""
    from tfkit.environment.stack import keras, tf

    compiled = model.compiled_metrics
    labels = tf.zeros([len(given), 1] if given.ndim == 2 else [len(given)], tf.int64)
    wrong = []
    for metric in tf.nest.flatten([compiled._user_metrics, compiled._user_weighted_metrics]):
        if isinstance(metric, keras.metrics.Metric):
            try:
                type(metric).from_config(metric.get_config()).update_state(labels, given)
            except Exception as error:
                wrong.append(f"{metric.name} ({first_line(error)})")
    return wrong


def _does_not_take(model: keras.Model, splits: Splits, error: Exception) -> str:
    inputs = getattr(model, "inputs", None)
    takes = f"the model takes {inputs[0].shape[1:]}, and " if inputs else ""
    return (
        f"The model cannot be called on a batch: {takes}examples of {splits.origin} are"
        f" {splits.spec.dtype.name} {splits.spec.shape} ({type(error).__name__}: {first_line(error)}).\n"
        f"  Begin it with keras.Input({splits.spec.shape.as_list()}), and see that model(batch, training=False)"
        " works in a tf.function."
    )

"""Find out what the outputs of a model are, by its graph, its loss and its labels, or as its user says."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tfkit.data.splits import typed_labels
from tfkit.environment.packages import first_line
from tfkit.errors import ConfigError, DataError, UsageError
from tfkit.metrics import SUM_TOLERANCE, Outputs, activation, from_logits, losses
from tfkit.tasks import CLASSES, Classes

if TYPE_CHECKING:
    from tfkit.environment.stack import keras

OUTPUTS = {
    "probabilities": "probabilities of classes",
    "logits": "logits of classes",
    "sigmoid": "probabilities of yes, each for itself",
    "sigmoid_logits": "logits of yes, each for itself",
    "values": "real values, judged by their error",
}
"""Of one class of several (softmax, or what goes into it), of yes or no for each unit, one or several (likewise), or
real numbers, as of a regression."""

OF_CLASSES = ("probabilities", "logits")
YES_OR_NO = {"sigmoid": 0.5, "sigmoid_logits": 0.0}
"""Above which number it is yes."""

_HALF_SUM_TOLERANCE = 0.02  # of a softmax in half floats
_CARRIES = ("Identity", "Reshape", "Squeeze", "ExpandDims", "StopGradient", "Transpose", "Cast", "EnsureShape",
            "FakeQuantWithMinMaxVars", "FakeQuantWithMinMaxArgs")  # fmt: skip
_REGRESSION = ("mse", "mae", "mape", "msle", "squared", "absolute", "huber", "log_cosh", "logcosh", "poisson",
               "cosine")  # fmt: skip


def last_operation(concrete: Any) -> str:
    """Return the type of the operation that makes the first output of a concrete function: "Softmax", "BiasAdd", ..."""
    graph = concrete.graph.as_graph_def()
    functions = {function.signature.name: function for function in graph.library.function}
    nodes = {node.name: node for node in graph.node}
    tensor = concrete.outputs[0].name
    while True:
        name, *place = tensor.split(":")
        node = nodes.get(name)
        if node is None:  # an input of the function
            return ""
        if node.op in ("PartitionedCall", "StatefulPartitionedCall"):
            callee = functions[node.attr["f"].func.name]
            output_name = callee.signature.output_arg[int(place[-1]) if place else 0].name
            nodes, tensor = {inner.name: inner for inner in callee.node_def}, callee.ret[output_name]
        elif node.op in _CARRIES:
            tensor = node.input[0]
        else:
            return str(node.op)


def operations(concrete: Any) -> set[str]:
    """Return the types of all operations of a concrete function, and of the functions that it calls."""
    graph = concrete.graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    return {node.op for node in nodes}


_NO_COMPUTATION = ("Const", "Identity", "IdentityN", "NoOp", "Placeholder", "ReadVariableOp", "StopGradient")


def op_counts(concrete: Any) -> dict[str, int]:
    """Return how often each operation runs in a concrete function and what it calls; loops and branches count once."""
    graph = concrete.graph.as_graph_def()
    functions = {function.signature.name: function.node_def for function in graph.library.function}

    def count(nodes: Any) -> collections.Counter[str]:
        counts: collections.Counter[str] = collections.Counter()
        for node in nodes:
            if node.op in ("PartitionedCall", "StatefulPartitionedCall"):
                counts += count(functions[node.attr["f"].func.name])
            elif node.op not in _NO_COMPUTATION:
                counts[node.op] += 1
        return counts

    return dict(count(graph.node))


def sum_to_one(values: np.ndarray, *, tolerance: float = SUM_TOLERANCE) -> bool:
    """Return whether all rows of values [..., units] are probabilities of classes, or of one unit are in 0..1."""
    within = bool((values > -SUM_TOLERANCE).all() and (values <= 1 + tolerance).all())
    sums = values.sum(axis=-1, dtype=np.float64)
    return within and (values.shape[-1] == 1 or bool((np.abs(sums - 1) <= tolerance).all()))


def loss_name(loss: Any) -> str | None:
    """Return what a loss is called, by its name, its function or its class; None where there is none."""
    if loss is None or isinstance(loss, str):
        return loss
    return getattr(loss, "__name__", None) or type(loss).__name__


_FAR, _SURE = 4.0, 0.9  # a logit, and a probability, of a model that is sure


def check_outputs(
    model: keras.Model,
    outputs: np.ndarray,
    *,
    class_names: Sequence[str],
    output: Outputs = "auto",
    task: Classes = CLASSES,
) -> tuple[bool, str]:
    """Return whether a classifier gives logits, and a sentence on what was assumed; none where it is certain.

    Args:
      model: compiled.
      outputs: float [n, ...], what it gives for examples, before training.
      class_names: of the data.
      output: what its user says that its outputs are.
      task: of the data.

    Raises:
      DataError: it has as many outputs as these classes do not have.
      ConfigError: its loss cannot teach it these classes, or its outputs can be read in several ways.
    """
    classes, units = len(class_names), int(np.prod(outputs.shape[1:], dtype=np.int64))
    if not task.fits(units, classes):
        single = ", or one with a sigmoid" if classes == 2 and task.fits(1, classes) else ""
        raise DataError(
            f"The model gives {list(outputs.shape[1:])} numbers an example; the data has {classes} {task.name}"
            f" ({', '.join(class_names[:5])}{', ...' if classes > 5 else ''}).\n"
            f"  Its last layer must have {classes} units{single}."
        )
    rows = outputs.reshape(len(outputs), -1).astype(np.float64)
    ending, _, name = task.ending(units)
    if not ending:  # any number
        _refuse_useless_loss(model, outputs.shape, logits=False, task=task)
        return False, ""
    is_sigmoid, takes_logits = ending == "sigmoid", [from_logits(loss) for loss in losses(model)]
    sums_to_one = sum_to_one(rows.reshape(-1, 1) if is_sigmoid else rows)
    problem, assumption, logits = "", "", output == "logits"
    if logits and activation(model) == ending:
        problem = f"output is 'logits', and the last layer makes probabilities (a {ending}): leave output out"
    elif output != "auto":
        problem = "" if logits or sums_to_one else "output is 'probabilities'"
    elif activation(model) == ending:
        # Keras takes the numbers before this activation for its loss, whatever the loss was told.
        problem = "" if sums_to_one else f"Its {ending} is over another axis than the last axis, the classes"
    elif is_sigmoid and activation(model) == "softmax":
        problem = "A softmax gives one label what it takes from the others"
    elif True in takes_logits and (is_sigmoid or not sums_to_one):
        logits = True
    elif False in takes_logits and not sums_to_one:
        problem = "The loss takes probabilities (from_logits=False)"
    elif sums_to_one and (units > 1 or False in takes_logits):
        assumption = "The model's outputs are taken for probabilities: they are in 0..1, and fit its loss."
    else:
        problem = 'Neither the last layer nor the loss says what the outputs are (output="logits" would)'
    if problem:
        raise ConfigError(
            f"{problem}; before training the model gives {np.round(rows[0, :4], 3).tolist()} for an example.\n"
            f'  Compile with keras.losses.{name}(from_logits=True), or end the model with activation="{ending}".'
        )
    _refuse_useless_loss(model, outputs.shape, logits=logits, task=task)
    return logits, assumption


def _refuse_useless_loss(model: keras.Model, shape: Sequence[int], *, logits: bool, task: Classes) -> None:
    """Raise ConfigError where the loss is no smaller if the model gives the right answer; it is called as Keras does.

    Nothing is known of a loss that a test_step of the model's own computes.
    """
    from tfkit.environment.stack import keras, tf

    (loss, *_), kind = losses(model) or [None], type(model)
    if loss is None and (
        kind.test_step is not keras.Model.test_step or kind.compute_loss is not keras.Model.compute_loss
    ):
        return
    name, units = loss_name(loss), int(np.prod(shape[1:], dtype=np.int64))
    loss = keras.losses.get(loss) if isinstance(loss, str) else loss
    own_call = getattr(type(loss), "call", None)
    function = loss.call if own_call not in (None, keras.losses.Loss.call) else loss
    ending, default_loss, _ = task.ending(units)
    unsure = (1 - _SURE) / (max(units - 1, 1) if ending == "softmax" else 1)
    low, high = (-_FAR, _FAR) if logits else (unsure, _SURE)

    def value(label: Any, row: Any) -> float:
        outputs = tf.constant(np.broadcast_to(np.reshape(row, shape[1:]), shape), tf.float32)
        label = typed_labels(label)
        axes = label.shape or ([1] if len(shape) == 2 else [])
        labels = tf.constant(np.broadcast_to(label, [shape[0], *axes]))
        return float(tf.reduce_mean(tf.cast(function(labels, outputs), tf.float32)))

    why = "it is no smaller where the model gives the right answer"
    answers = [(label, np.where(yes > 0, high, low)) for label, yes in task.sure(units)]
    pairs = itertools.permutations(answers, 2)
    try:
        if all(value(label, row) < value(label, other) for (label, row), (_, other) in pairs):
            return
    except Exception as error:
        why = f"{type(error).__name__}: {first_line(error)}"
    raise ConfigError(
        f"The loss {name!r} does not take {task.labels} beside outputs {['batch', *shape[1:]]} ({why})."
        "\n  Compile with one that does, by name or as an object (of a class with brackets):"
        f' model.compile(optimizer, loss="{default_loss}").'
    )


def find(
    expected: np.ndarray, *, last: str, loss: Any = None, labels: Any = None, class_names: Sequence[str] = ()
) -> tuple[str, str]:
    """Find out what outputs are, of a model of any kind.

    Args:
      expected: float32 [n, ..., c], the model's outputs.
      last: see `last_operation`.
      loss: that a Keras model was compiled with.
      labels: of the examples, if there are.
      class_names: of the labels, if there are.

    Returns:
      One of `OUTPUTS`, and by what that was known.
    """
    units = expected.shape[-1]
    tolerance = _HALF_SUM_TOLERANCE if last == "Softmax" else SUM_TOLERANCE
    if units > 1 and sum_to_one(expected, tolerance=tolerance):
        return "probabilities", "they sum to 1"
    is_discrete, name = _is_discrete(labels), str(loss_name(loss) or "").lower()
    is_regression = any(word in name for word in _REGRESSION)
    if last == "Sigmoid" and np.all((expected >= 0) & (expected <= 1)):
        if labels is not None and not is_discrete:
            return "values", "the last layer is a sigmoid, the labels are real numbers"
        if labels is None and is_regression:
            return "values", f"the loss is {name}"
        return "sigmoid", "the last layer is a sigmoid"
    if "hinge" in name or (not isinstance(loss, str) and from_logits(loss)):
        kind = "logits" if "categorical" in name else "sigmoid_logits"
        return kind, f"the loss is {name} of logits"
    if is_regression:
        return "values", f"the loss is {name}"
    if is_discrete and units > 1:
        array = np.asarray(labels)
        if array.shape == expected.shape and array.dtype.kind in "iu" and not _is_binary(array):
            return "values", "the labels are counts, and not yes or no"
        has_one_label = array.shape != expected.shape or bool(np.all(array.astype(float).sum(axis=-1) == 1))
        return "logits" if has_one_label else "sigmoid_logits", "the labels are of classes"
    if units > 1 and len(class_names) == units:
        return "logits", "there are as many class_names"
    if units == 1 and (len(class_names) == 2 or (is_discrete and _is_binary(np.asarray(labels)))):
        return "sigmoid_logits", "the labels are of two classes"
    return "values", f"the last operation is {last or 'not known'}, no softmax and no sigmoid"


def sentence(output: str, reason: str) -> str:
    """Say as what outputs are judged, and how to say otherwise."""
    choices = ", ".join(other for other in OUTPUTS if other != output)
    return (
        f"The outputs are taken for {OUTPUTS[output]}: {reason}. If they are not, give output (--output), one of"
        f" {choices}."
    )


def check(output: str, expected: np.ndarray) -> None:
    """Refuse what outputs cannot be.

    Raises:
      UsageError: no such kind, or one that the outputs contradict.
    """
    low, high, units = float(expected.min()), float(expected.max()), expected.shape[-1]
    is_within = low >= -SUM_TOLERANCE and high <= 1 + SUM_TOLERANCE
    if (
        output not in OUTPUTS
        or (output in OF_CLASSES and units == 1)
        or (output in ("probabilities", "sigmoid") and not is_within)
    ):
        raise UsageError(
            f"output={output!r} does not fit {units} number(s) an example from {low:.3g} to {high:.3g}.\n  Give one of"
            f" {', '.join(f'{name!r} ({words})' for name, words in OUTPUTS.items())}; 'auto' finds out."
        )


def answers(outputs: np.ndarray, output: str, thresholds: Any = None) -> np.ndarray:
    """Return what outputs [n, ..., c] decide: classes int64 [n, ...], or yes and no as 1 and 0 [n, ..., c].

    Args:
      outputs: of a model.
      output: what they are.
      thresholds: [c], from which number on it is yes; None: above 0.5, or the logit 0.
    """
    if output in OF_CLASSES:
        return outputs.argmax(axis=-1)
    if output == "values":
        return outputs[..., 0]
    if thresholds is not None:
        return (outputs >= thresholds).astype(np.int64)
    return (outputs > YES_OR_NO[output]).astype(np.int64)


def as_labels(
    labels: Any, *, shape: Sequence[int], output: str, class_names: Sequence[str] = ()
) -> np.ndarray:
    """Return labels of any form as `answers` has them; of values float64 in the shape of the outputs.

    Args:
      labels: whole numbers or bools [n, ...] (or [n, ..., 1]), one-hot [n, ..., c], names of classes; of several
        sigmoids 0 and 1 [n, c]; of values real numbers.
      shape: of the outputs, [n, ..., c].
      output: one of `OUTPUTS`.
      class_names: for labels that are names; of one sigmoid those of no and yes.

    Raises:
      DataError: they do not fit; the message says why.
    """
    array = np.asarray(labels)
    lead, units, of_classes = tuple(shape[:-1]), shape[-1], output in OF_CLASSES
    array = _to_numbers(array, class_names) if array.dtype.kind in "OUS" else array.astype(np.float64)
    if not np.isfinite(array).all():
        raise DataError("Some labels are not finite numbers (NaN): leave these examples out.")
    target_shape = lead if of_classes else (*lead, units)
    one_hot = (*lead, 2) if units == 1 and output in YES_OR_NO else (*lead, units) if of_classes else None
    if array.shape == one_hot and (array >= 0).all() and np.allclose(array.sum(axis=-1), 1, atol=1e-3):
        array = array.argmax(axis=-1)
    if array.shape == (*lead, 1) or (array.shape == lead and units == 1):
        array = array.reshape(target_shape)
    count = units if of_classes else 2
    kind = "real numbers" if output == "values" else f"whole numbers from 0 to {count - 1}"
    if array.shape != target_shape or not (output == "values" or np.isin(array, np.arange(count)).all()):
        raise DataError(
            f"The labels are {list(array.shape)}, from {array.min():g} to {array.max():g}; those of {output} are"
            f" {kind}, {list(target_shape)} or one-hot.\n  Number classes from 0; real values are output='values'."
        )
    return array.astype(np.float64 if output == "values" else np.int64)


def _is_discrete(labels: Any) -> bool:
    """Return whether labels are names, bools or whole numbers."""
    if labels is None:
        return False
    array = np.asarray(labels)
    if array.dtype.kind in "OUS":
        return all(isinstance(label, str | bytes) for label in array.flat)
    return array.dtype.kind in "iub" or set(np.unique(array)) <= {0.0, 1.0}


def _is_binary(array: np.ndarray) -> bool:
    """Return whether labels are of two classes: names, bools, or whole numbers that are 0 and 1."""
    return array.dtype.kind in "OUSb" or (array.dtype.kind in "iu" and set(np.unique(array)) <= {0, 1})


def _to_numbers(array: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    places = {name: place for place, name in enumerate(class_names)}
    names = [label.decode("utf-8", "replace") if isinstance(label, bytes) else label for label in array.flat]
    try:
        numbers = [places[str(name)] if isinstance(name, str) else float(name) for name in names]
    except (KeyError, TypeError, ValueError) as err:
        raise DataError(
            f"A label is no number, and none of class_names ({', '.join(places) or 'give them'}, in the order of the"
            f" outputs): {err}."
        ) from err
    return np.array(numbers).reshape(array.shape)

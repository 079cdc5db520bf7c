"""What the numbers that a model gives are: found in its graph, its loss and its labels, or as the caller says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfkit.errors import DataError, UsageError

OUTPUTS = ("probabilities", "logits", "sigmoid", "sigmoid_logits", "values")
"""Of one class of several (softmax, or what goes into it), of yes or no for each unit, one or several (likewise), or
real numbers, as of a regression."""

OF_CLASSES = ("probabilities", "logits")
YES_OR_NO = {"sigmoid": 0.5, "sigmoid_logits": 0.0}
"""Above which number it is yes."""

_SUMS = {
    "Softmax": 0.02
}  # by which the sum of probabilities may miss 1: in half floats more than what is none
_CARRIES = ("Identity", "Reshape", "Squeeze", "ExpandDims", "StopGradient", "Transpose", "Cast", "EnsureShape",
            "FakeQuantWithMinMaxVars", "FakeQuantWithMinMaxArgs")  # fmt: skip
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_REGRESSION = (
    "mse",
    "mae",
    "mape",
    "msle",
    "squared",
    "absolute",
    "huber",
    "log_cosh",
    "logcosh",
    "poisson",
    "cosine",
)


def last_operation(concrete: Any) -> str:
    """Return the type of the operation that makes the first output of a concrete function: "Softmax", "BiasAdd", ..."""
    graph = concrete.graph.as_graph_def()
    functions = {function.signature.name: function for function in graph.library.function}
    nodes = {node.name: node for node in graph.node}
    at = concrete.outputs[0].name
    while True:
        name, *place = at.split(":")
        node = nodes.get(name)
        if node is None:  # what the function is given
            return ""
        if node.op in _CALLS:
            called = functions[node.attr["f"].func.name]
            wanted = called.signature.output_arg[int(place[-1]) if place else 0].name
            nodes, at = {inner.name: inner for inner in called.node_def}, called.ret[wanted]
        elif node.op in _CARRIES:
            at = node.input[0]
        else:
            return str(node.op)


def find(
    expected: np.ndarray,
    *,
    last: str,
    loss: Any = None,
    labels: Any = None,
    class_names: Sequence[str] = (),
) -> tuple[str, str]:
    """Find out what outputs are.

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
    sums_to_one = bool(
        units > 1
        and np.all(expected > -1e-3)
        and np.all(np.abs(expected.sum(axis=-1) - 1) < _SUMS.get(last, 1e-3))
    )
    if sums_to_one:
        return "probabilities", "they sum to 1"
    whole = _whole(labels)
    loss_name, from_logits = _loss(loss)
    if last == "Sigmoid" and np.all((expected >= 0) & (expected <= 1)):
        if labels is not None and not whole:
            return "values", "the last layer is a sigmoid, the labels are real numbers"
        if labels is None and any(word in loss_name for word in _REGRESSION):
            return "values", f"the loss is {loss_name}"
        return "sigmoid", "the last layer is a sigmoid"
    if from_logits or "hinge" in loss_name:
        kind = "logits" if "categorical" in loss_name else "sigmoid_logits"
        return kind, f"the loss is {loss_name} of logits"
    if any(word in loss_name for word in _REGRESSION):
        return "values", f"the loss is {loss_name}"
    if whole and units > 1:
        given = np.asarray(labels)
        if given.shape == expected.shape and given.dtype.kind in "iu" and not _of_two(labels):
            return "values", "the labels are counts, and not yes or no"
        one_each = given.shape != expected.shape or bool(np.all(given.astype(float).sum(axis=-1) == 1))
        return "logits" if one_each else "sigmoid_logits", "the labels are of classes"
    if units > 1 and len(class_names) == units:
        return "logits", "there are as many class_names"
    if units == 1 and (len(class_names) == 2 or (whole and _of_two(labels))):
        return "sigmoid_logits", "the labels are of two classes"
    return "values", f"the last operation is {last or 'not known'}, no softmax and no sigmoid"


def sentence(output: str, known: str) -> str:
    """Say as what outputs are judged, and how to say otherwise."""
    judged = {
        "probabilities": "probabilities of classes",
        "logits": "logits of classes",
        "sigmoid": "probabilities of yes, each for itself",
        "sigmoid_logits": "logits of yes, each for itself",
        "values": "real values, judged by their error",
    }[output]
    others = [one for one in OUTPUTS if one != output]
    return (
        f"The outputs are taken for {judged}: {known}. If they are not, give output (--output):"
        f" {', '.join(others[:-1])} or {others[-1]}."
    )


def check(output: str, expected: np.ndarray) -> None:
    """Refuse what outputs cannot be.

    Raises:
      UsageError: no such kind, or one that the outputs contradict.
    """
    if output not in OUTPUTS:
        raise UsageError(f"There is no kind of output {output!r}; there are: auto, {', '.join(OUTPUTS)}.")
    if output in OF_CLASSES and expected.shape[-1] == 1:
        raise UsageError(
            f"output={output!r} is of two classes or more, and the model gives one number: take 'sigmoid' (or"
            " 'sigmoid_logits') for yes or no, 'values' for a regression."
        )
    low, high = float(expected.min()), float(expected.max())
    if output in ("probabilities", "sigmoid") and (low < -1e-3 or high > 1 + 1e-3):
        other = "logits" if output == "probabilities" else "sigmoid_logits"
        raise UsageError(
            f"output={output!r}, but the model gives numbers from {low:.3g} to {high:.3g}: take {other!r}, or 'values'."
        )


def answers(outputs: np.ndarray, output: str) -> np.ndarray:
    """Return what outputs [n, ..., c] decide: classes int64 [n, ...], or yes and no as 1 and 0 [n, ..., c]."""
    if output in OF_CLASSES:
        return outputs.argmax(axis=-1)
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
    given = np.asarray(labels)
    lead, units = tuple(shape[:-1]), shape[-1]
    if given.dtype.kind in "OUS":
        given = _numbers(given, class_names)
    if len(given) != shape[0]:
        raise DataError(f"There are {len(given)} labels for {shape[0]} inputs.")
    if not np.isfinite(given.astype(np.float64)).all():
        raise DataError("Some labels are not finite numbers (NaN): leave these examples out.")
    binary = units == 1 and output in YES_OR_NO
    if given.shape == (*lead, 2) and binary and _one_hot(given):
        given = given.argmax(axis=-1)
    if given.shape == (*lead, 1) or (given.shape == lead and (units == 1)):
        given = given.reshape(lead if output in OF_CLASSES else (*lead, 1))
    if output in OF_CLASSES and given.shape == (*lead, units) and _one_hot(given):
        given = given.argmax(axis=-1)
    wanted = lead if output in OF_CLASSES else (*lead, units)
    if given.shape != wanted:
        raise DataError(_misfit(given, shape, output))
    if output == "values":
        return given.astype(np.float64)
    most = (units if output in OF_CLASSES else 2) - 1
    if (given.astype(np.float64) % 1).any() or given.min() < 0 or given.max() > most:
        raise DataError(
            f"The labels run from {given.min():g} to {given.max():g}; those of {output} are whole numbers from 0 to"
            f" {most}.\n  Number the classes from 0 in the order of the outputs; real values are output='values'."
        )
    return given.astype(np.int64)


def loss_of(model: Any) -> Any:
    """Return the one loss that a Keras model was compiled with; None of anything else."""
    loss = getattr(model, "loss", None) if hasattr(model, "get_weights") else None
    if isinstance(loss, dict):
        loss = list(loss.values())
    return (loss[0] if len(loss) == 1 else None) if isinstance(loss, list | tuple) else loss


def _loss(loss: Any) -> tuple[str, bool]:
    """A loss by its name in lower case, and whether it takes logits."""
    if loss is None:
        return "", False
    name = loss if isinstance(loss, str) else getattr(loss, "__name__", None) or type(loss).__name__
    config = loss.get_config() if hasattr(loss, "get_config") else {}
    return str(name).lower(), bool(config.get("from_logits"))


def _whole(labels: Any) -> bool:
    """Return whether labels are names, bools or whole numbers."""
    if labels is None:
        return False
    given = np.asarray(labels)
    if given.dtype.kind in "iub":
        return True
    if given.dtype.kind in "OUS":
        return all(isinstance(one, str | bytes) for one in given.flat)
    return bool(np.isfinite(given).all()) and not (given % 1).any() and set(np.unique(given)) <= {0.0, 1.0}


def _of_two(labels: Any) -> bool:
    """Return whether labels are of two classes: names, bools, or whole numbers that are 0 and 1."""
    given = np.asarray(labels)
    return given.dtype.kind in "OUSb" or (given.dtype.kind in "iu" and set(np.unique(given)) <= {0, 1})


def _one_hot(given: np.ndarray) -> bool:
    numbers = given.astype(np.float64)
    return bool(np.all(numbers >= 0) and np.allclose(numbers.sum(axis=-1), 1, atol=1e-3))


def _numbers(given: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    names = [one.decode("utf-8", "replace") if isinstance(one, bytes) else one for one in given.reshape(-1)]
    if not all(isinstance(one, str) for one in names):
        try:
            return given.astype(np.float64)
        except (TypeError, ValueError) as err:
            raise DataError(f"The labels are no numbers and no names: {names[0]!r}.") from err
    if not len(class_names):
        raise DataError(
            f"The labels are names ({names[0]!r}, ...): give class_names in the order of the outputs."
        )
    places = {str(name): place for place, name in enumerate(class_names)}
    if unknown := sorted(set(names) - set(places)):
        raise DataError(f"The label {unknown[0]!r} is none of class_names: {', '.join(places)}.")
    return np.array([places[name] for name in names]).reshape(given.shape)


def _misfit(given: np.ndarray, shape: Sequence[int], output: str) -> str:
    lead, units = list(shape[:-1]), shape[-1]
    takes = {
        "values": f"real numbers {[*lead, units]}",
        **dict.fromkeys(
            OF_CLASSES, f"whole numbers {lead} from 0 to {units - 1}, or one-hot {[*lead, units]}"
        ),
        **dict.fromkeys(YES_OR_NO, f"0 and 1 {[*lead, units]}"),
    }[output]
    return (
        f"The labels are {list(given.shape)}; those of outputs {list(shape)} that are {output} are {takes}."
    )

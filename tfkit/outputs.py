"""Find out what a classifier's outputs are: by its last layer, by its loss, and by what it gives for a batch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tfkit.errors import ConfigError, DataError
from tfkit.packages import first_line
from tfkit.predictions import Outputs, activation, from_logits, losses

if TYPE_CHECKING:
    from tfkit.stack import keras

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
    from tfkit.stack import keras, tf

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

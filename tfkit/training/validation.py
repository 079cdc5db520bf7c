"""Check a user's own model before it is trained: whatever would fail in the end is tried on one batch at the start."""

from __future__ import annotations

import contextlib
import inspect
import json
import re
import warnings
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np

from tfkit.data.splits import Splits
from tfkit.distribution.replicas import validation
from tfkit.environment import files, foreign, stack
from tfkit.environment.packages import first_line, is_keras_3, what
from tfkit.errors import ConfigError, DataError, TfkitError
from tfkit.metrics import Outputs, from_logits, losses
from tfkit.training.outputs import check_outputs, loss_name, operations

MAX_EXAMPLES = 16
"""Examples that are looked at."""
SAME = 1e-2
"""Of the largest number: what two batches may differ by, in float16 too."""

_EXAMPLE = "def build_model(): model = keras.Sequential([...]); model.compile(...); return model"
_KERAS = "`from tfkit.environment.stack import keras` (tf_keras, also tf.keras after `import tfkit`)"


def make(build_model: Callable[[], stack.keras.Model], splits: Splits) -> stack.keras.Model:
    """Return the model that build_model makes, with its weights.

    Raises:
      ConfigError: it is no function, or what it returns cannot be trained on these examples.
    """

    is_usable = not isinstance(build_model, stack.keras.Model) and not is_keras_3(build_model)
    try:
        inspect.signature(build_model).bind()
    except TypeError:  # not callable, or with arguments
        is_usable = False
    except ValueError:
        pass  # written in C: it has no signature
    if not is_usable:
        raise ConfigError(
            f"build_model is {what(build_model)}, and must be a function without arguments that makes a model"
            f" (functools.partial gives it what it needs).\n  {_EXAMPLE}"
        )
    try:
        model = build_model()
    except Exception as error:
        if "<keras.src." not in str(error):
            raise
        raise ConfigError(
            f"An object of Keras 3 is in the model ({first_line(error)}).\n  Take {_KERAS}."
        ) from error
    if not isinstance(model, stack.keras.Model) or model.optimizer is None:
        uncompiled = " that is not compiled" if isinstance(model, stack.keras.Model) else ""
        raise ConfigError(
            f"build_model() returned {what(model)}{uncompiled}, and must return a compiled model of tf_keras"
            f" (model.compile).\n  Build it with {_KERAS}:\n  {_EXAMPLE}"
        )
    _refuse_structure(model, splits)
    if not model.built or (not model.weights and not model.inputs):
        try:
            model(stack.keras.Input(splits.spec.shape, dtype=splits.spec.dtype))
        except Exception as error:
            raise ConfigError(_explain(model, splits, error)) from error
    return model


_UNSTEADY = re.compile(r'_\d+\b| at 0x[0-9a-f]+|"4w[\w+/=\\]*"|"jit_compile": \w+')
"""Of a model's configuration what differs where the same function makes it again: numbers of names, places in memory,
the code of lambdas (marshalled: a notebook's cell has another number each time), and whether there is a GPU."""


def digest_of_model(model: stack.keras.Model) -> dict[str, Any]:
    """Return what tells a compiled model from another; the same if it is made again.

    Returns:
      "model": a digest of its layers, its optimizer and its losses; "learning_rate", where it is a number, as which a
      checkpoint holds it; and "rest": the digest of all else.
    """

    loss_settings = [(loss_name(loss), from_logits(loss)) for loss in losses(model)]
    settings: list[Any] = [type(model).__name__, type(model.optimizer).__name__, loss_settings]
    # Of a matrix of word vectors Keras makes a list of Python's numbers: a minute and 3 GB for 20 million.
    patch = mock.patch.object(
        stack.keras.initializers.Constant, "get_config", lambda constant: {"value": str(constant.value)}
    )
    for part in (model, model.optimizer) if foreign.knows_its_layers(model) else (model.optimizer,):
        # Whatever a layer or a schedule raises that cannot tell its settings; Keras warns of lambdas.
        with contextlib.suppress(Exception), warnings.catch_warnings(action="ignore"), patch:
            settings.append(part.get_config())

    def digest() -> str:
        return files.digest_of(_UNSTEADY.sub("", json.dumps(settings, default=str, skipkeys=True)))

    model_digest, rate = (
        digest(),
        settings[-1].pop("learning_rate", None) if isinstance(settings[-1], dict) else None,
    )
    if not isinstance(rate, int | float | np.floating):
        return {"model": model_digest}
    return {"model": model_digest, "rest": digest(), "learning_rate": float(rate)}


def as_callbacks(callbacks: Any) -> list[stack.keras.callbacks.Callback]:
    """Return callbacks as a list, of one too; raise ConfigError for what is none of tf_keras."""

    callbacks = [] if callbacks is None else stack.tf.nest.flatten(callbacks)
    culprits = [
        callback for callback in callbacks if not isinstance(callback, stack.keras.callbacks.Callback)
    ]
    if culprits:
        raise ConfigError(
            f"callbacks holds {', '.join(map(what, culprits))}; objects of keras.callbacks.Callback are expected.\n"
            f"  They come from {_KERAS}."
        )
    return callbacks


def check_on_batch(
    model: stack.keras.Model, splits: Splits, *, strategy: stack.tf.distribute.Strategy, output: Outputs
) -> tuple[bool, str]:
    """Return whether the model gives logits, and what was assumed; or raise for what would fail later.

    A batch of the validation split goes through what the export will be made of, and through the validation itself, by
    the functions that `fit` uses thereafter: tracing them is most of the work, and is not done twice.

    Args:
      model: of `make`, ready for `fit`; call this in the scope of its strategy.
      splits: that it will be trained on.
      strategy: of the training.
      output: what its user says that its outputs are.

    Raises:
      DataError: there are more or fewer outputs than classes.
      ConfigError: anything else that stands against it.
    """

    outputs = _forward(model, splits)
    result = check_outputs(model, outputs, class_names=splits.class_names, output=output, task=splits.task)
    # Parameter servers evaluate with `fit` alone.
    if not isinstance(strategy, stack.tf.distribute.ParameterServerStrategy):
        _validate(model, validation(strategy, splits), outputs, splits)
    return result


def _refuse_structure(model: stack.keras.Model, splits: Splits) -> None:
    """Raise ConfigError where a model takes or gives something else than one tensor of any number of examples."""

    inputs, outputs = getattr(model, "inputs", None) or [], getattr(model, "outputs", None) or []
    is_fixed = any(tensor.shape.rank and tensor.shape[0] is not None for tensor in inputs)
    is_cut = any(tensor.dtype.is_integer and splits.spec.dtype.is_floating for tensor in inputs)
    if len(inputs) > 1 or len(outputs) > 1 or is_fixed or is_cut:
        takes = ", ".join(f"{tensor.name} {tensor.dtype.name} {tensor.shape}" for tensor in inputs)
        raise ConfigError(
            f"The model {model.name} takes {takes} and gives {', '.join(model.output_names)}; an example is one"
            f" {splits.spec.dtype.name} tensor.\n  Begin it with one keras.Input({splits.spec.shape.as_list()}),"
            " without batch size or another dtype, and keep one output: keras.Model(model.input, model.outputs[0])."
        )
    layers = [layer for layer in foreign.modules(model) if isinstance(layer, stack.keras.layers.RNN)]
    if stateful := [layer.name for layer in layers if layer.stateful]:
        raise ConfigError(
            f"{', '.join(stateful)} is stateful: what it gives for an example would depend on the batch before it."
            "\n  Leave stateful=True out."
        )


def refuse_splits(splits: Any) -> None:
    """Raise DataError where these are no splits."""
    if not isinstance(splits, Splits):
        raise DataError(
            f"splits is {what(splits)}; tfkit.Splits are expected, which are divided and can be repeated.\n"
            "  tfkit.from_arrays(images, labels), tfkit.load_images(folder) and tfkit.load_texts(file) make them."
        )


def _forward(model: stack.keras.Model, splits: Splits) -> np.ndarray:
    """Return what the model gives for examples, float32 [n, ...], by a function such as the export has."""

    features, _ = next(iter(splits.validation))
    features = features[:MAX_EXAMPLES]
    spec = stack.tf.TensorSpec([None, *splits.spec.shape], splits.spec.dtype)
    function = stack.tf.function(lambda values: model(values, training=False), input_signature=[spec])
    try:
        concrete = function.get_concrete_function()
        outputs = stack.tf.nest.flatten(function(features))
    except Exception as error:
        raise ConfigError(_explain(model, splits, error)) from error
    if python := sorted(operations(concrete) & {"PyFunc", "EagerPyFunc", "PyFuncStateless"}):
        raise ConfigError(
            f"The model calls Python while it runs ({', '.join(python)}: tf.py_function or tf.numpy_function), which"
            " nobody can load from a SavedModel.\n  Write it with TensorFlow's operations."
        )
    shape = outputs[0].shape
    if (
        len(outputs) != 1 or not isinstance(outputs[0], stack.tf.Tensor) or not outputs[0].dtype.is_floating
        or shape.rank == 0 or shape[0] != len(features) or sum(size != 1 for size in shape[1:]) > 1
    ):  # fmt: skip
        kinds = ", ".join(f"{type(x).__name__} {x.dtype.name} {x.shape}" for x in outputs)
        raise ConfigError(
            f"The model gives {kinds} for {len(features)} examples, not [{len(features)}, {len(splits.class_names)}].\n"
            "  Return one tensor; put keras.layers.GlobalAveragePooling2D() or Flatten() before the last layer."
        )
    values, first, repeat = (
        np.asarray(stack.tf.cast(stack.tf.nest.flatten(result)[0], stack.tf.float32))
        for result in (outputs, function(features[:1]), function(features))
    )
    if not np.isfinite(values).all():
        raise ConfigError(
            "The model gives numbers that are not finite before it is trained.\n  Look at its weights and divisions."
        )
    tolerance = SAME * max(float(np.abs(values).max()), 1e-6)
    if np.abs(values - repeat).max() > tolerance or np.abs(values[:1] - first).max() > tolerance:
        raise ConfigError(
            "What the model gives for an example, training=False, changes from call to call or with the other examples."
            "\n  Look for random numbers that ignore `training`, and for operations over the first axis (the batch)."
        )
    if not stack.tf.distribute.has_strategy():  # with one, variables have several handles
        handles = {id(variable.handle) for variable in model.variables}
        if names := [var.name for var in concrete.graph.variables if id(var.handle) not in handles]:
            raise ConfigError(
                f"The model uses variables that it does not hold ({', '.join(names)}): they would be neither trained"
                " nor saved.\n  Make them in a layer of your own (self.add_weight), not in a Lambda."
            )
    return values


def _validate(model: stack.keras.Model, examples: Any, outputs: np.ndarray, splits: Splits) -> None:
    """Take one step of the validation, as `fit` takes them."""
    try:
        logs = model.evaluate(examples, steps=1, verbose=0, return_dict=True)
        model.reset_metrics()
        if not np.isfinite(logs.get("loss", np.nan)):
            raise ValueError(
                f"it gives {logs or 'nothing'}; the best epoch is chosen by 'loss', a finite number"
            )
        if names := [name for name, value in logs.items() if np.ndim(value)]:
            raise ValueError(f"{', '.join(names)} has many numbers, and a metric is one")
    except TfkitError:
        raise
    except Exception as error:
        raise ConfigError(
            f"The model cannot be validated on a batch ({type(error).__name__}: {first_line(error)}).\n  Leave out"
            f" metrics that do not take {splits.task.labels} beside outputs {outputs.shape[1:]}; return a finite loss."
        ) from error


def _explain(model: stack.keras.Model, splits: Splits, error: Exception) -> str:
    inputs = getattr(model, "inputs", None)
    takes = f" takes {inputs[0].shape[1:]}, and" if inputs else ""
    return (
        f"The model{takes} cannot be called on a batch ({type(error).__name__}: {first_line(error)}).\n  Begin it with"
        f" keras.Input({splits.spec.shape.as_list()}); model(batch, training=False) must work in a tf.function."
    )

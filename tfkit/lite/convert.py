"""convert: one model of any kind to one .tflite."""

from __future__ import annotations

from typing import Any

from tfkit.errors import TfkitError, UsageError
from tfkit.lite import jobs, representative
from tfkit.lite.census import prove_int8
from tfkit.lite.inspect import inspect
from tfkit.lite.kinds import InputShape
from tfkit.lite.source import Source, saved

VARIANTS = ("float32", "float16", "dynamic", "int8", "int16x8")
MEASURED = ("int8", "int16x8")
"""Variants whose activations are integers: their ranges are measured on representative data."""

TYPES = {
    "int8": ("float32", "uint8", "int8"),
    "int16x8": ("float32", "int16"),
}
"""What a variant may take and give; all others take and give float32."""


def convert(
    model: Any,
    *,
    variant: str = "float32",
    representative_dataset: Any = None,
    input_shape: InputShape = None,
    signature: str | None = None,
    inference_input_type: str = "float32",
    inference_output_type: str = "float32",
    select_tf_ops: bool = False,
) -> bytes:
    """A model as TFLite, converted in a process of its own and checked.

    Args:
      model: a tf_keras model, a Keras 3 model, the .keras or .h5 file of one, a SavedModel's folder, a model handle, a
        hub.KerasLayer, or a function.
      variant: "float32"; "float16" (weights); "dynamic" (int8 weights, float32 activations); "int8" (all int8, weights
        per channel); "int16x8" (int16 activations, int8 weights).
      representative_dataset: for int8 and int16x8, some hundred examples of what the model will see: an array [n, ...],
        arrays by the names of several inputs, a tf.data.Dataset, or a function that yields lists of inputs; with labels
        as (inputs, labels) each class has its share. Of very many a seeded sample is drawn (of 20,000 at most, of large
        inputs 200); what has no end is read for 50,000 examples. A quantization-aware model has its ranges already.
      input_shape: of the one input with its batch, where the model leaves it open; of several inputs by name, or a
        list in their order.
      signature: of a SavedModel that has several.
      inference_input_type: what the file takes: "float32", or for int8 "uint8" or "int8", for int16x8 "int16".
      inference_output_type: what it gives, likewise.
      select_tf_ops: keep operations that TFLite lacks as TensorFlow's; the device then needs the Flex delegate.

    Returns:
      The content of a .tflite file, batch of 1 where the model leaves the batch open.

    Raises:
      UsageError: this cannot be asked for: a variant without its data, a model without signature, ...
      DataError: the file is no model that can be loaded here, or the representative data do not fit.
      CheckError: the model does not convert, has weights that are not finite, or the result is not what was asked for:
        an int8 file that computes in float.

    Example:
      >>> import numpy as np
      >>> from tfkit.stack import keras
      >>> model = keras.Sequential([keras.Input([4]), keras.layers.Dense(2)])
      >>> examples = np.random.default_rng(0).random((100, 4), np.float32)
      >>> convert(model, variant="int8", representative_dataset=examples)[4:8]
      b'TFL3'
    """
    request = jobs.Request(
        name=variant,
        variant=variant,
        inference_input_type=inference_input_type,
        inference_output_type=inference_output_type,
        select_tf_ops=select_tf_ops,
    )
    check(request)
    with saved(model, input_shape=input_shape, signature=signature) as source:
        examples = None
        if variant in MEASURED and representative_dataset is None and not source.quantize_aware:
            raise UsageError(missing_data(variant))
        if variant in MEASURED and representative_dataset is not None:
            examples = representative.collect(representative_dataset, source.takes)
        return finished(jobs.run(source, [request], examples=examples)[variant], request, source)


def check(request: jobs.Request) -> None:
    """Refuse what no file can be, before anything is converted.

    Raises:
      UsageError: no such variant, or types that it cannot have.
    """
    if request.variant not in VARIANTS:
        raise UsageError(f"There is no TFLite variant {request.variant!r}; there are: {', '.join(VARIANTS)}.")
    allowed = TYPES.get(request.variant, ("float32",))
    for name in ("inference_input_type", "inference_output_type"):
        if getattr(request, name) not in allowed:
            raise UsageError(
                f"{name} is {getattr(request, name)!r}; {request.variant} can have {' or '.join(allowed)}."
            )


def missing_data(variant: str) -> str:
    """Why a variant cannot be had without examples, and what to do."""
    return (
        f"{variant} needs a representative dataset: the ranges of its integers are measured on it, and without one the"
        " converter silently leaves the activations in float.\n"
        "  Give some hundred examples: representative_dataset=array [n, ...], a tf.data.Dataset, or a function that"
        " yields lists of inputs. Or take variant='dynamic', which needs none."
    )


def finished(result: bytes | TfkitError, request: jobs.Request, source: Source) -> bytes:
    """What a job gave, if it is what was asked for.

    Raises:
      CheckError: it is not.
    """
    if isinstance(result, TfkitError):
        raise result
    if request.variant == "int8" and not request.keep_float:
        prove_int8(inspect(result), name=request.name)
    return result

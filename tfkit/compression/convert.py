"""Convert one model of any kind to one .tflite file, and make sure that it is what was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfkit.compression import representative
from tfkit.compression.converter_process import MEASURED, ConversionRequest, run_conversions
from tfkit.compression.inspect import inspect, prove_int8
from tfkit.compression.sources import InputShape, Source, saved
from tfkit.environment import packages, stack
from tfkit.environment.process import quiet
from tfkit.errors import CheckError, TfkitError, UsageError

VARIANTS = ("float32", "float16", "dynamic", "int8", "int16x8")
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
      >>> from tfkit.environment.stack import keras
      >>> model = keras.Sequential([keras.Input([4]), keras.layers.Dense(2)])
      >>> examples = np.random.default_rng(0).random((100, 4), np.float32)
      >>> convert(model, variant="int8", representative_dataset=examples)[4:8]
      b'TFL3'
    """
    request = ConversionRequest(
        name=variant,
        variant=variant,
        inference_input_type=inference_input_type,
        inference_output_type=inference_output_type,
        select_tf_ops=select_tf_ops,
    )
    check_request(request)
    with saved(model, input_shape=input_shape, signature=signature) as source:
        examples = examples_for([request], source, representative_dataset)
        return check_result(run_conversions(source, [request], examples=examples)[variant], request)


def examples_for(
    requests: Sequence[ConversionRequest], source: Source, representative_dataset: Any
) -> dict[str, np.ndarray] | None:
    """Return the examples on which ranges are measured; None where no request needs them.

    Raises:
      UsageError: a variant needs a representative dataset, and there is none.
    """
    measured = [request.variant for request in requests if request.variant in MEASURED]
    if measured and representative_dataset is None and not source.quantize_aware:
        raise UsageError(
            f"{measured[0]} needs a representative dataset: the ranges of its integers are measured on it, and without"
            " one the converter silently leaves the activations in float.\n"
            "  Give some hundred examples: representative_dataset=array [n, ...], a tf.data.Dataset, or a function that"
            " yields lists of inputs. Or take variant='dynamic', which needs none."
        )
    if not measured or representative_dataset is None:
        return None
    return representative.collect_representative(representative_dataset, source.takes)


def check_request(request: ConversionRequest) -> None:
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


def check_result(result: bytes | TfkitError, request: ConversionRequest) -> bytes:
    """Return the file that a conversion gave, or raise its error.

    Raises:
      CheckError: an int8 file computes in float.
    """
    if isinstance(result, TfkitError):
        raise result
    if request.variant == "int8" and not request.keep_float:
        prove_int8(inspect(result), name=request.name)
    return result


WEIGHTS = {"weights8": 8, "weights4": 4}
"""Variants of float32 activations whose weights are integers of so many bits, made float as the model runs."""


def weights_only(model: bytes, *, bits: int) -> bytes:
    """Return a float32 .tflite with integer weights, one scale a channel, by ai-edge-quantizer.

    Four bits hold 16 values: small models lose much by them, so measure what you get.

    Args:
      model: float32.
      bits: 8 or 4.

    Raises:
      StackError: ai-edge-quantizer is not installed.
      CheckError: it cannot quantize the model.
    """
    quantizer, recipe = stack.quantizer.quantizer.Quantizer(bytearray(model)), stack.quantizer.recipe
    quantizer.load_quantization_recipe(
        recipe.weight_only_wi8_afp32() if bits == 8 else recipe.weight_only_wi4_afp32()
    )
    try:
        with quiet():
            return bytes(quantizer.quantize().quantized_model)
    except Exception as err:  # whatever a library of its age raises
        raise CheckError(f"ai-edge-quantizer cannot quantize the model: {packages.first_line(err)}") from err

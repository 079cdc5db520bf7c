"""ai-edge-quantizer, for what the converter lacks: integers for the weights alone, also of four bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfkit import packages, stack
from tfkit.errors import CheckError

WEIGHTS = {"weights8": 8, "weights4": 4}
"""Variants of float32 activations whose weights are integers of so many bits, made float as the model runs."""


def weights_only(model: bytes, *, bits: int) -> bytes:
    """A float32 .tflite with integer weights, one scale a channel.

    Four bits hold 16 values: small models lose much by them, so measure what you get.

    Args:
      model: float32.
      bits: 8 or 4.

    Raises:
      StackError: ai-edge-quantizer is not installed.
      CheckError: it cannot quantize the model.
    """
    made = _quantizer(model)
    recipe = stack.quantizer.recipe
    made.load_quantization_recipe(
        recipe.weight_only_wi8_afp32() if bits == 8 else recipe.weight_only_wi4_afp32()
    )
    return _quantized(made)


def static_int8(model: bytes, examples: Sequence[np.ndarray], *, signature: str = "serving_default") -> bytes:
    """A float32 .tflite with int8 weights and activations: what the int8 variant is set beside in benchmarks.

    Args:
      model: float32, of one input.
      examples: inputs with their batch.
      signature: of the model.
    """
    from tfkit.litert.interpreter import opened

    name = opened(model, threads=1).get_signature_list()[signature]["inputs"][0]
    made = _quantizer(model)
    made.load_quantization_recipe(stack.quantizer.recipe.static_wi8_ai8())
    ranges = made.calibrate({signature: [{name: example} for example in examples]})
    return _quantized(made, ranges)


def _quantizer(model: bytes) -> Any:
    module = stack.quantizer
    return module.quantizer.Quantizer(bytearray(model))


def _quantized(made: Any, *ranges: Any) -> bytes:
    try:
        with stack.quiet():
            return bytes(made.quantize(*ranges).quantized_model)
    except Exception as err:  # whatever a library of its age raises
        raise CheckError(f"ai-edge-quantizer cannot quantize the model: {packages.first_line(err)}") from err

"""Find the layers at which the error of an int8 model starts, and keep those in float."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tfkit.compression.compare import ModelUnderTest, compare_all
from tfkit.compression.convert import ConversionRequest, run_conversions
from tfkit.compression.inspect import inspect
from tfkit.data.splits import draw
from tfkit.environment import stack
from tfkit.environment.foreign import operator_details
from tfkit.environment.timeline import stage
from tfkit.litert import Number, inputs_of, opened

EXAMPLES = 16
_MAX_LISTED = 3
_MAX_LOST = 0.05  # of the size of the inputs, lost by cutting them to the range
_COMPUTE_OPS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "ADD", "MUL", "MEAN", "TRANSPOSE_CONV",
             "CONCATENATION")  # fmt: skip


class Step(NamedTuple):
    """The error of the tensor that one operation makes.

    Attributes:
      tensor: its name, as the float32 file has it.
      added: by how much the root mean square of its difference, relative to that of the float32 values, is larger than
        that of the tensors it is made of.
      readers: names of the tensors that are made of this one.
    """

    tensor: str
    added: float
    readers: tuple[str, ...]


def localise_error(float32: bytes, quantized: bytes, examples: Sequence[Any]) -> tuple[list[Step], str]:
    """Compare all tensors of a quantized .tflite with those of the float32 one.

    Args:
      float32: the model before quantization.
      quantized: the same model after it: its tensors have the same names.
      examples: inputs with their batch, real numbers as the float32 model takes them; of several inputs by name. Draw
        them from all: the first of an array may be of one class.

    Returns:
      The operations that compute, those that add most error first, none where the error starts at the input; and where
      it starts, in a sentence.
    """
    float_model, quantized_model = _TensorRecorder(float32), _TensorRecorder(quantized)
    named_examples = [example if isinstance(example, Mapping) else {"": example} for example in examples]
    if outside := quantized_model.find_outside(named_examples):
        return [], (
            f"The error starts at the input: {outside}. The representative data do not hold such values: give some that"
            " do, of all classes and conditions."
        )
    squares: dict[str, list[tuple[float, float]]] = {}  # of the differences, and of the float32 values
    for example in named_examples:
        real, rounded = float_model.compute(example), quantized_model.compute(example)
        for name in real.keys() & rounded.keys():
            if real[name].shape == rounded[name].shape:
                pair = float(np.mean((real[name] - rounded[name]) ** 2)), float(np.mean(real[name] ** 2))
                squares.setdefault(name, []).append(pair)
    means = {name: np.mean(pairs, axis=0) for name, pairs in squares.items()}
    errors = {name: float(np.sqrt(mean[0] / max(mean[1], 1e-12))) for name, mean in means.items()}
    steps, last_error = [], 0.0
    for name, operation, sources in float_model.operations:
        last_error = errors.get(name, last_error)
        if name in errors and operation in _COMPUTE_OPS:
            input_error = max((errors.get(source, 0.0) for source in sources), default=0.0)
            readers = tuple(reader for reader, _, inputs in float_model.operations if name in inputs)
            steps.append(Step(name, errors[name] - input_error, readers))
    steps.sort(key=lambda step: -step.added)
    worst = ", ".join(f"{layer_name(step.tensor)} (+{step.added:.2f})" for step in steps[:_MAX_LISTED])
    return steps, f"Most of the error starts at {worst}; at the output it is {last_error:.2f} of the values."


def layer_name(tensor: str) -> str:
    """Return the layer that made a tensor, out of the name that the converter gave it.

    Example:
      >>> layer_name("model/block1a_relu/Relu6;model/block1a_dw_bn/FusedBatchNormV3;model/block1a_dwconv/depthwise")
      'block1a_dwconv'
    """
    parts = [part for part in tensor.split(";")[-1].split("/") if part]
    return parts[-2] if len(parts) > 1 else (parts or ["?"])[-1]


class _TensorRecorder:
    """An interpreter that keeps every tensor: without XNNPACK, which would fuse them away."""

    def __init__(self, model: bytes) -> None:
        resolver = stack.litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        self._interpreter = opened(
            model, threads=1, experimental_preserve_all_tensors=True, experimental_op_resolver_type=resolver
        )
        details = self._interpreter.get_tensor_details()
        self._names = {int(detail["index"]): str(detail["name"]) for detail in details}
        self._numbers = {int(detail["index"]): Number(detail) for detail in details}
        self._inputs = inputs_of(self._interpreter)
        steps = operator_details(self._interpreter)
        # An input of real numbers is quantized by the first operation: its range is that tensor's.
        quantize = [step for step in steps if step["op_name"] == "QUANTIZE"]
        self._quantized_inputs = {int(step["inputs"][0]): int(step["outputs"][0]) for step in quantize}
        self._outputs = sorted({int(index) for step in steps for index in step["outputs"] if index >= 0})
        names = self._names
        self.operations = [
            (names[int(output)], str(step["op_name"]), [names.get(int(n), "") for n in step["inputs"]])
            for step in steps
            for output in step["outputs"]
        ]

    def compute(self, example: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return every computed tensor by name, as real numbers."""
        for name, values in example.items():
            number = self._inputs[name]
            self._interpreter.set_tensor(number.index, number.quantized(values))
        self._interpreter.reset_all_variables()
        self._interpreter.invoke()
        return {
            self._names[index]: self._numbers[index].real(np.asarray(self._interpreter.get_tensor(index)))
            for index in self._outputs
        }

    def find_outside(self, examples: Sequence[Mapping[str, np.ndarray]]) -> str:
        """Return what of the examples is outside of the range of its input, in words."""
        for name, number in self._inputs.items():
            number = self._numbers[self._quantized_inputs.get(number.index, number.index)]
            values = np.concatenate([example[name] for example in examples])
            nearest = number.real(number.quantized(values))
            size, lost = np.sqrt(np.mean(values**2)), np.sqrt(np.mean((nearest - values) ** 2))
            if lost > _MAX_LOST * size and (values.max() > nearest.max() or values.min() < nearest.min()):
                limits = f"the file takes {nearest.min():.3g} to {nearest.max():.3g}"
                return f"the input {name} goes from {values.min():.3g} to {values.max():.3g}, and {limits}"
        return ""


NAME = "int8-selective"
TRIES = (1, 3, 8, 16)
"""So many of the worst operations, with those that read what they make, are kept in float, one try after the other."""


@stage("localise", "Looking for the layers at which the error of int8 starts")
def selective_variant(
    tested: ModelUnderTest, float32: bytes, int8: bytes, *, limit: float, request: ConversionRequest
) -> tuple[bytes | None, str, str]:
    """Make an int8 model with a few float operations whose accuracy drop is within the limit.

    Args:
      tested: what is converted.
      float32: its float32 variant.
      int8: its int8 variant, which loses too much.
      limit: of the accuracy drop.
      request: for int8.

    Returns:
      The .tflite, if one keeps to the limit; where the error of int8 starts; a sentence on what was tried.
    """
    samples = tested.read(draw(tested.count, EXAMPLES))
    samples = samples if isinstance(samples, Mapping) else {"": samples}
    batch = max(shape[0] for shape, _ in tested.source.inputs.values())
    columns = [
        np.repeat(values[:, np.newaxis], batch, axis=1).astype(np.float32) for values in samples.values()
    ]
    examples = [dict(zip(samples, row, strict=True)) for row in zip(*columns, strict=True)]
    worst, location = localise_error(float32, int8, examples)
    if not worst:  # the representative data, and no layer
        return None, location, "Keeping layers in float does not mend that."
    attempts = []
    for count in sorted({min(count, len(worst)) for count in TRIES} - {0}):
        # What reads a tensor reads it in int8 unless it is kept too.
        kept_tensors = dict.fromkeys(name for step in worst[:count] for name in (step.tensor, *step.readers))
        mixed_request = dataclasses.replace(request, keep_float=tuple(kept_tensors))
        models, failed = run_conversions(tested.source, [mixed_request], examples=tested.examples)
        comparisons, broken = compare_all(tested, models)
        if mixed_request.name not in comparisons or "float32" not in inspect(models[mixed_request.name]).macs:
            reason = (failed | broken).get(mixed_request.name, "the converter kept none of them in float")
            return None, location, f"Keeping layers in float failed: {reason}"
        drop = comparisons[mixed_request.name].drop
        attempts.append(f"{count} in float: {drop:.4f}")
        if drop <= limit:
            layers = ", ".join(dict.fromkeys(map(layer_name, kept_tensors)))
            return models[mixed_request.name], location, f"With {layers} in float it loses {drop:.4f}."
    return None, location, f"Keeping the worst layers in float did not do ({'; '.join(attempts)})."

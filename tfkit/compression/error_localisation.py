"""When int8 loses too much: find the layers at which its error starts, and keep those in float.

drift: where in a quantized model the error starts, tensor by tensor.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfkit.compression import representative
from tfkit.compression.compare import ModelUnderTest, compare_outputs, predict
from tfkit.compression.convert import ConversionRequest, run_conversions
from tfkit.compression.inspect import inspect
from tfkit.compression.sources import saved
from tfkit.data.splits import draw
from tfkit.environment import stack
from tfkit.errors import TfkitError
from tfkit.litert.interpreter import Number, opened

EXAMPLES = 16
_SHOWN = 3
_OUTSIDE = 0.05  # of the size of the inputs, lost by cutting them to the range
_COMPUTES = (
    "CONV_2D",
    "DEPTHWISE_CONV_2D",
    "FULLY_CONNECTED",
    "ADD",
    "MUL",
    "MEAN",
    "TRANSPOSE_CONV",
    "CONCATENATION",
)


@dataclass(frozen=True, kw_only=True)
class Step:
    """The error of one tensor.

    Attributes:
      tensor: its name, as the float32 file has it.
      operation: that makes it: "CONV_2D".
      error: root mean square of the difference, relative to that of the float32 values.
      added: by how much that is more than at the tensors it is made of.
      readers: names of the tensors that are made of this one.
    """

    tensor: str
    operation: str
    error: float
    added: float
    readers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Drift:
    """The errors in the order of execution.

    Attributes:
      steps: one for each tensor.
      outside: what of the examples is outside of the range that the file has for its input; "" where nothing much is.
    """

    steps: tuple[Step, ...]
    outside: str = ""

    @property
    def guilty(self) -> tuple[Step, ...]:
        """The operations that compute, those that add most error first."""
        return tuple(
            sorted((step for step in self.steps if step.operation in _COMPUTES), key=lambda step: -step.added)
        )

    @property
    def sentence(self) -> str:
        """Where the error starts, in words."""
        if self.outside:
            return (
                f"The error starts at the input: {self.outside}. The representative data do not hold such values:"
                " give some that do, of all classes and conditions."
            )
        named = ", ".join(f"{layer_name(step.tensor)} (+{step.added:.2f})" for step in self.guilty[:_SHOWN])
        last = self.steps[-1].error if self.steps else 0.0
        return f"Most of the error starts at {named}; at the output it is {last:.2f} of the values."


def drift(float32: bytes, quantized: bytes, examples: Sequence[Any]) -> Drift:
    """Compare all tensors of a quantized .tflite with those of the float32 one.

    Args:
      float32: the model before quantization.
      quantized: the same model after it: its tensors have the same names.
      examples: inputs with their batch, real numbers as the float32 model takes them; of several inputs by name. Draw
        them from all: the first of an array may be of one class.
    """
    one, other = _Watched(float32), _Watched(quantized)
    squares: dict[str, list[float]] = {}
    sizes: dict[str, list[float]] = {}
    for example in examples:
        ours, theirs = one.values(example), other.values(example)
        for name in ours.keys() & theirs.keys():
            if ours[name].shape == theirs[name].shape:
                squares.setdefault(name, []).append(float(np.mean((ours[name] - theirs[name]) ** 2)))
                sizes.setdefault(name, []).append(float(np.mean(ours[name] ** 2)))
    errors = {
        name: float(np.sqrt(np.mean(values) / max(float(np.mean(sizes[name])), 1e-12)))
        for name, values in squares.items()
    }
    steps = []
    for name, operation, made_of in one.operations:
        if name in errors:
            before = max((errors.get(source, 0.0) for source in made_of), default=0.0)
            readers = tuple(made for made, _, sources in one.operations if name in sources)
            added = errors[name] - before
            steps.append(
                Step(tensor=name, operation=operation, error=errors[name], added=added, readers=readers)
            )
    return Drift(steps=tuple(steps), outside=other.outside(examples))


def layer_name(tensor: str) -> str:
    """The layer that made a tensor, out of the name that the converter gave it.

    Example:
      >>> layer_name("model/block1a_relu/Relu6;model/block1a_dw_bn/FusedBatchNormV3;model/block1a_dwconv/depthwise")
      'block1a_dwconv'
    """
    parts = [part for part in tensor.split(";")[-1].split("/") if part]
    return parts[-2] if len(parts) > 1 else (parts or ["?"])[-1]


class _Watched:
    """An interpreter that keeps every tensor: without XNNPACK, which would fuse them away."""

    def __init__(self, model: bytes) -> None:
        resolver = stack.litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        self._interpreter = opened(
            model, threads=1, experimental_preserve_all_tensors=True, experimental_op_resolver_type=resolver
        )
        self._details = {int(one["index"]): one for one in self._interpreter.get_tensor_details()}
        taken = self._interpreter.get_input_details()
        by_name = (
            self._interpreter.get_signature_runner().get_input_details() if len(taken) > 1 else {"": taken[0]}
        )
        self._inputs = {name: Number(details) for name, details in by_name.items()}
        # An input of real numbers is quantized by the first operation: its range is that tensor's.
        quantizes = {
            int(one["inputs"][0]): int(one["outputs"][0])
            for one in self._interpreter._get_ops_details()
            if one["op_name"] == "QUANTIZE"
        }
        self._ranges = {
            name: Number(self._details[quantizes.get(number.index, number.index)])
            for name, number in self._inputs.items()
        }
        self.operations: list[tuple[str, str, list[str]]] = [
            (
                self._name(made),
                str(one["op_name"]),
                [self._name(index) for index in one["inputs"] if index >= 0],
            )
            for one in self._interpreter._get_ops_details()
            for made in one["outputs"]
        ]

    def values(self, example: np.ndarray) -> dict[str, np.ndarray]:
        """Every computed tensor by name, as real numbers."""
        for name, values in self._named(example):
            self._interpreter.set_tensor(self._inputs[name].index, self._inputs[name].quantized(values))
        self._interpreter.reset_all_variables()
        self._interpreter.invoke()
        made = {
            int(index)
            for one in self._interpreter._get_ops_details()
            for index in one["outputs"]
            if index >= 0
        }
        return {self._name(index): self._real(index) for index in made}

    def outside(self, examples: Sequence[Any]) -> str:
        """Return what of the examples is outside of the range of its input, in words."""
        for name, number in self._ranges.items():
            values = np.concatenate([dict(self._named(example))[name] for example in examples])
            nearest = number.real(number.quantized(values))
            spread, lost = (
                float(np.sqrt(np.mean(values**2))),
                float(np.sqrt(np.mean((nearest - values) ** 2))),
            )
            if lost > _OUTSIDE * spread and (values.max() > nearest.max() or values.min() < nearest.min()):
                what = f"the input {name!r}" if name else "the input"
                return (
                    f"{what} goes from {values.min():.3g} to {values.max():.3g}, and the file takes"
                    f" {nearest.min():.3g} to {nearest.max():.3g}"
                )
        return ""

    def _named(self, example: Any) -> Sequence[tuple[str, np.ndarray]]:
        return list(example.items()) if isinstance(example, Mapping) else [("", example)]

    def _real(self, index: int) -> np.ndarray:
        return Number(self._details[index]).real(np.asarray(self._interpreter.get_tensor(index)))

    def _name(self, index: Any) -> str:
        return str(self._details[int(index)]["name"]) if int(index) in self._details else ""


NAME = "int8-selective"
TRIES = (1, 3, 8, 16)
"""So many guilty operations, with those that read what they make, are kept in float, one try after the other."""


@dataclass(frozen=True, kw_only=True)
class Rescue:
    """What was tried.

    Attributes:
      content: the .tflite, if one keeps to the limit.
      drift: where the error of int8 starts.
      sentence: what came out.
    """

    content: bytes | None
    drift: Drift
    sentence: str


def selective_variant(
    subject: ModelUnderTest,
    float32: bytes,
    int8: bytes,
    *,
    limit: float,
    request: ConversionRequest,
    signature: str | None,
) -> Rescue:
    """An int8 model with a few float operations whose accuracy drop is within the limit.

    Args:
      subject: what is converted.
      float32: its float32 variant.
      int8: its int8 variant, which loses too much.
      limit: of the accuracy drop.
      request: for int8.
      signature: of a SavedModel.
    """
    found = drift(float32, int8, _one_by_one(subject))
    if found.outside:  # the representative data, and no layer
        return Rescue(content=None, drift=found, sentence="Keeping layers in float does not mend that.")
    guilty = found.guilty
    tried = []
    with saved(subject.model, input_shape=subject.input_shape, signature=signature) as source:
        examples = representative.collect_representative(
            subject.examples, source.takes, count=subject.example_count
        )
        for count in sorted({min(count, len(guilty)) for count in TRIES} - {0}):
            # What reads a tensor reads it in int8 unless it is kept too.
            kept = [name for step in guilty[:count] for name in (step.tensor, *step.readers)]
            asked = dataclasses.replace(request, keep_float=tuple(dict.fromkeys(kept)))
            made = run_conversions(source, [asked], examples=examples)[asked.name]
            if isinstance(made, TfkitError):
                return Rescue(content=None, drift=found, sentence=f"Keeping layers in float failed: {made}")
            if "float32" not in inspect(made).macs:
                return Rescue(content=None, drift=found, sentence="The converter kept none of them in float.")
            compared = compare_outputs(
                predict(made, subject.read, subject.count), subject.expected,
                output=subject.output, labels=subject.labels, class_names=subject.class_names,
            )  # fmt: skip
            tried.append(f"{count} in float: {compared.drop:.4f}")
            if compared.drop <= limit:
                layers = ", ".join(dict.fromkeys(map(layer_name, asked.keep_float)))
                loss = f"{compared.drop:.4f}"
                return Rescue(content=made, drift=found, sentence=f"With {layers} in float it loses {loss}.")
    return Rescue(
        content=None,
        drift=found,
        sentence=f"Keeping the guiltiest layers in float did not do ({'; '.join(tried)}).",
    )


def _one_by_one(subject: ModelUnderTest) -> list[Any]:
    """Some examples with their batch of 1, drawn from all."""
    shown = subject.read(draw(subject.count, EXAMPLES))
    if isinstance(shown, Mapping):
        return [dict(zip(shown, rows, strict=True)) for rows in zip(*map(_rows, shown.values()), strict=True)]
    return _rows(shown)


def _rows(values: np.ndarray) -> list[np.ndarray]:
    return [row[np.newaxis] for row in values.astype(np.float32)]

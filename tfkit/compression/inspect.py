"""Count what is in a .tflite file, without running it and without TensorFlow, and prove an int8 one."""

from __future__ import annotations

import collections
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfkit.environment import stack
from tfkit.errors import CheckError, DataError
from tfkit.litert import damaged, names_of, operator_names, read, state

INT8_SHARE = 0.999
"""So much of an int8 file's multiply-accumulate operations must be in int8."""

NOTES = {
    "variables": "It keeps state: after an example, call reset_all_variables() (Python), resetVariableTensors() (Java,"
    " Kotlin), ResetVariableTensors() (C++) before the next one, or it goes on from where that ended.",
    "resources": "It keeps state in resource variables: only a new interpreter begins anew.",
    "random": "It draws random numbers: the same example gets another answer each time.",
    "cut": "float16 ends at 65,504, and larger numbers of the model were cut to that: harmless in a mask of attention,"
    " wrong in weights. Compare it with the model, or train on smaller numbers (prices in thousands, say).",
}
"""Advice to an application: about each kind of state, see `tfkit.litert.state`, and about `Inventory.cut`."""

# They carry numbers from one type to another, or do not compute with them.
_CARRIERS = ("QUANTIZE", "DEQUANTIZE", "RESHAPE", "CAST", "SHAPE", "PACK", "UNPACK", "STRIDED_SLICE",
             "SPLIT", "SPLIT_V")  # fmt: skip


class Tensor(NamedTuple):
    """An input or output of a model: quantized numbers stand for (number - zero_point) * scale."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None
    zero_point: int | None


class Operator(NamedTuple):
    """One operation of the graph.

    Attributes:
      name: "CONV_2D", or what a custom one is called.
      dtype: of what it computes with: "int8", "float32"; "float32 x int8" where float activations meet int8 weights.
      macs: multiply-accumulate operations for one example; 0 for operations that have none.
      output: the name of the tensor that it makes.
    """

    name: str
    dtype: str
    macs: int
    output: str


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """List what a .tflite file consists of.

    Attributes:
      size_bytes: of the file.
      inputs: in the order of the file.
      outputs: likewise.
      operators: of all graphs, in the order of execution.
      weights: bytes of constants by type.
      sparsity: share of zeros in the kernels; of a quantized one, of values that stand for zero.
      distinct_weights: the largest number of distinct values in one kernel; 0 without kernels.
      flex_ops: TensorFlow operations that the device must bring the Flex delegate for.
      custom_ops: other operations that it must bring.
      state: what it keeps from one call to the next, see `tfkit.litert.state`; mostly nothing.
      cut: names of float16 constants that hold the largest number there is, into which the converter makes larger ones.
    """

    size_bytes: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    weights: Mapping[str, int]
    sparsity: float
    distinct_weights: int
    flex_ops: tuple[str, ...]
    custom_ops: tuple[str, ...]
    state: tuple[str, ...] = ()
    cut: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what an application must know of its state, and of numbers that did not fit."""
        return tuple(NOTES[kind] for kind in ((*self.state, "cut") if self.cut else self.state))

    @property
    def macs(self) -> dict[str, float]:
        """Return the share of the multiply-accumulate operations by type, the largest first."""
        sums: collections.Counter[str] = collections.Counter()
        for operator in self.operators:
            sums[operator.dtype] += operator.macs
        total = sum(sums.values())
        return {dtype: count / total for dtype, count in sums.most_common() if count} if total else {}

    @property
    def ops(self) -> dict[str, dict[str, int]]:
        """Return the number of operations by type and name."""
        counters: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        for operator in self.operators:
            counters[operator.dtype][operator.name] += 1
        return {dtype: dict(names) for dtype, names in counters.items()}

    @property
    def op_counts(self) -> dict[str, int]:
        """Return the number of operations by name, whatever they compute with."""
        return dict(collections.Counter(operator.name for operator in self.operators))

    @property
    def summary(self) -> str:
        """Return one line: "int8: 100.0 % of MACs; float32: SOFTMAX"."""
        parts = [f"{dtype}: {100 * share:.1f} % of MACs" for dtype, share in self.macs.items()]
        other_ops = {dtype: sorted(ops) for dtype, ops in self.ops.items() if dtype not in self.macs}
        parts += [f"{dtype}: {', '.join(ops)}" for dtype, ops in other_ops.items()]
        return "; ".join([*parts, f"keeps state ({', '.join(self.state)})"] if self.state else parts)


def prove_int8(inventory: Inventory, *, name: str) -> None:
    """Make sure that an int8 file computes in int8.

    Args:
      inventory: of the file, by `inspect`.
      name: what an error calls the file.

    Raises:
      CheckError: operations in float, or float weights; the message lists them.
    """
    share = inventory.macs.get("int8", 0.0 if inventory.macs else 1.0)
    computing = [operator for operator in inventory.operators if operator.name not in _CARRIERS]
    floats = [operator for operator in computing if operator.dtype.startswith("float")]
    lines = sorted({f"{operator.name} ({operator.dtype}) {operator.output}" for operator in floats})
    if share < INT8_SHARE or lines:
        text = "".join(f"\n    {operator}" for operator in lines[:8])
        raise CheckError(
            f"{name} is no int8 model: {100 * share:.1f} % of its multiply-accumulate operations are in int8, and"
            f" {len(lines)} operations are in float:{text}\n  Give a representative dataset; single operations that"
            " have no int8 form replace, or take variant='dynamic'."
        )


_LITERT_NAMES = {"DepthwiseConv2dNative": "DEPTHWISE_CONV_2D", "Conv2D": "CONV_2D", "MatMul": "FULLY_CONNECTED",
             "AddV2": "ADD", "FusedBatchNormV3": "batch normalization"}  # fmt: skip


def operation_table(counts: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """Return how many operations of each kind several forms of a model have.

    Args:
      counts: by the form ("original", "int8"), then by the operation's name, as TensorFlow or LiteRT call it.

    Returns:
      columns: the forms; rows: the operation's name to a count for each form, the most frequent first.
    """
    rows: dict[str, list[int]] = {}
    for column, form_counts in enumerate(counts.values()):
        for name, count in form_counts.items():
            rows.setdefault(_LITERT_NAMES.get(name, name.upper()), [0] * len(counts))[column] += count
    return {"columns": [*counts], "rows": dict(sorted(rows.items(), key=lambda row: row[1], reverse=True))}


_NUMBER_TYPES = ("float32", "float16", "int32", "uint8", "int64", "int16", "int8")
_MAC_OPS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "CONV_3D", "BATCH_MATMUL")
"""Operations whose second input is their weights."""

_MIXED_TYPES = {
    ("float32", "int8"): "float32 x int8",
    ("float32", "int4"): "float32 x int4",
    ("int16", "int8"): "int16x8",
}
"""Types that operations compute in, by the types of their output and weights, where these differ."""


def inspect(model: bytes | str | Path) -> Inventory:
    """Count what is in a .tflite file.

    Args:
      model: the file's content, or its path.

    Returns:
      Operators, multiplications (MACs) by type, inputs, outputs, sparsity.

    Raises:
      DataError: it is no .tflite file, or damaged, or is not there.

    Example:
      >>> from tfkit.litert import to_tflite
      >>> from tfkit.environment.stack import tf
      >>> inventory = inspect(to_tflite(lambda x: x @ tf.ones([4, 2]), input_shape=[1, 4]))
      >>> inventory.summary, inventory.operators[0].macs
      ('float32: 100.0 % of MACs', 8)
    """
    if isinstance(model, str | Path):
        if not Path(model).is_file():
            raise DataError(f"There is no file {model} (from {Path.cwd()}).")
        model = Path(model).read_bytes()
    tables = read(model)
    try:
        return _build_inventory(tables, model)
    except Exception as err:  # shapes, types and operators that do not fit together raise whatever they do
        raise damaged(err) from err


def _build_inventory(tables: Any, model: bytes) -> Inventory:
    types, names = names_of(stack.litert_schema.TensorType), operator_names(tables)
    operators, kernels = [], []
    ends: list[tuple[Tensor, ...]] = []
    constants: dict[int, tuple[str, int]] = {}  # type and bytes by buffer
    cut_names = []
    for graph in tables.subgraphs:
        tensors, values = [_to_tensor(tensor, types) for tensor in graph.tensors or ()], []
        for tensor, spec in zip(graph.tensors or (), tensors, strict=True):
            data = tables.buffers[tensor.buffer].data
            values.append(_read_values(data, spec))
            if values[-1] is not None:
                constants[int(tensor.buffer)] = spec.dtype, len(data)
                if spec.dtype == "float16" and np.abs(values[-1]).max(initial=0) >= np.finfo(np.float16).max:
                    cut_names.append(spec.name)
        ends += [tuple(tensors[index] for index in indices) for indices in (graph.inputs, graph.outputs)]
        float16_indices: dict[int, int] = {}  # float16 weights are made float32 as the model runs
        for step in graph.operators or ():
            name = names[step.opcodeIndex]
            inputs, outputs = [int(n) for n in step.inputs if n >= 0], [int(n) for n in step.outputs]
            activation = tensors[(outputs or inputs)[0]] if outputs or inputs else None
            dtype, macs = activation.dtype if activation else "unknown", 0
            if name == "DEQUANTIZE":
                float16_indices[outputs[0]] = inputs[0]
            if name in _MAC_OPS and len(inputs) > 1 and activation:
                macs = _count_macs(name, [tensors[index].shape for index in inputs], activation.shape)
                dtype = _MIXED_TYPES.get((dtype, tensors[inputs[1]].dtype), dtype)
                kernels.append(values[float16_indices.get(inputs[1], inputs[1])])
            operators.append(Operator(name, dtype, macs, tensors[outputs[0]].name if outputs else ""))
    known_kernels = [kernel for kernel in kernels if kernel is not None]
    count = sum(kernel.size for kernel in known_kernels)
    codes = {code.customCode.decode(errors="replace") for code in tables.operatorCodes if code.customCode}
    custom = sorted(codes & {operator.name for operator in operators})
    weights: collections.Counter[str] = collections.Counter()
    for dtype, size in constants.values():
        weights[dtype] += size
    return Inventory(
        size_bytes=len(model),
        inputs=ends[0],
        outputs=ends[1],
        operators=tuple(operators),
        weights=dict(weights.most_common()),
        # The weights of all quantized kinds are symmetric: 0 stands for zero.
        sparsity=sum(int(np.sum(kernel == 0)) for kernel in known_kernels) / count if count else 0.0,
        distinct_weights=max((len(np.unique(kernel)) for kernel in known_kernels), default=0),
        flex_ops=tuple(name for name in custom if name.startswith("Flex")),
        custom_ops=tuple(name for name in custom if not name.startswith("Flex")),
        state=state(tables),
        cut=tuple(cut_names),
    )


def _read_values(data: Any, tensor: Tensor) -> np.ndarray | None:
    """Return the values of a constant of numbers; None for a tensor that is computed."""
    if data is None or not len(data):
        return None
    raw = np.asarray(data, np.uint8)
    if tensor.dtype == "int4":  # two a byte, the lower one first
        pairs = np.stack([raw << 4, raw & 0xF0], axis=-1).astype(np.uint8).view(np.int8) >> 4
        return pairs.reshape(-1)[: math.prod(tensor.shape)]
    return raw.view(tensor.dtype) if tensor.dtype in _NUMBER_TYPES else None


def _count_macs(name: str, shapes: Sequence[tuple[int, ...]], output: tuple[int, ...]) -> int:
    weights = shapes[1]
    if name == "TRANSPOSE_CONV":  # each input value meets the kernels of all outputs
        return math.prod(shapes[2]) * math.prod(weights[:3])
    reduced_sizes = {
        "CONV_2D": weights[1:],
        "DEPTHWISE_CONV_2D": weights[1:3],
        "FULLY_CONNECTED": weights[-1:],
        "CONV_3D": weights[:-1],
        "BATCH_MATMUL": shapes[0][-1:],
    }
    return math.prod(output) * math.prod(reduced_sizes[name])


def _to_tensor(tensor: Any, types: Mapping[int, str]) -> Tensor:
    quantization = tensor.quantization
    is_quantized = quantization is not None and quantization.scale is not None and len(quantization.scale)
    return Tensor(
        name=(tensor.name or b"").decode(errors="replace"),
        shape=() if tensor.shape is None else tuple(int(size) for size in tensor.shape),
        dtype=types.get(tensor.type, "unknown").lower(),
        scale=float(quantization.scale[0]) if is_quantized else None,
        zero_point=int(quantization.zeroPoint[0]) if is_quantized else None,
    )

"""What is in a .tflite file, counted without running it and without TensorFlow, and the proof of an int8 one."""

from __future__ import annotations

import collections
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfkit.errors import CheckError
from tfkit.litert.converter import damaged, names_of, operator_names, read, state

INT8_SHARE = 0.999
"""So much of an int8 file's multiply-accumulate operations must be in int8."""

NOTES = {
    "variables": "It keeps state: after an example, call reset_all_variables() (Python), resetVariableTensors() (Java,"
    " Kotlin), ResetVariableTensors() (C++) before the next one, or it goes on from where that ended.",
    "resources": "It keeps state in resource variables: only a new interpreter begins anew.",
    "random": "It draws random numbers: the same example gets another answer each time.",
}
"""What an application must do about each kind of state, see `tfkit.litert.converter.state`."""

# They carry numbers from one type to another, or do not compute with them.
_CARRIERS = ("QUANTIZE", "DEQUANTIZE", "RESHAPE", "CAST", "SHAPE", "PACK", "UNPACK", "STRIDED_SLICE",
             "SPLIT", "SPLIT_V")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """An input or output of a model: quantized numbers stand for (number - zero_point) * scale."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None = None
    zero_point: int | None = None


@dataclass(frozen=True, kw_only=True)
class Operator:
    """One operation of the graph.

    Attributes:
      name: "CONV_2D", or what a custom one is called.
      dtype: of what it computes with: "int8", "float32"; "float32 x int8" where float activations meet int8 weights.
      macs: multiply-accumulate operations for one example; 0 for operations that have none.
      output: the name of the tensor that it makes.
      constants: indices of its constant inputs.
    """

    name: str
    dtype: str
    macs: int
    output: str
    constants: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """What a .tflite file consists of.

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
      state: what it keeps from one call to the next, see `tfkit.litert.converter.state`; mostly nothing.
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

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what an application must know of its state."""
        return tuple(NOTES[one] for one in self.state)

    @property
    def macs(self) -> dict[str, float]:
        """Share of the multiply-accumulate operations by type, the largest first."""
        sums: collections.Counter[str] = collections.Counter()
        for operator in self.operators:
            sums[operator.dtype] += operator.macs
        total = sum(sums.values())
        return {dtype: count / total for dtype, count in sums.most_common() if count} if total else {}

    @property
    def ops(self) -> dict[str, dict[str, int]]:
        """Number of operations by type and name."""
        counted: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        for operator in self.operators:
            counted[operator.dtype][operator.name] += 1
        return {dtype: dict(names) for dtype, names in counted.items()}

    @property
    def summary(self) -> str:
        """One line: "int8: 100.0 % of MACs; float32: SOFTMAX"."""
        shares = [f"{dtype}: {100 * share:.1f} % of MACs" for dtype, share in self.macs.items()]
        rest = [
            f"{dtype}: {', '.join(sorted(names))}"
            for dtype, names in self.ops.items()
            if dtype not in self.macs
        ]
        kept = [f"keeps state ({', '.join(self.state)})"] if self.state else []
        return "; ".join([*shares, *rest, *kept])


def prove_int8(inventory: Inventory, *, name: str) -> None:
    """Make sure that an int8 file computes in int8.

    Args:
      inventory: of the file, by `inspect`.
      name: what an error calls the file.

    Raises:
      CheckError: operations in float, or float weights; the message lists them.
    """
    share = inventory.macs.get("int8", 0.0 if inventory.macs else 1.0)
    wrong = sorted(
        {
            f"{operator.name} ({operator.dtype}) {operator.output}"
            for operator in inventory.operators
            if operator.dtype.startswith("float") and operator.name not in _CARRIERS
        }
    )
    if share < INT8_SHARE or wrong:
        listed = "".join(f"\n    {operator}" for operator in wrong[:8])
        raise CheckError(
            f"{name} is no int8 model: {100 * share:.1f} % of its multiply-accumulate operations are in int8, and"
            f" {len(wrong)} operations are in float:{listed}\n  Without a representative dataset that is so for all of"
            " them; single ones have no int8 form: replace these, or take variant='dynamic'."
        )


_NUMBERS = ("float32", "float16", "int32", "uint8", "int64", "int16", "int8")
_WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "CONV_3D", "BATCH_MATMUL")
"""Operations whose second input is their weights."""


def inspect(model: bytes) -> Inventory:
    """Count what is in a .tflite file.

    Args:
      model: the file's content.

    Returns:
      Operators, multiplications (MACs) by type, inputs, outputs, sparsity.

    Raises:
      DataError: it is no .tflite file, or damaged.

    Example:
      >>> from tfkit.litert import to_tflite
      >>> from tfkit.environment.stack import tf
      >>> inventory = inspect(to_tflite(lambda x: x @ tf.ones([4, 2]), input_shape=[1, 4]))
      >>> inventory.summary, inventory.operators[0].macs
      ('float32: 100.0 % of MACs', 8)
    """
    tables = read(model)
    try:
        return _inventory(tables, model)
    except Exception as err:  # shapes, types and operators that do not fit together raise whatever they do
        raise damaged("The model", err) from err


def _inventory(tables: Any, model: bytes) -> Inventory:
    graphs = [_Graph(tables, graph) for graph in tables.subgraphs]
    operators = tuple(operator for graph in graphs for operator in graph.operators())
    kernels = [kernel for graph in graphs for kernel in graph.kernels()]
    values = sum(kernel.size for kernel in kernels)
    codes = {code.customCode.decode(errors="replace") for code in tables.operatorCodes if code.customCode}
    custom = sorted(codes & {operator.name for operator in operators})
    constants = {
        buffer: graph.tensors[index].dtype
        for graph in graphs
        for index, buffer in enumerate(graph.buffers)
        if graph.data(index) is not None
    }
    weights: collections.Counter[str] = collections.Counter()
    for buffer, dtype in constants.items():
        weights[dtype] += len(tables.buffers[buffer].data)
    return Inventory(
        size_bytes=len(model),
        inputs=tuple(graphs[0].tensors[index] for index in tables.subgraphs[0].inputs),
        outputs=tuple(graphs[0].tensors[index] for index in tables.subgraphs[0].outputs),
        operators=operators,
        weights=dict(weights.most_common()),
        # The weights of all quantized kinds are symmetric: 0 stands for zero.
        sparsity=sum(int(np.sum(kernel == 0)) for kernel in kernels) / values if values else 0.0,
        distinct_weights=max((len(np.unique(kernel)) for kernel in kernels), default=0),
        flex_ops=tuple(name for name in custom if name.startswith("Flex")),
        custom_ops=tuple(name for name in custom if not name.startswith("Flex")),
        state=state(model),
    )


class _Graph:
    """One graph of a file."""

    def __init__(self, tables: Any, graph: Any) -> None:
        from tfkit.environment.stack import litert_schema

        types = names_of(litert_schema.TensorType)
        names = operator_names(tables.operatorCodes)
        self._content = tables.buffers
        self.buffers = [int(tensor.buffer) for tensor in graph.tensors or ()]
        self.tensors = [_tensor(tensor, types) for tensor in graph.tensors or ()]
        self._steps = [
            (names[step.opcodeIndex], [int(n) for n in step.inputs if n >= 0], [int(n) for n in step.outputs])
            for step in graph.operators or ()
        ]

    def data(self, index: int) -> np.ndarray | None:
        """Return the values of a constant of numbers; None for a tensor that is computed."""
        buffer, tensor = self._content[self.buffers[index]].data, self.tensors[index]
        if buffer is None or not len(buffer):
            return None
        raw = np.asarray(buffer, np.uint8)
        if tensor.dtype == "int4":  # two a byte, the lower one first
            pairs = np.stack([raw << 4, raw & 0xF0], axis=-1).astype(np.uint8).view(np.int8) >> 4
            return pairs.reshape(-1)[: int(np.prod(tensor.shape))]
        return raw.view(tensor.dtype) if tensor.dtype in _NUMBERS else None

    def operators(self) -> Iterator[Operator]:
        """Yield the operations in the order of execution."""
        for name, inputs, outputs in self._steps:
            activations = [self.tensors[index] for index in outputs or inputs]
            dtype, macs = activations[0].dtype if activations else "unknown", 0
            if name in _WEIGHTED and len(inputs) > 1:
                weights = self.tensors[inputs[1]]
                macs = self._macs(name, inputs, activations[0].shape, weights.shape)
                if dtype == "float32" and weights.dtype in ("int8", "int4"):
                    dtype = f"float32 x {weights.dtype}"
                elif (dtype, weights.dtype) == ("int16", "int8"):
                    dtype = "int16x8"
            yield Operator(
                name=name,
                dtype=dtype,
                macs=macs,
                output=self.tensors[outputs[0]].name if outputs else "",
                constants=tuple(index for index in inputs if self.data(index) is not None),
            )

    def _macs(self, name: str, inputs: list[int], output: tuple[int, ...], weights: tuple[int, ...]) -> int:
        if name == "TRANSPOSE_CONV":  # each input value meets the kernels of all outputs
            return math.prod(self.tensors[inputs[2]].shape) * math.prod(weights[:3])
        each = {
            "CONV_2D": weights[1:],
            "DEPTHWISE_CONV_2D": weights[1:3],
            "FULLY_CONNECTED": weights[-1:],
            "CONV_3D": weights[:-1],
            "BATCH_MATMUL": self.tensors[inputs[0]].shape[-1:],
        }
        return math.prod(output) * math.prod(each[name])

    def kernels(self) -> Iterator[np.ndarray]:
        """Yield the constant weights of operators that multiply."""
        # float16 weights are made float32 as the model runs.
        stored = {outputs[0]: inputs[0] for name, inputs, outputs in self._steps if name == "DEQUANTIZE"}
        for name, inputs, _ in self._steps:
            if name in _WEIGHTED and len(inputs) > 1:
                kernel = self.data(stored.get(inputs[1], inputs[1]))
                if kernel is not None:
                    yield kernel


def _tensor(tensor: Any, types: Mapping[int, str]) -> Tensor:
    quantization = tensor.quantization
    quantized = quantization is not None and quantization.scale is not None and len(quantization.scale)
    return Tensor(
        name=(tensor.name or b"").decode(errors="replace"),
        shape=() if tensor.shape is None else tuple(int(size) for size in tensor.shape),
        dtype=types.get(tensor.type, "unknown").lower(),
        scale=float(quantization.scale[0]) if quantized else None,
        zero_point=int(quantization.zeroPoint[0]) if quantized else None,
    )

"""inspect: what is in a .tflite file, counted, without running it and without TensorFlow.

What a .tflite file consists of, as `inspect` finds it, and what is to be found in an int8 one.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfkit.errors import CheckError
from tfkit.litert.converter import damaged, names_of, read, state

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
class Census:
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


def prove_int8(census: Census, *, name: str) -> None:
    """Make sure that an int8 file computes in int8.

    Args:
      census: of the file, by `inspect`.
      name: what an error calls the file.

    Raises:
      CheckError: operations in float, or float weights; the message lists them.
    """
    share = census.macs.get("int8", 0.0 if census.macs else 1.0)
    wrong = {
        f"{operator.name} ({operator.dtype}) {operator.output}"
        for operator in census.operators
        if operator.dtype.startswith("float") and operator.name not in _CARRIERS
    }
    if share < INT8_SHARE or wrong:
        listed = sorted(wrong)
        more = f"\n    and {len(listed) - 8} more" if len(listed) > 8 else ""
        raise CheckError(
            f"{name} is no int8 model: {100 * share:.1f} % of its multiply-accumulate operations are in int8, and it"
            " computes in float in\n    "
            + "\n    ".join(listed[:8])
            + more
            + "\n  Without a representative dataset"
            " that is so for all of them; single ones have no int8 form: replace these, or take variant='dynamic'."
        )


_FLEX = "Flex"
_NUMPY = {
    "FLOAT32": np.float32, "FLOAT16": np.float16, "INT32": np.int32, "UINT8": np.uint8, "INT64": np.int64,
    "INT16": np.int16, "INT8": np.int8,
}  # fmt: skip
# Where an operator has its weights among its inputs.
_WEIGHTS_AT = {
    "CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "FULLY_CONNECTED": 1, "TRANSPOSE_CONV": 1, "CONV_3D": 1, "BATCH_MATMUL": 1,
}  # fmt: skip


def inspect(model: bytes) -> Census:
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
      >>> census = inspect(to_tflite(lambda x: x @ tf.ones([4, 2]), input_shape=[1, 4]))
      >>> census.summary, census.operators[0].macs
      ('float32: 100.0 % of MACs', 8)
    """
    tables = read(model)
    try:
        return _census(tables, size_bytes=len(model), state=state(model))
    except Exception as err:  # shapes, types and operators that do not fit together raise whatever they do
        raise damaged("The model", err) from err


def _census(tables: Any, *, size_bytes: int, state: tuple[str, ...]) -> Census:
    graphs = [_Graph(tables, graph) for graph in tables.subgraphs]
    operators = tuple(operator for graph in graphs for operator in graph.operators())
    kernels = [kernel for graph in graphs for kernel in graph.kernels()]
    values = sum(kernel.size for kernel, _ in kernels)
    zeros = sum(int(np.sum(kernel == zero)) for kernel, zero in kernels)
    custom = sorted({operator.name for operator in operators if operator.name in _custom_names(tables)})
    return Census(
        size_bytes=size_bytes,
        inputs=graphs[0].ends(graphs[0].graph.inputs),
        outputs=graphs[0].ends(graphs[0].graph.outputs),
        operators=operators,
        weights=_weights(graphs),
        sparsity=zeros / values if values else 0.0,
        distinct_weights=max((len(np.unique(kernel)) for kernel, _ in kernels), default=0),
        flex_ops=tuple(name for name in custom if name.startswith(_FLEX)),
        custom_ops=tuple(name for name in custom if not name.startswith(_FLEX)),
        state=state,
    )


class _Graph:
    """One graph of a file, with its file."""

    def __init__(self, tables: Any, graph: Any) -> None:
        from tfkit.environment.stack import litert_schema

        self.graph = graph
        self._tables = tables
        self._types = names_of(litert_schema.TensorType)
        self._builtins = names_of(litert_schema.BuiltinOperator)

    def ends(self, indices: Sequence[int]) -> tuple[Tensor, ...]:
        """Inputs or outputs."""
        return tuple(self._end(int(index)) for index in indices)

    def _end(self, index: int) -> Tensor:
        tensor = self.graph.tensors[index]
        found = tensor.quantization
        quantized = found is not None and found.scale is not None and len(found.scale)
        return Tensor(
            name=self.name(index),
            shape=self.shape(index),
            dtype=self.dtype(index),
            scale=float(found.scale[0]) if quantized else None,
            zero_point=int(found.zeroPoint[0]) if quantized else None,
        )

    def name(self, index: int) -> str:
        """What a tensor is called."""
        return (self.graph.tensors[index].name or b"").decode(errors="replace")

    def shape(self, index: int) -> tuple[int, ...]:
        """Of a tensor."""
        shape = self.graph.tensors[index].shape
        return tuple(int(size) for size in shape) if shape is not None else ()

    def dtype(self, index: int) -> str:
        """Of a tensor, in lower case."""
        return self._types.get(self.graph.tensors[index].type, "unknown").lower()

    def data(self, index: int) -> np.ndarray | None:
        """The values of a constant of numbers; None for a tensor that is computed."""
        buffer = self._tables.buffers[self.graph.tensors[index].buffer].data
        if buffer is None or not len(buffer):
            return None
        raw = np.asarray(buffer, np.uint8)
        dtype = self.dtype(index).upper()
        if dtype == "INT4":  # two a byte, the lower one first
            pairs = np.stack([raw << 4, raw & 0xF0], axis=-1).astype(np.uint8).view(np.int8) >> 4
            return pairs.reshape(-1)[: int(np.prod(self.shape(index)))]
        return raw.view(_NUMPY[dtype]) if dtype in _NUMPY else None

    def operators(self) -> Iterator[Operator]:
        """In the order of execution."""
        for operator in self.graph.operators or ():
            name = _operator_name(self._tables.operatorCodes[operator.opcodeIndex], self._builtins)
            inputs = [int(index) for index in operator.inputs if index >= 0]
            outputs = [int(index) for index in operator.outputs]
            yield Operator(
                name=name,
                dtype=self._computes_in(name, inputs, outputs),
                macs=self._macs(name, inputs, outputs),
                output=self.name(outputs[0]) if outputs else "",
                constants=tuple(index for index in inputs if self.data(index) is not None),
            )

    def _computes_in(self, name: str, inputs: list[int], outputs: list[int]) -> str:
        activations = self.dtype((outputs or inputs)[0]) if outputs or inputs else "unknown"
        at = _WEIGHTS_AT.get(name)
        if at is None or at >= len(inputs):
            return activations
        weights = self.dtype(inputs[at])
        if activations == "float32" and weights in ("int8", "int4"):
            return f"{activations} x {weights}"
        return f"{activations}x8" if (activations, weights) == ("int16", "int8") else activations

    def _macs(self, name: str, inputs: list[int], outputs: list[int]) -> int:
        at = _WEIGHTS_AT.get(name)
        if at is None or at >= len(inputs):
            return 0
        made, weights = self.shape(outputs[0]), self.shape(inputs[at])
        each = {
            "CONV_2D": lambda: int(np.prod(weights[1:])),
            "DEPTHWISE_CONV_2D": lambda: int(np.prod(weights[1:3])),
            "FULLY_CONNECTED": lambda: weights[-1],
            "CONV_3D": lambda: int(np.prod(weights[:-1])),
            "BATCH_MATMUL": lambda: self.shape(inputs[0])[-1],
        }
        if name == "TRANSPOSE_CONV":  # each input value meets the kernels of all outputs
            return int(np.prod(self.shape(inputs[2]))) * int(np.prod(weights[:3]))
        return int(np.prod(made)) * each[name]()

    def kernels(self) -> Iterator[tuple[np.ndarray, int]]:
        """The constant weights of operators that multiply, with the number that stands for zero."""
        for operator in self.graph.operators or ():
            name = _operator_name(self._tables.operatorCodes[operator.opcodeIndex], self._builtins)
            at = _WEIGHTS_AT.get(name)
            if at is None or at >= len(operator.inputs):
                continue
            kernel = self.data(self._stored(int(operator.inputs[at])))
            if kernel is not None:
                yield kernel, 0  # the weights of all quantized kinds are symmetric

    def _stored(self, index: int) -> int:
        """The constant that a tensor is made of: float16 weights are made float32 as the model runs."""
        for operator in self.graph.operators or ():
            name = _operator_name(self._tables.operatorCodes[operator.opcodeIndex], self._builtins)
            if name == "DEQUANTIZE" and int(operator.outputs[0]) == index:
                return int(operator.inputs[0])
        return index

    def constants(self) -> Iterator[tuple[str, int]]:
        """Type and buffer of each constant."""
        for index, tensor in enumerate(self.graph.tensors or ()):
            if self.data(index) is not None:
                yield self.dtype(index), int(tensor.buffer)


def _weights(graphs: Sequence[_Graph]) -> dict[str, int]:
    tables = graphs[0]._tables
    counted = {buffer: dtype for graph in graphs for dtype, buffer in graph.constants()}
    sums: collections.Counter[str] = collections.Counter()
    for buffer, dtype in counted.items():
        sums[dtype] += len(tables.buffers[buffer].data)
    return dict(sums.most_common())


def _operator_name(code: Any, builtins: Mapping[int, str]) -> str:
    if code.customCode:
        return str(code.customCode.decode(errors="replace"))
    # Codes above 126 do not fit into the older field.
    return builtins.get(max(code.builtinCode, code.deprecatedBuiltinCode), "UNKNOWN")


def _custom_names(tables: Any) -> set[str]:
    return {code.customCode.decode(errors="replace") for code in tables.operatorCodes if code.customCode}

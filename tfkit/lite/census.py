"""What a .tflite file consists of, as `inspect` finds it, and what is to be found in an int8 one."""

from __future__ import annotations

import collections
from collections.abc import Mapping
from dataclasses import dataclass

from tfkit.errors import CheckError

INT8_SHARE = 0.999
"""So much of an int8 file's multiply-accumulate operations must be in int8."""

NOTES = {
    "variables": "It keeps state: after an example, call reset_all_variables() (Python), resetVariableTensors() (Java,"
    " Kotlin), ResetVariableTensors() (C++) before the next one, or it goes on from where that ended.",
    "resources": "It keeps state in resource variables: only a new interpreter begins anew.",
    "random": "It draws random numbers: the same example gets another answer each time.",
}
"""What an application must do about each kind of state, see `tfkit.litert.flatbuffer.state`."""

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
      state: what it keeps from one call to the next, see `tfkit.litert.flatbuffer.state`; mostly nothing.
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

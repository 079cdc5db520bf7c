"""Functions to .tflite files, and such files read with care: a file is a stranger's until it was found whole."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfkit.environment import packages, stack
from tfkit.environment.process import quiet
from tfkit.errors import CheckError, DataError

IDENTIFIER = b"TFL3"
MOST_TABLES = 250_000
"""Tensors, operators and buffers that a file may have; the verifier of flatbuffers stops at four times as many."""

MOST_NUMBERS = 2**28
"""Numbers in a tensor that is computed: as float32, 1 GB."""

_SMALLEST = 8
_OF_TEXT = ("FastBertNormalize", "FastWordpieceTokenize", "TFText>")
_RANDOM = ("RANDOM_UNIFORM", "RANDOM_STANDARD_NORMAL", "MULTINOMIAL")
_FLEX_RANDOM, _FLEX_ASSIGN = ("FlexRandom", "FlexMultinomial", "FlexStatefulRandom"), "FlexAssign"


def read(model: bytes, *, name: str = "The model") -> Any:
    """Return the tables of a .tflite file, as ModelT of the LiteRT schema; nothing of it is run.

    Args:
      model: the file's content.
      name: what an error calls it.

    Raises:
      DataError: it is none, or damaged.
    """
    if len(model) < _SMALLEST or model[4:8] != IDENTIFIER:
        raise DataError(
            f"{name} is no .tflite file: it begins with {bytes(model[:8])!r} ({len(model)} bytes)."
        )
    try:
        root = stack.litert_schema.Model.GetRootAs(model, 0)
        _refuse_endless(root)
        tables = stack.litert_schema.ModelT.InitFromObj(root)
        _refuse_dangling(tables, most=max(len(model), MOST_TABLES))
    except Exception as err:  # a flatbuffer that was cut or overwritten raises whatever its bytes make it
        raise damaged(name, err) from err
    return tables


def damaged(name: str, error: Exception) -> DataError:
    """Return the error of a .tflite file that is not what a converter wrote."""
    reason = f"{type(error).__name__}: {error}"
    return DataError(
        f"{name} is a damaged .tflite file ({reason:.300})."
        "\n  Convert it or copy it again: a .tflite file is cut short by an interrupted download, say."
    )


def is_of_text(operation: str) -> bool:
    """Return whether an operation, by its name in a graph or in a file, is one of tensorflow-text."""
    return operation.startswith(_OF_TEXT)


def cuts_text(model: bytes) -> bool:
    """Return whether a .tflite file has custom operations of tensorflow-text; only its list of operations is read."""
    return any(map(is_of_text, operator_names(stack.litert_schema.Model.GetRootAs(model, 0))))


def operator_names(root: Any) -> list[str]:
    """Return the names of the operations in a file's list, "CONV_2D" or what a custom one is called, by their codes."""
    builtins = names_of(stack.litert_schema.BuiltinOperator)
    codes = [root.OperatorCodes(place) for place in range(root.OperatorCodesLength())]
    return [
        (code.CustomCode() or b"").decode(errors="replace")
        # Codes above 126 do not fit into the older field.
        or builtins.get(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()), "UNKNOWN")
        for code in codes
    ]


def _refuse_endless(root: Any) -> None:
    """Refuse counts that are damaged: reading so many tables would take minutes."""
    counts = (root.SubgraphsLength, root.OperatorCodesLength, root.BuffersLength, root.MetadataLength)
    tables = sum(count() for count in counts)
    if tables <= MOST_TABLES:
        graphs = [root.Subgraphs(place) for place in range(root.SubgraphsLength())]
        tables += sum(graph.TensorsLength() + graph.OperatorsLength() for graph in graphs)
    if tables > MOST_TABLES:
        raise ValueError(f"it has {tables:,} tables")


def state(model: bytes) -> tuple[str, ...]:
    """Return what a .tflite file keeps from one call to the next.

    Args:
      model: the file's content.

    Returns:
      "variables": tensors that a fused LSTM goes on from, which `reset_all_variables` sets back; "resources": variables
      that only a new interpreter sets back; "random": each call draws other random numbers. Mostly nothing.
    """
    root = stack.litert_schema.Model.GetRootAs(model, 0)
    names = operator_names(root)
    graphs = [root.Subgraphs(place) for place in range(root.SubgraphsLength())]
    used = [
        {names[graph.Operators(n).OpcodeIndex()] for n in range(graph.OperatorsLength())} for graph in graphs
    ]
    # What a file assigns once, before its first call, is no state; that stands in graphs of its own.
    often = used[:1] if "CALL_ONCE" in used[0] else used
    kinds = []
    if any(graph.Tensors(n).IsVariable() for graph in graphs for n in range(graph.TensorsLength())):
        kinds.append("variables")
    if any(name == "ASSIGN_VARIABLE" or name.startswith(_FLEX_ASSIGN) for some in often for name in some):
        kinds.append("resources")
    if any(name in _RANDOM or name.startswith(_FLEX_RANDOM) for some in used for name in some):
        kinds.append("random")
    return tuple(kinds)


def _refuse_dangling(tables: Any, *, most: int) -> None:
    """Refuse indices that point outside of their tables: the interpreter would follow them."""
    if not tables.subgraphs or tables.operatorCodes is None or tables.buffers is None:
        raise ValueError("it has no graph")
    for graph in tables.subgraphs:
        if graph.inputs is None or graph.outputs is None:
            raise ValueError("a graph without inputs or outputs")
        count = len(graph.tensors or ())
        lists = [graph.inputs, graph.outputs]
        for operator in graph.operators or ():
            lists += [operator.inputs, operator.outputs]
            if not 0 <= operator.opcodeIndex < len(tables.operatorCodes):
                raise ValueError(f"an operator of code {operator.opcodeIndex}")
        used = [np.asarray(indices, np.int64) for indices in lists if indices is not None]
        if sum(map(len, used)) > most:
            raise ValueError("operators of more tensors than the file has bytes")
        if any(((indices < -1) | (indices >= count)).any() for indices in used):
            raise ValueError("an operator of tensors that are not there")
        if (used[0] < 0).any() or (used[1] < 0).any():
            raise ValueError("a graph of inputs or outputs that are not there")
        for tensor in graph.tensors or ():
            if not 0 <= tensor.buffer < len(tables.buffers):
                raise ValueError("a tensor of a buffer that is not there")
            data = tables.buffers[tensor.buffer].data
            shape = [] if tensor.shape is None else [abs(int(size)) for size in tensor.shape]
            if (data is None or not len(data)) and math.prod(shape) > MOST_NUMBERS:
                raise ValueError(f"a tensor of shape {shape}")


def names_of(enumeration: type) -> dict[int, str]:
    """Return the names of an enumeration of the schema by value, such as of BuiltinOperator."""
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}


REMEDY = "Replace the layers that use them; TensorFlow itself runs the model as it is."


def to_tflite(
    model: Callable[[stack.tf.Tensor], stack.tf.Tensor],
    *,
    input_shape: Sequence[int | None],
    dtype: str = "float32",
) -> bytes:
    """Convert a function to float32 TFLite, in this process: quick, for what is known to convert.

    Args:
      model: a tf_keras model, a hub.KerasLayer, a tf.function, or any other function that TensorFlow can
        trace: of one tensor, to one tensor. It is called as it infers, not as it trains.
      input_shape: of that tensor, with the batch. With a batch of 1 the interpreter plans its memory best;
        None makes an input that is resized.
      dtype: of that tensor; ids of words are "int32".

    Returns:
      The content of a .tflite file.

    Raises:
      CheckError: the model has operations that TFLite lacks, or cannot be converted for another reason.

    Example:
      >>> from tfkit.environment.stack import tf
      >>> to_tflite(tf.nn.relu, input_shape=[1, 4])[4:8]
      b'TFL3'
    """
    function = stack.tf.function(lambda inputs: model(inputs), autograph=False).get_concrete_function(
        stack.tf.TensorSpec(list(input_shape), dtype)
    )
    # The model itself is handed over only so that its variables live on.
    converter = stack.tf.lite.TFLiteConverter.from_concrete_functions([function], model)
    # Its default way saves all of the model as a SavedModel first, with every layer traced four times: 16 s
    # for EfficientNet-Lite0 where freezing the one function that is converted takes 1.3 s, for the same bytes.
    converter.experimental_lower_to_saved_model = False
    return converted(converter.convert)


def converted(convert: Callable[[], Any], *, remedy: str = REMEDY) -> bytes:
    """Return what a converter makes, or what is in its way, in words.

    Args:
      convert: such as the method of a tf.lite.TFLiteConverter.
      remedy: what to do about operations that TFLite lacks.

    Raises:
      CheckError: it fails.
    """
    try:
        with quiet():
            return bytes(convert())
    except Exception as err:  # the converter's own error, and whatever TensorFlow raises on the way there
        if lacking := lacking_operations(str(err)):
            raise CheckError(
                f"The model does not convert to TFLite, which lacks {', '.join(lacking)}.\n  {remedy}"
            ) from err
        raise CheckError(f"The model does not convert to TFLite: {packages.first_line(err)}") from err


def lacking_operations(message: str) -> list[str]:
    """Return the operations that a message of the converter says TFLite lacks, without repetition.

    Example:
      >>> lacking_operations("TF Select ops: Betainc, Svd\\nDetails: ...\\nCustom ops: Foo")
      ['Betainc', 'Foo', 'Svd']
    """
    listed = re.findall(r"^\s*(?:TF Select|Custom) ops: (.+)$", message, flags=re.MULTILINE)
    return sorted({name.strip() for names in listed for name in names.split(",")})

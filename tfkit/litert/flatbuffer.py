"""The .tflite format, read with care: a file is a stranger's until it was found whole."""

from __future__ import annotations

from typing import Any

from tfkit.errors import DataError

IDENTIFIER = b"TFL3"
_SMALLEST = 8
_OF_TEXT = ("FastBertNormalize", "FastWordpieceTokenize", "TFText>")
_RANDOM = ("RANDOM_UNIFORM", "RANDOM_STANDARD_NORMAL", "MULTINOMIAL")
_FLEX_RANDOM, _FLEX_ASSIGN = ("FlexRandom", "FlexMultinomial", "FlexStatefulRandom"), "FlexAssign"
_PRE_AGAIN = "\n  Convert it or copy it again: a .tflite file is cut short by an interrupted download, say."


def read(model: bytes, *, name: str = "The model") -> Any:
    """The tables of a .tflite file, as ModelT of the LiteRT schema; nothing of it is run.

    Args:
      model: the file's content.
      name: what an error calls it.

    Raises:
      DataError: it is none, or damaged.
    """
    from tfkit.stack import litert_schema as schema

    if len(model) < _SMALLEST or model[4:8] != IDENTIFIER:
        raise DataError(
            f"{name} is no .tflite file: it begins with {bytes(model[:8])!r} ({len(model)} bytes)."
        )
    try:
        tables = schema.ModelT.InitFromObj(schema.Model.GetRootAs(bytearray(model), 0))
        _refuse_dangling(tables)
    except Exception as err:  # a flatbuffer that was cut or overwritten raises whatever its bytes make it
        raise DataError(
            f"{name} is a damaged .tflite file ({type(err).__name__}: {err}).{_PRE_AGAIN}"
        ) from err
    return tables


def check(model: bytes, *, name: str = "The model") -> None:
    """Refuse what cannot be a .tflite file, at no cost.

    Raises:
      DataError: it is none.
    """
    if len(model) < _SMALLEST or model[4:8] != IDENTIFIER:
        raise DataError(
            f"{name} is no .tflite file: it begins with {bytes(model[:8])!r} ({len(model)} bytes)."
        )


def is_of_text(operation: str) -> bool:
    """Whether an operation, by its name in a graph or in a file, is one of tensorflow-text."""
    return operation.startswith(_OF_TEXT)


def cuts_text(model: bytes) -> bool:
    """Whether a .tflite file has custom operations of tensorflow-text; only its list of operations is read."""
    from tfkit.stack import litert_schema as schema

    root = schema.Model.GetRootAs(model, 0)
    codes = (root.OperatorCodes(place).CustomCode() for place in range(root.OperatorCodesLength()))
    return any(is_of_text(code.decode(errors="replace")) for code in codes if code)


def state(model: bytes) -> tuple[str, ...]:
    """Return what a .tflite file keeps from one call to the next.

    Args:
      model: the file's content.

    Returns:
      "variables": tensors that a fused LSTM goes on from, which `reset_all_variables` sets back; "resources": variables
      that only a new interpreter sets back; "random": each call draws other random numbers. Mostly nothing.
    """
    from tfkit.stack import litert_schema as schema

    root = schema.Model.GetRootAs(model, 0)
    codes = [root.OperatorCodes(place) for place in range(root.OperatorCodesLength())]
    builtins = names_of(schema.BuiltinOperator)
    names = [
        (code.CustomCode() or b"").decode(errors="replace")
        or builtins.get(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()), "")
        for code in codes
    ]
    graphs = [root.Subgraphs(place) for place in range(root.SubgraphsLength())]
    used = [
        {names[graph.Operators(n).OpcodeIndex()] for n in range(graph.OperatorsLength())} for graph in graphs
    ]
    # What a file assigns once, before its first call, is no state; that stands in graphs of its own.
    often = used[:1] if "CALL_ONCE" in used[0] else used
    found = []
    if any(graph.Tensors(n).IsVariable() for graph in graphs for n in range(graph.TensorsLength())):
        found.append("variables")
    if any(name == "ASSIGN_VARIABLE" or name.startswith(_FLEX_ASSIGN) for some in often for name in some):
        found.append("resources")
    if any(name in _RANDOM or name.startswith(_FLEX_RANDOM) for some in used for name in some):
        found.append("random")
    return tuple(found)


def _refuse_dangling(tables: Any) -> None:
    """Indices that point outside of their tables: the interpreter would follow them."""
    if not tables.subgraphs or tables.operatorCodes is None or tables.buffers is None:
        raise ValueError("it has no graph")
    for graph in tables.subgraphs:
        count = len(graph.tensors or ())
        used = [*_all(graph.inputs), *_all(graph.outputs)]
        for operator in graph.operators or ():
            used += [*_all(operator.inputs), *_all(operator.outputs)]
            if not 0 <= operator.opcodeIndex < len(tables.operatorCodes):
                raise ValueError(f"an operator of code {operator.opcodeIndex}")
        if any(not -1 <= index < count for index in used):
            raise ValueError("an operator of tensors that are not there")
        for tensor in graph.tensors or ():
            if not 0 <= tensor.buffer < len(tables.buffers):
                raise ValueError("a tensor of a buffer that is not there")


def _all(indices: Any) -> list[int]:
    return [] if indices is None else [int(index) for index in indices]


def names_of(enumeration: type) -> dict[int, str]:
    """The names of an enumeration of the schema by value, such as of BuiltinOperator."""
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}

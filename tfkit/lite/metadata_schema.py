"""The tables of the TFLite metadata format that an image classifier needs, written and read by one description.

Source: metadata_schema.fbs of TFLite Support and MediaPipe, version 1.5.0, file identifier M001. Numbers below are its
slots: the place of a field within its table, which never changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import flatbuffers
from flatbuffers.number_types import Float32Flags, Int8Flags, UOffsetTFlags
from flatbuffers.table import Table

IDENTIFIER = b"M001"

TEXT, NUMBERS = "text", "numbers"
MOST = 10_000
"""Tables of one file, and numbers in a vector."""


@dataclass(frozen=True)
class Names:
    """An enumeration of one byte: what its values are called, from 0."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class Tables:
    """A vector of tables of one kind."""

    fields: Fields


@dataclass(frozen=True)
class OneOf:
    """A union: its slot holds which of the tables it is, counted from 1, the slot behind it the table."""

    tables: Mapping[str, Fields]


Kind = str | Names | Tables | OneOf | Mapping[str, Any]
Fields = Mapping[str, tuple[int, Kind]]
"""A table: name of a field to its slot and what it is. Text, numbers (float32 [n]), or one of the above; a mapping
is a table in a table."""

_IMAGE: Fields = {"color_space": (0, Names(("UNKNOWN", "RGB", "GRAYSCALE")))}
_CONTENT: Fields = {"content_properties": (0, OneOf({"FeatureProperties": {}, "ImageProperties": _IMAGE}))}
_NORMALIZATION: Fields = {"mean": (0, NUMBERS), "std": (1, NUMBERS)}
_PROCESS: Fields = {"options": (0, OneOf({"NormalizationOptions": _NORMALIZATION}))}
_STATS: Fields = {"max": (0, NUMBERS), "min": (1, NUMBERS)}
_FILE: Fields = {
    "name": (0, TEXT),
    "description": (1, TEXT),
    "type": (2, Names(("UNKNOWN", "DESCRIPTIONS", "TENSOR_AXIS_LABELS", "TENSOR_VALUE_LABELS"))),
}
_TENSOR: Fields = {
    "name": (0, TEXT),
    "description": (1, TEXT),
    "content": (3, _CONTENT),
    "process_units": (4, Tables(_PROCESS)),
    "stats": (5, _STATS),
    "associated_files": (6, Tables(_FILE)),
}
_SUBGRAPH: Fields = {
    "name": (0, TEXT),
    "input_tensor_metadata": (2, Tables(_TENSOR)),
    "output_tensor_metadata": (3, Tables(_TENSOR)),
}
MODEL: Fields = {
    "name": (0, TEXT),
    "description": (1, TEXT),
    "version": (2, TEXT),
    "subgraph_metadata": (3, Tables(_SUBGRAPH)),
    "author": (4, TEXT),
    "license": (5, TEXT),
    "min_parser_version": (7, TEXT),
}


def encode(metadata: Mapping[str, Any]) -> bytes:
    """A ModelMetadata flatbuffer.

    Args:
      metadata: fields of `MODEL` by name; enumerations by the name of their value, unions as {name of the table: its
        fields}.

    Returns:
      Its bytes, with the file identifier.

    Example:
      >>> decode(encode({"name": "digits", "subgraph_metadata": [{"name": "main"}]}))
      {'name': 'digits', 'subgraph_metadata': [{'name': 'main'}]}
    """
    builder = flatbuffers.Builder(1024)
    builder.Finish(_write(builder, MODEL, metadata), IDENTIFIER)
    return bytes(builder.Output())


def decode(buffer: bytes) -> dict[str, Any]:
    """What `encode` was given, and as much of what others wrote as `MODEL` knows.

    Raises:
      ValueError: the buffer is no ModelMetadata, or damaged.
    """
    if buffer[4:8] != IDENTIFIER:
        raise ValueError(f"its file identifier is {buffer[4:8]!r} and not {IDENTIFIER!r}")
    try:
        root = Table(buffer, 0)
        return _read(Table(buffer, root.Indirect(0)), MODEL, left=iter(range(MOST)))
    except (
        Exception
    ) as err:  # offsets that point anywhere: struct.error, IndexError, TypeError, UnicodeError, ...
        raise ValueError("its tables are damaged") from err


def _write(builder: flatbuffers.Builder, fields: Fields, values: Mapping[str, Any]) -> int:
    """A table; what it refers to is written before it, as the format wants."""
    small: dict[int, int] = {}
    large: dict[int, int] = {}
    for name, value in values.items():
        slot, kind = fields[name]
        if isinstance(kind, Names):
            small[slot] = kind.names.index(value)
        elif isinstance(kind, OneOf):
            ((chosen, content),) = value.items()
            small[slot] = 1 + list(kind.tables).index(chosen)
            large[slot + 1] = _write(builder, kind.tables[chosen], content)
        else:
            large[slot] = _write_one(builder, kind, value)
    builder.StartObject(1 + max([*small, *large], default=-1))
    for slot, offset in large.items():
        builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
    for slot, number in small.items():
        builder.PrependInt8Slot(slot, number, 0)
    return int(builder.EndObject())


def _write_one(builder: flatbuffers.Builder, kind: Kind, value: Any) -> int:
    if kind == TEXT:
        return int(builder.CreateString(value))
    if isinstance(kind, Mapping):
        return _write(builder, kind, value)
    if isinstance(kind, Tables):
        return _vector(builder, [_write(builder, kind.fields, one) for one in value], UOffsetTFlags)
    return _vector(builder, value, Float32Flags)


def _vector(builder: flatbuffers.Builder, values: Sequence[float], flags: Any) -> int:
    builder.StartVector(flags.bytewidth, len(values), flags.bytewidth)
    prepend = builder.PrependUOffsetTRelative if flags is UOffsetTFlags else builder.PrependFloat32
    for value in reversed(values):  # a flatbuffer grows towards its front
        prepend(value)
    return int(builder.EndVector())


def _read(table: Table, fields: Fields, *, left: Iterator[int]) -> dict[str, Any]:
    next(left)  # offsets of a damaged buffer may make a million tables of the same few bytes
    found = {}
    for name, (slot, kind) in fields.items():
        if place := _place(table, slot):
            found[name] = _read_one(table, slot, kind, place, left)
    return found


def _place(table: Table, slot: int) -> int:
    """Where the field is in the buffer, 0 if it is not there."""
    offset = table.Offset(4 + 2 * slot)  # behind the two sizes with which its vtable begins
    return int(table.Pos + offset) if offset else 0


def _read_one(table: Table, slot: int, kind: Kind, place: int, left: Iterator[int]) -> Any:
    if kind == TEXT:
        return table.String(place).decode()
    if isinstance(kind, Mapping):
        return _read(Table(table.Bytes, table.Indirect(place)), kind, left=left)
    if isinstance(kind, Names):
        number = table.Get(Int8Flags, place)
        return kind.names[number] if number < len(kind.names) else kind.names[0]
    if isinstance(kind, OneOf):
        number = table.Get(Int8Flags, place)
        if not 1 <= number <= len(kind.tables):  # of a later version, or of another kind of model
            return {}
        chosen, inner = list(kind.tables.items())[number - 1]
        return {chosen: _read(Table(table.Bytes, table.Indirect(_place(table, slot + 1))), inner, left=left)}
    start, length = table.Vector(place - table.Pos), table.VectorLen(place - table.Pos)
    if length > MOST:
        raise ValueError(f"{length:,} in a vector")
    if isinstance(kind, Tables):
        tables = [table.Indirect(start + UOffsetTFlags.bytewidth * index) for index in range(length)]
        return [_read(Table(table.Bytes, one), kind.fields, left=left) for one in tables]
    return [float(table.Get(Float32Flags, start + Float32Flags.bytewidth * index)) for index in range(length)]

"""Metadata: what a .tflite file says of itself, so that a client needs nothing beside it.

The format is TFLite's: a ModelMetadata flatbuffer in the model's own list of metadata, and the labels as a file in a
zip archive that is appended to the model. An interpreter reads the former part alone; `zipfile` reads the latter.

The tables of the TFLite metadata format that an image classifier needs, written and read by one description.

Source: metadata_schema.fbs of TFLite Support and MediaPipe, version 1.5.0, file identifier M001. Numbers below are its
slots: the place of a field within its table, which never changes.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import flatbuffers
from flatbuffers.number_types import Float32Flags, Int8Flags, UOffsetTFlags
from flatbuffers.table import Table

from tfkit.errors import DataError, UsageError
from tfkit.litert import converter
from tfkit.litert.converter import names_of, read

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


ENTRY = "TFLITE_METADATA"
LABELS = "labels.txt"
MOST_LABELS = 16 * 2**20
"""Bytes of the file of labels, unpacked."""

MIN_PARSER_VERSION = "1.0.0"  # of the schema: nothing is written that came later

_ALIGNMENT = 16  # bytes: what schema.fbs asks for a buffer's data, and kernels rely on
_CHANNELS = {1: "GRAYSCALE", 3: "RGB"}
_RANGES = {"UINT8": (0.0, 255.0), "INT8": (-128.0, 127.0), "INT16": (-32768.0, 32767.0)}
_WHITE = 255.0
_BACK_TO_START = "Convert the model again, or copy the file again."


def with_metadata(
    model: bytes,
    *,
    name: str,
    description: str,
    labels: Sequence[str],
    mean: float | None = None,
    std: float | None = None,
) -> bytes:
    """An image classifier with its name, its labels and its scaling inside.

    Clients such as MediaPipe Tasks' ImageClassifier need them. Metadata that the file has already is replaced.

    Args:
      model: content of a .tflite file: one image [1, height, width, 1 or 3] to the scores of classes [1, classes].
      name: of the model.
      description: what it tells apart, from which data, for whom.
      labels: one a class, in the order of the outputs; a line break within one becomes a space.
      mean: with `std`, what a client does to a pixel from 0 to 255 for an input of float32: (pixel - mean) / std.
      std: 0 and 1 for a model that takes the pixels as they are. None for a quantized input, whose scale says it.

    Returns:
      The content of a .tflite file that computes the same.

    Raises:
      DataError: this is no .tflite file, or it is damaged.
      UsageError: the model does not take an image, or not one label belongs to each output; a scaling is missing.

    Source: https://ai.google.dev/edge/litert/conversion/tensorflow/metadata
    """
    unpacked = _unpacked(model)
    read, written = _image_and_scores(unpacked)
    labels = [" ".join(label.splitlines()) for label in labels]
    if len(labels) != written.shape[-1]:
        raise UsageError(
            f"The model tells {written.shape[-1]} classes apart, and {len(labels)} labels are given"
            f" ({_some(labels)}).\n  Give one a class, in the order of training: labels.txt of the run has them."
        )
    if (mean is None) != (std is None) or std == 0 or (mean is None and read.dtype not in _RANGES):
        raise UsageError(
            f"The model takes {read.dtype.lower()}, and mean is {mean}, std {std}: clients refuse a model that does"
            " not say how a pixel becomes such a number.\n"
            "  Give both, for (pixel - mean) / std: mean=0, std=1 if it takes pixels from 0 to 255 as they are."
        )
    described = {
        "name": name,
        "description": description,
        "subgraph_metadata": [
            {
                "input_tensor_metadata": [_of_image(read, mean, std)],
                "output_tensor_metadata": [_of_scores(written)],
            }
        ],
        "min_parser_version": MIN_PARSER_VERSION,
    }
    _replace(unpacked, encode(described))
    return _with_labels(_packed(unpacked), labels)


def read_metadata(model: bytes) -> dict[str, Any]:
    """What a .tflite file says of itself.

    Args:
      model: its content.

    Returns:
      The fields of ModelMetadata under the schema's names, of those that an image classifier has; "labels": those of
      its outputs, if it has any; {} for a file without metadata.

    Raises:
      DataError: this is no .tflite file, or it or its metadata are damaged.
    """
    unpacked = _unpacked(model)
    for entry in unpacked.metadata or []:
        if entry.name == ENTRY.encode():
            break
    else:
        return {}
    try:
        found = decode(bytes(unpacked.buffers[entry.buffer].data))
    except (ValueError, TypeError, IndexError, AttributeError) as err:
        raise DataError(
            f"The metadata of this .tflite file is not readable: {err}.\n  {_BACK_TO_START}"
        ) from err
    labels = _labels(model, found)
    return found if labels is None else {**found, "labels": labels}


def _labels(model: bytes, described: dict[str, Any]) -> list[str] | None:
    for subgraph in described.get("subgraph_metadata", []):
        for tensor in subgraph.get("output_tensor_metadata", []):
            for file in tensor.get("associated_files", []):
                if file.get("type") == "TENSOR_AXIS_LABELS":
                    return _unzipped(model, file["name"]).removesuffix("\n").split("\n")
    return None


def _unzipped(model: bytes, name: str) -> str:
    try:
        with zipfile.ZipFile(io.BytesIO(model)) as archive:
            if archive.getinfo(name).file_size > MOST_LABELS:
                raise ValueError(f"{name} would take {archive.getinfo(name).file_size:,} bytes")
            return archive.read(name).decode()
    except Exception as err:  # BadZipFile, KeyError, zlib.error, NotImplementedError, UnicodeError, ...
        raise DataError(
            f"This .tflite file says that it holds {name}, which is not in it or damaged: its end is missing.\n"
            f"  {_BACK_TO_START}"
        ) from err


def _with_labels(model: bytes, labels: Sequence[str]) -> bytes:
    """A .tflite file with a zip archive behind it.

    Not compressed, since clients map it into memory; of no date, so that the same model is the same file.
    """
    file = io.BytesIO()
    file.write(model)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo(LABELS), "".join(f"{label}\n" for label in labels))
    return file.getvalue()


def _of_image(tensor: _Tensor, mean: float | None, std: float | None) -> dict[str, Any]:
    height, width, channels = tensor.shape[-3:]
    colours = _CHANNELS[channels]
    described: dict[str, Any] = {
        "name": "image",
        "description": f"The image, {width} x {height} pixels, {colours}.",
        "content": {"content_properties": {"ImageProperties": {"color_space": colours}}},
    }
    low, high = _RANGES.get(tensor.dtype, (0.0, _WHITE))
    if mean is not None and std is not None:
        described["process_units"] = [{"options": {"NormalizationOptions": {"mean": [mean], "std": [std]}}}]
        if tensor.dtype not in _RANGES:
            low, high = (low - mean) / std, (high - mean) / std
    return {**described, "stats": {"min": [low], "max": [high]}}


def _of_scores(tensor: _Tensor) -> dict[str, Any]:
    low, high = _RANGES.get(tensor.dtype, (0.0, 1.0))
    return {
        "name": "probability",
        "description": "The probability of each class, in the order of the labels.",
        "content": {"content_properties": {"FeatureProperties": {}}},
        "stats": {"min": [low], "max": [high]},
        "associated_files": [
            {"name": LABELS, "description": "The classes, one a line.", "type": "TENSOR_AXIS_LABELS"}
        ],
    }


@dataclass(frozen=True)
class _Tensor:
    shape: tuple[int, ...]
    dtype: str  # as the schema spells it: "FLOAT32"

    def __str__(self) -> str:
        return f"{self.dtype.lower()} {list(self.shape)}"


def _image_and_scores(unpacked: Any) -> tuple[_Tensor, _Tensor]:
    """What the model takes and gives, if that makes it a classifier of images."""
    from tfkit.environment.stack import litert_schema

    names = names_of(litert_schema.TensorType)
    graph = unpacked.subgraphs[0]

    def tensors(indices: Any) -> list[_Tensor]:
        there = [graph.tensors[index] for index in indices]
        return [_Tensor(tuple(int(n) for n in one.shape), names[one.type]) for one in there]

    inputs, outputs = tensors(graph.inputs), tensors(graph.outputs)
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].shape[-1] not in _CHANNELS:
        raise UsageError(
            f"The model takes {_some([str(one) for one in inputs])} and not one image [1, height, width, 3]: this"
            " metadata would tell clients to feed it pictures.\n"
            "  Hand it on without metadata: labels.txt beside the file is enough for infer.py."
        )
    if len(outputs) != 1 or outputs[0].shape != (1, *outputs[0].shape[-1:]):
        raise UsageError(
            f"The model gives {_some([str(one) for one in outputs])} and not the scores of classes [1, classes]:"
            " labels belong to nothing in it.\n"
            "  Hand it on without metadata, or convert the part of it that ends in class probabilities."
        )
    return inputs[0], outputs[0]


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:4])
    return f"{shown}, ..." if len(names) > 4 else shown or "nothing"


def _replace(unpacked: Any, buffer: bytes) -> None:
    """Put the metadata where earlier ones are, else behind all else."""
    import numpy as np

    from tfkit.environment.stack import litert_schema

    entries = [entry for entry in unpacked.metadata or [] if entry.name == ENTRY.encode()]
    if not entries:
        entry = litert_schema.MetadataT(name=ENTRY.encode(), buffer=len(unpacked.buffers))
        unpacked.buffers.append(litert_schema.BufferT())
        unpacked.metadata = [*(unpacked.metadata or []), entry]
        entries = [entry]
    unpacked.buffers[entries[0].buffer].data = np.frombuffer(buffer, np.uint8)


def _unpacked(model: bytes) -> Any:
    """A model as objects of the schema."""
    unpacked = read(model)
    if any(buffer.offset > 1 for buffer in unpacked.buffers):
        raise DataError(
            "This .tflite file has weights behind the part that can be rewritten, as files over 2 GB do.\n"
            "  Hand it on without metadata."
        )
    return unpacked


class _Aligned(flatbuffers.Builder):
    """Begins every vector where a weight may begin: the generated code drops what the schema asks for."""

    def StartVector(self, elemSize: int, numElems: int, alignment: int) -> int:
        """The base class's, with more alignment."""
        return int(super().StartVector(elemSize, numElems, max(alignment, _ALIGNMENT)))


def _packed(unpacked: Any) -> bytes:
    builder = _Aligned(1 << 20)
    builder.Finish(unpacked.Pack(builder), converter.IDENTIFIER)
    return bytes(builder.Output())

"""Metadata: what a .tflite file says of itself, so that a client needs nothing beside it.

The format is TFLite's: a ModelMetadata flatbuffer in the model's own list of metadata, and the labels as a file in a
zip archive that is appended to the model. An interpreter reads the former part alone; `zipfile` reads the latter.

Source: metadata_schema.fbs of TFLite Support and MediaPipe, version 1.5.0, file identifier M001.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flatbuffers
import numpy as np
from flatbuffers.number_types import Float32Flags, Int8Flags
from flatbuffers.table import Table

from tfkit.compression.inspect import Tensor, inspect
from tfkit.errors import DataError, UsageError
from tfkit.litert import converter

IDENTIFIER = b"M001"
MOST = 10_000
"""Tables of one file, and numbers in a vector."""

Fields = Mapping[str, tuple[int, Any]]
"""A table: name of a field to its slot (its place, which never changes) and its kind: `str`; `float`, a vector of
float32; a tuple, the names of an enumeration of one byte; a list of one `Fields`, a vector of tables; `_Union`; or
`Fields`, a table."""


class _Union(dict[str, Fields]):
    """One of several tables: the slot holds which of them, counted from 1, the slot behind it the table."""


_TENSOR: Fields = {
    "name": (0, str),
    "description": (1, str),
    "content": (3, {"content_properties": (0, _Union(
        FeatureProperties={}, ImageProperties={"color_space": (0, ("UNKNOWN", "RGB", "GRAYSCALE"))}
    ))}),
    "process_units": (4, [{"options": (0, _Union(NormalizationOptions={"mean": (0, float), "std": (1, float)}))}]),
    "stats": (5, {"max": (0, float), "min": (1, float)}),
    "associated_files": (6, [{
        "name": (0, str),
        "description": (1, str),
        "type": (2, ("UNKNOWN", "DESCRIPTIONS", "TENSOR_AXIS_LABELS", "TENSOR_VALUE_LABELS")),
    }]),
}  # fmt: skip
MODEL: Fields = {
    "name": (0, str),
    "description": (1, str),
    "version": (2, str),
    "subgraph_metadata": (3, [{
        "name": (0, str), "input_tensor_metadata": (2, [_TENSOR]), "output_tensor_metadata": (3, [_TENSOR]),
    }]),
    "author": (4, str),
    "license": (5, str),
    "min_parser_version": (7, str),
}  # fmt: skip


def encode(metadata: Mapping[str, Any]) -> bytes:
    """Return a ModelMetadata flatbuffer.

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
    """Return what `encode` was given, and as much of what others wrote as `MODEL` knows.

    Raises:
      ValueError: the buffer is no ModelMetadata, or damaged.
    """
    if buffer[4:8] != IDENTIFIER:
        raise ValueError(f"its file identifier is {buffer[4:8]!r} and not {IDENTIFIER!r}")
    try:
        return _read(Table(buffer, Table(buffer, 0).Indirect(0)), MODEL, left=iter(range(MOST)))
    except (
        Exception
    ) as err:  # offsets that point anywhere: struct.error, IndexError, TypeError, UnicodeError, ...
        raise ValueError("its tables are damaged") from err


def _write(builder: flatbuffers.Builder, fields: Fields, values: Mapping[str, Any]) -> int:
    """Write a table; what it refers to is written before it, as the format wants."""
    numbers: dict[int, int] = {}
    offsets: dict[int, int] = {}
    for name, value in values.items():
        slot, kind = fields[name]
        if isinstance(kind, tuple):
            numbers[slot] = kind.index(value)
        elif isinstance(kind, _Union):
            ((chosen, content),) = value.items()
            numbers[slot] = 1 + list(kind).index(chosen)
            offsets[slot + 1] = _write(builder, kind[chosen], content)
        elif kind is str:
            offsets[slot] = builder.CreateString(value)
        elif kind is float:
            offsets[slot] = builder.CreateNumpyVector(np.asarray(value, np.float32))
        elif isinstance(kind, list):
            tables = [_write(builder, kind[0], one) for one in value]
            builder.StartVector(4, len(tables), 4)
            for table in reversed(tables):  # a flatbuffer grows towards its front
                builder.PrependUOffsetTRelative(table)
            offsets[slot] = builder.EndVector()
        else:
            offsets[slot] = _write(builder, kind, value)
    builder.StartObject(1 + max([*numbers, *offsets], default=-1))
    for slot, offset in offsets.items():
        builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
    for slot, number in numbers.items():
        builder.PrependInt8Slot(slot, number, 0)
    return int(builder.EndObject())


def _read(table: Table, fields: Fields, *, left: Iterator[int]) -> dict[str, Any]:
    next(left)  # offsets of a damaged buffer may make a million tables of the same few bytes

    def offset(slot: int) -> int:  # behind the two sizes with which its vtable begins
        return int(table.Offset(4 + 2 * slot))

    def inner(place: int, fields: Fields) -> dict[str, Any]:
        return _read(Table(table.Bytes, table.Indirect(place)), fields, left=left)

    values: dict[str, Any] = {}
    for name, (slot, kind) in fields.items():
        if not offset(slot):
            continue
        place = table.Pos + offset(slot)
        if kind is str:
            values[name] = table.String(place).decode()
        elif isinstance(kind, tuple | _Union):
            number = table.Get(Int8Flags, place)
            if isinstance(kind, tuple):
                values[name] = kind[number if number < len(kind) else 0]
            elif 1 <= number <= len(kind):
                chosen = list(kind)[number - 1]
                values[name] = {chosen: inner(table.Pos + offset(slot + 1), kind[chosen])}
            else:  # of a later version, or of another kind of model
                values[name] = {}
        elif isinstance(kind, Mapping):
            values[name] = inner(place, kind)
        elif table.VectorLen(offset(slot)) > MOST:
            raise ValueError("a vector without end")
        elif kind is float:
            values[name] = table.GetVectorAsNumpy(Float32Flags, offset(slot)).tolist()
        else:
            start, length = table.Vector(offset(slot)), table.VectorLen(offset(slot))
            values[name] = [inner(start + 4 * index, kind[0]) for index in range(length)]
    return values


ENTRY = b"TFLITE_METADATA"
LABELS = "labels.txt"
MOST_LABELS = 16 * 2**20
"""Bytes of the file of labels, unpacked."""

_ALIGNMENT = 16  # bytes: what schema.fbs asks for a buffer's data, and kernels rely on
_CHANNELS = {1: "GRAYSCALE", 3: "RGB"}
_RANGES = {"uint8": (0.0, 255.0), "int8": (-128.0, 127.0), "int16": (-32768.0, 32767.0)}
_AGAIN = "Convert the model again, or copy the file again."


def with_metadata(
    model: bytes,
    *,
    name: str,
    description: str,
    labels: Sequence[str],
    mean: float | None = None,
    std: float | None = None,
) -> bytes:
    """Return an image classifier with its name, its labels and its scaling inside.

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
    tables = _unpacked(model)
    image, scores = _image_and_scores(model)
    labels = [" ".join(label.splitlines()) for label in labels]
    if len(labels) != scores.shape[-1]:
        raise UsageError(
            f"The model tells {scores.shape[-1]} classes apart, and {len(labels)} labels are given"
            f" ({', '.join(labels[:4])} ...).\n  Give one a class, in the order of training: labels.txt of the run."
        )
    if (mean is None) != (std is None) or std == 0 or (mean is None and image.dtype not in _RANGES):
        raise UsageError(
            f"The model takes {image.dtype}, and mean is {mean}, std {std}: clients refuse a model that does not say"
            " how a pixel becomes such a number.\n"
            "  Give both, for (pixel - mean) / std: mean=0, std=1 if it takes pixels from 0 to 255 as they are."
        )
    metadata = {
        "name": name,
        "description": description,
        "subgraph_metadata": [
            {
                "input_tensor_metadata": [_of_image(image, mean, std)],
                "output_tensor_metadata": [_of_scores(scores)],
            }
        ],
        "min_parser_version": "1.0.0",  # of the schema: nothing is written that came later
    }
    _replace(tables, encode(metadata))
    builder = _AlignedBuilder(1 << 20)
    builder.Finish(tables.Pack(builder), converter.IDENTIFIER)
    file = io.BytesIO()
    file.write(builder.Output())
    with zipfile.ZipFile(file, "w") as archive:
        # Not compressed, since clients map it into memory; of no date, so that the same model is the same file.
        archive.writestr(zipfile.ZipInfo(LABELS), "".join(f"{label}\n" for label in labels))
    return file.getvalue()


def read_metadata(model: bytes) -> dict[str, Any]:
    """Return what a .tflite file says of itself.

    Args:
      model: its content.

    Returns:
      The fields of ModelMetadata under the schema's names, of those that an image classifier has; "labels": those of
      its outputs, if it has any; {} for a file without metadata.

    Raises:
      DataError: this is no .tflite file, or it or its metadata are damaged.
    """
    tables = _unpacked(model)
    entry = next((entry for entry in tables.metadata or [] if entry.name == ENTRY), None)
    if entry is None:
        return {}
    try:
        metadata = decode(bytes(tables.buffers[entry.buffer].data))
    except (ValueError, TypeError, IndexError, AttributeError) as err:
        raise DataError(f"The metadata of this .tflite file is not readable: {err}.\n  {_AGAIN}") from err
    for graph in metadata.get("subgraph_metadata", []):
        for tensor in graph.get("output_tensor_metadata", []):
            for file in tensor.get("associated_files", []):
                if file.get("type") == "TENSOR_AXIS_LABELS":
                    labels = _unzipped(model, file["name"]).removesuffix("\n").split("\n")
                    return {**metadata, "labels": labels}
    return metadata


def _unzipped(model: bytes, name: str) -> str:
    try:
        with zipfile.ZipFile(io.BytesIO(model)) as archive:
            if archive.getinfo(name).file_size > MOST_LABELS:
                raise ValueError(f"{name} would take {archive.getinfo(name).file_size:,} bytes")
            return archive.read(name).decode()
    except Exception as err:  # BadZipFile, KeyError, zlib.error, NotImplementedError, UnicodeError, ...
        raise DataError(
            f"This .tflite file says that it holds {name}, which is not in it or damaged: its end is missing.\n"
            f"  {_AGAIN}"
        ) from err


def _of_image(tensor: Tensor, mean: float | None, std: float | None) -> dict[str, Any]:
    height, width, channels = tensor.shape[-3:]
    low, high = _RANGES.get(tensor.dtype, (0.0, 255.0))
    described: dict[str, Any] = {
        "name": "image",
        "description": f"The image, {width} x {height} pixels, {_CHANNELS[channels]}.",
        "content": {"content_properties": {"ImageProperties": {"color_space": _CHANNELS[channels]}}},
    }
    if mean is not None and std is not None:
        described["process_units"] = [{"options": {"NormalizationOptions": {"mean": [mean], "std": [std]}}}]
        if tensor.dtype not in _RANGES:
            low, high = (low - mean) / std, (high - mean) / std
    return {**described, "stats": {"min": [low], "max": [high]}}


def _of_scores(tensor: Tensor) -> dict[str, Any]:
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


def _image_and_scores(model: bytes) -> tuple[Tensor, Tensor]:
    """Return what the model takes and gives, if that makes it a classifier of images."""
    inventory = inspect(model)
    inputs, outputs = inventory.inputs, inventory.outputs
    taken, given = (
        ", ".join(f"{end.dtype} {list(end.shape)}" for end in ends) or "nothing" for ends in (inputs, outputs)
    )
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].shape[-1] not in _CHANNELS:
        raise UsageError(
            f"The model takes {taken} and not one image [1, height, width, 3]: this metadata would tell clients to feed"
            " it pictures.\n  Hand it on without metadata: labels.txt beside the file is enough for infer.py."
        )
    if len(outputs) != 1 or outputs[0].shape != (1, *outputs[0].shape[-1:]):
        raise UsageError(
            f"The model gives {given} and not the scores of classes [1, classes]: labels belong to nothing in it.\n"
            "  Hand it on without metadata, or convert the part of it that ends in class probabilities."
        )
    return inputs[0], outputs[0]


def _replace(tables: Any, buffer: bytes) -> None:
    """Put the metadata where earlier ones are, else behind all else."""
    from tfkit.environment.stack import litert_schema

    entry = next((entry for entry in tables.metadata or [] if entry.name == ENTRY), None)
    if entry is None:
        entry = litert_schema.MetadataT(name=ENTRY, buffer=len(tables.buffers))
        tables.buffers.append(litert_schema.BufferT())
        tables.metadata = [*(tables.metadata or []), entry]
    tables.buffers[entry.buffer].data = np.frombuffer(buffer, np.uint8)


def _unpacked(model: bytes) -> Any:
    """Return a model as objects of the schema."""
    tables = converter.read(model)
    if any(buffer.offset > 1 for buffer in tables.buffers):
        raise DataError(
            "This .tflite file has weights behind the part that can be rewritten, as files over 2 GB do.\n"
            "  Hand it on without metadata."
        )
    return tables


class _AlignedBuilder(flatbuffers.Builder):
    """Begins every vector where a weight may begin: the generated code drops what the schema asks for."""

    def StartVector(self, elemSize: int, numElems: int, alignment: int) -> int:
        """Begin a vector, with more alignment."""
        return int(super().StartVector(elemSize, numElems, max(alignment, _ALIGNMENT)))

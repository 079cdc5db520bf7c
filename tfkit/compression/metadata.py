"""Write and read what a .tflite file says of itself, so that a client needs nothing beside it.

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
from flatbuffers.number_types import Int8Flags
from flatbuffers.table import Table

from tfkit import litert
from tfkit.compression.inspect import Tensor, inspect
from tfkit.environment import packages, stack
from tfkit.errors import DataError, UsageError

IDENTIFIER = b"M001"
ENTRY = b"TFLITE_METADATA"
LABELS = "labels.txt"
MOST = 50
"""Tables in a vector of a stranger's file: vectors within vectors within vectors are read in a second."""

MOST_LABELS = 16 * 2**20
"""Bytes of the file of labels, unpacked."""

# Slots of the schema's tables, which never change, and numbers of its enumerations and unions.
_NAME, _DESCRIPTION = 0, 1
_SUBGRAPHS, _MIN_PARSER_VERSION = 3, 7  # of ModelMetadata
_INPUTS, _OUTPUTS = 2, 3  # of SubGraphMetadata
_CONTENT, _PROCESS_UNITS, _FILES = 3, 4, 6  # of TensorMetadata
_FEATURE, _IMAGE, _NORMALIZATION, _AXIS_LABELS = 1, 2, 1, 2

_ALIGNMENT = 16  # bytes: what schema.fbs asks for a buffer's data, and kernels rely on
_CHANNELS = {1: ("GRAYSCALE", 2), 3: ("RGB", 1)}  # what they are called, and the schema's number of it


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
    tables = litert.read(model)
    image, scores = _get_image_and_scores(model)
    labels = [" ".join(label.splitlines()) for label in labels]
    if len(labels) != scores.shape[-1]:
        raise UsageError(
            f"The model tells {scores.shape[-1]} classes apart, and {len(labels)} labels are given: one a class, in the"
            " order of training (labels.txt of the run)."
        )
    if (mean is None) != (std is None) or std == 0 or (mean is None and image.dtype == "float32"):
        raise UsageError(
            f"The model takes {image.dtype}, and mean is {mean}, std {std}: clients need to know how a pixel becomes"
            " such a number.\n"
            "  Give both, for (pixel - mean) / std: mean=0, std=1 if it takes pixels from 0 to 255 as they are."
        )
    height, width, channels = image.shape[-3:]
    colours, color_space = _CHANNELS[channels]
    input_metadata: dict[int, Any] = {
        _NAME: "image",
        _DESCRIPTION: f"The image, {width} x {height} pixels, {colours}.",
        _CONTENT: {0: _IMAGE, 1: {0: color_space}},
    }
    if mean is not None and std is not None:
        input_metadata[_PROCESS_UNITS] = [{0: _NORMALIZATION, 1: {0: [mean], 1: [std]}}]
    output_metadata = {
        _NAME: "probability",
        _DESCRIPTION: "The probability of each class, in the order of the labels.",
        _CONTENT: {0: _FEATURE, 1: {}},
        _FILES: [{_NAME: LABELS, _DESCRIPTION: "The classes, one a line.", 2: _AXIS_LABELS}],
    }
    metadata = {
        _NAME: name,
        _DESCRIPTION: description,
        _SUBGRAPHS: [{_INPUTS: [input_metadata], _OUTPUTS: [output_metadata]}],
        _MIN_PARSER_VERSION: "1.0.0",  # of the schema: nothing is written that came later
    }
    inner = flatbuffers.Builder(1024)
    inner.Finish(_write(inner, metadata), IDENTIFIER)
    # Where earlier ones are, else behind all else.
    entry = next((entry for entry in tables.metadata or [] if entry.name == ENTRY), None)
    if entry is None:
        entry = stack.litert_schema.MetadataT(name=ENTRY, buffer=len(tables.buffers))
        tables.buffers.append(stack.litert_schema.BufferT())
        tables.metadata = [*(tables.metadata or []), entry]
    tables.buffers[entry.buffer].data = np.frombuffer(inner.Output(), np.uint8)
    builder = _AlignedBuilder(1 << 20)
    builder.Finish(tables.Pack(builder), litert.IDENTIFIER)
    content = io.BytesIO(bytes(builder.Output()))
    with zipfile.ZipFile(content, "a") as archive:  # behind what is there
        # Not compressed, since clients map it into memory; of no date, so that the same model is the same file.
        archive.writestr(zipfile.ZipInfo(LABELS), "".join(f"{label}\n" for label in labels))
    return content.getvalue()


def _write(builder: flatbuffers.Builder, fields: Mapping[int, Any]) -> int:
    """Write a table, values by their slots; what it refers to is written before it, as the format wants."""
    offsets: dict[int, int] = {}
    for slot, value in fields.items():
        if isinstance(value, str):
            offsets[slot] = builder.CreateString(value)
        elif isinstance(value, Mapping):
            offsets[slot] = _write(builder, value)
        elif isinstance(value, list) and isinstance(value[0], Mapping):
            tables = [_write(builder, item) for item in value]
            builder.StartVector(4, len(tables), 4)
            for table in reversed(tables):  # a flatbuffer grows towards its front
                builder.PrependUOffsetTRelative(table)
            offsets[slot] = builder.EndVector()
        elif isinstance(value, list):
            offsets[slot] = builder.CreateNumpyVector(np.asarray(value, np.float32))
    builder.StartObject(1 + max(fields, default=-1))
    for slot, value in fields.items():
        if slot in offsets:
            builder.PrependUOffsetTRelativeSlot(slot, offsets[slot], 0)
        else:
            builder.PrependInt8Slot(slot, value, 0)
    return int(builder.EndObject())


def read_metadata(model: bytes) -> dict[str, Any]:
    """Return what a .tflite file says of itself.

    Args:
      model: its content.

    Returns:
      "name", "description", and "labels" of its outputs, as far as it has them; {} for a file without metadata.

    Raises:
      DataError: this is no .tflite file, or it or its metadata are damaged.
    """
    tables = litert.read(model)
    entry = next((entry for entry in tables.metadata or [] if entry.name == ENTRY), None)
    if entry is None:
        return {}
    try:
        buffer = bytes(tables.buffers[entry.buffer].data)
        if buffer[4:8] != IDENTIFIER:
            raise ValueError(f"their file identifier is {buffer[4:8]!r} and not {IDENTIFIER!r}")
        root = Table(buffer, Table(buffer, 0).Indirect(0))
        texts = {"name": _as_text(root, _NAME), "description": _as_text(root, _DESCRIPTION)}
        outputs = (tensor for graph in _as_tables(root, _SUBGRAPHS) for tensor in _as_tables(graph, _OUTPUTS))
        files = (file for tensor in outputs for file in _as_tables(tensor, _FILES))
        paths = (_as_text(file, _NAME) for file in files if file.GetSlot(8, 0, Int8Flags) == _AXIS_LABELS)
        labels = None
        if name := next(paths, None):
            with zipfile.ZipFile(io.BytesIO(model)) as archive:
                if archive.getinfo(name).file_size > MOST_LABELS:
                    raise ValueError(f"{name} would take {archive.getinfo(name).file_size:,} bytes")
                labels = archive.read(name).decode().removesuffix("\n").split("\n")
    except Exception as err:  # offsets that point anywhere, an archive without its end: whatever they raise
        raise DataError(
            f"The metadata of this .tflite file are damaged, or its labels are: {packages.first_line(err)}\n"
            "  Convert the model again, or copy the file again."
        ) from err
    return {key: value for key, value in {**texts, "labels": labels}.items() if value is not None}


def _as_text(table: Table, slot: int) -> str | None:
    offset = table.Offset(4 + 2 * slot)  # behind the two sizes with which its vtable begins
    return str(table.String(table.Pos + offset).decode()) if offset else None


def _as_tables(table: Table, slot: int) -> Iterator[Table]:
    if not (offset := table.Offset(4 + 2 * slot)):
        return
    start, length = table.Vector(offset), table.VectorLen(offset)
    if length > MOST:
        raise ValueError("a vector without end")
    for index in range(length):
        yield Table(table.Bytes, table.Indirect(start + 4 * index))


def _get_image_and_scores(model: bytes) -> tuple[Tensor, Tensor]:
    """Return what the model takes and gives, if that makes it a classifier of images."""
    inventory = inspect(model)
    ends = *inventory.inputs, *inventory.outputs
    is_classifier = len(inventory.inputs) == 1 and [len(tensor.shape) for tensor in ends] == [4, 2]
    if not is_classifier or ends[0].shape[-1] not in _CHANNELS or ends[1].shape[0] != 1:
        shapes = ", ".join(f"{tensor.dtype} {list(tensor.shape)}" for tensor in ends)
        raise UsageError(
            f"The model takes and gives {shapes}, and not one image [1, height, width, 3] and the scores of classes"
            " [1, classes].\n  Hand it on without metadata, or convert the part that ends in class probabilities."
        )
    return ends[0], ends[1]


class _AlignedBuilder(flatbuffers.Builder):
    """Begins every vector where a weight may begin: the generated code drops what the schema asks for."""

    def StartVector(self, elemSize: int, numElems: int, alignment: int) -> int:
        """Begin a vector, with more alignment."""
        return int(super().StartVector(elemSize, numElems, max(alignment, _ALIGNMENT)))

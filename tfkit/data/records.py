"""TFRecords of tf.Examples, as TFX, TensorFlow Transform and tensorflow-datasets write them, as a table of JSON lines.

They are read once, into the cache: a line a record, a name a feature. Images among the features become files beside it.
"""

from __future__ import annotations

import glob
import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from tfkit.data.splits import listed
from tfkit.data.text_decoding import decode
from tfkit.environment import files, stack
from tfkit.environment.timeline import track
from tfkit.errors import DataError

GRAPH = ("transform_fn", "transformed_metadata")
"""The folders of TensorFlow Transform's output."""

IMAGES = "images"

_SHARD_NAME = re.compile(r"(\.tfrecords?|-\d{5}-of-\d{5})(\.gz)?$", re.IGNORECASE)
_IMAGE_SIGNATURE = re.compile(
    rb"(?P<jpg>\xff\xd8\xff)|(?P<png>\x89PNG)|(?P<gif>GIF8[79]a)|(?P<webp>RIFF.{4}WEBP)|(?P<bmp>BM.{4}\0{4})",
    re.DOTALL,
)
_MAX_RECORD_BYTES = 1 << 28
"""Bytes of a record."""

_MIN_LIMIT, _RATIO = 1 << 30, 100
_MAX_VALUES = 1000
_FORMAT_VERSION = 1
"""Part of the key: raise it when the same records give other lines."""


def is_records(path: Path) -> bool:
    """Return whether a file, a folder or a pattern is one of TFRecords, by the names; or Transform's output."""
    return bool(_find_shards(path)) or (path / GRAPH[0]).is_dir()


def _find_shards(path: Path) -> list[Path]:
    """Return the files; of a folder those in it, or in its folders of splits."""
    try:
        if path.is_dir():
            paths = [*path.iterdir(), *path.glob("Split-*/*")]
        else:
            paths = [path] if path.exists() else [*map(Path, glob.glob(str(path), recursive=True))]  # noqa: PTH207
        return sorted(file for file in paths if _SHARD_NAME.search(file.name) and file.is_file())
    except OSError:  # whoever reads it as something else says what is in the way
        return []


def as_table(path: Path) -> tuple[Path, list[str]]:
    """Read TFRecords into a table of the cache, or find the one that was made of them before.

    Args:
      path: of a file, of a folder of shards, or a pattern of files.

    Returns:
      The .jsonl file, whose lines are the records in the order of the files' names, and notes on how they are read. A
      feature of bytes is a text, or the name of an image file in a folder beside it; one value stands alone, several
      are a list; of over a thousand values, and of bytes that are neither, only the number is kept. An image that is
      there several times is one file.

    Raises:
      DataError: there are none, one is damaged, or a record is no tf.Example.
    """
    shards, notes = _find_shards(path), list[str]()
    if not shards:
        raise DataError(
            f"{path} holds a transform graph and no examples.\n"
            "  Give the folder of what was transformed, with files such as transformed_examples-00000-of-00001.gz."
        )
    if path.is_dir() and any((path / name).is_dir() for name in GRAPH):
        notes.append(f"{path}: Its transform graph is not run: the TFRecords are taken as they are.")
    splits = sorted({file.parent.name for file in shards} - {path.name}) if path.is_dir() else []
    if len(splits) > 1:
        notes.append(
            f"{path}: {listed(splits)} are put together, and cut anew. To keep one apart, train on {path / splits[-1]}"
            f" alone, and then: python -m tfkit predict RUN {path / splits[0]}"
        )
    status = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in shards]
    name = f"{re.sub('[*?]', '_', path.name)[:200] or 'records'}.jsonl"

    def write_table(folder: Path) -> Mapping[str, Any]:
        images: list[str] = []
        (folder / IMAGES).mkdir()
        records = (record for shard in shards for record in _read_examples(shard))
        tracked_records = track(records, "Reading TFRecords", unit="record")
        with (folder / name).open("w", encoding="utf-8", errors="replace") as file:
            for features in tracked_records:
                row = {column: _to_cell(feature, folder, images) for column, feature in features.items()}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            if not file.tell():
                raise DataError(f"{path} holds no record: {listed([shard.name for shard in shards])}.")
        return {"repeated": len(images) - len({*images})}

    entry = files.Cache("tfrecords").get(files.digest_of(status, name, _FORMAT_VERSION), write_table)
    if repeated := entry.info["repeated"]:
        notes.append(f"{path}: repeated images, which count once: {repeated}.")
    return entry.path / name, notes


def _read_examples(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the features of each record, by name.

    Raises:
      DataError: with the number of the record.
    """
    tf = stack.tf
    _check_lengths(path)
    number, compression = 0, "GZIP" if path.suffix.lower() == ".gz" else ""
    try:
        for record in tf.data.TFRecordDataset(str(path), compression).as_numpy_iterator():
            number += 1
            features = tf.train.Example.FromString(record).features.feature
            if not features:
                raise DecodeError("no features")
            yield features
    except tf.errors.OpError as err:
        reason = re.sub(r"\{\{.*?\}\} | \[Op.*", "", err.message)
        raise _describe_damage(path, number + 1, reason) from err
    except DecodeError as err:
        raise DataError(
            f"{path}: record {number} is no tf.Example with features; tf.train.SequenceExample and other messages are"
            " not read.\n  Write each row as tf.train.Example(features=...).SerializeToString()"
        ) from err


def _check_lengths(path: Path) -> None:
    """Refuse lengths that no record has, for which TensorFlow would take memory, and what unpacks to too much."""
    number, limit = 0, max(_MIN_LIMIT, _RATIO * path.stat().st_size)
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            while head := file.read(12):  # the length, and its checksum
                number += 1
                length = int.from_bytes(head[:8], "little")
                if len(head) < 12 or length > _MAX_RECORD_BYTES:
                    raise _describe_damage(path, number, f"its length is {length:,} bytes")
                if file.seek(length + 4, 1) > limit:
                    raise _describe_damage(path, number, f"it unpacks to over {limit:,} bytes")
    except (OSError, EOFError, zlib.error) as err:
        raise _describe_damage(path, number + 1, str(err)) from err


def _describe_damage(path: Path, number: int, why: str) -> DataError:
    return DataError(
        f"{path} is damaged at record {number}, cut off, or no TFRecord file: {why[:200]}.\n"
        "  Copy or write it again; packed files end in .gz."
    )


def _to_cell(feature: Any, folder: Path, images: list[str]) -> Any:
    """Return the value of a feature, a list of several, or None."""
    values = getattr(feature, feature.WhichOneof("kind") or "", None)
    if values is None or len(values.value) > _MAX_VALUES:
        return values and {"values": len(values.value)}
    cells = [_decode(value, folder, images) if isinstance(value, bytes) else value for value in values.value]
    return cells[0] if len(cells) == 1 else cells or None


def _decode(content: bytes, folder: Path, images: list[str]) -> Any:
    """Return a text, or the name of the file that an image is written to."""
    if image := _IMAGE_SIGNATURE.match(content):
        name = f"{IMAGES}/{hashlib.sha256(content).hexdigest()[:24]}.{image.lastgroup}"
        (folder / name).write_bytes(content)
        images.append(name)
        return name
    return {"bytes": len(content)} if b"\0" in content[:1000] else decode(content)[0]

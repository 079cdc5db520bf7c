"""Vectors of texts that are no split's: of documents and of questions.

Stored features: whole and what they were, or not used; and the source that reads them.

<cache>/features/<key>/features.npy   float32 [n, d]
<cache>/features/<key>/entry.json     its SHA-256, and how it was computed

The features of a frozen model: computed once, checked, stored, and read back by the next run.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from tfkit.data.splits import Source, Splits, draw
from tfkit.environment import files, packages, process
from tfkit.errors import CheckError, DataError, UsageError
from tfkit.hub import engines
from tfkit.hub.engines import Engines, ImageEngines, TextEngines
from tfkit.hub.fetch import sha256_of
from tfkit.hub.images import Backbone
from tfkit.hub.texts import TextEncoder

IN_MEMORY = 256 * 2**20
"""Bytes of features that are kept in memory; more are read from the file as they are asked for."""

_FEATURES, _ENTRY = "features.npy", "entry.json"

Writer = Callable[[Iterable[np.ndarray]], None]


class FeatureSource:
    """Features in the place of the images that they were computed from; see `tfkit.data.Source`."""

    def __init__(
        self, path: Path, images: Source, *, size: int, fingerprint: str, in_memory: int = IN_MEMORY
    ) -> None:
        """Open the file.

        Args:
          path: a .npy of float32 [n, size], in the order of the images.
          images: where labels, names and raw examples come from.
          size: numbers in a feature vector.
          fingerprint: of the features.
          in_memory: bytes up to which the file is read as a whole.
        """
        self.labels: np.ndarray = images.labels
        self.names: Sequence[str] = images.names
        self.shape = (size,)
        self.fingerprint = fingerprint
        self._images = images
        self._row_bytes = 4 * size
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)
        content = len(self.labels) * self._row_bytes
        self._start = path.stat().st_size - content
        self.rows: np.ndarray | None = np.load(path) if content <= in_memory else None

    def read(self, indices: np.ndarray) -> np.ndarray:
        """float32 [b, d]."""
        if self.rows is not None:
            return np.asarray(self.rows[indices])
        rows = b"".join(
            os.pread(self._descriptor, self._row_bytes, self._start + int(index) * self._row_bytes)
            for index in indices
        )
        return np.frombuffer(rows, np.float32).reshape(len(indices), *self.shape)

    def raw(self, index: int) -> np.ndarray:
        """The image that the features are of, as the user has it."""
        return self._images.raw(index)


def get(
    key: str, make: Callable[[Writer], Mapping[str, Any]], *, shape: tuple[int, int]
) -> tuple[Path, dict[str, Any], bool]:
    """The features stored under `key`, made when they are absent, damaged or of another shape.

    Processes that ask for one key at a time wait for the first, and take what it made.

    Args:
      key: digest of all that they depend on.
      make: gives batches of float32 [b, d] to the function that it gets, and returns how they were computed.
        What it raises leaves nothing behind.
      shape: [n, d].

    Returns:
      The .npy file, how it was computed, and whether it was there already.
    """
    shelf = files.cache_dir("features")
    with files.lock_or_wait(shelf / f"{key}.lock", another="computes the same features"):
        entry = _read(shelf / key, shape)
        if entry is not None:
            return shelf / key / _FEATURES, entry, True
        for leftover in shelf.glob(f".{key}.*"):  # of a process that was killed: the lock is ours
            shutil.rmtree(leftover, ignore_errors=True)
        with files.new_folder(shelf / key) as folder:
            path = folder / _FEATURES
            entry = dict(make(lambda batches: _write(path, batches, shape)))
            files.write_json(folder / _ENTRY, {"sha256": sha256_of(path), **entry})
        return shelf / key / _FEATURES, entry, False


def _write(path: Path, batches: Iterable[np.ndarray], shape: tuple[int, int]) -> None:
    """One .npy of all batches, with one of them in memory."""
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        start = file.tell()
        for batch in batches:
            file.write(np.ascontiguousarray(batch, "<f4").tobytes())
        assert file.tell() - start == 4 * shape[0] * shape[1]


def _read(folder: Path, shape: tuple[int, int]) -> dict[str, Any] | None:
    """How the features in `folder` were computed, or None if they are not there as they were written."""
    if not folder.is_dir():
        return None
    try:
        entry = dict(json.loads((folder / _ENTRY).read_text()))
        whole = entry.pop("sha256") == sha256_of(folder / _FEATURES)
        if whole and np.load(folder / _FEATURES, mmap_mode="r").shape == shape:
            return entry
    except (OSError, ValueError, KeyError, TypeError):
        pass
    files.say_damaged(folder)
    return None


ENGINES = ("auto", "litert", "tensorflow")

_PROBE = 4  # examples that both engines compute: each costs TensorFlow as long as three cost LiteRT
_EXTRACTION = 1  # part of the key of stored features: raise it when they become others


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """Splits of features, and how they came to be."""

    splits: Splits
    """The same splits over features, float32 [d], in the place of the images or texts."""

    engine: str
    """What computed them: "litert" or "tensorflow"."""

    reason: str
    """Why that engine did."""

    max_relative_difference: float
    """The largest one between LiteRT and TensorFlow on some examples, relative to the length of a feature
    vector; 0 where only TensorFlow computed."""

    seconds: float
    """That this call took."""

    reused: bool
    """Whether an earlier call had computed and stored them."""

    cut: int = 0
    """Texts that are longer than the encoder takes: what is at their ends is not in their features. 0 where the
    encoder does not show it."""

    @property
    def summary(self) -> str:
        """A sentence or two for the notes of a run."""
        n, (d,) = len(self.splits.source.labels), self.splits.source.shape
        cut = (
            f" {self.cut} texts ({self.cut / n:.1%}) are longer than the encoder takes, and cut."
            if self.cut
            else ""
        )
        if self.reused:
            return f"{n} x {d} features were stored already (computed by {self._by}).{cut}"
        return f"{n} x {d} features were computed by {self._by} in {self.seconds:.1f} s and stored.{cut}"

    @property
    def _by(self) -> str:
        if self.engine == "litert":
            return f"LiteRT, within {self.max_relative_difference:.1g} of TensorFlow"
        return f"TensorFlow: {self.reason}"


def extract(
    model: Backbone | TextEncoder, splits: Splits, *, engine: str = "auto", batch_size: int | None = None
) -> Extraction:
    """The features of all images or texts of a split source, from a frozen model.

    They are stored in the cache under the contents of the model and of the examples: the next call for the
    same ones reads them. A call that was interrupted leaves nothing behind.

    Args:
      model: of images, see `tfkit.resolve`, or of texts, see `tfkit.resolve_text`.
      splits: of what it takes.
      engine: "litert" (float32, all cores), "tensorflow", or "auto": LiteRT where there is no GPU and its
        features equal TensorFlow's within 1e-3 on some examples, else TensorFlow.
      batch_size: examples that are read and computed at a time; None takes 32 images or 4096 texts.

    Returns:
      The splits over features, for the training of a head.

    Raises:
      CheckError: a feature is not finite, or LiteRT was asked for and cannot compute them.
      DataError: the splits are not of what the model takes.
      UsageError: there is no such engine.

    Example:
      >>> from tfkit import data, hub
      >>> splits = data.load_images("digits", image_size=32)
      >>> features = extract(hub.resolve("efficientnet-lite0"), splits).splits  # doctest: +SKIP
      >>> features.spec.shape  # doctest: +SKIP
      TensorShape([1280])
    """
    started = time.perf_counter()
    if engine not in ENGINES:
        raise UsageError(f"There is no engine {engine!r} for features; there is: {', '.join(ENGINES)}.")
    source = splits.source
    kind = _engines(model, splits)
    key = files.digest_of(
        model.digest,
        source.fingerprint,
        source.shape,
        engine,
        packages.version("tensorflow"),
        packages.version("ai-edge-litert"),
        _EXTRACTION,
    )
    shape = (len(source.labels), model.feature_size)

    def make(write: Writer) -> dict[str, str | float]:
        examples = source.read(probe_indices(source))
        with engines.choose(kind, examples, engine=engine) as chosen:
            kind.cut = 0
            write(computed(source, chosen.compute, kind, batch_size=batch_size or kind.at_a_time))
        return {
            "engine": chosen.name,
            "reason": chosen.reason,
            "max_relative_difference": chosen.difference,
            "cut": kind.cut,
        }

    path, entry, reused = get(key, make, shape=shape)
    features = FeatureSource(path, source, size=shape[1], fingerprint=key)
    return Extraction(
        splits=splits.replace(source=features), seconds=time.perf_counter() - started, reused=reused, **entry
    )


def _engines(model: Backbone | TextEncoder, splits: Splits) -> Engines:
    """What computes the features of these examples; they must be what the model takes."""
    shape = splits.source.shape
    if isinstance(model, TextEncoder):
        if shape != ():
            raise DataError(
                f"{splits.origin} holds examples of shape {shape}; {model.handle} makes features of texts.\n"
                "  tfkit.load_texts makes splits of texts."
            )
        return TextEngines(model)
    if len(shape) != 3:
        found = "texts" if shape == () else f"examples of shape {shape}"
        raise DataError(
            f"{splits.origin} holds {found}; features are computed from images by {model.handle}.\n"
            "  tfkit.load_images and tfkit.from_arrays make splits of images;"
            " tfkit.resolve_text finds encoders of texts."
        )
    return ImageEngines(model)


def probe_indices(source: Source) -> np.ndarray:
    """The indices of some examples: images drawn from all; of texts the shortest, the longest and two between."""
    count = min(_PROBE, len(source.labels))
    lengths = getattr(source, "lengths", None)
    if lengths is None:
        return draw(len(source.labels), count)
    return np.argsort(lengths, kind="stable")[np.linspace(0, len(lengths) - 1, count).astype(int)]


def computed(
    source: Source, compute: engines.Engine, kind: Engines, *, batch_size: int
) -> Iterator[np.ndarray]:
    """The features in the source's order, batch by batch; the next batch is read while one is computed."""
    n = len(source.labels)
    batches = [np.arange(start, min(start + batch_size, n)) for start in range(0, n, batch_size)]
    with (
        ThreadPoolExecutor(1) as reader,
        tqdm(
            total=n, desc="Computing features", unit=kind.unit, delay=1, disable=not process.watched()
        ) as progress,
    ):
        read = reader.submit(source.read, batches[0])
        for batch, following in zip(batches, [*batches[1:], None], strict=True):
            images = read.result()
            if following is not None:
                read = reader.submit(source.read, following)
            features = compute(images)
            finite = np.isfinite(features).all(axis=-1)
            if not finite.all():
                raise CheckError(
                    f"The features of {source.names[batch[np.argmin(finite)]]} are not finite numbers "
                    f"({np.sum(~finite)} such in a batch of {len(batch)}).\n"
                    "  Nothing can be trained on them. A model whose input range is not the one that its\n"
                    "  images are given in does this; so do damaged weights."
                )
            progress.update(len(batch))
            yield features


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """Vectors, and how they came to be."""

    vectors: np.ndarray
    """float32 [n, d]."""
    engine: str
    """What computed them: "litert" or "tensorflow"."""
    reason: str
    """Why this engine, in words."""
    max_relative_difference: float
    """The largest one between LiteRT and TensorFlow on some texts; 0 where only TensorFlow computed."""
    cut: int
    """Texts that are longer than the encoder takes; 0 where it does not show it."""


def embed(encoder: TextEncoder, texts: Sequence[str], *, engine: str = "auto") -> Embedded:
    """The vectors of texts, by the engine that is faster and gives the same; nothing is stored.

    Args:
      encoder: see `tfkit.resolve_text`.
      texts: one or more.
      engine: as of `tfkit.hub.extract`.

    Returns:
      Vectors float32 [n, feature_size], and which engine made them.

    Raises:
      CheckError: a vector is not finite, or LiteRT was asked for and cannot compute them.
    """
    source, kind = _Given(texts), TextEngines(encoder)
    probe = source.read(probe_indices(source))
    with engines.choose(kind, probe, engine=engine) as chosen:
        kind.cut = 0
        batches = computed(source, chosen.compute, kind, batch_size=kind.at_a_time)
        vectors = np.concatenate(list(batches))
    return Embedded(
        vectors=vectors,
        engine=chosen.name,
        reason=chosen.reason,
        max_relative_difference=chosen.difference,
        cut=kind.cut,
    )


@contextlib.contextmanager
def checked(encoder: TextEncoder, *, engine: str) -> Iterator[engines.Engine]:
    """The engine that an earlier `embed` chose, without the comparison: ready sooner.

    Args:
      encoder: the same.
      engine: `Embedded.engine`.

    Yields:
      UTF-8 [b] to float32 [b, d].
    """
    kind = TextEngines(encoder)
    if engine == "tensorflow":
        yield kind.tensorflow()
        return
    with kind.litert(np.empty(0, object)) as compute:
        yield compute


class _Given:
    """Texts in memory; see `tfkit.data.Source`."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.labels = np.zeros(len(texts), np.int64)
        self.names: Sequence[str] = [f"text {place}" for place in range(len(texts))]
        self.shape: tuple[int, ...] = ()
        self.fingerprint = ""
        self.lengths = np.array([len(text) for text in texts], np.int32)
        self._texts = texts

    def read(self, indices: np.ndarray) -> np.ndarray:
        """bytes [b], UTF-8."""
        found = np.empty(len(indices), object)
        found[:] = [self._texts[index].encode("utf-8", "replace") for index in indices]
        return found

    def raw(self, index: int) -> str:
        """The text."""
        return self._texts[index]

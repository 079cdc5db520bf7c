"""The features of a frozen model: computed once, checked, stored, and read back by the next run.

<cache>/features/<key>/features.npy   float32 [n, d], in the order of the examples
"""

from __future__ import annotations

import contextlib
import os
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from tfkit.data.splits import Source, Splits, draw
from tfkit.environment import files, packages, process
from tfkit.environment.files import Cache
from tfkit.errors import CheckError, DataError, UsageError
from tfkit.hub.encoders import Encoder
from tfkit.hub.engines import Engine, Engines, engines_of

IN_MEMORY = 256 * 2**20
"""Bytes of features that are kept in memory; more are read from the file on demand."""

ENGINES = ("auto", "litert", "tensorflow")
_FEATURES = "features.npy"
_PROBE = 4  # examples that both engines compute: each costs TensorFlow as long as three cost LiteRT
_EXTRACTION = 1  # part of the key of stored features: raise it when they become others


class FeatureSource:
    """Features in the place of the examples that they were computed from; see `tfkit.data.Source`."""

    def __init__(
        self, path: Path, examples: Source, *, size: int, fingerprint: str, in_memory: int = IN_MEMORY
    ) -> None:
        """Open the file.

        Args:
          path: a .npy of float32 [n, size], in the order of the examples.
          examples: where labels, names and raw examples come from.
          size: numbers in a feature vector.
          fingerprint: of the features.
          in_memory: bytes up to which the file is read as a whole.
        """
        self.labels: np.ndarray = examples.labels
        self.names: Sequence[str] = examples.names
        self.shape = (size,)
        self.fingerprint = fingerprint
        self.raw = examples.raw
        content = len(self.labels) * 4 * size
        self.rows: np.ndarray | None = np.load(path) if content <= in_memory else None
        # Read by place rather than mapped: a file on a disk that fails is an error, and not the process's end.
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)
        self._start = path.stat().st_size - content

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Return float32 [b, d]."""
        if self.rows is not None:
            return np.asarray(self.rows[indices])
        size = 4 * self.shape[0]
        rows = [os.pread(self._descriptor, size, self._start + int(index) * size) for index in indices]
        return np.frombuffer(b"".join(rows), np.float32).reshape(len(indices), *self.shape)


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
    cut: int
    """Texts that are longer than the encoder takes: what is at their ends is not in their features. 0 where the
    encoder does not show it."""
    seconds: float
    """That this call took."""
    reused: bool
    """Whether an earlier call had computed and stored them."""

    @property
    def summary(self) -> str:
        """A sentence or two for the notes of a run."""
        n, (d,) = len(self.splits.source.labels), self.splits.source.shape
        by = f"TensorFlow: {self.reason}"
        if self.engine == "litert":
            by = f"LiteRT, within {self.max_relative_difference:.1g} of TensorFlow"
        stored = f"computed by {by} in {self.seconds:.1f} s and stored."
        if self.reused:
            stored = f"stored already (computed by {by})."
        cut = f" {self.cut} texts ({self.cut / n:.1%}) are longer than the encoder takes, and cut."
        return f"{n} x {d} features were {stored}{cut if self.cut else ''}"


def extract(
    encoder: Encoder, splits: Splits, *, engine: str = "auto", batch_size: int | None = None
) -> Extraction:
    """Compute the features of all images or texts of a split source, by a frozen model.

    They are stored in the cache under the contents of the model and of the examples: the next call for the
    same ones reads them. A call that was interrupted leaves nothing behind.

    Args:
      encoder: see `tfkit.load_model`.
      splits: of what it takes.
      engine: "litert" (float32, all cores), "tensorflow", or "auto": LiteRT where there is no GPU and its
        features equal TensorFlow's within 1e-3 on some examples, else TensorFlow.
      batch_size: examples that are read and computed at a time; None takes 32 images or 4096 texts.

    Returns:
      The splits over features, for the training of a head.

    Raises:
      CheckError: a feature is not finite, or LiteRT was required and cannot compute them.
      DataError: the splits are not of what the model takes.
      UsageError: there is no such engine.

    Example:
      >>> from tfkit import data, hub
      >>> splits = data.load_images("digits", image_size=32)
      >>> features = extract(hub.load_model("efficientnet-lite0"), splits).splits  # doctest: +SKIP
      >>> features.spec.shape  # doctest: +SKIP
      TensorShape([1280])
    """
    started = time.perf_counter()
    if engine not in ENGINES:
        raise UsageError(f"There is no engine {engine!r} for features; there is: {', '.join(ENGINES)}.")
    source = splits.source
    if {3: "images", 0: "texts"}.get(len(source.shape)) != encoder.modality:
        raise DataError(
            f"{splits.origin} holds examples of shape {source.shape}; {encoder.handle} makes features of"
            f" {encoder.modality}.\n  tfkit.load_{encoder.modality} makes splits of those; tfkit.load_model finds"
            " encoders of either."
        )
    key = files.digest_of(
        encoder.digest,
        source.fingerprint,
        source.shape,
        engine,
        packages.version("tensorflow"),
        packages.version("ai-edge-litert"),
        _EXTRACTION,
    )
    shape = (len(source.labels), encoder.feature_size)

    def make(folder: Path) -> Mapping[str, Any]:
        file = (folder / _FEATURES).open("wb")
        with file, _chosen(encoder, source, engine, batch_size) as (batches, how):
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for batch in batches:  # with one of them in memory
                file.write(np.ascontiguousarray(batch, "<f4").tobytes())
        return how

    entry = Cache("features").get(key, make)
    features = FeatureSource(entry.path / _FEATURES, source, size=shape[1], fingerprint=key)
    return Extraction(
        splits=splits.replace(source=features),
        seconds=time.perf_counter() - started,
        reused=entry.reused,
        **entry.info,
    )


def embed(
    encoder: Encoder, texts: Sequence[str], *, engine: str = "auto"
) -> tuple[np.ndarray, dict[str, Any]]:
    """Compute the vectors of texts, by the engine that is faster and gives the same; nothing is stored.

    Args:
      encoder: of texts, see `tfkit.load_model`.
      texts: one or more.
      engine: as of `tfkit.hub.extract`.

    Returns:
      Vectors float32 [n, feature_size], and how they were computed: `engine`, `reason`, `max_relative_difference` and
      `cut` of `Extraction`.

    Raises:
      CheckError: a vector is not finite, or LiteRT was required and cannot compute them.
    """
    with _chosen(encoder, _Texts(texts), engine, None) as (batches, how):
        return np.concatenate(list(batches)), how


@contextlib.contextmanager
def opened_engine(encoder: Encoder, *, engine: str) -> Iterator[Engine]:
    """Open the engine that an earlier `embed` chose, without the comparison: ready sooner.

    Args:
      encoder: the same.
      engine: its name.

    Yields:
      UTF-8 [b] to float32 [b, d].
    """
    engines = engines_of(encoder)
    if engine == "tensorflow":
        yield engines.tensorflow()
    else:
        with engines.litert(np.empty(0, object)) as compute:
            yield compute


@contextlib.contextmanager
def _chosen(
    encoder: Encoder, source: Any, engine: str, batch_size: int | None
) -> Iterator[tuple[Iterator[np.ndarray], dict[str, Any]]]:
    """Yield the batches of features of a source, and, complete when they are all taken, how they were computed."""
    engines = engines_of(encoder)
    with engines.choose(source.read(_probe_indices(source)), engine=engine) as chosen:
        compute, *parts = chosen
        how: dict[str, Any] = dict(zip(chosen._fields[1:], parts, strict=True))
        engines.cut = 0
        yield _computed(source, compute, engines, batch_size=batch_size or engines.batch_size), how
        how["cut"] = engines.cut


def _probe_indices(source: Any) -> np.ndarray:
    """Return the indices of some examples: images drawn from all; the shortest and longest texts and two between."""
    count = min(_PROBE, len(source.labels))
    lengths = getattr(source, "lengths", None)
    if lengths is None:
        return draw(len(source.labels), count)
    return np.argsort(lengths, kind="stable")[np.linspace(0, len(lengths) - 1, count).astype(int)]


def _computed(source: Any, compute: Engine, engines: Engines, *, batch_size: int) -> Iterator[np.ndarray]:
    """Yield the features in the source's order, batch by batch; the next batch is read while one is computed."""
    n = len(source.labels)
    batches = [np.arange(start, min(start + batch_size, n)) for start in range(0, n, batch_size)]
    with (
        ThreadPoolExecutor(1) as reader,
        tqdm(
            total=n, desc="Computing features", unit=engines.unit, delay=1, disable=not process.watched()
        ) as progress,
    ):
        read = reader.submit(source.read, batches[0])
        for batch, following in zip(batches, [*batches[1:], None], strict=True):
            examples = read.result()
            if following is not None:
                read = reader.submit(source.read, following)
            features = compute(examples)
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


class _Texts:
    """Texts in memory; see `tfkit.data.Source`."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.labels = np.zeros(len(texts), np.int64)
        self.names = [f"text {place}" for place in range(len(texts))]
        self.lengths = np.array([len(text) for text in texts], np.int32)
        self._texts = texts

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Return bytes [b], UTF-8."""
        return np.array([self._texts[index].encode("utf-8", "replace") for index in indices], object)

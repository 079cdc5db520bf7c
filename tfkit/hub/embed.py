"""Vectors of texts that are no split's: of documents and of questions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tfkit.hub import engines, features
from tfkit.hub.text_encoder import TextEncoder
from tfkit.hub.text_engines import TextEngines


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
      encoder: see `tfkit.hub.resolve_text`.
      texts: one or more.
      engine: as of `tfkit.hub.extract`.

    Returns:
      Vectors float32 [n, feature_size], and which engine made them.

    Raises:
      CheckError: a vector is not finite, or LiteRT was asked for and cannot compute them.
    """
    source, kind = _Given(texts), TextEngines(encoder)
    probe = source.read(features.probe(source))
    with engines.choose(kind, probe, engine=engine) as chosen:
        kind.cut = 0
        batches = features.computed(source, chosen.compute, kind, batch_size=kind.at_a_time)
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

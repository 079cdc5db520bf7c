"""The nearest vectors: by ScaNN where it is installed and pays, else by comparing with all of them."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tfkit import packages

PAYS = 20_000
"""Vectors from which ScaNN's authors advise its trees; below, comparing with all is faster and exact."""

_BLOCK = 1 << 16
_LEAVES_SEARCHED = 0.1
_RECALL_AT, _RECALL_OF = 10, 200


class Searcher(Protocol):
    """Finds the nearest of the vectors that it was made of."""

    name: str

    def __call__(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The indices [q, count] of the vectors with the largest dot products, and those, best first."""

    def save(self, folder: Path) -> None:
        """What is to be loaded again, beside the vectors themselves."""


class Exact:
    """Compares with all vectors: the answer by definition."""

    name = "exact"

    def __init__(self, vectors: np.ndarray) -> None:
        self._vectors = vectors

    def __call__(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """See `Searcher`; ties go to the earlier vector.

        Example:
          >>> Exact(np.eye(3, dtype=np.float32))(np.array([[0.1, 0.9, 0.2]], np.float32), 2)[0]
          array([[1, 2]])
        """
        indices = np.empty((len(queries), 0), np.int64)
        scores = np.empty((len(queries), 0), np.float32)
        for begin in range(0, len(self._vectors), _BLOCK):
            block = queries @ np.asarray(self._vectors[begin : begin + _BLOCK]).T
            best = _largest(block, count)
            indices = np.concatenate([indices, best + begin], axis=1)
            scores = np.concatenate([scores, np.take_along_axis(block, best, 1)], axis=1)
            kept = _largest(scores, count)
            indices, scores = np.take_along_axis(indices, kept, 1), np.take_along_axis(scores, kept, 1)
        order = np.lexsort((indices, -scores), axis=1)
        return np.take_along_axis(indices, order, 1), np.take_along_axis(scores, order, 1)

    def save(self, folder: Path) -> None:
        """The vectors are all that it has."""


class Scann:
    """Google's ScaNN: trees, then quantized products, then exact products of the best."""

    name = "scann"

    def __init__(self, searcher: Any) -> None:
        self._searcher = searcher

    @classmethod
    def build(cls, scann: Any, vectors: np.ndarray) -> Scann:
        """Of vectors of length 1, with the settings that ScaNN's documentation advises."""
        leaves = int(np.sqrt(len(vectors)))
        builder = scann.scann_ops_pybind.builder(np.asarray(vectors), _RECALL_AT, "dot_product")
        tree = builder.tree(
            num_leaves=leaves,
            num_leaves_to_search=max(1, int(leaves * _LEAVES_SEARCHED)),
            training_sample_size=min(len(vectors), 250_000),
        )
        return cls(tree.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(100).build())

    @classmethod
    def load(cls, scann: Any, folder: Path) -> Scann:
        """What `save` wrote."""
        return cls(scann.scann_ops_pybind.load_searcher(str(folder)))

    def __call__(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """See `Searcher`; approximately."""
        indices, scores = self._searcher.search_batched(
            queries, final_num_neighbors=count, pre_reorder_num_neighbors=max(100, 2 * count)
        )
        return np.asarray(indices, np.int64), np.asarray(scores, np.float32)

    def save(self, folder: Path) -> None:
        """Its trees and codes."""
        folder.mkdir()
        self._searcher.serialize(str(folder))


def build(vectors: np.ndarray) -> tuple[Searcher, str]:
    """A searcher of these vectors, and in a sentence why it is this one.

    Args:
      vectors: float32 [n, d], of length 1.
    """
    if len(vectors) < PAYS:
        return Exact(vectors), f"each query is compared with all {len(vectors):,} passages: exact."
    scann, obstacle = module()
    if scann is None:
        return Exact(vectors), (
            f"each query is compared with all {len(vectors):,} passages: exact; ScaNN would be faster, but {obstacle}."
        )
    return Scann.build(scann, vectors), f"ScaNN searches its trees of {len(vectors):,} passages: approximate."


def load(name: str, vectors: np.ndarray, folder: Path) -> Searcher:
    """The searcher that was saved; where its package is gone, the exact one, which needs none."""
    scann = module()[0] if name == Scann.name else None
    return Exact(vectors) if scann is None else Scann.load(scann, folder)


def module() -> tuple[Any, str]:
    """ScaNN, or None and what is in its way: a wheel is made for one TensorFlow, and fails to load with another."""
    if packages.version("scann") is None:
        return None, "it is not installed"
    try:
        return importlib.import_module("scann"), ""
    except Exception as err:
        return None, f"scann {packages.version('scann')} does not import ({packages.first_line(err)})"


def recall(searcher: Searcher, vectors: np.ndarray, *, seed: int) -> float:
    """The share of the ten truly nearest that it finds, for 200 of the vectors as queries."""
    if isinstance(searcher, Exact):
        return 1.0
    count = min(_RECALL_AT, len(vectors))
    chosen = np.random.default_rng(seed).choice(len(vectors), min(_RECALL_OF, len(vectors)), replace=False)
    queries = np.asarray(vectors[np.sort(chosen)])
    pairs = zip(searcher(queries, count)[0], Exact(vectors)(queries, count)[0], strict=True)
    return float(np.mean([len(set(found) & set(true)) / count for found, true in pairs]))


def _largest(scores: np.ndarray, count: int) -> np.ndarray:
    """The columns of the largest scores of each row, in no order."""
    if count >= scores.shape[1]:
        return np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    return np.argpartition(-scores, count - 1, axis=1)[:, :count]

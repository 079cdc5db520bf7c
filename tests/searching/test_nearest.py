"""The nearest are the nearest."""

import numpy as np
import pytest

from tfkit.environment import packages
from tfkit.searching import index
from tfkit.searching.index import Exact, build_searcher, load, recall


@pytest.fixture
def vectors():
    found = np.random.default_rng(0).standard_normal((1000, 8)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.mark.parametrize("block", [7, 250, 1 << 16])
@pytest.mark.parametrize("count", [1, 10, 1000])
def test_exact_is_a_full_sort(vectors, monkeypatch, block, count):
    monkeypatch.setattr(index, "_BLOCK", block)
    queries = vectors[[3, 500]] + np.float32(0.1)
    indices, scores = Exact(vectors)(queries, count)
    products = queries @ vectors.T
    np.testing.assert_allclose(scores, -np.sort(-products, axis=1)[:, :count], rtol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(products, indices, 1), scores, rtol=1e-5)


def test_few_are_searched_exactly_and_it_is_said(vectors):
    searcher, why = build_searcher(vectors)
    assert searcher.name == "exact"
    assert "all 1,000 passages: exact" in why
    assert recall(searcher, vectors, seed=0) == 1.0


def test_recall_counts_what_is_missed(vectors):
    """A searcher that finds every second of the ten nearest has a recall of a half."""

    class Halves:
        name = "halves"

        def __call__(self, queries, count):
            indices, scores = Exact(vectors)(queries, 2 * count)
            return indices[:, ::2], scores[:, ::2]

        def save(self, folder):
            pass

    assert recall(Halves(), vectors, seed=0) == pytest.approx(0.5)


def test_without_scann_an_index_of_it_is_searched_exactly(vectors, tmp_path, monkeypatch):
    monkeypatch.setattr(packages, "version", lambda package: None)
    assert load("scann", vectors, tmp_path).name == "exact"
    monkeypatch.setattr(index, "PAYS", 100)
    searcher, why = build_searcher(vectors)
    assert searcher.name == "exact"
    assert "it is not installed" in why

"""The nearest are the nearest."""

import numpy as np
import pytest

from tfkit.searching import index


@pytest.mark.parametrize("block", [7, 250, 1 << 16])
@pytest.mark.parametrize("count", [1, 10, 1000])
def test_it_is_a_full_sort(monkeypatch, block, count):
    vectors = np.random.default_rng(0).standard_normal((1000, 8)).astype(np.float32)
    monkeypatch.setattr(index, "_BLOCK", block)
    queries = vectors[[3, 500]] + np.float32(0.1)
    indices, scores = index.nearest(vectors, queries, count)
    products = queries @ vectors.T
    np.testing.assert_allclose(scores, -np.sort(-products, axis=1)[:, :count], rtol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(products, indices, 1), scores, rtol=1e-5)

"""The nearest are the nearest, and each document comes once."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tfkit.searching import Index


@pytest.mark.parametrize("documents", [1, 7, 1000])
@pytest.mark.parametrize("top", [1, 10, 2000])
def test_it_is_a_full_sort(documents, top):
    vectors = np.random.default_rng(0).standard_normal((1000, 8)).astype(np.float32)
    lines = [json.dumps({"name": str(i % documents), "passage": i, "text": ""}).encode() for i in range(1000)]
    index = Index(None, vectors, lines, {})
    scores = vectors @ vectors[3]
    best = {}
    for place in np.argsort(-scores, kind="stable"):
        best.setdefault(str(place % documents), int(place))
    assert [hit.passage for hit in index._best(scores, top)] == list(best.values())[:top]

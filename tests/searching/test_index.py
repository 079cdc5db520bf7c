"""The nearest are the nearest, and each document comes once."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.hub.test_text_encoders import PIECES, ids_encoder, preprocessor
from tfkit import hub
from tfkit.searching import Document, Index
from tfkit.searching.search import snippet
from tfkit.text.tokenizers import WordPiece


@pytest.mark.parametrize("documents", [1, 7, 1000])
@pytest.mark.parametrize("top", [1, 10, 2000])
def test_it_is_a_full_sort(documents, top):
    vectors = np.random.default_rng(0).standard_normal((1000, 64)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    lines = [json.dumps({"name": str(i % documents), "passage": i, "text": ""}).encode() for i in range(1000)]
    index = Index(None, vectors, lines, {})
    scores = vectors @ vectors[3]
    best = {}
    for place in np.argsort(-scores, kind="stable"):
        best.setdefault(str(place % documents), int(place))
    assert [hit.passage for hit in index._select_hits(scores, top)] == list(best.values())[:top]


def test_what_is_nearly_the_same_is_shown_once():
    vectors = np.eye(8, dtype=np.float32)[[0, 0, 1, 0, 2]]
    lines = [json.dumps({"name": name, "passage": 0, "text": ""}).encode() for name in "abcde"]
    hits = Index(None, vectors, lines, {})._select_hits(vectors @ np.linspace(1, 0, 8, dtype=np.float32), 2)
    assert [(hit.name, hit.similar) for hit in hits] == [("a", ("b", "d")), ("c", ())]


def test_passages_fit_an_encoder_that_is_not_bundled(tmp_path):
    """By its preprocessor's own tokens: what was beyond the first ones of a passage was never found."""
    (tmp_path / "b").mkdir()
    encoder = hub.load_model(ids_encoder(tmp_path / "a"), preprocessor=preprocessor(tmp_path / "b" / "model"))
    index = Index.build([Document("a", "goodness! " * 9 + "day"), Document("b", "goodness!good")], encoder)
    texts = [hit.text for hit in index.passages]
    pieces = WordPiece(vocabulary=PIECES).tokenize(texts).row_lengths().numpy()
    assert encoder.max_length == 8
    assert pieces.max() <= encoder.max_length - 2
    assert "".join("".join(texts).split()) == "goodness!" * 9 + "day" + "goodness!good"


def test_chance_is_that_of_random_pairs():
    vectors = np.random.default_rng(0).standard_normal((500, 100)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert Index(None, vectors, [], {}).chance() == pytest.approx(1.645 / 10, rel=0.1)
    assert Index(None, vectors[:1], [], {}).chance() == 0


@pytest.mark.parametrize(
    ("question", "shown"),
    [
        ("Which batteries are there?", "We store spare batteries. They are for bicycles."),
        ("nothing that is here", "It was mild. " * 12),
    ],
)
def test_a_snippet_is_whole_sentences_around_the_match(question, shown):
    passage = f"{'It was mild. ' * 40}We store spare batteries. They are for bicycles."
    text = snippet(question, passage)
    assert shown.strip() in text
    assert len(text) <= 160
    assert text[0].isupper()
    assert text[-1] == "."

"""A vocabulary of the user's own texts: it cuts them, whatever is in them, and is the same each time."""

from __future__ import annotations

import pytest

from tfkit.errors import DataError
from tfkit.text import tokenizers
from tfkit.text.tokenizers import WordPiece, build_vocabulary


@pytest.fixture(scope="module")
def pieces(english):
    return build_vocabulary(english[0], size=1000)


def test_its_texts_are_cut_without_unknown_pieces(english, pieces):
    tokenizer = WordPiece(vocabulary=pieces, max_length=512)
    ids = tokenizer.tokenize(english[0])
    unknown = float((ids.flat_values.numpy() == tokenizer.id_of("[UNK]")).mean())
    words = sum(len(text.split()) for text in english[0])
    assert unknown < 0.002
    assert ids.flat_values.shape[0] < 3 * words  # pieces, and not single letters
    assert 900 <= len(pieces) <= 1000
    assert pieces[:4] == ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def test_it_is_the_same_each_time(english, pieces):
    assert build_vocabulary(iter(english[0]), size=1000) == pieces


def test_case_is_kept_where_asked_for(english):
    cased = build_vocabulary(english[0][:200], size=800, lower_case=False)
    assert any(piece[0].isupper() for piece in cased[30:])
    upper, lower = WordPiece(vocabulary=cased, lower_case=False).tokenize(["The", "the"]).to_list()
    assert upper != lower


def test_whatever_is_in_the_texts(hard):
    pieces = build_vocabulary([*hard, "lone \ud800 surrogate"], size=300)
    assert len(pieces) <= 300
    rows = WordPiece(vocabulary=pieces).ids(list(hard))
    assert all(row[0] == 2 and row[-1] == 3 for row in rows.to_list())


def test_more_text_than_is_read_costs_no_more_and_every_text_counts():
    texts = [f"beginning{number} " + "filler " * 50_000 for number in range(20)]
    read = tokenizers._truncate_evenly(texts)
    assert sum(map(len, read)) <= tokenizers.CHARACTERS
    assert len({len(text) for text in read}) == 1
    assert tokenizers._truncate_evenly(["short", *texts])[0] == "short"


@pytest.mark.parametrize("texts", [[], [""], ["\x00 \n"], ["some text"]])
def test_what_gives_no_vocabulary(texts):
    size, message = (10, "size is 10") if texts == ["some text"] else (4000, "hold no word")
    with pytest.raises(DataError, match=message):
        build_vocabulary(texts, size=size)

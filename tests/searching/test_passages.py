"""Passages are all of a text, none is longer than the encoder takes, and they end where the text does."""

import numpy as np
import pytest

from tfkit.searching.search import cut_passages


def words(texts):
    return np.array([len(text.split()) for text in texts])


def characters(texts):
    return np.array([len(text) for text in texts])


def letters_of(text):
    return "".join(text.split())


@pytest.mark.parametrize(
    "text",
    [
        "One two three.",
        "First paragraph here.\n\nSecond one.\n\n" + "A sentence of five words. " * 30,
        "\n\n  leading and trailing  \n\n\n",
        "no boundary at all " * 40,
        "返品は三十日以内に。カタログは無料です。" * 20,
        "x" * 500,
        "مرحبا بالعالم؟ " * 40,
        "👩‍👩‍👧‍👦 " * 50,
    ],
)
@pytest.mark.parametrize(("count", "room"), [(words, 12), (characters, 30), (characters, 1)])
def test_nothing_is_lost_and_all_fits(text, count, room):
    (found,) = cut_passages([text], count=count, room=room)
    assert letters_of("".join(found)) == letters_of(text)
    assert all(found)
    assert count(found).max() <= room


def test_paragraphs_stay_whole_where_they_fit():
    text = "One two.\n\nThree four.\n\n" + "five " * 9 + "end.\n\nSix seven."
    (found,) = cut_passages([text], count=words, room=6)
    assert found[0] == "One two.\n\nThree four."
    assert found[-1] == "Six seven."
    assert len(found) == 4


def test_texts_are_cut_each_for_itself():
    texts = ["a b c d", "e", "f g. h i j."]
    assert cut_passages(texts, count=words, room=3) == [["a", "b c d"], ["e"], ["f g.", "h i j."]]

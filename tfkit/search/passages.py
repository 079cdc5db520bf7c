"""Documents to passages that an encoder takes as a whole: what is beyond its length would not be found."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

Count = Callable[[Sequence[str]], np.ndarray]
"""Texts to their numbers of tokens, int [n], without those at their ends."""

_BOUNDARIES = (
    re.compile(r"\n\s*\n"),  # of paragraphs
    re.compile(r"\n"),  # of lines
    re.compile(r"(?<=[.!?…؟])\s+|(?<=[。！？])"),  # of sentences
    re.compile(r"\s+"),  # of words, as a last resort
)
_AT_A_TIME = 1 << 20  # characters that are counted at a time
_WORD = len(_BOUNDARIES) - 1

Span = tuple[int, int]


class _Unit(NamedTuple):
    """A natural piece of a text that fits."""

    begin: int
    end: int
    tokens: int
    paragraph: int
    """Where the paragraph begins that was too long as a whole; -1 for one that is whole."""


def cut(texts: Sequence[str], *, count: Count, room: int) -> list[list[str]]:
    """The passages of each text: whole paragraphs where they fit, else lines, sentences, words; together all of it.

    Args:
      texts: each of which holds something.
      count: of the encoder.
      room: tokens of a passage at most.

    Returns:
      For each text its passages in order, none of them empty.

    Example:
      >>> by_words = lambda texts: np.array([len(text.split()) for text in texts])
      >>> cut(["One two. Three four five.\\n\\nSix."], count=by_words, room=4)
      [['One two.', 'Three four five.', 'Six.']]
    """
    return [
        _passages(text, spans, room) for text, spans in zip(texts, _units(texts, count, room), strict=True)
    ]


def _units(texts: Sequence[str], count: Count, room: int) -> list[list[_Unit]]:
    """The largest natural pieces of each text that fit."""
    fitting: list[list[_Unit]] = [[] for _ in texts]
    pending = [(place, (0, len(text)), -1) for place, text in enumerate(texts)]
    level = 0
    while pending:
        counts = _counted([texts[place][begin:end] for place, (begin, end), _ in pending], count)
        following = []
        for (place, span, paragraph), tokens in zip(pending, counts, strict=True):
            if tokens <= room or span[1] - span[0] < 2:
                fitting[place].append(_Unit(*span, int(tokens), paragraph))
            else:
                inside = span[0] if level == 1 else paragraph
                following += [(place, part, inside) for part in _split(texts[place], span, level)]
        pending, level = following, level + 1
    return [sorted(units) for units in fitting]


def _split(text: str, span: Span, level: int) -> Iterator[Span]:
    """The span in smaller ones: at the boundaries of this level; beyond the last in the middle, between words."""
    begin, end = span
    if level < _WORD:
        for match in _BOUNDARIES[level].finditer(text, begin, end):
            if match.end() > begin:
                yield begin, match.end()
                begin = match.end()
        if begin < end:
            yield begin, end
        return
    middle = (begin + end) // 2
    words = [
        match.end() for match in _BOUNDARIES[_WORD].finditer(text, begin, end) if begin < match.end() < end
    ]
    place = min(words, key=lambda word: abs(word - middle), default=middle)
    yield begin, place
    yield place, end


def _passages(text: str, units: list[_Unit], room: int) -> list[str]:
    """Neighbours together, as many as fit; but not the end of a long paragraph with what comes after it."""
    passages: list[_Unit] = []
    for unit in units:
        before = passages[-1] if passages else None
        if before and before.paragraph == unit.paragraph and before.tokens + unit.tokens <= room:
            passages[-1] = before._replace(end=unit.end, tokens=before.tokens + unit.tokens)
        else:
            passages.append(unit)
    return [passage for unit in passages if (passage := text[unit.begin : unit.end].strip())]


def _counted(texts: list[str], count: Count) -> np.ndarray:
    """`count`, some texts at a time."""
    found, begin, characters = [], 0, 0
    for place, text in enumerate(texts):
        characters += len(text)
        if characters >= _AT_A_TIME or place == len(texts) - 1:
            found.append(count(texts[begin : place + 1]))
            begin, characters = place + 1, 0
    return np.concatenate(found)

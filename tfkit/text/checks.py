"""Check what a tokenizer keeps of a text, folds and loses: hard strings, there and back."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from tfkit.text.tokenizers import Tokenizer

_CASES = {
    "plain words": "the cat sat",
    "upper case": "The CAT",
    "accents": "café naïve",
    "combining accents": "cafe\u0301",
    "German ß": "straße",
    "ligatures": "ﬁne",
    "ellipsis": "wait…",
    "full width": "ＡＢＣ",
    "numbers": "3.14 and 1,000",
    "punctuation": "don't e-mail: a@b.org!",
    "CJK": "你好",
    "kana": "カタカナ",
    "Hangul": "한국어",
    "Arabic": "مرحبا",
    "Hebrew": "שלום",
    "Cyrillic": "привет",
    "Devanagari": "नमस्ते",
    "emoji": "😀",
    "joined emoji": "👩‍👧",
    "control characters": "a\u0000b",
    "zero-width space": "a\u200bb",
    "invalid UTF-8": "a \udcff b",
    "literal [MASK]": "a [MASK] b",
    "an unknown word": "qzxjvkw",
}


def check(tokenizer: Tokenizer) -> Any:
    """Send hard strings through a tokenizer and back, and name what did not return.

    Args:
      tokenizer: that gives rows of ids, and says what they stand for.

    Returns:
      A pandas DataFrame by the name of the string, such as "CJK": the `text`, what its pieces say (`back`), and the
      `outcome`:
      "kept" (the same but for spaces), "folded" (other characters), "lost" ([UNK], or nothing, for a part of it), or
      "special" (text was read as a piece such as [MASK]).

    Example:
      >>> from tfkit.text.tokenizers import WordPiece
      >>> letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
      >>> pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{letter}" for letter in letters)]
      >>> table = check(WordPiece(vocabulary=tuple(pieces)))
      >>> table.outcome["upper case"], table.back["upper case"], table.outcome["CJK"]
      ('folded', 'the cat', 'lost')
    """
    import pandas as pd

    # Half of a surrogate pair stands for a byte that is no UTF-8.
    texts = [text.encode(errors="surrogateescape") for text in _CASES.values()]
    pieces = [[tokenizer.vocabulary[place] for place in row] for row in tokenizer.tokenize(texts).to_list()]
    table = pd.DataFrame({"text": [text.decode(errors="replace") for text in texts]}, index=list(_CASES))
    table["back"] = list(map(_back, pieces))
    table["outcome"] = list(map(_outcome, table.text, pieces))
    return table.rename_axis("case")


def _back(pieces: list[str]) -> str:
    """Return what pieces say, put together."""
    parts = [piece[2:] if re.match("##.", piece) else f" {piece}" for piece in pieces]
    return "".join(parts).replace(" ▁", " ").replace("▁", " ").strip()


def _outcome(text: str, pieces: list[str]) -> str:
    if "[MASK]" in pieces:
        return "special"
    if not pieces or {"[UNK]", "<unk>"} & set(pieces):
        return "lost"
    before, after = ("".join(unicodedata.normalize("NFC", s).split()) for s in (text, _back(pieces)))
    if before == after:
        return "kept"
    # The loss of mere marks and controls is a folding.
    kinds = list(map(unicodedata.category, unicodedata.normalize("NFD", text)))
    marks = sum(map(kinds.count, ("Mn", "Cf", "Cc")))
    return "lost" if len(after) < len(before.replace("\ufffd", "")) - marks else "folded"

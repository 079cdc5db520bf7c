"""What a tokenizer keeps of a text, what it folds, and what it loses: hard strings, there and back."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

from tfkit.errors import DataError
from tfkit.text.tokenizers import Tokenizer

if TYPE_CHECKING:
    import pandas as pd

_SPARE = 0.9  # an embedding may have some rows more than there are pieces, for a round number

_CASES: dict[str, str | bytes] = {
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
    "invalid UTF-8": b"a \xff b",
    "literal [MASK]": "a [MASK] b",
    "an unknown word": "qzxjvkw",
}


def check(tokenizer: Tokenizer) -> pd.DataFrame:
    """Send hard strings through a tokenizer and back, and name what did not return.

    Args:
      tokenizer: that gives rows of ids, and says what they stand for.

    Returns:
      A table by the name of the string, such as "CJK": the `text`, what its pieces say (`back`), and the `outcome`:
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

    texts = [text if isinstance(text, bytes) else text.encode() for text in _CASES.values()]
    rows = tokenizer.tokenize(texts).to_list()
    pieces = [[tokenizer.vocabulary[place] for place in row] for row in rows]
    strings = [text.decode("utf-8", errors="replace") for text in texts]
    outcomes = [_outcome(text, row) for text, row in zip(strings, pieces, strict=True)]
    table = {"text": strings, "back": list(map(_back, pieces)), "outcome": outcomes}
    return pd.DataFrame(table, index=pd.Index(_CASES, name="case"))


def check_fits(pieces: int, rows: int, *, name: str = "The vocabulary") -> None:
    """Refuse a vocabulary that does not belong to an embedding, before it looks up what is not there.

    Args:
      pieces: of the vocabulary.
      rows: of the embedding.
      name: what an error calls the vocabulary.

    Raises:
      DataError: there are more pieces than rows, or far fewer.
    """
    if not _SPARE * rows <= pieces <= rows:
        why = "ids beyond its last row" if pieces > rows else "its rows were learned for other pieces"
        raise DataError(
            f"{name} has {pieces:,} pieces, the encoder's embedding {rows:,} rows: {why}.\n"
            "  They do not belong together: take the vocabulary that came with the encoder."
        )


def _back(pieces: list[str]) -> str:
    """Return what pieces say, put together."""
    parts = [piece[2:] if re.match("##.", piece) else f" {piece}" for piece in pieces]
    return "".join(parts).replace(" ▁", " ").replace("▁", " ").strip()


def _outcome(text: str, pieces: list[str]) -> str:
    before, after = (
        "".join(unicodedata.normalize("NFC", string).split()) for string in (text, _back(pieces))
    )
    if "[MASK]" in pieces:
        return "special"
    if not pieces or {"[UNK]", "<unk>"} & set(pieces):
        return "lost"
    if before == after:
        return "kept"
    # The loss of mere marks and controls is a folding.
    marks = sum(
        unicodedata.category(mark) in ("Mn", "Cf", "Cc") for mark in unicodedata.normalize("NFD", text)
    )
    return "lost" if len(after) < len(before.replace("\ufffd", "")) - marks else "folded"

"""What a tokenizer keeps of a text, what it folds, and what it loses: hard strings, there and back."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

import numpy as np

from tfkit.errors import DataError
from tfkit.text.tokenizers import Rows

KEPT, FOLDED, LOST, SPECIAL = "kept", "folded", "lost", "special"
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


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What became of a string.

    Attributes:
      case: "German ß".
      text: the string.
      back: what its pieces say, put together again.
      verdict: "kept" (the same but for spaces), "folded" (other characters), "lost" ([UNK], or nothing, for a part of
        it), or "special" (text was read as a piece such as [MASK]).
    """

    case: str
    text: str
    back: str
    verdict: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """The findings, in the order of the cases; prints as a table."""

    findings: tuple[Finding, ...]

    def __getitem__(self, case: str) -> Finding:
        """What became of one case."""
        return next(finding for finding in self.findings if finding.case == case)

    def of(self, verdict: str) -> tuple[str, ...]:
        """The cases that came out so."""
        return tuple(finding.case for finding in self.findings if finding.verdict == verdict)

    def __str__(self) -> str:
        """One case a line."""
        return "\n".join(f"{one.verdict:8}{one.case:20}{one.text!r} -> {one.back!r}" for one in self.findings)


def check(tokenizer: Rows) -> Report:
    """Send hard strings through a tokenizer and back, and name what did not return.

    Args:
      tokenizer: that gives rows of ids, and says what they stand for.

    Returns:
      By name of the string, such as "CJK": the verdict, and what came back.

    Example:
      >>> from tfkit.text.tokenizers import WordPiece
      >>> letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
      >>> pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{letter}" for letter in letters)]
      >>> report = check(WordPiece(vocabulary=tuple(pieces)))
      >>> report["upper case"].verdict, report["upper case"].back, report["CJK"].verdict
      ('folded', 'the cat', 'lost')
    """
    texts = [text if isinstance(text, bytes) else text.encode() for text in _CASES.values()]
    rows = tokenizer.tokenize(texts).to_list()
    return Report(
        findings=tuple(
            _finding(
                case, text.decode("utf-8", errors="replace"), [tokenizer.vocabulary[place] for place in row]
            )
            for case, text, row in zip(_CASES, texts, rows, strict=True)
        )
    )


def check_fits(vocabulary: tuple[str, ...], rows: int, *, name: str = "the encoder's embedding") -> None:
    """Refuse a vocabulary that does not belong to an embedding, before it looks up what is not there.

    Args:
      vocabulary: of the tokenizer.
      rows: of the embedding.
      name: what an error calls it.

    Raises:
      DataError: there are more pieces than rows, or far fewer.
    """
    if not _SPARE * rows <= len(vocabulary) <= rows:
        why = (
            "ids beyond its last row would be looked up"
            if len(vocabulary) > rows
            else "its rows were learned for other pieces"
        )
        raise DataError(
            f"The vocabulary has {len(vocabulary):,} pieces, {name} {rows:,} rows: {why}.\n"
            "  They do not belong together: take the vocab.txt that came with the encoder."
        )


def _finding(case: str, text: str, pieces: list[str]) -> Finding:
    back = "".join(
        piece.removeprefix("##") if piece.startswith("##") and piece != "##" else f" {piece}"
        for piece in pieces
    )
    back = back.replace(" ▁", " ").replace("▁", " ").strip()
    unknown = any(piece in ("[UNK]", "<unk>") for piece in pieces)
    if "[MASK]" in pieces:
        verdict = SPECIAL
    elif unknown or not pieces:
        verdict = LOST
    elif _compared(text) == _compared(back):
        verdict = KEPT
    else:
        verdict = (
            LOST
            if len(_compared(back)) < len(_compared(text).replace("\ufffd", "")) - _marks(text)
            else FOLDED
        )
    return Finding(case=case, text=text, back=back, verdict=verdict)


def _compared(text: str) -> str:
    """Without spaces, which tokenizers put where they cut."""
    return "".join(unicodedata.normalize("NFC", text).split())


def _marks(text: str) -> int:
    """How many characters are mere marks and controls, whose loss is a folding."""
    categories = np.array(
        [unicodedata.category(character) for character in unicodedata.normalize("NFD", text)]
    )
    return int(np.isin(categories, ["Mn", "Cf", "Cc"]).sum())

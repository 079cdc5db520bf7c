"""Pieces of words in a TensorFlow graph, by tensorflow-text: tokenizers, a vocabulary, and what is kept of a text."""

from __future__ import annotations

import functools
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tfkit.environment import stack
from tfkit.errors import DataError

WORDS, MASK, TYPES = "input_word_ids", "input_mask", "input_type_ids"
"""TF Hub's names of the inputs of an encoder of text."""


PAD, UNKNOWN, START, END = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
SPECIAL = (PAD, UNKNOWN, START, END)


class Edges(NamedTuple):
    """The ids that stand at the beginning of a row, at the end of a text, and behind a row."""

    start: int
    end: int
    pad: int


class Tokenizer:
    """Strings to ids, inside of a TensorFlow graph; what is stated here is an attribute, or a cached property."""

    max_length: int
    """Ids of a text at most, those at its edges among them; what is longer is cut off at the end."""
    edges: Edges
    """The ids at the edges of a row."""
    unknown: int
    """The id of what no piece stands for."""
    size: int
    """How many pieces there are."""
    _tokenizer: Any

    def tokenize(self, strings: Any) -> stack.tf.RaggedTensor:
        """Return the ids of the pieces of each string, without those at the edges, not cut.

        Args:
          strings: UTF-8 [b].

        Returns:
          int32 [b, (pieces)].
        """
        return self._tokenizer.tokenize(strings)

    def ids(self, strings: Any) -> stack.tf.RaggedTensor:
        """Return the ids of each string as a model takes them: start, the pieces, end ([CLS] and [SEP] of BERT).

        Args:
          strings: UTF-8 [b].

        Returns:
          int32 [b, (ids)], each row of 2 to `max_length`.
        """
        pieces = self.tokenize(strings)[:, : self.max_length - 2]
        edge = stack.tf.ones([pieces.nrows(), 1], stack.tf.int32)
        return stack.tf.concat([edge * self.edges.start, pieces, edge * self.edges.end], axis=1)

    def dense(self, strings: Any, *, length: int | None = None) -> dict[str, stack.tf.Tensor]:
        """Return the inputs of an encoder of TF Hub's text convention.

        Args:
          strings: UTF-8 [b].
          length: of the rows, `max_length` or more; None: that of the longest row.

        Returns:
          `input_word_ids`, `input_mask` (1 for an id, 0 for padding) and `input_type_ids` (0), int32 [b, length].
        """
        if length is not None and length < self.max_length:
            raise DataError(f"length is {length}; rows are cut at max_length, which is {self.max_length}.")
        rows, shape = self.ids(strings), [None, length]
        return {
            WORDS: rows.to_tensor(self.edges.pad, shape=shape),
            MASK: stack.tf.ones_like(rows).to_tensor(0, shape=shape),
            TYPES: stack.tf.zeros_like(rows).to_tensor(0, shape=shape),
        }


_MAX_WORD_BYTES = 100  # bytes; what is longer is unknown
_CJK = (
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
)  # fmt: skip


@functools.cache
def _separate(char: str) -> str:
    """Return what BERT's tokenizer makes of a character: a space, nothing (of a control), a word by itself, or it."""
    category = unicodedata.category(char)
    if char.isspace() and char not in "\x1c\x1d\x1e\x1f\x85":
        return " "
    if category in ("Cc", "Cf"):
        return ""
    is_cjk = any(low <= ord(char) <= high for low, high in _CJK)
    return f" {char} " if char in string.punctuation or category[0] == "P" or is_cjk else char


@dataclass(frozen=True, kw_only=True, eq=False)
class WordPiece(Tokenizer):
    """Strings to ids of word pieces, by tf_text.FastBertTokenizer.

    The normalisation is that of BERT: control characters go, CJK characters become words of their own; with
    `lower_case` also Unicode NFD, lower case, and accents go.

    Attributes:
      vocabulary: one piece a line of vocab.txt; within a word it begins with "##". [PAD], [UNK], [CLS] and [SEP] are
        among them.
      lower_case: whether case and accents are folded.
      max_length: ids of a text at most, [CLS] and [SEP] among them; what is longer is cut off at the end.

    Raises:
      DataError: the vocabulary lacks one of the four, or holds a piece twice.

    Example:
      >>> pieces = WordPiece(vocabulary=("[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "##ness", "!"), max_length=6)
      >>> pieces.ids(["Goodness!", "good"]).to_list()
      [[2, 4, 5, 6, 3], [2, 4, 3]]
    """

    vocabulary: tuple[str, ...]
    max_length: int = 128
    lower_case: bool = True

    def __post_init__(self) -> None:
        """Refuse a vocabulary that lacks a special piece or holds any twice."""
        if missing_pieces := [piece for piece in SPECIAL if piece not in self.vocabulary]:
            raise DataError(
                f"The vocabulary ({len(self.vocabulary)} pieces) lacks {', '.join(missing_pieces)}.\n"
                f"  Such a vocabulary holds {', '.join(SPECIAL)}, one piece a line."
            )
        if repeats := sorted(piece for piece, count in Counter(self.vocabulary).items() if count > 1):
            raise DataError(f"The vocabulary holds {', '.join(map(repr, repeats[:5]))} more than once.")

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        return {piece: number for number, piece in enumerate(self.vocabulary)}

    def split(self, text: str) -> list[int]:
        """Return the ids of one text's pieces without TensorFlow, whose start takes longer than a question.

        Whoever uses this compares both on texts of the same kind first: of control characters, for one, the graph makes
        something else.

        Args:
          text: of any length.

        Returns:
          What `tokenize` gives, as a rule, without the ids at the edges, not cut.
        """
        if self.lower_case:
            characters = unicodedata.normalize("NFKD", text.casefold())
            text = "".join(char for char in characters if unicodedata.category(char) != "Mn")
        return [number for word in "".join(map(_separate, text)).split() for number in self._split_word(word)]

    def _split_word(self, word: str) -> list[int]:
        ids, start = [], 0
        if len(word.encode("utf-8", "replace")) > _MAX_WORD_BYTES:
            return [self.unknown]
        while start < len(word):
            pieces = (f"{'##' * (start > 0)}{word[start:end]}" for end in range(len(word), start, -1))
            piece = next((piece for piece in pieces if piece in self._ids), None)
            if piece is None:
                return [self.unknown]
            ids.append(self._ids[piece])
            start += len(piece) - 2 * (start > 0)
        return ids

    @functools.cached_property
    def _tokenizer(self) -> Any:
        # Its tables are tensors: made in the graph that first asks for them, no other could use them.
        with stack.tf.init_scope():
            return stack.tf_text.FastBertTokenizer(
                vocab=list(self.vocabulary),
                token_out_type=stack.tf.int32,
                lower_case_nfd_strip_accents=self.lower_case,
            )

    @functools.cached_property
    def edges(self) -> Edges:  # type: ignore[override]
        """Return the ids of [CLS], [SEP] and [PAD]."""
        return Edges(*map(self.id_of, (START, END, PAD)))

    @functools.cached_property
    def unknown(self) -> int:  # type: ignore[override]
        """Return the id of [UNK]."""
        return self.id_of(UNKNOWN)

    @functools.cached_property
    def size(self) -> int:  # type: ignore[override]
        """Return how many pieces there are."""
        return len(self.vocabulary)

    def id_of(self, piece: str) -> int:
        """Return where a piece stands in the vocabulary."""
        return self._ids[piece]


@dataclass(frozen=True, kw_only=True, eq=False)
class SentencePiece(Tokenizer):
    """Strings to ids of sentence pieces, by tf_text.FastSentencepieceTokenizer, which TFLite has too.

    How a text is normalised is in the model. Characters that it does not know and that stand together are one unknown
    piece, and no text is read as a piece such as "<s>": as tf_text.SentencepieceTokenizer does it.

    Attributes:
      model: the content of a .model file as the sentencepiece library trains it, of unigrams.
      max_length: ids of a text at most, <s> and </s> among them; what is longer is cut off at the end.

    Source: Kudo and Richardson 2018 (arXiv:1808.06226).
    """

    model: bytes = field(repr=False)
    max_length: int = 128

    # Where that library puts <s>, </s> and <unk>. Nothing reads what fills a row up: it is masked.
    edges = Edges(1, 2, 0)
    unknown = 0

    @functools.cached_property
    def _tokenizer(self) -> Any:
        with stack.tf.init_scope():
            return stack.tf_text.FastSentencepieceTokenizer(model=self.model)

    @functools.cached_property
    def size(self) -> int:  # type: ignore[override]
        """Return how many pieces there are."""
        return int(self._tokenizer.vocab_size())


SIZE = 4000
CHARACTERS = 2_000_000
"""So many are read at most: what a vocabulary of some thousand pieces is made of, is settled after that."""

LONGEST_WORD = 25
"""Characters of a word that counts; longer ones are addresses and encoded files more often than words."""

_BATCH = 256
_ITERATIONS = 2  # of four by default: a third takes as long again, and changes one piece in fifty
_MIN_COUNT = 2


def build_vocabulary(
    texts: Iterable[str | bytes], *, size: int = SIZE, lower_case: bool = True
) -> tuple[str, ...]:
    """Return the word pieces that cut these texts best, by tf_text's bert_vocab_from_dataset, always the same.

    It reads 2,000,000 characters at most, which takes five to ten seconds: where there are more, the beginning of
    each text, of all texts the same length. Give it training texts alone: it is learned from them.

    Args:
      texts: of the corpus; bytes are UTF-8.
      size: of the vocabulary at most; 5 % less may come out, and far less of a small corpus.
      lower_case: whether case and accents are folded, as of the WordPiece that is to use it.

    Returns:
      What WordPiece takes: the four special ones, single characters, then pieces, the most frequent ones first.

    Raises:
      DataError: the texts hold no word, or the size has no room for words.

    Example:
      >>> build_vocabulary(["the cat sat on the mat", "the cat"], size=60)[:6]
      ('[PAD]', '[UNK]', '[CLS]', '[SEP]', 'a', 'c')
    """
    if size < (minimum := len(SPECIAL) + 16):
        raise DataError(f"size is {size}; a vocabulary of less than {minimum} pieces has no room for words.")
    # What no UTF-8 can hold becomes a replacement character.
    contents = [text if isinstance(text, bytes) else text.encode(errors="replace") for text in texts]
    samples = _truncate_evenly([text.decode(errors="replace") for text in contents])
    characters = sum(map(len, samples))
    dataset = stack.tf.data.Dataset.from_tensor_slices([text.encode() for text in samples] or [b""])
    try:
        pieces = stack.tf_text_vocabulary.bert_vocab_from_dataset(
            dataset.batch(_BATCH),
            vocab_size=size,
            reserved_tokens=list(SPECIAL),
            bert_tokenizer_params={"lower_case": lower_case},
            learn_params={
                # Pieces do not overlap, so that no more than `size` of them can be as frequent as this; the search
                # for the count that a piece must have begins there instead of at that of the most frequent word.
                "upper_thresh": max(_MIN_COUNT, characters // size),
                "lower_thresh": _MIN_COUNT,
                "num_iterations": _ITERATIONS,
                "max_token_length": LONGEST_WORD,
                # Each comes twice, at the beginning of a word and within: they must leave room for words.
                "max_unique_chars": min(1000, size // 8),
            },
        )
    except StopIteration as err:  # of an empty count of words
        raise DataError(
            f"The {len(samples)} texts hold no word: there is nothing to build a vocabulary of."
        ) from err
    return tuple(pieces[:size])


def _truncate_evenly(texts: list[str]) -> list[str]:
    """Return the beginnings of all texts, cut at one length where they have more than `CHARACTERS`."""
    budget, count = CHARACTERS, len(texts)
    for place, length in enumerate(sorted(map(len, texts))):
        limit = budget // (count - place)
        if length > limit:
            return [text[:limit] for text in texts]
        budget -= length
    return texts


_CASES = {
    "plain words": "the cat sat", "upper case": "The CAT", "accents": "café naïve", "combining accents": "cafe\u0301",
    "German ß": "straße", "ligatures": "ﬁne", "ellipsis": "wait…", "full width": "ＡＢＣ", "numbers": "3.14 and 1,000",
    "punctuation": "don't e-mail: a@b.org!", "CJK": "你好", "kana": "カタカナ", "Hangul": "한국어", "Arabic": "مرحبا",
    "Hebrew": "שלום", "Cyrillic": "привет", "Devanagari": "नमस्ते", "emoji": "😀", "joined emoji": "👩‍👧",
    "control characters": "a\u0000b", "zero-width space": "a\u200bb", "invalid UTF-8": "a \udcff b",
    "literal [MASK]": "a [MASK] b", "an unknown word": "qzxjvkw",
}  # fmt: skip


def check(tokenizer: WordPiece) -> Any:
    """Send hard strings through a tokenizer and back, and name what did not return.

    Args:
      tokenizer: that gives rows of ids, and says what they stand for.

    Returns:
      A pandas DataFrame by the name of the string, such as "CJK": the `text`, what its pieces say (`back`), and the
      `outcome`:
      "kept" (the same but for spaces), "folded" (other characters), "lost" ([UNK], or nothing, for a part of it), or
      "special" (text was read as a piece such as [MASK]).

    Example:
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
    table["back"] = list(map(_join_pieces, pieces))
    table["outcome"] = list(map(_classify_outcome, table.text, pieces))
    return table.rename_axis("case")


def _join_pieces(pieces: list[str]) -> str:
    """Return what pieces say, put together."""
    return "".join(piece[2:] if re.match("##.", piece) else f" {piece}" for piece in pieces).strip()


def _classify_outcome(text: str, pieces: list[str]) -> str:
    if "[MASK]" in pieces:
        return "special"
    if not pieces or UNKNOWN in pieces:
        return "lost"
    before, after = ("".join(unicodedata.normalize("NFC", s).split()) for s in (text, _join_pieces(pieces)))
    if before == after:
        return "kept"
    # The loss of mere marks and controls is a folding.
    kinds = list(map(unicodedata.category, unicodedata.normalize("NFD", text)))
    marks = sum(map(kinds.count, ("Mn", "Cf", "Cc")))
    return "lost" if len(after) < len(before.replace("\ufffd", "")) - marks else "folded"

"""Tokenizers inside of a TensorFlow graph, on tensorflow-text: WordPiece, SentencePiece, whole words."""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tfkit.environment import packages, stack
from tfkit.errors import DataError

WORDS, MASK, TYPES = "input_word_ids", "input_mask", "input_type_ids"
"""TF Hub's names of the inputs of an encoder of text."""


class Edges(NamedTuple):
    """The ids that stand at the beginning of a row, at the end of a text, and behind a row."""

    start: int
    end: int
    pad: int


class Tokenizer:
    """Strings to ids, inside of a TensorFlow graph.

    Attributes:
      vocabulary: the pieces, each at the place of its id.
      max_length: ids of a text at most, those at its edges among them.
    """

    vocabulary: tuple[str, ...]
    max_length: int
    _tokenizer: Any

    @functools.cached_property
    def edges(self) -> Edges:
        """Return the ids at the edges of a row: those of [CLS], [SEP] and [PAD]."""
        return Edges(self.id_of(START), self.id_of(END), self.id_of(PAD))

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
        rows = self.ids(strings)
        return self._filled(rows, stack.tf.zeros_like(rows), length)

    def dense_pairs(
        self, first: Any, second: Any, *, length: int | None = None
    ) -> dict[str, stack.tf.Tensor]:
        """Return two texts in a row, such as a question and a passage: start, the first, end, the second, end.

        What is too long for `max_length` loses pieces at the end of the longer text until both are equally long.

        Args:
          first: UTF-8 [b].
          second: UTF-8 [b].
          length: as of `dense`.

        Returns:
          As `dense`; `input_type_ids` is 1 for the second text and the end behind it.
        """
        trimmer = stack.tf_text.RoundRobinTrimmer(max_seq_length=self.max_length - 3)
        texts = trimmer.trim([self.tokenize(first), self.tokenize(second)])
        rows, types = stack.tf_text.combine_segments(
            texts, start_of_sequence_id=self.edges.start, end_of_segment_id=self.edges.end
        )
        return self._filled(rows, types, length)

    def id_of(self, piece: str) -> int:
        """Return where a piece stands in the vocabulary."""
        return self.vocabulary.index(piece)

    def _filled(self, rows: Any, types: Any, length: int | None) -> dict[str, Any]:
        if length is not None and length < self.max_length:
            raise DataError(f"length is {length}; rows are cut at max_length, which is {self.max_length}.")
        shape = [None, length]
        return {
            WORDS: rows.to_tensor(self.edges.pad, shape=shape),
            MASK: stack.tf.ones_like(rows).to_tensor(0, shape=shape),
            TYPES: types.to_tensor(0, shape=shape),
        }


PAD, UNKNOWN, START, END = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
SPECIAL = (PAD, UNKNOWN, START, END)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Listed(Tokenizer):
    """A tokenizer whose pieces are given as a list, with those of BERT's edges among them."""

    vocabulary: tuple[str, ...]
    max_length: int = 128

    def __post_init__(self) -> None:
        """Refuse a vocabulary that lacks a special piece or holds any twice."""
        if lacking := [piece for piece in SPECIAL if piece not in self.vocabulary]:
            raise DataError(
                f"The vocabulary ({len(self.vocabulary)} pieces) lacks {', '.join(lacking)}.\n"
                f"  Such a vocabulary holds {', '.join(SPECIAL)}, one piece a line."
            )
        if twice := sorted(piece for piece, count in Counter(self.vocabulary).items() if count > 1):
            raise DataError(f"The vocabulary holds {', '.join(map(repr, twice[:5]))} more than once.")


@dataclass(frozen=True, kw_only=True, eq=False)
class WordPiece(_Listed):
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

    lower_case: bool = True

    @functools.cached_property
    def _tokenizer(self) -> Any:
        # Its tables are tensors: made in the graph that first asks for them, no other could use them.
        with stack.tf.init_scope():
            return stack.tf_text.FastBertTokenizer(
                vocab=list(self.vocabulary),
                token_out_type=stack.tf.int32,
                lower_case_nfd_strip_accents=self.lower_case,
            )


_WITHIN = "\ue000"  # of private use: no word begins with it, so that words are found whole or not at all


@dataclass(frozen=True, kw_only=True, eq=False)
class Whitespace(_Listed):
    """Strings to ids of whole words, by tf_text.WhitespaceTokenizer; punctuation stays with its word.

    For texts that are cut already: identifiers, logs, the output of another tokenizer.

    Attributes:
      vocabulary: words, with [PAD], [UNK], [CLS] and [SEP] among them. What is not in it is [UNK].
      lower_case: whether case and accents are folded, as BERT does it; the vocabulary must be folded too.
      max_length: ids of a text at most, [CLS] and [SEP] among them.

    Raises:
      DataError: the vocabulary lacks one of the four, or holds a word twice.

    Example:
      >>> words = Whitespace(vocabulary=("[PAD]", "[UNK]", "[CLS]", "[SEP]", "GET", "/index.html"))
      >>> words.ids(["GET /index.html", "PUT /index.html"]).to_list()
      [[2, 4, 5, 3], [2, 1, 5, 3]]
    """

    lower_case: bool = False

    def tokenize(self, strings: Any) -> stack.tf.RaggedTensor:
        """Return the ids of the words of each string, without [CLS] and [SEP], not cut: int32 [b, (words)]."""
        words = stack.tf_text.WhitespaceTokenizer().tokenize(self._normalizer.normalize(strings))
        # A lookup by the word pieces' operation, which TFLite has; a table of strings it has not.
        ids = self._lookup.tokenize(words.flat_values).flat_values
        return words.with_flat_values(stack.tf.ensure_shape(ids, [None]))

    @functools.cached_property
    def _normalizer(self) -> Any:
        with stack.tf.init_scope():  # see WordPiece
            return stack.tf_text.FastBertNormalizer(lower_case_nfd_strip_accents=self.lower_case)

    @functools.cached_property
    def _lookup(self) -> Any:
        with stack.tf.init_scope():
            return stack.tf_text.FastWordpieceTokenizer(
                vocab=list(self.vocabulary),
                suffix_indicator=_WITHIN,
                unknown_token=UNKNOWN,
                no_pretokenization=True,
                token_out_type=stack.tf.int32,
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class SentencePiece(Tokenizer):
    """Strings to ids of sentence pieces, by tf_text.SentencepieceTokenizer.

    What is normalised, and how, is in the model file.

    Attributes:
      model: a .model file as the sentencepiece library trains them.
      start: the piece at the beginning of a row; "[CLS]" of ALBERT, "<s>" of XLM-RoBERTa.
      end: that at the end of a text; "[SEP]", "</s>".
      pad: that behind a row; "<pad>".
      max_length: ids of a text at most, those at its edges among them.
      fast: by tf_text.FastSentencepieceTokenizer, which TFLite has too; of unigram models alone.

    Raises:
      DataError: the file is no such model, or lacks a piece.
    """

    model: Path
    start: str = "<s>"
    end: str = "</s>"
    pad: str = "<pad>"
    max_length: int = 128
    fast: bool = False

    def __post_init__(self) -> None:
        """Read the model, and refuse one that lacks a piece of the edges."""
        if lacking := {self.start, self.end, self.pad} - set(self.vocabulary):
            raise DataError(
                f"{self.model} ({len(self.vocabulary)} pieces) lacks {', '.join(sorted(lacking))}. It begins with"
                f" {', '.join(self.vocabulary[:6])}.\n"
                "  Say which of its pieces stand at the edges: start=, end=, pad=."
            )

    @functools.cached_property
    def edges(self) -> Edges:
        """Return the ids of `start`, `end` and `pad`."""
        return Edges(*map(self.id_of, (self.start, self.end, self.pad)))

    @functools.cached_property
    def vocabulary(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return the pieces; "▁" is the space before a word."""
        pieces = self._reader.id_to_string(stack.tf.range(self._reader.vocab_size())).numpy()
        return tuple(piece.decode("utf-8", errors="replace") for piece in pieces)

    @functools.cached_property
    def _tokenizer(self) -> Any:
        return self._opened(stack.tf_text.FastSentencepieceTokenizer) if self.fast else self._reader

    @functools.cached_property
    def _reader(self) -> Any:
        return self._opened(stack.tf_text.SentencepieceTokenizer, out_type=stack.tf.int32)

    def _opened(self, kind: Any, **options: Any) -> Any:
        try:
            with stack.tf.init_scope():
                tokenizer = kind(model=self.model.read_bytes(), **options)
                tokenizer.vocab_size()
                return tokenizer
        except (OSError, stack.tf.errors.OpError, RuntimeError, ValueError) as err:
            raise DataError(
                f"{self.model} is no model of SentencePiece that {kind.__name__} takes: {packages.first_line(err)}\n"
                "  fast=True takes unigram models alone."
            ) from err

"""Whole words: what stands between spaces, looked up in a vocabulary."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tfkit.text.rows import Edges, Rows, check_pieces
from tfkit.text.wordpiece import END, PAD, SPECIAL, START, UNKNOWN

if TYPE_CHECKING:
    import tensorflow as tf

_WITHIN = "\ue000"  # of private use: no word begins with it, so that words are found whole or not at all


@dataclass(frozen=True, kw_only=True, eq=False)
class Whitespace(Rows):
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

    vocabulary: tuple[str, ...]
    lower_case: bool = False
    max_length: int = 128

    def __post_init__(self) -> None:
        """Check the vocabulary."""
        check_pieces(self.vocabulary, SPECIAL)

    def tokenize(self, strings: Any) -> tf.RaggedTensor:
        """The ids of the words of each string, without [CLS] and [SEP], not cut: int32 [b, (words)]."""
        from tfkit.stack import tf, tf_text

        normalize, lookup = self._parts
        words = tf_text.WhitespaceTokenizer().tokenize(normalize(strings))
        # A lookup by the word pieces' operation, which TFLite has; a table of strings it has not.
        return words.with_flat_values(tf.ensure_shape(lookup(words.flat_values), [None]))

    @property
    def edges(self) -> Edges:
        """[CLS], [SEP] and [PAD]."""
        return Edges(self.id_of(START), self.id_of(END), self.id_of(PAD))

    @functools.cached_property
    def _parts(self) -> tuple[Any, Any]:
        from tfkit.stack import tf, tf_text

        with tf.init_scope():  # see WordPiece
            normalizer = tf_text.FastBertNormalizer(lower_case_nfd_strip_accents=self.lower_case)
            pieces = tf_text.FastWordpieceTokenizer(
                vocab=list(self.vocabulary),
                suffix_indicator=_WITHIN,
                unknown_token=UNKNOWN,
                no_pretokenization=True,
                token_out_type=tf.int32,
            )
        return normalizer.normalize, lambda words: pieces.tokenize(words).flat_values

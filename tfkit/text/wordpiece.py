"""WordPiece, as BERT and its descendants cut text: strings to ids, inside of a TensorFlow graph."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tfkit.errors import DataError

if TYPE_CHECKING:
    import tensorflow as tf

PAD, UNKNOWN, START, END = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
SPECIAL = (PAD, UNKNOWN, START, END)


@dataclass(frozen=True, kw_only=True, eq=False)
class WordPiece:
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
    lower_case: bool = True
    max_length: int = 128

    def __post_init__(self) -> None:
        """Check the vocabulary."""
        lacking = [piece for piece in SPECIAL if piece not in self.vocabulary]
        if lacking:
            raise DataError(
                f"The vocabulary ({len(self.vocabulary)} pieces) lacks {', '.join(lacking)}.\n"
                "  A WordPiece vocabulary holds [PAD], [UNK], [CLS] and [SEP], one piece a line."
            )
        if len(set(self.vocabulary)) < len(self.vocabulary):
            twice = sorted({piece for piece in self.vocabulary if self.vocabulary.count(piece) > 1})
            raise DataError(f"The vocabulary holds {', '.join(map(repr, twice[:5]))} more than once.")

    def tokenize(self, strings: Any) -> tf.RaggedTensor:
        """The ids of the pieces of each string, without [CLS] and [SEP], not cut.

        Args:
          strings: UTF-8 [b].

        Returns:
          int32 [b, (pieces)].
        """
        return self._tokenizer.tokenize(strings)

    def ids(self, strings: Any) -> tf.RaggedTensor:
        """The ids of each string as a model takes them: [CLS], the pieces, [SEP].

        Args:
          strings: UTF-8 [b].

        Returns:
          int32 [b, (ids)], each row of 2 to `max_length`.
        """
        from tfkit.stack import tf

        pieces = self.tokenize(strings)[:, : self.max_length - 2]
        edge = tf.ones([pieces.nrows(), 1], tf.int32)
        return tf.concat([edge * self.id_of(START), pieces, edge * self.id_of(END)], axis=1)

    def dense(self, strings: Any, *, length: int | None = None) -> dict[str, tf.Tensor]:
        """The inputs of an encoder of TF Hub's text convention.

        Args:
          strings: UTF-8 [b].
          length: of the rows, up to `max_length`; None: that of the longest row.

        Returns:
          `input_word_ids`, `input_mask` (1 for an id, 0 for padding) and `input_type_ids` (0), int32 [b, length].
        """
        from tfkit.stack import tf

        rows = self.ids(strings)
        if length is not None and length < self.max_length:
            raise DataError(f"length is {length}; rows are cut at max_length, which is {self.max_length}.")
        shape = [None, length]
        words = rows.to_tensor(self.id_of(PAD), shape=shape)
        mask = tf.ones_like(rows).to_tensor(0, shape=shape)
        return {"input_word_ids": words, "input_mask": mask, "input_type_ids": tf.zeros_like(words)}

    def id_of(self, piece: str) -> int:
        """Where a piece stands in the vocabulary."""
        return self._places[piece]

    @functools.cached_property
    def _places(self) -> dict[str, int]:
        return {piece: place for place, piece in enumerate(self.vocabulary)}

    @functools.cached_property
    def _tokenizer(self) -> Any:
        from tfkit.stack import tf, tf_text

        # Its tables are tensors: made in the graph that first asks for them, no other could use them.
        with tf.init_scope():
            return tf_text.FastBertTokenizer(
                vocab=list(self.vocabulary),
                token_out_type=tf.int32,
                lower_case_nfd_strip_accents=self.lower_case,
            )

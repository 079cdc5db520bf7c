"""WordPiece, as BERT and its descendants cut text: strings to ids, inside of a TensorFlow graph."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tfkit.text.rows import Edges, Rows, check_pieces

if TYPE_CHECKING:
    import tensorflow as tf

PAD, UNKNOWN, START, END = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
SPECIAL = (PAD, UNKNOWN, START, END)


@dataclass(frozen=True, kw_only=True, eq=False)
class WordPiece(Rows):
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
        check_pieces(self.vocabulary, SPECIAL)

    def tokenize(self, strings: Any) -> tf.RaggedTensor:
        """The ids of the pieces of each string, without [CLS] and [SEP], not cut: int32 [b, (pieces)]."""
        return self._tokenizer.tokenize(strings)

    @property
    def edges(self) -> Edges:
        """[CLS], [SEP] and [PAD]."""
        return Edges(self.id_of(START), self.id_of(END), self.id_of(PAD))

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

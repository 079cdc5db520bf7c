"""From pieces to what a model takes: the ids at the edges, cut and filled, of one text a row or of two."""

from __future__ import annotations

import abc
import functools
from typing import TYPE_CHECKING, Any, NamedTuple

from tfkit.errors import DataError

if TYPE_CHECKING:
    import tensorflow as tf

WORDS, MASK, TYPES = "input_word_ids", "input_mask", "input_type_ids"
"""TF Hub's names of the inputs of an encoder of text."""


class Edges(NamedTuple):
    """The ids that stand at the beginning of a row, at the end of a text, and behind a row."""

    start: int
    end: int
    pad: int


class Rows(abc.ABC):
    """What all tokenizers of tfkit.text have in common; they bring `tokenize`, `edges`, `vocabulary`, `max_length`."""

    vocabulary: tuple[str, ...]
    max_length: int

    @property
    @abc.abstractmethod
    def edges(self) -> Edges:
        """The ids at the edges."""

    @abc.abstractmethod
    def tokenize(self, strings: Any) -> tf.RaggedTensor:
        """The ids of the pieces of each string, without those at the edges, not cut.

        Args:
          strings: UTF-8 [b].

        Returns:
          int32 [b, (pieces)].
        """

    def ids(self, strings: Any) -> tf.RaggedTensor:
        """The ids of each string as a model takes them: start, the pieces, end ([CLS] and [SEP] of BERT).

        Args:
          strings: UTF-8 [b].

        Returns:
          int32 [b, (ids)], each row of 2 to `max_length`.
        """
        from tfkit.stack import tf

        pieces = self.tokenize(strings)[:, : self.max_length - 2]
        edge = tf.ones([pieces.nrows(), 1], tf.int32)
        return tf.concat([edge * self.edges.start, pieces, edge * self.edges.end], axis=1)

    def dense(self, strings: Any, *, length: int | None = None) -> dict[str, tf.Tensor]:
        """The inputs of an encoder of TF Hub's text convention.

        Args:
          strings: UTF-8 [b].
          length: of the rows, `max_length` or more; None: that of the longest row.

        Returns:
          `input_word_ids`, `input_mask` (1 for an id, 0 for padding) and `input_type_ids` (0), int32 [b, length].
        """
        from tfkit.stack import tf

        rows = self.ids(strings)
        return self._filled(rows, tf.zeros_like(rows), length)

    def dense_pairs(self, first: Any, second: Any, *, length: int | None = None) -> dict[str, tf.Tensor]:
        """Two texts in a row, such as a question and a passage: start, the first, end, the second, end.

        What is too long for `max_length` loses pieces at the end of the longer text until both are equally long.

        Args:
          first: UTF-8 [b].
          second: UTF-8 [b].
          length: as of `dense`.

        Returns:
          As `dense`; `input_type_ids` is 1 for the second text and the end behind it.
        """
        from tfkit.stack import tf_text

        trimmer = tf_text.RoundRobinTrimmer(max_seq_length=self.max_length - 3)
        texts = trimmer.trim([self.tokenize(first), self.tokenize(second)])
        rows, types = tf_text.combine_segments(
            texts, start_of_sequence_id=self.edges.start, end_of_segment_id=self.edges.end
        )
        return self._filled(rows, types, length)

    def id_of(self, piece: str) -> int:
        """Where a piece stands in the vocabulary."""
        return self._places[piece]

    def _filled(self, rows: Any, types: Any, length: int | None) -> dict[str, Any]:
        from tfkit.stack import tf

        if length is not None and length < self.max_length:
            raise DataError(f"length is {length}; rows are cut at max_length, which is {self.max_length}.")
        shape = [None, length]
        return {
            WORDS: rows.to_tensor(self.edges.pad, shape=shape),
            MASK: tf.ones_like(rows).to_tensor(0, shape=shape),
            TYPES: types.to_tensor(0, shape=shape),
        }

    @functools.cached_property
    def _places(self) -> dict[str, int]:
        return {piece: place for place, piece in enumerate(self.vocabulary)}


def check_pieces(vocabulary: tuple[str, ...], needed: tuple[str, ...]) -> None:
    """Refuse a vocabulary that lacks a piece or holds one twice.

    Raises:
      DataError: it does.
    """
    lacking = [piece for piece in needed if piece not in vocabulary]
    if lacking:
        raise DataError(
            f"The vocabulary ({len(vocabulary)} pieces) lacks {', '.join(lacking)}.\n"
            f"  Such a vocabulary holds {', '.join(needed[:-1])} and {needed[-1]}, one piece a line."
        )
    if len(set(vocabulary)) < len(vocabulary):
        twice = sorted({piece for piece in vocabulary if vocabulary.count(piece) > 1})
        raise DataError(f"The vocabulary holds {', '.join(map(repr, twice[:5]))} more than once.")

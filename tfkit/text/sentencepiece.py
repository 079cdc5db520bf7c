"""SentencePiece, by the model file of an encoder or of the user's own."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfkit import packages
from tfkit.errors import DataError
from tfkit.text.rows import Edges, Rows

if TYPE_CHECKING:
    import tensorflow as tf


@dataclass(frozen=True, kw_only=True, eq=False)
class SentencePiece(Rows):
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
        """Read the model."""
        lacking = [piece for piece in (self.start, self.end, self.pad) if piece not in self._places]
        if lacking:
            shown = ", ".join(self.vocabulary[:6])
            raise DataError(
                f"{self.model} ({len(self.vocabulary)} pieces) lacks {', '.join(lacking)}. It begins with {shown}.\n"
                "  Say which of its pieces stand at the edges: start=, end=, pad=."
            )

    def tokenize(self, strings: Any) -> tf.RaggedTensor:
        """The ids of the pieces of each string, without those at the edges, not cut: int32 [b, (pieces)]."""
        return self._tokenizer.tokenize(strings)

    @property
    def edges(self) -> Edges:
        """The ids of `start`, `end` and `pad`."""
        return Edges(self.id_of(self.start), self.id_of(self.end), self.id_of(self.pad))

    @functools.cached_property
    def vocabulary(self) -> tuple[str, ...]:  # type: ignore[override]
        """The pieces; "▁" is the space before a word."""
        from tfkit.stack import tf

        reader = self._reader
        pieces = reader.id_to_string(tf.range(reader.vocab_size())).numpy()
        return tuple(piece.decode("utf-8", errors="replace") for piece in pieces)

    @functools.cached_property
    def _tokenizer(self) -> Any:
        from tfkit.stack import tf, tf_text

        if not self.fast:
            return self._reader
        with tf.init_scope():
            try:
                return tf_text.FastSentencepieceTokenizer(model=self.model.read_bytes())
            except (tf.errors.OpError, RuntimeError, ValueError) as err:
                raise DataError(
                    f"{self.model} is not for the fast tokenizer, which takes unigram models:"
                    f" {packages.first_line(err)}\n  Leave out fast=True."
                ) from err

    @functools.cached_property
    def _reader(self) -> Any:
        from tfkit.stack import tf, tf_text

        with tf.init_scope():
            try:
                reader = tf_text.SentencepieceTokenizer(model=self.model.read_bytes(), out_type=tf.int32)
                reader.vocab_size()
            except (OSError, tf.errors.OpError) as err:
                raise DataError(
                    f"{self.model} is no model of SentencePiece: {packages.first_line(err)}"
                ) from err
        return reader

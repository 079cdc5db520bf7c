"""What every tokenizer of tfkit.text does: the one protocol that models, exports and datasets ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from tfkit.text.rows import Edges

if TYPE_CHECKING:
    import tensorflow as tf


class Tokenizer(Protocol):
    """Strings to ids, inside of a TensorFlow graph.

    Attributes:
      max_length: ids of a text at most, those at its edges among them.
    """

    @property
    def max_length(self) -> int: ...  # noqa: D102

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The pieces, each at the place of its id."""

    def tokenize(self, strings: Any) -> tf.RaggedTensor:
        """The ids of the pieces of each string [b], without those at its edges, not cut: int32 [b, (pieces)]."""

    def ids(self, strings: Any) -> tf.RaggedTensor:
        """The ids of each string [b] as a model takes them: int32 [b, (ids)], each row `max_length` at most."""

    def dense(self, strings: Any, *, length: int | None = None) -> dict[str, tf.Tensor]:
        """`input_word_ids`, `input_mask`, `input_type_ids`, int32 [b, length or that of the longest row]."""

    @property
    def edges(self) -> Edges:
        """The ids at the edges of a row."""

    def id_of(self, piece: str) -> int:
        """Where a piece stands in the vocabulary."""

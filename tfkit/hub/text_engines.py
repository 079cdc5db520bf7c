"""The engines that compute the vectors of texts, without computing padding."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tfkit.errors import CheckError
from tfkit.hub.engines import Engine, converted
from tfkit.hub.text_encoder import TextEncoder
from tfkit.hub.text_part import MASK, WORDS
from tfkit.litert import ParallelInterpreter, to_tflite
from tfkit.text import WordPiece

_BATCH = 32  # of TensorFlow: texts of nearly one length
_BYTES_A_PIECE = 20  # so many hold more than one, but for text that is no language
_SPARE = 100  # pieces that the last word may have had, which the cut went through


class TextEngines:
    """Of an encoder: UTF-8 [b] to float32 [b, d]; see `tfkit.hub.engines.Engines`.

    A text costs what its tokens cost: TensorFlow gets texts of nearly one length together, and pads them to the longest
    of them; LiteRT gets them one by one, each at its own length.
    """

    unit = "text"
    at_a_time = 4096

    def __init__(self, encoder: TextEncoder) -> None:
        self.handle = encoder.handle
        self.cut = 0
        self._encoder = encoder
        self._model: Any = None

    def tensorflow(self) -> Engine:
        """The flat model behind the tokenizer where there is one; else the SavedModels, with rows as they make them."""
        from tfkit.stack import tf

        tokenizer = self._encoder.tokenizer
        if tokenizer is None:
            strings = tf.TensorSpec((None,), tf.string)
            layer = tf.function(self._encoder.layer(), autograph=False, input_signature=[strings])
            return lambda texts: _by_length(
                texts, list(map(len, texts)), lambda some: layer(tf.constant(some))
            )
        model: Any = self._encoder.functional()
        self._model = model

        @tf.function(autograph=False, input_signature=[tf.TensorSpec((None, None), tf.int32)] * 2)
        def compute(words: Any, mask: Any) -> Any:
            return model({WORDS: words, MASK: mask})

        def computed(some: list[np.ndarray]) -> Any:
            words = np.zeros((len(some), max(map(len, some))), np.int32)
            mask = np.zeros_like(words)
            for place, row in enumerate(some):
                words[place, : len(row)], mask[place, : len(row)] = row, 1
            return compute(tf.constant(words), tf.constant(mask))

        def engine(texts: np.ndarray) -> np.ndarray:
            rows = self._rows(texts, tokenizer)
            return _by_length(rows, list(map(len, rows)), computed)

        return engine

    @contextlib.contextmanager
    def litert(self, probe: np.ndarray) -> Iterator[Engine]:
        """The flat model on rows of any length, one at a time: resizing costs less than padding."""
        encoder, tokenizer = self._encoder, self._encoder.tokenizer
        if tokenizer is None:
            raise CheckError(
                f"{encoder.handle} has its tokenizer in the SavedModel, which does not convert to TFLite"
            )

        def make() -> bytes:
            from tfkit.stack import tf

            model: Any = self._model or encoder.functional()
            return to_tflite(
                lambda words: model({WORDS: words, MASK: tf.ones_like(words)}),
                input_shape=(1, None),
                dtype="int32",
            )

        with ParallelInterpreter(converted(encoder.digest, make=make)) as interpreter:

            def engine(texts: np.ndarray) -> np.ndarray:
                rows = self._rows(texts, tokenizer)
                # Neighbours of one length; the longest first, so that all cores end together.
                order = np.argsort([-len(row) for row in rows], kind="stable")
                return _unsorted(order, interpreter([rows[i] for i in order], prepare=np.stack))

            yield engine

    def _rows(self, texts: np.ndarray, tokenizer: WordPiece) -> list[np.ndarray]:
        """The ids of each text, int32 [up to max_length]; counts those that are cut."""
        room = tokenizer.max_length - 2
        start = [text[: _BYTES_A_PIECE * tokenizer.max_length] for text in texts]
        rows = _pieces(tokenizer, start)
        # Of a text of a hundred kilobytes the beginning is enough, if it holds enough words.
        again = [
            i for i, row in enumerate(rows) if len(start[i]) < len(texts[i]) and len(row) < room + _SPARE
        ]
        if again:
            for i, row in zip(again, _pieces(tokenizer, [texts[i] for i in again]), strict=True):
                rows[i] = row
        self.cut += sum(len(row) > room for row in rows)
        first, last = (np.array([tokenizer.id_of(piece)], np.int32) for piece in ("[CLS]", "[SEP]"))
        return [np.concatenate([first, row[:room], last]) for row in rows]


def _pieces(tokenizer: WordPiece, texts: list[bytes]) -> list[np.ndarray]:
    from tfkit.stack import tf

    ragged = tokenizer.tokenize(tf.constant(texts, tf.string))
    return np.split(ragged.flat_values.numpy(), ragged.row_splits.numpy()[1:-1])


def _by_length(examples: Any, lengths: list[int], compute: Callable[[Any], Any]) -> np.ndarray:
    """The vectors of all examples, computed in batches of nearly one length, in their own order."""
    order = np.argsort(lengths, kind="stable")
    batches = [order[start : start + _BATCH] for start in range(0, len(order), _BATCH)]
    found = [np.asarray(compute([examples[i] for i in batch]), np.float32) for batch in batches]
    return _unsorted(order, np.concatenate(found))


def _unsorted(order: np.ndarray, rows: np.ndarray) -> np.ndarray:
    result = np.empty_like(rows)
    result[order] = rows
    return result

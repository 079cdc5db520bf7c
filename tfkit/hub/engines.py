"""The engines that compute the vectors of texts, without computing padding.

What computes features: TensorFlow, or on a CPU the LiteRT interpreter, if it gives the same.

The engines that compute the features of images.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np

from tfkit.environment import files, packages, stack
from tfkit.errors import CheckError, StackError
from tfkit.hub.images import Backbone
from tfkit.hub.texts import MASK, WORDS, TextEncoder
from tfkit.litert.converter import to_tflite
from tfkit.litert.interpreter import ParallelInterpreter
from tfkit.text.tokenizers import WordPiece

TOLERANCE = 1e-3
"""How far LiteRT may be from TensorFlow, relative to the length of a feature vector."""

_CONVERSION = 1  # part of the cache key of converted models: raise it when they become others


Engine = Callable[[np.ndarray], np.ndarray]
"""Examples as a source reads them, [b, ...], to their features, float32 [b, d]."""


class Engines(Protocol):
    """The engines that a model has, and how its examples go through them."""

    unit: str
    """What an example is called."""

    at_a_time: int
    """How many are read and computed at a time."""

    cut: int
    """How many of the computed examples were longer than the model takes."""

    @property
    def handle(self) -> str:
        """The model's."""

    def tensorflow(self) -> Engine:
        """The model itself, loaded."""

    def litert(self, probe: np.ndarray) -> contextlib.AbstractContextManager[Engine]:
        """The model as the LiteRT interpreter runs it on all cores, for examples like the probe.

        Raises:
          CheckError: it has no such form.
        """


class Choice(NamedTuple):
    """The engine that computes, and why it does."""

    name: str
    compute: Engine
    reason: str
    difference: float
    """The largest one between LiteRT and TensorFlow on the probe; 0 where TensorFlow computes."""


@contextlib.contextmanager
def choose(engines: Engines, probe: np.ndarray, *, engine: str) -> Iterator[Choice]:
    """The engine for a model on this machine, checked, ready to compute while the block runs.

    Args:
      engines: of the model.
      probe: [b, ...], the examples that both engines must agree on.
      engine: "litert" or "tensorflow" to have no other, "auto" to have LiteRT where it can be had and is
        the faster one.

    Raises:
      CheckError: LiteRT was asked for and cannot compute these features.
    """
    reference = engines.tensorflow()
    if engine == "tensorflow" or (engine == "auto" and stack.has_gpu()):
        reason = "asked for" if engine == "tensorflow" else "there is a GPU"
        yield Choice("tensorflow", reference, reason, 0.0)
        return
    with contextlib.ExitStack() as opened:
        try:
            litert = opened.enter_context(engines.litert(probe))
        except (CheckError, StackError, RuntimeError, ValueError) as err:
            if engine == "litert":
                raise
            found = str(err).splitlines()[0]
        else:
            difference = relative_difference(litert(probe), reference(probe))
            if difference <= TOLERANCE:
                yield Choice("litert", litert, "faster on a CPU", difference)
                return
            found = f"LiteRT's features differ from TensorFlow's by {difference:.2g} (at most {TOLERANCE:g})"
            if engine == "litert":
                raise CheckError(
                    f"{engines.handle}: {found}.\n  Let TensorFlow compute them: engine='tensorflow'."
                )
    yield Choice("tensorflow", reference, found, 0.0)


def relative_difference(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest distance between two feature vectors, relative to the length of the expected one.

    Example:
      >>> relative_difference(np.array([[3.0, 4.1]]), np.array([[3.0, 4.0]]))  # doctest: +ELLIPSIS
      0.0199...
    """
    distance = np.linalg.norm(found - expected, axis=-1)
    length = np.maximum(np.linalg.norm(expected, axis=-1), np.finfo(np.float32).tiny)
    return float(np.max(distance / length))


def converted(*parts: object, make: Callable[[], bytes]) -> bytes:
    """A model as TFLite, converted once and cached under a name that says its content.

    Args:
      parts: all that it depends on.
      make: converts it.
    """
    shelf = files.cache_dir("tflite")
    key = files.digest_of(*parts, packages.version("tensorflow"), _CONVERSION)
    for path in shelf.glob(f"{key}-*.tflite"):
        content = path.read_bytes()
        if path.stem == f"{key}-{_checksum(content)}":
            return content
        files.say_damaged(path)
        path.unlink()
    content = make()
    files.write_bytes(shelf / f"{key}-{_checksum(content)}.tflite", content)
    return content


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


class ImageEngines:
    """Of a backbone: uint8 [b, s, s, 3] to float32 [b, d]; see `tfkit.hub.engines.Engines`."""

    unit = "image"
    at_a_time = 32
    cut = 0

    def __init__(self, backbone: Backbone) -> None:
        self.handle = backbone.handle
        self._backbone = backbone
        self._layer: Any = None

    def tensorflow(self) -> Engine:
        """The model itself."""
        from tfkit.environment.stack import tf

        backbone = self._backbone
        self._layer = layer = backbone.layer()

        @tf.function(autograph=False, reduce_retracing=True)
        def compute(images: Any) -> Any:
            return layer(backbone.scale(tf.cast(images, tf.float32) / 255.0))

        return lambda images: np.asarray(compute(images), np.float32)

    @contextlib.contextmanager
    def litert(self, probe: np.ndarray) -> Iterator[Engine]:
        """The model converted for images of one size, some of them at a time."""
        backbone, size = self._backbone, probe.shape[1]
        shape = (images_per_call(size), size, size, 3)
        model = converted(
            backbone.digest,
            size,
            make=lambda: to_tflite(self._layer or backbone.layer(), input_shape=shape),
        )

        def prepare(images: np.ndarray) -> np.ndarray:
            # The very operations, in the very order, in which TensorFlow gets its images.
            return np.asarray(backbone.scale(images.astype(np.float32) / np.float32(255)))

        with ParallelInterpreter(model) as interpreter:
            yield lambda images: interpreter(images, prepare=prepare)


def images_per_call(image_size: int) -> int:
    """How many images LiteRT computes fastest at a time: enough to use the weights that it loads.

    Measured with EfficientNet-Lite0, CPU time for an image: at 96 pixels 3.0 ms one by one, 2.0 ms by eight;
    at 224 pixels 10.8 ms one by one, 12.2 ms by eight, whose activations leave the processor's cache.

    Example:
      >>> [images_per_call(size) for size in (64, 96, 128, 224, 300)]
      [16, 8, 4, 1, 1]
    """
    pixels = 8 * 96**2
    return min(16, 1 << max(1, pixels // image_size**2).bit_length() - 1)


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
        from tfkit.environment.stack import tf

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
            from tfkit.environment.stack import tf

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
    from tfkit.environment.stack import tf

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

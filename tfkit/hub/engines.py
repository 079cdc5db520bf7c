"""What computes features: TensorFlow, or on a CPU the LiteRT interpreter, if it gives the same.

A text costs what its tokens cost: TensorFlow gets texts of nearly one length together, and pads them to the longest of
them; LiteRT gets them one by one, each at its own length.
"""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from tfkit.environment import files, packages, stack
from tfkit.environment.files import Cache
from tfkit.errors import CheckError, StackError
from tfkit.hub.encoders import Encoder
from tfkit.litert.converter import to_tflite
from tfkit.litert.interpreter import ParallelInterpreter
from tfkit.text.tokenizers import MASK, WORDS, WordPiece

TOLERANCE = 1e-3
"""How far LiteRT may be from TensorFlow, relative to the length of a feature vector."""

_CONVERSION = 1  # part of the cache key of converted models: raise it when they become others
_BATCH = 32  # of TensorFlow: texts of nearly one length
_BYTES_A_PIECE = 20  # so many hold more than one, but for text that is no language
_SPARE = 100  # pieces that the last word may have had, which the cut went through

Engine = Callable[[np.ndarray], np.ndarray]
"""Examples as a source reads them, [b, ...], to their features, float32 [b, d]."""


class Choice(NamedTuple):
    """The engine that computes, and why it does: what is known of it is stored beside the features."""

    compute: Engine
    engine: str
    reason: str
    max_relative_difference: float = 0.0
    """The largest one between LiteRT and TensorFlow on the probe; 0 where TensorFlow computes."""


class Engines(abc.ABC):
    """The engines that an encoder has, and how its examples go through them."""

    unit: ClassVar[str]
    """What an example is called."""
    batch_size: ClassVar[int]
    """How many are read and computed at a time."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder: Any = encoder
        self.cut = 0
        """How many of the computed examples were longer than the model takes."""
        self._model: Any = None

    @abc.abstractmethod
    def tensorflow(self) -> Engine:
        """Return the model itself, loaded."""

    @abc.abstractmethod
    def litert(self, probe: np.ndarray) -> contextlib.AbstractContextManager[Engine]:
        """Return the model as the LiteRT interpreter runs it on all cores, for examples like the probe.

        Raises:
          CheckError: it has no such form.
        """

    @contextlib.contextmanager
    def choose(self, probe: np.ndarray, *, engine: str) -> Iterator[Choice]:
        """Choose the engine on this machine, checked, ready to compute while the block runs.

        Args:
          probe: [b, ...], the examples that both engines must agree on.
          engine: "litert" or "tensorflow" to have no other, "auto" to have LiteRT where it can be had and is
            the faster one.

        Raises:
          CheckError: LiteRT was required and cannot compute these features.
        """
        reference = self.tensorflow()
        if engine == "tensorflow" or (engine == "auto" and stack.has_gpu()):
            reason = "asked for" if engine == "tensorflow" else "there is a GPU"
            yield Choice(reference, "tensorflow", reason)
            return
        with contextlib.ExitStack() as opened:
            try:
                litert = opened.enter_context(self.litert(probe))
                difference = relative_difference(litert(probe), reference(probe))
                if difference > TOLERANCE:
                    raise CheckError(
                        f"LiteRT's features differ from TensorFlow's by {difference:.2g} (at most {TOLERANCE:g})"
                        f" for {self.encoder.handle}.\n  Let TensorFlow compute them: engine='tensorflow'."
                    )
                choice = Choice(litert, "litert", "faster on a CPU", difference)
            except (CheckError, StackError, RuntimeError, ValueError) as error:
                if engine == "litert":
                    raise
                opened.close()
                choice = Choice(reference, "tensorflow", str(error).splitlines()[0])
            yield choice

    def _converted(self, *parts: object, convert: Callable[[], bytes]) -> bytes:
        """Return the model as TFLite, converted once and cached under all that it depends on."""

        def make(folder: Path) -> dict[str, str]:
            (folder / "model.tflite").write_bytes(convert())
            return {"handle": self.encoder.handle}

        key = files.digest_of(self.encoder.digest, *parts, packages.version("tensorflow"), _CONVERSION)
        return (Cache("tflite").get(key, make).path / "model.tflite").read_bytes()


def engines_of(encoder: Encoder) -> Engines:
    """Return the engines of an encoder of images or texts."""
    return TextEngines(encoder) if encoder.modality == "texts" else ImageEngines(encoder)


def relative_difference(actual: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest distance between two feature vectors, relative to the length of the expected one.

    Example:
      >>> relative_difference(np.array([[3.0, 4.1]]), np.array([[3.0, 4.0]]))  # doctest: +ELLIPSIS
      0.0199...
    """
    distance = np.linalg.norm(actual - expected, axis=-1)
    length = np.maximum(np.linalg.norm(expected, axis=-1), np.finfo(np.float32).tiny)
    return float(np.max(distance / length))


class ImageEngines(Engines):
    """Of images: uint8 [b, s, s, 3] to float32 [b, d]."""

    unit = "image"
    batch_size = 32

    def tensorflow(self) -> Engine:
        """See `Engines`."""
        encoder = self.encoder
        self._model = layer = encoder.layer()

        @stack.tf.function(autograph=False, reduce_retracing=True)
        def compute(images: Any) -> Any:
            return layer(encoder.scale(stack.tf.cast(images, stack.tf.float32) / 255.0))

        return lambda images: np.asarray(compute(images), np.float32)

    @contextlib.contextmanager
    def litert(self, probe: np.ndarray) -> Iterator[Engine]:
        """See `Engines`: converted for images of one size, some of them at a time."""
        encoder, size = self.encoder, probe.shape[1]
        shape = (images_per_call(size), size, size, 3)
        model = self._converted(
            size, convert=lambda: to_tflite(self._model or encoder.layer(), input_shape=shape)
        )

        def prepare(images: np.ndarray) -> np.ndarray:
            # The very operations, in the very order, in which TensorFlow gets its images.
            return np.asarray(encoder.scale(images.astype(np.float32) / np.float32(255)))

        with ParallelInterpreter(model) as interpreter:
            yield lambda images: interpreter(images, prepare=prepare)


def images_per_call(image_size: int) -> int:
    """Return how many images LiteRT computes fastest at a time: enough to use the weights that it loads.

    Measured with EfficientNet-Lite0, CPU time for an image: at 96 pixels 3.0 ms one by one, 2.0 ms by eight;
    at 224 pixels 10.8 ms one by one, 12.2 ms by eight, whose activations leave the processor's cache.

    Example:
      >>> [images_per_call(size) for size in (64, 96, 128, 224, 300)]
      [16, 8, 4, 1, 1]
    """
    pixels = 8 * 96**2
    return min(16, 1 << max(1, pixels // image_size**2).bit_length() - 1)


class TextEngines(Engines):
    """Of texts: UTF-8 [b] to float32 [b, d]."""

    unit = "text"
    batch_size = 4096

    def tensorflow(self) -> Engine:
        """See `Engines`: the flat model behind the tokenizer where there is one; else the SavedModels."""
        tokenizer = self.encoder.tokenizer
        if tokenizer is None:
            strings = stack.tf.TensorSpec((None,), stack.tf.string)
            layer = stack.tf.function(self.encoder.layer(), autograph=False, input_signature=[strings])
            return lambda texts: _by_length(texts, lambda some: layer(stack.tf.constant(some)))
        self._model = model = self.encoder.functional()

        @stack.tf.function(
            autograph=False, input_signature=[stack.tf.TensorSpec((None, None), stack.tf.int32)] * 2
        )
        def compute(words: Any, mask: Any) -> Any:
            return model({WORDS: words, MASK: mask})

        def padded(rows: list[np.ndarray]) -> Any:
            words = np.zeros((len(rows), max(map(len, rows))), np.int32)
            mask = np.zeros_like(words)
            for place, row in enumerate(rows):
                words[place, : len(row)], mask[place, : len(row)] = row, 1
            return compute(stack.tf.constant(words), stack.tf.constant(mask))

        return lambda texts: _by_length(self._rows(texts, tokenizer), padded)

    @contextlib.contextmanager
    def litert(self, probe: np.ndarray) -> Iterator[Engine]:
        """See `Engines`: on rows of any length, one at a time, since resizing costs less than padding."""
        tokenizer = self.encoder.tokenizer
        if tokenizer is None:
            raise CheckError(
                f"{self.encoder.handle} has its tokenizer in the SavedModel, which does not convert to TFLite"
            )

        def convert() -> bytes:
            model = self._model or self.encoder.functional()
            return to_tflite(
                lambda words: model({WORDS: words, MASK: stack.tf.ones_like(words)}),
                input_shape=(1, None),
                dtype="int32",
            )

        with ParallelInterpreter(self._converted(convert=convert)) as interpreter:
            # The longest first, so that all cores end together.
            yield lambda texts: _by_length(
                self._rows(texts, tokenizer),
                lambda rows: interpreter(rows[::-1], prepare=np.stack)[::-1],
                batch_size=len(texts),
            )

    def _rows(self, texts: np.ndarray, tokenizer: WordPiece) -> list[np.ndarray]:
        """Return the ids of each text, int32 [up to max_length]; count those that are cut."""
        room = tokenizer.max_length - 2
        # Of a text of a hundred kilobytes the beginning is enough, if it holds enough words.
        start = [text[: _BYTES_A_PIECE * tokenizer.max_length] for text in texts]
        rows = _pieces(tokenizer, start)
        for i, row in enumerate(rows):
            if len(start[i]) < len(texts[i]) and len(row) < room + _SPARE:
                (rows[i],) = _pieces(tokenizer, [texts[i]])
        self.cut += sum(len(row) > room for row in rows)
        first, last, _ = tokenizer.edges
        return [np.concatenate([[first], row[:room], [last]]).astype(np.int32) for row in rows]


def _pieces(tokenizer: WordPiece, texts: list[bytes]) -> list[np.ndarray]:
    ragged = tokenizer.tokenize(stack.tf.constant(texts, stack.tf.string))
    return np.split(ragged.flat_values.numpy(), ragged.row_splits.numpy()[1:-1])


def _by_length(examples: Any, compute: Callable[[Any], Any], *, batch_size: int = _BATCH) -> np.ndarray:
    """Return the vectors of all examples, computed in batches of nearly one length, in their own order."""
    order = np.argsort(list(map(len, examples)), kind="stable")
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    rows = [np.asarray(compute([examples[i] for i in batch]), np.float32) for batch in batches]
    return np.concatenate(rows)[np.argsort(order)]

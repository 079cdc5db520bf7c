"""The features of a frozen model: computed once, checked, stored, and read back by the next run.

<cache>/features/<key>/features.npy   float32 [n, d], in the order of the examples

They are computed by TensorFlow, or on a CPU by the LiteRT interpreter, if it gives the same. A text costs what its
tokens cost: TensorFlow gets texts of nearly one length together, and pads them to the longest of them; LiteRT gets them
one by one, each at its own length.

They are made in pieces (`tfkit.environment.pieces`): of several workers each computes its share. A piece is of whole
batches, so the features are those of one worker: to the byte where the processors are of one kind; TensorFlow's, where
workers have as many threads too, else within the rounding of float32.
"""

from __future__ import annotations

import abc
import contextlib
import functools
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO, ClassVar

import numpy as np

from tfkit.data.pixels import PIXELS
from tfkit.data.splits import Source, Splits, draw
from tfkit.environment import files, packages, stack
from tfkit.environment.files import Cache
from tfkit.environment.pieces import CONTENT, Pieces
from tfkit.environment.timeline import Activity, doing, stage
from tfkit.errors import CheckError, DataError, StackError, UsageError
from tfkit.hub.encoders import Encoder
from tfkit.litert import ParallelInterpreter, conversion_key, convert_once, to_tflite
from tfkit.text.tokenizers import MASK, WORDS, SentencePiece, Tokenizer

IN_MEMORY = 256 * 2**20
"""Bytes of features that are kept in memory; more are read from the file on demand."""
TOLERANCE = 1e-3
"""Largest difference allowed between LiteRT and TensorFlow, relative to the length of a feature vector."""
ENGINES = ("auto", "litert", "tensorflow")
_FEATURES = "features.npy"
_PROBE = 4  # examples that both engines compute: each costs TensorFlow as long as three cost LiteRT
# Part of the key of stored features: raise it when they become others.
_EXTRACTION = {"images": PIXELS, "texts": 2}
_BATCH = 32  # of TensorFlow: texts of nearly one length
_BYTES_A_PIECE = 20  # so many hold more than one, but for text that is no language
_PROBED_BYTES = 4000  # of a document that is read in windows: some of them
_CHARACTERS = 200_000  # of such documents that are read and computed at a time
_MARGIN = 100  # pieces that the last word may have had, which the cut went through

Engine = Callable[[np.ndarray], np.ndarray]
"""Examples as a source reads them, [b, ...], to their features, float32 [b, d]."""


class FeatureSource:
    """Features in the place of the examples that they were computed from; see `tfkit.data.Source`."""

    def __init__(self, path: Path, examples: Source, *, fingerprint: str) -> None:
        """Open the file, a .npy of float32 [n, size], in the order of the examples."""
        self.labels: np.ndarray = examples.labels
        self.names: Sequence[str] = examples.names
        self.raw = examples.raw
        self.fingerprint = fingerprint
        self._rows = np.load(path, mmap_mode=None if path.stat().st_size <= IN_MEMORY else "r")
        self.shape = self._rows.shape[1:]

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Return float32 [b, d]."""
        return np.asarray(self._rows[indices])


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """Splits of features, and how they came to be."""

    splits: Splits
    """The same splits over features, float32 [d], in the place of the images or texts."""
    engine: str
    """"litert" or "tensorflow"."""
    reason: str
    """Reason for that engine."""
    max_relative_difference: float
    """The largest one between LiteRT and TensorFlow on some examples, relative to the length of a feature
    vector; 0 where only TensorFlow computed."""
    cut: int
    """Texts that are longer than the encoder takes: what is at their ends is not in their features. With a preprocessor
    of its own those that fill the rows, and may just fit; 0 where the encoder takes strings itself."""
    windows: int = 0
    """Of texts that are read whole: how many windows they were cut into; 0 where they are not."""
    seconds: float
    """That this call took."""
    reused: bool
    """True where an earlier call had computed and stored them."""
    model: Any = None
    """Of images, and of a bundled encoder: the flat functional model, at their size, by which LiteRT was checked: the
    caller's own, for a classifier on it. None where nothing was computed."""

    @property
    def summary(self) -> str:
        """Return a sentence or two for the notes of a run."""
        n, (d,) = len(self.splits.source.labels), self.splits.source.shape
        method = f"TensorFlow: {self.reason}"
        if self.engine == "litert":
            method = f"LiteRT, within {self.max_relative_difference:.1g} of TensorFlow"
        status = f"computed by {method} in {self.seconds:.1f} s and stored."
        if self.reused:
            status = f"stored already (computed by {method})."
        long = f" Texts longer than a window: {self.cut:,} ({self.cut / n:.1%})"
        cut = f"{long}, read in {self.windows}." if self.windows else f"{long}, cut off."
        return f"Features: {n:,} x {d:,}, {status}{cut if self.cut else ''}"


def extract(
    encoder: Encoder, splits: Splits, *, engine: str = "auto", batch_size: int | None = None
) -> Extraction:
    """Compute the features of all images or texts of a split source, by a frozen model.

    They are stored in the cache under the contents of the model and of the examples: the next call for the
    same ones reads them. Workers of one job (`python -m tfkit launch`) compute them together, if they share the cache.
    A call that was interrupted leaves whole pieces behind, with which the next one goes on: of more than 4096 examples,
    or of several workers.

    Args:
      encoder: see `tfkit.load_model`.
      splits: of what it takes.
      engine: "litert" (float32, all cores), "tensorflow", or "auto": LiteRT where there is no GPU and its
        features equal TensorFlow's within 1e-3 on some examples, else TensorFlow.
      batch_size: examples that are read and computed at a time; None takes 32 images or 1024 texts.

    Returns:
      The splits over features, for the training of a head.

    Raises:
      CheckError: a feature is not finite, or LiteRT was required and cannot compute them.
      DataError: the splits are not of what the model takes.
      UsageError: there is no such engine.

    Example:
      >>> from tfkit import data, hub
      >>> splits = data.load_images("digits", image_size=32)
      >>> features = extract(hub.load_model("efficientnet-lite0"), splits).splits  # doctest: +SKIP
      >>> features.spec.shape  # doctest: +SKIP
      TensorShape([1280])
    """
    started = time.perf_counter()
    source = splits.source
    if {3: "images", 0: "texts"}.get(len(source.shape)) != encoder.modality:
        raise DataError(
            f"{splits.origin} holds examples of shape {source.shape}; {encoder.handle} makes features of"
            f" {encoder.modality}.\n  tfkit.load_{encoder.modality} makes splits of those."
        )
    encoder = encoder.for_images(int(source.shape[0])) if source.shape else encoder
    versions = (packages.version("tensorflow"), packages.version("ai-edge-litert"))
    # Of texts that are cut by a preprocessor, how many is counted from 3 on.
    version = _EXTRACTION[encoder.modality] + (encoder.preprocessor is not None and encoder.tokenizer is None)
    key = files.digest_of(encoder.digest, source.fingerprint, source.shape, engine, *versions, version)
    engines = engines_of(encoder)

    size = batch_size or engines.batch_size
    cache = Cache("features")
    with stage("features", "Preparing the features"), contextlib.ExitStack() as contexts:

        @functools.cache
        def open_engine() -> tuple[Engine, dict[str, Any], Activity]:
            """Open the engine once, and not where the features are stored already."""
            choice = contexts.enter_context(engines.choose(_read_probe(engines, source), engine=engine))
            progress = doing("Computing features", total=len(source.labels), unit=engines.unit)
            return *choice, contexts.enter_context(progress)

        def compute(file: BinaryIO, part: range) -> dict[str, int]:
            engines.cut = engines.windows = 0
            for batch in _compute_batches(source, *open_engine()[::2], engines, part=part, batch_size=size):
                file.write(np.ascontiguousarray(batch, "<f4").tobytes())
            return {"cut": engines.cut, "windows": engines.windows}

        @functools.cache
        def cut_pieces() -> Pieces:
            """Cut them, by engine: workers whose processors or GPUs decide otherwise do not mix theirs."""
            name = files.digest_of(key, open_engine()[1]["engine"], size)
            return Pieces(name, len(source.labels), unit=size, make=compute, result=cache.folder / key)

        def make(folder: Path) -> Mapping[str, Any]:
            with (folder / _FEATURES).open("wb") as file:
                shape = (len(source.labels), encoder.feature_size)
                header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                if not cut_pieces().are_worth_it:
                    return open_engine()[1] | compute(file, range(len(source.labels)))
                counts = {"cut": 0, "windows": 0}
                for piece in cut_pieces().entries():
                    counts = {name: count + piece.info[name] for name, count in counts.items()}
                    with (piece.path / CONTENT).open("rb") as content:
                        shutil.copyfileobj(content, file)
                return open_engine()[1] | counts

        takes_part = not (cache.folder / key).is_dir() and cut_pieces().are_worth_it
        if takes_part:
            cut_pieces().make_those_left(open_engine()[2])
        entry = cache.get(key, make)
        if cut_pieces.cache_info().currsize and cut_pieces().are_worth_it:
            cut_pieces().remove()
    features = FeatureSource(entry.path / _FEATURES, source, fingerprint=key)
    return Extraction(
        splits=splits.replace(source=features),
        seconds=time.perf_counter() - started,
        reused=entry.reused and not takes_part,
        model=engines.flat_model,
        **entry.info,
    )


def embed(
    encoder: Encoder, texts: Sequence[str], *, engine: str = "auto"
) -> tuple[np.ndarray, dict[str, Any]]:
    """Compute the vectors of texts, by the engine that is faster and gives the same; nothing is stored.

    Args:
      encoder: of texts, see `tfkit.load_model`.
      texts: one or more.
      engine: as of `tfkit.hub.extract`.

    Returns:
      Vectors float32 [n, feature_size], and how they were computed: `engine`, `reason`, `max_relative_difference` and
      `cut` of `Extraction`.

    Raises:
      CheckError: a vector is not finite, or LiteRT was required and cannot compute them.
    """
    source = SimpleNamespace(
        labels=np.zeros(len(texts), np.int64),
        names=[f"text {place}" for place in range(len(texts))],
        lengths=np.array(list(map(len, texts)), np.int32),
        read=lambda indices: np.array([texts[i].encode("utf-8", "replace") for i in indices], object),
    )
    engines = engines_of(encoder)
    with engines.choose(_read_probe(engines, source), engine=engine) as (compute, details):
        engines.cut = engines.windows = 0
        with doing("Computing features", total=len(texts), unit=engines.unit) as progress:
            options: Any = {"part": range(len(texts)), "batch_size": engines.batch_size}
            rows = [*_compute_batches(source, compute, progress, engines, **options)]
        return np.concatenate(rows), details | {"cut": engines.cut, "windows": engines.windows}


def _read_probe(engines: Engines, source: Any) -> np.ndarray:
    """Return some examples, by which the engines are compared.

    Of images they are drawn from all; of texts they are the shortest, the longest and two between.
    """
    count = min(_PROBE, len(source.labels))
    if engines.unit == "image":
        return source.read(draw(len(source.labels), count))
    positions = np.linspace(0, len(source.lengths) - 1, count).astype(int)
    texts: np.ndarray = source.read(np.argsort(source.lengths, kind="stable")[positions])
    return np.array([text[:_PROBED_BYTES] for text in texts], object) if engines.encoder.windows else texts


def _compute_batches(
    source: Any, compute: Engine, progress: Activity, engines: Engines, *, part: range, batch_size: int
) -> Iterator[np.ndarray]:
    """Yield the features of a part of a source, in order, batch by batch; one is read while another is computed."""
    batches = [np.array(part[start : start + batch_size]) for start in range(0, len(part), batch_size)]
    if engines.encoder.windows:  # by what they hold: a document may be a book
        chunks = np.cumsum(source.lengths) // _CHARACTERS
        batches = [
            part for batch in batches for part in np.split(batch, np.flatnonzero(np.diff(chunks[batch])) + 1)
        ]
    with ThreadPoolExecutor(1) as reader:
        future = reader.submit(source.read, batches[0])
        for batch, next_batch in zip(batches, [*batches[1:], None], strict=True):
            examples = future.result()
            if next_batch is not None:
                future = reader.submit(source.read, next_batch)
            features = compute(examples)
            mask = np.isfinite(features).all(axis=-1)
            if not mask.all():
                raise CheckError(
                    f"The features of {source.names[batch[np.argmin(mask)]]} are not finite numbers"
                    f" ({np.sum(~mask)} such in a batch of {len(batch)}).\n  Nothing can be trained on them. A model"
                    " that expects another input range than it gets does this; so do damaged weights."
                )
            progress.advance(len(batch))
            yield features


class Engines(abc.ABC):
    """The engines that an encoder has, and how its examples go through them."""

    unit: ClassVar[str]
    """Word for an example."""
    batch_size: ClassVar[int]
    """Examples that are read and computed at a time."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder: Any = encoder
        self.cut = 0
        """Computed examples that were longer than the model takes."""
        self.windows = 0
        """Windows that the computed texts were cut into."""
        self._model: Any = None
        self.flat_model: Any = None
        """See `Extraction.model`."""

    @abc.abstractmethod
    def tensorflow(self, probe: np.ndarray) -> Engine:
        """Return the model itself, loaded, for examples like the probe."""

    @abc.abstractmethod
    def litert(self, probe: np.ndarray) -> contextlib.AbstractContextManager[Engine]:
        """Return the model as the LiteRT interpreter runs it on all cores, for examples like the probe.

        Raises:
          CheckError: it has no such form.
        """

    @contextlib.contextmanager
    def choose(self, probe: np.ndarray, *, engine: str) -> Iterator[tuple[Engine, dict[str, Any]]]:
        """Choose the engine on this machine, checked, ready to compute while the block runs.

        Args:
          probe: [b, ...], the examples that both engines must agree on.
          engine: "litert" or "tensorflow" to have no other, "auto" to have LiteRT where it can be had and is
            the faster one.

        Yields:
          The engine, and its name, why it was chosen, and how far LiteRT was from TensorFlow, as `Extraction` has them.

        Raises:
          CheckError: LiteRT was required and cannot compute these features.
          UsageError: there is no such engine.
        """
        if engine not in ENGINES:
            raise UsageError(f"There is no engine {engine!r} for features; there is: {', '.join(ENGINES)}.")
        reference = compute = self.tensorflow(probe)
        name, reason, difference = "tensorflow", "asked for", 0.0
        with contextlib.ExitStack() as resources:
            if engine == "auto" and stack.has_gpu():
                reason = "there is a GPU"
            # LiteRT gets examples one by one. Measured with the multilingual encoder, CPU time for a text by TensorFlow
            # and by LiteRT: 0.5 and 0.9 ms of 5 tokens, 7 and 8 of 128; scattering 1.3 and 2.2 ms for 28 pixels.
            elif engine == "auto" and (
                self.encoder.scatters or isinstance(self.encoder.tokenizer, SentencePiece)
            ):
                reason = "faster with several examples together"
            elif engine != "tensorflow":
                try:
                    litert = resources.enter_context(self.litert(probe))
                    distance = relative_difference(litert(probe), reference(probe))
                    if not distance <= TOLERANCE:  # NaN too
                        raise CheckError(
                            f"LiteRT's features differ from TensorFlow's by {distance:.2g} (at most {TOLERANCE:g})"
                            f" for {self.encoder.handle}.\n  Let TensorFlow compute them: engine='tensorflow'."
                        )
                    name, reason, difference, compute = "litert", "faster on a CPU", distance, litert
                except (CheckError, StackError, RuntimeError, ValueError) as error:
                    if engine == "litert":
                        raise
                    resources.close()
                    reason = str(error).splitlines()[0]
            yield compute, {"engine": name, "reason": reason, "max_relative_difference": difference}


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

    def tensorflow(self, probe: np.ndarray) -> Engine:
        """See `Engines`: the flat model where there is one, else the SavedModel."""
        encoder = self.encoder
        self.flat_model = encoder.functional(image_size=probe.shape[1])
        self._model = model = self.flat_model or encoder.check(image_size=probe.shape[1]).layer()

        @stack.tf.function(autograph=False, reduce_retracing=True)
        def compute(images: Any) -> Any:
            return model(encoder.scale(stack.tf.cast(images, stack.tf.float32) / 255.0), training=False)

        return lambda images: np.asarray(compute(images), np.float32)

    @contextlib.contextmanager
    def litert(self, probe: np.ndarray) -> Iterator[Engine]:
        """See `Engines`: converted for images of one size, some of them at a time."""
        encoder, size = self.encoder, probe.shape[1]
        shape = (images_per_call(size), size, size, 3)
        key = conversion_key(encoder.digest, size)
        model = convert_once(key, lambda: to_tflite(self._model, input_shape=shape))

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
    batch_size = 1024
    in_python = False
    """True where texts are cut into pieces without TensorFlow: see `WordPiece.split`."""

    @property
    def is_converted(self) -> bool:
        """Return whether LiteRT has its model already, so that TensorFlow need not convert it."""
        return (Cache("tflite").folder / conversion_key(self.encoder.digest)).is_dir()

    def tensorflow(self, probe: np.ndarray) -> Engine:
        """See `Engines`: the flat model behind the tokenizer where there is one; else the SavedModels."""
        tokenizer = self.encoder.tokenizer
        if tokenizer is None:
            strings = stack.tf.TensorSpec((None,), stack.tf.string)
            as_function = functools.partial(stack.tf.function, autograph=False, input_signature=[strings])
            layer, rows = as_function(self.encoder.layer()), self.encoder.row_lengths()
            lengths = rows and as_function(rows)

            def compute_strings(batch: list[bytes]) -> Any:
                texts = stack.tf.constant(batch)
                if lengths is not None:
                    self.cut += int(np.sum(lengths(texts) >= self.encoder.max_length))
                return layer(texts)

            return lambda texts: _map_by_length(texts, compute_strings)
        self._model = model = self.encoder.functional()

        @stack.tf.function(
            autograph=False, input_signature=[stack.tf.TensorSpec((None, None), stack.tf.int32)] * 2
        )
        def compute(words: Any, mask: Any) -> Any:
            return model({WORDS: words, MASK: mask})

        def compute_rows(rows: list[np.ndarray]) -> Any:
            lengths = [len(row) for row in rows]
            words = stack.tf.RaggedTensor.from_row_lengths(np.concatenate(rows), lengths).to_tensor()
            return compute(words, stack.tf.sequence_mask(lengths, dtype=stack.tf.int32))

        return self._make_engine(lambda rows: _map_by_length(rows, compute_rows))

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

        content = convert_once(conversion_key(self.encoder.digest), convert)
        with ParallelInterpreter(content) as interpreter:
            run = functools.partial(interpreter, prepare=np.stack)
            yield self._make_engine(lambda rows: _map_by_length(rows, run, batch_size=len(rows)))

    def _make_engine(self, compute: Callable[[list[np.ndarray]], np.ndarray]) -> Engine:
        """Return the engine of texts that `compute`, of rows of ids to vectors, makes possible."""
        tokenizer: Any = self.encoder.tokenizer
        if not self.encoder.windows:
            return lambda texts: compute(self._make_rows(texts, tokenizer))

        def pool_windows(texts: np.ndarray) -> np.ndarray:
            """See `tfkit.text.layers.Windows`, which does the same in a graph."""
            from tfkit.text.layers import window_sizes

            pieces, (first, last, _) = self._tokenize(tokenizer, list(texts)), tokenizer.edges
            lengths = np.array(list(map(len, pieces)))
            counts, sizes = (x.numpy() for x in window_sizes(lengths, room=tokenizer.max_length - 2))
            rows = [
                np.concatenate([[first], ids[place * size : (place + 1) * size], [last]]).astype(np.int32)
                for ids, count, size in zip(pieces, counts, sizes, strict=True)
                for place in range(count)
            ]
            self.cut, self.windows = self.cut + int((counts > 1).sum()), self.windows + len(rows)
            vectors, starts = compute(rows), np.cumsum(counts) - counts
            mean = np.add.reduceat(vectors, starts) / counts[:, np.newaxis]
            return np.concatenate([mean, np.maximum.reduceat(vectors, starts)], axis=1).astype(np.float32)

        return pool_windows

    def _tokenize(self, tokenizer: Any, texts: list[bytes]) -> list[np.ndarray]:
        if self.in_python:
            # Of a long text the beginning comes, which may end within a character.
            return [np.array(tokenizer.split(text.decode(errors="ignore")), np.int32) for text in texts]
        ragged = tokenizer.tokenize(stack.tf.constant(texts, stack.tf.string))
        return np.split(ragged.flat_values.numpy(), ragged.row_splits.numpy()[1:-1])

    def _make_rows(self, texts: np.ndarray, tokenizer: Tokenizer) -> list[np.ndarray]:
        """Return the ids of each text, int32 [up to max_length]; count those that are cut."""
        room = tokenizer.max_length - 2
        # Of a text of a hundred kilobytes the beginning is enough, if it holds enough words.
        start = [text[: _BYTES_A_PIECE * tokenizer.max_length] for text in texts]
        rows = self._tokenize(tokenizer, start)
        for i, row in enumerate(rows):
            if len(start[i]) < len(texts[i]) and len(row) < room + _MARGIN:
                (rows[i],) = self._tokenize(tokenizer, [texts[i]])
        self.cut += sum(len(row) > room for row in rows)
        first, last, _ = tokenizer.edges
        return [np.concatenate([[first], row[:room], [last]]).astype(np.int32) for row in rows]


def _map_by_length(examples: Any, compute: Callable[[Any], Any], *, batch_size: int = _BATCH) -> np.ndarray:
    """Return the vectors of all examples, in their own order, computed in batches of nearly one length.

    The longest come first, so that all cores end together.
    """
    order = np.argsort([-len(example) for example in examples], kind="stable")
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    rows = [np.asarray(compute([examples[i] for i in batch]), np.float32) for batch in batches]
    return np.concatenate(rows)[np.argsort(order)]

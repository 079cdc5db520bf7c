"""The features of a frozen model: computed once, checked, stored, and read back by the next run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from tqdm.auto import tqdm

from tfkit import files, packages, process
from tfkit.data import Source, Splits
from tfkit.data.drawn import draw
from tfkit.errors import CheckError, DataError, UsageError
from tfkit.hub import engines, stored
from tfkit.hub.backbone import Backbone
from tfkit.hub.engines import Engines
from tfkit.hub.image_engines import ImageEngines
from tfkit.hub.text_encoder import TextEncoder
from tfkit.hub.text_engines import TextEngines

ENGINES = ("auto", "litert", "tensorflow")

_PROBE = 4  # examples that both engines compute: each costs TensorFlow as long as three cost LiteRT
_EXTRACTION = 1  # part of the key of stored features: raise it when they become others


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """Splits of features, and how they came to be."""

    splits: Splits
    """The same splits over features, float32 [d], in the place of the images or texts."""

    engine: str
    """What computed them: "litert" or "tensorflow"."""

    reason: str
    """Why that engine did."""

    max_relative_difference: float
    """The largest one between LiteRT and TensorFlow on some examples, relative to the length of a feature
    vector; 0 where only TensorFlow computed."""

    seconds: float
    """That this call took."""

    reused: bool
    """Whether an earlier call had computed and stored them."""

    cut: int = 0
    """Texts that are longer than the encoder takes: what is at their ends is not in their features. 0 where the
    encoder does not show it."""

    @property
    def summary(self) -> str:
        """A sentence or two for the notes of a run."""
        n, (d,) = len(self.splits.source.labels), self.splits.source.shape
        cut = (
            f" {self.cut} texts ({self.cut / n:.1%}) are longer than the encoder takes, and cut."
            if self.cut
            else ""
        )
        if self.reused:
            return f"{n} x {d} features were stored already (computed by {self._by}).{cut}"
        return f"{n} x {d} features were computed by {self._by} in {self.seconds:.1f} s and stored.{cut}"

    @property
    def _by(self) -> str:
        if self.engine == "litert":
            return f"LiteRT, within {self.max_relative_difference:.1g} of TensorFlow"
        return f"TensorFlow: {self.reason}"


def extract(
    model: Backbone | TextEncoder, splits: Splits, *, engine: str = "auto", batch_size: int | None = None
) -> Extraction:
    """The features of all images or texts of a split source, from a frozen model.

    They are stored in the cache under the contents of the model and of the examples: the next call for the
    same ones reads them. A call that was interrupted leaves nothing behind.

    Args:
      model: of images, see `tfkit.hub.resolve`, or of texts, see `tfkit.hub.resolve_text`.
      splits: of what it takes.
      engine: "litert" (float32, all cores), "tensorflow", or "auto": LiteRT where there is no GPU and its
        features equal TensorFlow's within 1e-3 on some examples, else TensorFlow.
      batch_size: examples that are read and computed at a time; None takes 32 images or 4096 texts.

    Returns:
      The splits over features, for the training of a head.

    Raises:
      CheckError: a feature is not finite, or LiteRT was asked for and cannot compute them.
      DataError: the splits are not of what the model takes.
      UsageError: there is no such engine.

    Example:
      >>> from tfkit import data, hub
      >>> splits = data.load_images("digits", image_size=32)
      >>> features = extract(hub.resolve("efficientnet-lite0"), splits).splits  # doctest: +SKIP
      >>> features.spec.shape  # doctest: +SKIP
      TensorShape([1280])
    """
    started = time.perf_counter()
    if engine not in ENGINES:
        raise UsageError(f"There is no engine {engine!r} for features; there is: {', '.join(ENGINES)}.")
    source = splits.source
    kind = _engines(model, splits)
    key = files.digest(
        model.digest,
        source.fingerprint,
        source.shape,
        engine,
        packages.version("tensorflow"),
        packages.version("ai-edge-litert"),
        _EXTRACTION,
    )
    shape = (len(source.labels), model.feature_size)

    def make(write: stored.Writer) -> dict[str, str | float]:
        examples = source.read(probe(source))
        with engines.choose(kind, examples, engine=engine) as chosen:
            kind.cut = 0
            write(computed(source, chosen.compute, kind, batch_size=batch_size or kind.at_a_time))
        return {
            "engine": chosen.name,
            "reason": chosen.reason,
            "max_relative_difference": chosen.difference,
            "cut": kind.cut,
        }

    path, entry, reused = stored.get(key, make, shape=shape)
    features = stored.FeatureSource(path, source, size=shape[1], fingerprint=key)
    return Extraction(
        splits=splits.replace(source=features), seconds=time.perf_counter() - started, reused=reused, **entry
    )


def _engines(model: Backbone | TextEncoder, splits: Splits) -> Engines:
    """What computes the features of these examples; they must be what the model takes."""
    shape = splits.source.shape
    if isinstance(model, TextEncoder):
        if shape != ():
            raise DataError(
                f"{splits.origin} holds examples of shape {shape}; {model.handle} makes features of texts.\n"
                "  tfkit.data.load_texts makes splits of texts."
            )
        return TextEngines(model)
    if len(shape) != 3:
        found = "texts" if shape == () else f"examples of shape {shape}"
        raise DataError(
            f"{splits.origin} holds {found}; features are computed from images by {model.handle}.\n"
            "  tfkit.data.load_images and tfkit.data.from_arrays make splits of images;"
            " tfkit.hub.resolve_text finds encoders of texts."
        )
    return ImageEngines(model)


def probe(source: Source) -> np.ndarray:
    """The indices of some examples: images drawn from all; of texts the shortest, the longest and two between."""
    count = min(_PROBE, len(source.labels))
    lengths = getattr(source, "lengths", None)
    if lengths is None:
        return draw(len(source.labels), count)
    return np.argsort(lengths, kind="stable")[np.linspace(0, len(lengths) - 1, count).astype(int)]


def computed(
    source: Source, compute: engines.Engine, kind: Engines, *, batch_size: int
) -> Iterator[np.ndarray]:
    """The features in the source's order, batch by batch; the next batch is read while one is computed."""
    n = len(source.labels)
    batches = [np.arange(start, min(start + batch_size, n)) for start in range(0, n, batch_size)]
    with (
        ThreadPoolExecutor(1) as reader,
        tqdm(
            total=n, desc="Computing features", unit=kind.unit, delay=1, disable=not process.watched()
        ) as progress,
    ):
        read = reader.submit(source.read, batches[0])
        for batch, following in zip(batches, [*batches[1:], None], strict=True):
            images = read.result()
            if following is not None:
                read = reader.submit(source.read, following)
            features = compute(images)
            finite = np.isfinite(features).all(axis=-1)
            if not finite.all():
                raise CheckError(
                    f"The features of {source.names[batch[np.argmin(finite)]]} are not finite numbers "
                    f"({np.sum(~finite)} such in a batch of {len(batch)}).\n"
                    "  Nothing can be trained on them. A model whose input range is not the one that its\n"
                    "  images are given in does this; so do damaged weights."
                )
            progress.update(len(batch))
            yield features

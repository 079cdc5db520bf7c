"""What computes features: TensorFlow, or on a CPU the LiteRT interpreter, if it gives the same."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import numpy as np

from tfkit import files, packages, stack
from tfkit.errors import CheckError, StackError

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
    key = files.digest(*parts, packages.version("tensorflow"), _CONVERSION)
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

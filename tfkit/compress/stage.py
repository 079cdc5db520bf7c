"""What every technique does: look at the layers, wrap them, train, unwrap, measure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from tfkit.stack import keras


@dataclass(frozen=True, kw_only=True)
class Treatment:
    """What a technique will do to one layer.

    Attributes:
      layer: its name.
      kind: its class.
      treated: whether the technique changes it.
      how: what happens to it, or why nothing does.
    """

    layer: str
    kind: str
    treated: bool
    how: str


class Stage(Protocol):
    """A technique that needs training: `wrap` it, `fit` with its callbacks, `strip` it, `measure` what came out."""

    @property
    def name(self) -> str:
        """Short, with what was asked for: "prune0.8"."""

    def treatments(self, model: keras.Model) -> list[Treatment]:
        """What will happen to every layer, before anything is built.

        Raises:
          UsageError: the model cannot be taken apart, or nothing in it can be treated.
        """

    def wrap(self, model: keras.Model, *, steps: int) -> keras.Model:
        """A trainable clone with the technique in it, not compiled; `model` stays as it is.

        Args:
          model: functional or Sequential.
          steps: that it will be trained for.
        """

    def callbacks(self) -> list[keras.callbacks.Callback]:
        """For `fit`."""

    def strip(self, wrapped: keras.Model) -> keras.Model:
        """The trained model, ready for the next technique or for the converter."""

    def measure(self, before: keras.Model, after: keras.Model) -> dict[str, float]:
        """What training did.

        Args:
          before: the model that was wrapped.
          after: what `strip` returned.

        Raises:
          CheckError: it is not what was asked for; the message names the layers.
        """

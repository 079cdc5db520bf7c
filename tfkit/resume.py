"""Callbacks that let a killed training go on and end with the weights of an uninterrupted one.

What a step does is a function of (seed, epoch, step) and of the state before it: the order of the examples
(`Splits.epochs`), the masks of the dropout layers (`StepSeeds`), the optimizer and the best weights so far
(`tfkit.backup.Backup`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tfkit import files, pulse
from tfkit.errors import CheckError
from tfkit.stack import keras, tf


class StepSeeds(keras.callbacks.Callback):
    """Seeds every random layer anew at each step, from (seed, epoch, step, place of the layer).

    Restored states would not do: a replica that has one example more in a last batch draws more numbers, so that the
    replicas' generators part, and a checkpoint holds the first one's.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._supports_tf_logs = True
        self._seed = seed
        self._epoch = 0
        self._places: list[int] = []
        self._reset: Any = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Find the generators of dropout and its kin."""
        found = {
            place: getattr(getattr(layer, "_random_generator", None), "_generator", None)
            for place, layer in enumerate(self.model.submodules)
        }
        generators = [generator for generator in found.values() if generator is not None]
        self._places = [place for place, generator in found.items() if generator is not None]

        @tf.function(input_signature=[tf.TensorSpec([len(generators), 3], tf.int64)])
        def reset(states: tf.Tensor) -> None:
            for generator, state in zip(generators, tf.unstack(states), strict=True):
                generator.reset(state)

        self._reset = reset
        if generators:
            reset(tf.zeros([len(generators), 3], tf.int64))  # traced now, not within the first step

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Know the epoch."""
        self._epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Put all generators where this step begins: 128 bits of counter and 64 of key (Philox)."""
        if self._places:
            digests = [files.digest(self._seed, self._epoch, batch, place) for place in self._places]
            keys = np.frombuffer(bytes.fromhex("".join(digests)), np.int64).reshape(-1, 2)[:, :1]
            self._reset(np.pad(keys, [(0, 0), (2, 0)]))


class Telling(keras.callbacks.Callback):
    """Tells the launcher, where there is one, how far training is: after every step, of validation too."""

    def __init__(self, *, stage: str, epochs: int, steps_per_epoch: int) -> None:
        super().__init__()
        self._supports_tf_logs = True
        self._stage = stage
        self._epochs, self._steps = epochs, steps_per_epoch
        self._done, self._text = 0, ""

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Know the epoch."""
        self._done = epoch * self._steps
        self._text = f"{self._stage}, epoch {epoch + 1} of {self._epochs}"

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """A step is done."""
        pulse.progress(self._done + batch + 1, self._epochs * self._steps, self._text)

    def on_test_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """A step of validation is done."""
        pulse.progress(self._done + self._steps, self._epochs * self._steps, f"{self._text}, validating")


class KeepBest(keras.callbacks.Callback):
    """Keeps the weights of the epoch with the lowest validation loss and leaves them in the model at the end.

    Args:
      patience: epochs without improvement after which training stops; None trains all epochs.
      start: validation loss of the model that training starts from, which is kept if no epoch is better;
        None keeps the best epoch whatever was before.
    """

    def __init__(self, *, patience: int | None, start: float | None = None) -> None:
        super().__init__()
        self._patience = patience
        self._start = start
        self.weights: list[np.ndarray] | None = None
        self.state: dict[str, Any] = {"epoch": None, "value": None, "wait": 0}

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Take the model as it is for the best, unless a better one was restored."""
        if self._start is not None and self.weights is None:
            self.weights = self.model.get_weights()
            self.state = {"epoch": None, "value": self._start, "wait": 0}

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Compare with the best so far."""
        value = _finite_val_loss(epoch, logs or {})
        if self.state["value"] is None or value < self.state["value"]:
            self.weights = self.model.get_weights()
            self.state = {"epoch": epoch, "value": value, "wait": 0}
        else:
            self.state = {**self.state, "wait": self.state["wait"] + 1}
            self.model.stop_training = self.model.stop_training or self.exhausted

    @property
    def exhausted(self) -> bool:
        """Whether there were as many epochs without improvement as patience allows."""
        return self._patience is not None and self.state["wait"] >= self._patience

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Put the best weights back."""
        if self.weights is not None:
            self.model.set_weights(self.weights)


class KeepLast(KeepBest):
    """Leaves the model with the weights of its last epoch: what validation says decides nothing."""

    def __init__(self) -> None:
        super().__init__(patience=None)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Note the epoch."""
        self.state = {"epoch": epoch, "value": _finite_val_loss(epoch, logs or {}), "wait": 0}


def _finite_val_loss(epoch: int, logs: dict[str, Any]) -> float:
    losses = {name: float(logs[name]) for name in ("loss", "val_loss") if name in logs}
    if not np.isfinite(list(losses.values())).all():
        raise CheckError(
            f"Training came apart in epoch {epoch + 1}: "
            + " and ".join(f"{name} is {value}" for name, value in losses.items())
            + ".\n  Lower the learning rate; if it stays so, look for values in the data that are not finite."
        )
    return losses["val_loss"]

"""Callbacks that let a killed training go on and end with the weights of an uninterrupted one.

What an epoch does is a function of (seed, epoch) and of the state at its beginning: the order of the
examples (`Splits.epochs`), the masks of the dropout layers (`EpochSeeds`), the optimizer and the best
weights so far (`Backup`).
"""

from __future__ import annotations

import json
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tfkit import files
from tfkit.errors import CheckError, RunError
from tfkit.stack import keras, tf

STATE = "state.json"

# At most one backup in so many seconds: on epochs of milliseconds saving would cost more than training.
BACKUP_SECONDS = 5.0


class EpochSeeds(keras.callbacks.Callback):
    """Seeds every random layer anew at each epoch from (seed, epoch, place of the layer)."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._seed = seed

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Reset the generators of dropout and its kin."""
        for place, layer in enumerate(self.model.submodules):
            generator = getattr(getattr(layer, "_random_generator", None), "_generator", None)
            if generator is not None:
                generator.reset_from_seed(int(files.digest(self._seed, epoch, place)[:8], 16))


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


class Backup(keras.callbacks.Callback):
    """Saves model, optimizer and best weights at the ends of epochs; restores them before training.

    Args:
      folder: of this stage of the training alone.
      best: the callback whose state belongs to the backup; it must stand before this one in the list.
      seconds: at most one backup in so many.
      also: further state by name, such as `{"private": variables}`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        best: KeepBest,
        seconds: float = BACKUP_SECONDS,
        also: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self._folder = folder
        self._best = best
        self._interval = seconds
        self._also = dict(also or {})
        self._manager: tf.train.CheckpointManager | None = None
        self._began = self._saved_at = time.monotonic()
        self._earlier_seconds = 0.0
        self.seconds = 0.0
        self.rows: list[dict[str, Any]] = []

    def restore(self, model: keras.Model) -> tuple[int, bool]:
        """Bring `model` to where the last backup left it.

        Returns:
          The epoch to go on with, and whether the stage is finished.

        Raises:
          RunError: the backup cannot be read, or belongs to another model.
        """
        if hasattr(model.optimizer, "build"):
            model.optimizer.build(model.trainable_variables)
        checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer, **self._also)
        self._manager = tf.train.CheckpointManager(checkpoint, str(self._folder), max_to_keep=2)
        path = self._folder / STATE
        if not path.is_file():
            return 0, False
        try:
            state = json.loads(path.read_text())
            checkpoint.restore(str(self._folder / state["checkpoint"])).assert_existing_objects_matched()
            if state["best_weights"]:
                with np.load(self._folder / state["best_weights"], allow_pickle=False) as kept:
                    self._best.weights = [kept[f"weight{n}"] for n in range(len(kept.files))]
        except (
            ValueError,
            LookupError,
            OSError,
            AssertionError,
            zipfile.BadZipFile,
            tf.errors.OpError,
        ) as error:
            raise RunError(
                f"The backup in {self._folder} cannot be restored: {str(error).splitlines()[0]}"
                "\n  Start this run again from its beginning with --overwrite."
            ) from error
        self._best.state = state["best"]
        self.rows, self.seconds = state["rows"], state["seconds"]
        self._earlier_seconds = self.seconds
        return int(state["next_epoch"]), bool(state["finished"])

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Start the clock."""
        self._began = self._saved_at = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Save, unless the last backup is younger than the interval."""
        self.rows.append({"epoch": epoch, **{name: float(value) for name, value in (logs or {}).items()}})
        if time.monotonic() - self._saved_at >= self._interval:
            self._save(finished=False)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Save what training ended with."""
        self._save(finished=True)

    def _save(self, *, finished: bool) -> None:
        assert self._manager is not None, "restore() comes before training"
        next_epoch = self.rows[-1]["epoch"] + 1 if self.rows else 0
        checkpoint = Path(self._manager.save(checkpoint_number=next_epoch + finished)).name
        self._saved_at = time.monotonic()
        self.seconds = self._earlier_seconds + self._saved_at - self._began
        state = {
            "next_epoch": next_epoch,
            "finished": finished,
            "checkpoint": checkpoint,
            "best": self._best.state,
            "best_weights": self._save_best(),
            "rows": self.rows,
            "seconds": self.seconds,
        }
        # The state names files that are whole already; the files that it named before are still there.
        files.write_json(self._folder / STATE, state)
        for old in self._folder.glob("best-*.npz"):
            if old.name != state["best_weights"]:
                old.unlink()

    def _save_best(self) -> str | None:
        if self._best.weights is None:
            return None
        path = self._folder / f"best-{self._best.state['epoch']}.npz"
        if not path.is_file():
            with files.new_file(path) as file:
                arrays: dict[str, Any] = {f"weight{n}": value for n, value in enumerate(self._best.weights)}
                np.savez(file, **arrays)
        return path.name

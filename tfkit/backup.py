"""The callback that saves a training, in the middle of epochs too, and lets a stock `model.fit` go on from there."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from tfkit.backups import Backups
from tfkit.config import fields
from tfkit.distribute.together import Together
from tfkit.errors import RunError
from tfkit.resume import KeepBest
from tfkit.run import Run
from tfkit.stack import keras, tf
from tfkit.stopping import Stop

# At the ends of epochs at most one backup in so many seconds: with epochs of milliseconds they would cost more.
EPOCH_SECONDS = 5.0

# How often several processes ask each other whether one was told to stop: that costs a message.
_ASK_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Cadence:
    """When a training is saved.

    Attributes:
      seconds: the longest time between backups within an epoch; None: none are made there.
      steps: within an epoch also every so many steps; None: no.
      epoch_seconds: at the end of an epoch unless the last backup is younger than this.
    """

    seconds: fields.Positive | None = 300.0
    steps: fields.Count | None = None
    epoch_seconds: Annotated[float, fields.Range(ge=0)] = EPOCH_SECONDS

    def __post_init__(self) -> None:
        """Check the values."""
        fields.check(self)


class Backup(keras.callbacks.Callback):
    """Saves model, optimizer, metrics and best weights; restores them before training.

    Args:
      run: of the training.
      stage: names the folder.
      best: the callback whose state belongs to the backup; it must stand before this one in the list.
      together: the processes that train.
      stop: is looked at after every step.
      steps_per_epoch: batches in an epoch.
      cadence: when it saves.
      also: further state by name, such as `{"private": variables}`.
    """

    def __init__(
        self,
        run: Run,
        stage: str,
        *,
        best: KeepBest,
        together: Together,
        stop: Stop,
        steps_per_epoch: int,
        cadence: Cadence,
        also: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self._supports_tf_logs = True  # else Keras would fetch the metrics after every step
        self._run = run
        self._folder: Path = run.backup / stage
        self._best = best
        self._together = together
        self._stop = stop
        self._steps = steps_per_epoch
        self._cadence = cadence
        self._also = dict(also or {})
        self._states: Backups | None = None
        self._began = self._saved_at = self._asked_at = time.monotonic()
        self._asked_step, self._ask_next = 0, 1
        self._earlier_seconds = 0.0
        self._measured: dict[str, list[Any]] = {}
        self.epoch = self.step = 0
        self.finished = False
        self.seconds = 0.0
        self.rows: list[dict[str, Any]] = []

    def restore(self, model: keras.Model) -> None:
        """Bring `model` to where the last backup left it: `epoch`, `step` and `finished` say where that is.

        Raises:
          RunError: the backups cannot be read, or belong to another model.
        """
        if hasattr(model.optimizer, "build"):
            model.optimizer.build(model.trainable_variables)
        checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer, **self._also)
        self._states = Backups(
            self._folder,
            checkpoint=checkpoint,
            together=self._together,
            scratch=self._run.path,
            warn=self._run.warn,
        )
        found = self._states.restore()
        if found is None:
            return
        state, self._best.weights = found
        if state["steps_per_epoch"] != self._steps:
            raise RunError(
                f"{self._folder} was trained in epochs of {state['steps_per_epoch']} steps, and they have {self._steps}"
                " now: the batch, or the data, changed.\n  With --batch-size-per-replica it changes with the replicas:"
                " give the same --global-batch-size instead, or begin anew with --overwrite."
            )
        self._best.state = state["best"]
        self._measured = state["metrics"]
        self.rows, self._earlier_seconds = state["rows"], state["seconds"]
        self.seconds = self._earlier_seconds
        self.epoch, self.step, self.finished = state["epoch"], state["step"], state["finished"]

    def maybe_load_initial_counters_from_ckpt(self, *_: Any, **__: Any) -> tuple[int, int]:
        """Where `fit` begins: it asks the model's training state, as of Keras's BackupAndRestore, under this name."""
        return self.epoch, self.step

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Start the clock, and tell `fit` where to begin."""
        self.model._training_state = self
        self._began = self._saved_at = self._asked_at = time.monotonic()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Know the epoch."""
        if epoch != self.epoch:
            self.epoch, self.step = epoch, 0
        self._asked_step, self._ask_next = self.step, self.step + 1

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Save where it is time, save and stop where that is asked; at the end of an epoch validation goes first."""
        self.step = batch + 1
        if self._measured:
            self._add_measured()
        if self.step == self._steps:
            return
        stop, save = self._decide()
        if save or (stop and self._saves_within):
            self._save(epoch=self.epoch, step=self.step)
        if stop:
            self._interrupt()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Save, unless the last backup is younger than the interval."""
        self.rows.append({"epoch": epoch, **{name: float(value) for name, value in (logs or {}).items()}})
        stop, age = self._agreed()
        if stop or age >= self._cadence.epoch_seconds:
            self._save(epoch=epoch + 1, step=0)
        if stop and not self.model.stop_training:
            self._interrupt()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Save what training ended with."""
        self.model._training_state = None
        self._save(epoch=self.rows[-1]["epoch"] + 1 if self.rows else 0, step=0, finished=True)

    @property
    def _saves_within(self) -> bool:
        return self._cadence.seconds is not None

    def _decide(self) -> tuple[bool, bool]:
        """Whether to stop and whether to save after this step: the same answer in every process."""
        steps, seconds = self._cadence.steps, self._cadence.seconds
        save = bool(steps and self.step % steps == 0)
        if self._together.workers > 1 and self.step < self._ask_next:
            return False, save
        stop, age = self._agreed()
        return stop, save or (seconds is not None and age >= seconds)

    def _agreed(self) -> tuple[bool, float]:
        """Whether some process was told to stop, and the age of the last backup in seconds, by the chief's clock."""
        now = time.monotonic()
        clock = (now - self._saved_at, now - self._asked_at) if self._together.index == 0 else (0.0, 0.0)
        asked, age, since = self._together.total([float(self._stop.requested), *clock])
        done = max(self.step - self._asked_step, 1)
        wait = np.clip(done * _ASK_SECONDS / max(since, 1e-3), 1, 10 * done)
        self._asked_at, self._asked_step, self._ask_next = now, self.step, self.step + int(wait)
        return bool(asked), float(age)

    def _interrupt(self) -> None:
        where = f"epoch {self.epoch + 1}, step {self.step} of {self._steps}"
        raise KeyboardInterrupt(f"stopped in {where}")

    def _save(self, *, epoch: int, step: int, finished: bool = False) -> None:
        assert self._states is not None, "restore() comes before training"
        now = time.monotonic()
        self.seconds = self._earlier_seconds + now - self._began
        measured = {metric.name: metric.get_weights() for metric in self.model.metrics} if step else {}
        state = {
            "epoch": epoch,
            "step": step,
            "finished": finished,
            "steps_per_epoch": self._steps,
            "best": self._best.state,
            "metrics": {name: [value.tolist() for value in values] for name, values in measured.items()},
            "rows": self.rows,
            "seconds": self.seconds,
        }
        try:
            self._states.save(state, self._best.weights, best_name=self._best.state["epoch"])
        except (OSError, tf.errors.OpError) as error:
            if finished or self._stop.requested:
                raise
            print(
                f"A backup failed ({str(error).splitlines()[0]}); training goes on.",
                file=sys.stderr,
                flush=True,
            )
        # A failed one is tried again after the whole interval, and not after every step.
        self._saved_at = now

    def _add_measured(self) -> None:
        """To the metrics, which began anew with the process, add what this epoch had measured before it."""
        for metric in self.model.metrics:
            earlier = self._measured.get(metric.name)
            if earlier is not None:
                for variable, value in zip(metric.weights, earlier, strict=True):
                    variable.assign(variable.read_value() + np.asarray(value, variable.dtype.as_numpy_dtype))
        self._measured = {}

"""Save and restore a training: killed, it goes on, within epochs too, and ends with the weights of an unbroken one.

What a step does is a function of (seed, epoch, step) and of the state before it: the order of the examples
(`Splits.epochs`), the masks of the dropout layers (`StepSeeds`), the optimizer and the best weights (`Checkpoints`).
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfkit.distribution.replicas import Replicas
from tfkit.environment import files, foreign, packages, process
from tfkit.environment.heartbeat import Stop, progress
from tfkit.environment.stack import keras, tf
from tfkit.errors import CheckError, RunError
from tfkit.run import Run


class StepSeeds(keras.callbacks.Callback):
    """Seeds every random layer anew at each step, from (seed, epoch, step, place of the layer).

    Restored states would not do: a replica that has one example more in a last batch draws more numbers, so that the
    replicas' generators part, and a checkpoint holds the first one's.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        foreign.take_tensor_logs(self)
        self._seed = seed
        self._epoch = 0
        self._places: list[int] = []
        self._reset: Any = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Find the generators of dropout and its kin."""
        by_place = foreign.random_generators(self.model)
        self._places, generators = list(by_place), list(by_place.values())

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
            digests = [files.digest_of(self._seed, self._epoch, batch, place) for place in self._places]
            keys = np.frombuffer(bytes.fromhex("".join(digests)), np.int64).reshape(-1, 2)[:, :1]
            self._reset(np.pad(keys, [(0, 0), (2, 0)]))


class KeptWeights(keras.callbacks.Callback):
    """Leaves the model with the weights of the epoch with the lowest validation loss, or of its last epoch.

    Args:
      keep: "best" or "last": what validation says decides nothing then.
      patience: epochs without improvement after which training stops; None trains all epochs.
      start: validation loss of the model that training starts from, which is kept if no epoch is better;
        None keeps the best epoch whatever was before.
      limit: training stops after two evaluations in a row with a higher loss; None: it goes on.
    """

    def __init__(
        self,
        keep: str = "best",
        *,
        patience: int | None = None,
        start: float | None = None,
        limit: float | None = None,
    ) -> None:
        super().__init__()
        self._keeps_best = keep == "best"
        settings = (patience, start, limit) if self._keeps_best else (None, None, None)
        self._patience, self._start, self.limit = settings
        self.weights: list[np.ndarray] | None = None
        self.state: dict[str, Any] = {"epoch": None, "value": None, "wait": 0}

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Take the model as it is for the best, unless a better one was restored."""
        if self._start is not None and self.weights is None:
            self.weights = self.model.get_weights()
            self.state = {"epoch": None, "value": self._start, "wait": 0}

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Compare with the best so far."""
        value = _check_val_loss(epoch, logs or {})
        self.compare_with_limit(value)
        if self._keeps_best and self.state["value"] is not None and value >= self.state["value"]:
            self.state = {**self.state, "wait": self.state["wait"] + 1}
            self.model.stop_training = self.model.stop_training or self.exhausted
            return
        self.state = {**self.state, "epoch": epoch, "value": value, "wait": 0}
        if self._keeps_best:
            self.weights = self.model.get_weights()

    def compare_with_limit(self, value: float) -> None:
        """Count the evaluations in a row that are worse than the limit."""
        if self.limit is not None:
            worse = [*self.state.get("worse", []), value] if value > self.limit else []
            self.state = {**self.state, "worse": worse}

    @property
    def stop_reason(self) -> str:
        """Return why training was given up, as a part of a sentence; empty where it was not."""
        worse = self.state.get("worse", [])
        # A high learning rate makes a model worse at first: what is on its way back goes on.
        if len(worse) < 2 or worse[-1] < worse[-2]:
            return ""
        return f"the losses {worse[-2]:.4f} and {worse[-1]:.4f} are clearly worse, above {self.limit:.4f}"

    @property
    def exhausted(self) -> bool:
        """Return whether there were as many epochs without improvement as patience allows, or it was given up."""
        return bool(self.stop_reason) or (self._patience is not None and self.state["wait"] >= self._patience)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Put the best weights back."""
        self.put_back(self.model)

    def put_back(self, model: keras.Model) -> None:
        """Give the model the weights that were kept."""
        if self.weights is not None:
            model.set_weights(self.weights)


def _check_val_loss(epoch: int, logs: dict[str, Any]) -> float:
    values = {name: float(logs[name]) for name in ("loss", "val_loss") if name in logs}
    if not np.isfinite(list(values.values())).all():
        text = " and ".join(f"{name} is {value}" for name, value in values.items())
        raise CheckError(
            f"Training came apart in epoch {epoch + 1}: {text}.\n"
            "  Lower the learning rate; if it stays so, look for values in the data that are not finite."
        )
    return values["val_loss"]


# How often several processes ask each other whether one was told to stop: that costs a message.
_ASK_SECONDS = 1.0


MAX_TO_KEEP = 2
STATE, VARIABLES, BEST = "state.json", "variables", "best.npz"


class Checkpoints(keras.callbacks.Callback):
    """Saves model, optimizer, metrics and best weights; restores them before training; tells how far it is.

    All processes of a training take part in each save and restore: some variables are a sum over them. The chief's
    files remain: numbered folders, the last two of them.

    Args:
      run: of the training.
      stage: names the folder.
      method: of `tfkit.training.methods`; the callback that is its `weights` must stand before this one in the list.
      cluster: the processes that train.
      stop: is looked at after every step.
    """

    def __init__(self, run: Run, stage: str, *, method: Any, cluster: Replicas, stop: Stop) -> None:
        super().__init__()
        foreign.take_tensor_logs(self)  # else Keras would fetch the metrics after every step
        self._run, self._stage, self._folder = run, stage, run.backup / stage
        self._weights, self._steps, self._cadence = method.weights, method.steps_per_epoch, method.cadence
        self._cluster, self._stop, self._is_timed = cluster, stop, method.timed
        self._checkpoint: tf.train.Checkpoint | None = None
        self._start_time = self._saved_at = self._asked_at = time.monotonic()
        self._asked_step, self._ask_next = 0, 1
        self._earlier_seconds = self.seconds = 0.0
        self._metrics: dict[str, list[Any]] = {}
        self.epoch = self.step = self.epochs = 0
        self.finished = False
        self.rows: list[dict[str, Any]] = []

    def restore(
        self, model: keras.Model, variables: Mapping[str, Any], *, digests: Mapping[str, Any]
    ) -> None:
        """Bring `model` to where the last checkpoint left it: `epoch`, `step` and `finished` say where that is.

        Args:
          model: of the training.
          variables: further state by name that belongs to the checkpoints, such as `{"private": variables}`.
          digests: of a user's own model its `tfkit.training.validation.digest_of_model`; else nothing.

        Raises:
          RunError: the checkpoints cannot be read, or belong to another model.
        """
        if hasattr(model.optimizer, "build"):
            model.optimizer.build(model.trainable_variables)
        self._checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer, **variables)
        self._digests = digests
        newest, damage = (0, "the chief found it damaged") if self._cluster.index else self._find_newest()
        number = int(self._cluster.of_chief([newest])[0])
        if number == 0:
            return
        folder = self._folder / f"{number:08d}"
        try:
            if number < 0:
                raise ValueError(damage)
            state = json.loads((folder / STATE).read_text())
            if digests and state.get("model", digests["model"]) != digests["model"]:
                self._check_model(state)
            self._checkpoint.read(str(folder / VARIABLES)).assert_existing_objects_matched()
            if (folder / BEST).is_file():
                with np.load(folder / BEST, allow_pickle=False) as file:
                    self._weights.weights = [file[f"arr_{place}"] for place in range(len(file.files))]
        except (ValueError, LookupError, OSError, AssertionError, tf.errors.OpError) as error:
            raise RunError(
                f"The checkpoint in {self._folder} cannot be restored: {packages.first_line(error)}"
                "\n  Start this run again from its beginning with --overwrite."
            ) from error
        if state["steps_per_epoch"] != self._steps:
            raise RunError(
                f"{self._folder} was trained in epochs of {state['steps_per_epoch']} steps, and they have {self._steps}"
                " now: the batch, or the data, changed.\n  Give the same --global-batch-size, or begin anew"
                " (--overwrite, resume=False in Python)."
            )
        self._weights.state, self._metrics, self.rows = state["best"], state["metrics"], state["rows"]
        self.seconds = self._earlier_seconds = state["seconds"]
        self.epoch, self.step, self.finished = state["epoch"], state["step"], state["finished"]

    def _check_model(self, state: Mapping[str, Any]) -> None:
        """Raise unless the model differs by a learning rate alone that follows the replicas: the earlier one holds."""
        old_replicas, replicas = state.get("replicas"), self._cluster.replicas
        has_other_replicas = old_replicas not in (None, replicas)
        old_rate, rate = (digests.get("learning_rate") for digests in (state, self._digests))
        is_same_but_rate = "rest" in self._digests and state.get("rest") == self._digests["rest"]
        if is_same_but_rate and has_other_replicas:
            if not state["finished"]:
                self._run.note(
                    f"Begun with a learning rate of {old_rate:g} on {old_replicas} replicas, and that one holds: the"
                    f" global batch is the same. For {replicas} build_model gives {rate:g}."
                )
            return
        difference = "its layers, its optimizer or its loss are others"
        if is_same_but_rate:
            difference = f"its learning rate was {old_rate:g}, and is {rate:g}"
        if has_other_replicas:
            difference += (
                f". It began on {old_replicas} replicas, now there are {replicas}: build_model must not"
            )
            difference += " depend on that"
        raise RunError(
            f"{self._folder} was begun with another model than build_model makes now: {difference}."
            "\n  Give another run_dir, or begin anew with resume=False."
        )

    def maybe_load_initial_counters_from_ckpt(self, *_: Any, **__: Any) -> tuple[int, int]:
        """Return where `fit` begins: it asks the model's training state, as of BackupAndRestore, under this name."""
        return self.epoch, self.step

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Start the clock, and tell `fit` where to begin."""
        foreign.begin_fit_at(self.model, self)
        self._start_time = self._saved_at = self._asked_at = time.monotonic()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Know the epoch."""
        if epoch != self.epoch:
            self.epoch, self.step = epoch, 0
        self._asked_step, self._ask_next = self.step, self.step + 1

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Save where it is time, save and stop where that is asked; at the end of an epoch validation goes first."""
        self.step = batch + 1
        self._report()
        if self._metrics:
            self._add_values()
        if self.step == self._steps:
            return
        steps, seconds = self._cadence.steps, self._cadence.seconds
        save, stop = bool(steps and self.step % steps == 0), False
        if self._cluster.workers == 1 or self.step >= self._ask_next:
            stop, age = self._agree()
            save = save or (seconds is not None and (stop or age >= seconds))
        if save:
            self._save(epoch=self.epoch, step=self.step)
        if stop:
            self._interrupt()

    def on_test_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Report a step of validation."""
        self._report(", validating")

    def _report(self, activity: str = "") -> None:
        """Tell the launcher, where there is one, how far training is."""
        text = f"{self._stage}, epoch {self.epoch + 1} of {self.epochs}{activity}"
        progress(self.epoch * self._steps + self.step, self.epochs * self._steps, text)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Save, unless the last checkpoint is younger than the interval."""
        process.said_at = time.monotonic()  # by Keras
        self.rows.append({"epoch": epoch, **{name: float(value) for name, value in (logs or {}).items()}})
        stop, age = self._agree()
        if stop or age >= self._cadence.epoch_seconds:
            self._save(epoch=epoch + 1, step=0)
        if stop and not self.model.stop_training:
            self._interrupt()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Leave it to the next `fit` where it begins."""
        foreign.begin_fit_at(self.model, None)

    def finish(self) -> None:
        """Save what training ended with: callbacks of a user may change the weights at its very end."""
        self._save(epoch=self.rows[-1]["epoch"] + 1 if self.rows else 0, step=0, finished=True)

    def _agree(self) -> tuple[bool, float]:
        """Return whether some process was told to stop, and the age of the last checkpoint by the chief's clock."""
        now = time.monotonic()
        clock = (now - self._saved_at, now - self._asked_at) if self._cluster.index == 0 else (0.0, 0.0)
        stop, age, since = self._cluster.total([float(self._stop.requested), *clock])
        steps = max(self.step - self._asked_step, 1)
        wait = np.clip(steps * _ASK_SECONDS / max(since, 1e-3), 1, 10 * steps)
        self._asked_at, self._asked_step, self._ask_next = now, self.step, self.step + int(wait)
        return bool(stop), float(age)

    def _interrupt(self) -> None:
        raise KeyboardInterrupt(f"stopped in epoch {self.epoch + 1}, step {self.step} of {self._steps}")

    def _save(self, *, epoch: int, step: int, finished: bool = False) -> None:
        now = time.monotonic()
        self.seconds = self._earlier_seconds + now - self._start_time
        metrics = {metric.name: metric.get_weights() for metric in self.model.metrics} if step else {}
        state = {
            "epoch": epoch,
            "step": step,
            "finished": finished,
            "steps_per_epoch": self._steps,
            "best": self._weights.state,
            "metrics": {name: [value.tolist() for value in values] for name, values in metrics.items()},
            "rows": self.rows,
            "seconds": self.seconds if self._is_timed else 0.0,
            "replicas": self._cluster.replicas,
            **self._digests,
        }
        try:
            self._write(state)
        except (OSError, tf.errors.OpError) as error:
            if finished or self._stop.requested:
                raise
            failure = packages.first_line(error)
            print(f"A checkpoint failed ({failure}); training goes on.", file=sys.stderr, flush=True)
        # A failed one is tried again after the whole interval, and not after every step.
        self._saved_at = now

    def _write(self, state: dict[str, Any]) -> None:
        """Write one more checkpoint, and remove all but the last two.

        Raises:
          OSError, tf.errors.OpError: it could not be written; what was there before is there still.
        """
        assert self._checkpoint is not None, "restore() comes before training"
        if self._cluster.index:
            with tempfile.TemporaryDirectory(dir=self._run.path) as scratch:
                self._checkpoint.write(f"{scratch}/{VARIABLES}")
            return
        target = self._folder / f"{max(self._list_numbers(), default=0) + 1:08d}"
        with files.new_folder(target) as folder:
            self._checkpoint.write(str(folder / VARIABLES))
            if self._weights.weights is not None:
                np.savez(folder / BEST, *self._weights.weights)
            for path in folder.iterdir():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            digests = {path.name: files.digest_of(path) for path in sorted(folder.iterdir())}
            files.write_json(folder / STATE, {**state, "files": digests})
        for number in sorted(self._list_numbers())[:-MAX_TO_KEEP]:
            shutil.rmtree(self._folder / f"{number:08d}")
        if not self._is_timed:
            files.forget_dates(self._folder)

    def _list_numbers(self) -> list[int]:
        return [int(path.name) for path in self._folder.glob("[0-9]*") if path.name.isdigit()]

    def _find_newest(self) -> tuple[int, str]:
        """Return the newest checkpoint whose files are as they were written, and what is wrong with newer ones.

        Its number is 0 where there is none at all, -1 where none is whole. Newer, damaged ones are removed.
        """
        numbers, damage = sorted(self._list_numbers(), reverse=True), ""
        for place, number in enumerate(numbers):
            folder = self._folder / f"{number:08d}"
            try:
                digests = json.loads((folder / STATE).read_text())["files"]
                for name, digest in digests.items():
                    if files.digest_of(folder / name) != digest:
                        raise ValueError(f"{folder.name}/{name} is not what was written")
            except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
                damage = f"{folder.name}: {packages.first_line(error)}"
                continue
            for newer in numbers[:place]:
                shutil.rmtree(self._folder / f"{newer:08d}")
                self._run.warn(f"The newest checkpoint is damaged ({damage}): going on from the one before.")
            return number, ""
        return (-1 if numbers else 0), damage

    def _add_values(self) -> None:
        """Add to the metrics, which began anew with the process, what this epoch had measured before it."""
        for metric in self.model.metrics:
            values = self._metrics.get(metric.name)
            if values is not None:
                for variable, value in zip(metric.weights, values, strict=True):
                    variable.assign(variable.read_value() + np.asarray(value, variable.dtype.as_numpy_dtype))
        self._metrics = {}

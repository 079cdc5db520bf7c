"""Checkpoints: a killed training goes on, within epochs too, and ends with the weights of an uninterrupted one.

What a step does is a function of (seed, epoch, step) and of the state before it: the order of the examples
(`Splits.epochs`), the masks of the dropout layers (`StepSeeds`), the optimizer and the best weights (`Checkpoints`).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from tfkit.distribution.replicas import Replicas
from tfkit.environment import files
from tfkit.environment.heartbeat import Stop, progress
from tfkit.environment.stack import keras, tf
from tfkit.errors import CheckError, RunError
from tfkit.run import Run
from tfkit.settings import fields


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
            digests = [files.digest_of(self._seed, self._epoch, batch, place) for place in self._places]
            keys = np.frombuffer(bytes.fromhex("".join(digests)), np.int64).reshape(-1, 2)[:, :1]
            self._reset(np.pad(keys, [(0, 0), (2, 0)]))


class ProgressCallback(keras.callbacks.Callback):
    """Tells the launcher, where there is one, how far training is: after every step, of validation too."""

    def __init__(self, stage: str, *, epochs: int, steps_per_epoch: int) -> None:
        super().__init__()
        self._supports_tf_logs = True
        self._stage, self._epochs, self._steps = stage, epochs, steps_per_epoch
        self._done, self._text = 0, ""

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Note the epoch."""
        self._done = epoch * self._steps
        self._text = f"{self._stage}, epoch {epoch + 1} of {self._epochs}"

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Report a step."""
        progress(self._done + batch + 1, self._epochs * self._steps, self._text)

    def on_test_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Report a step of validation."""
        progress(self._done + self._steps, self._epochs * self._steps, f"{self._text}, validating")


class KeptWeights(keras.callbacks.Callback):
    """Leaves the model with the weights of the epoch with the lowest validation loss, or of its last epoch.

    Args:
      keep: "best" or "last": what validation says decides nothing then.
      patience: epochs without improvement after which training stops; None trains all epochs.
      start: validation loss of the model that training starts from, which is kept if no epoch is better;
        None keeps the best epoch whatever was before.
    """

    def __init__(
        self,
        keep: Literal["best", "last"] = "best",
        *,
        patience: int | None = None,
        start: float | None = None,
    ) -> None:
        super().__init__()
        self._best = keep == "best"
        self._patience, self._start = (patience, start) if self._best else (None, None)
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
        if not self._best:
            self.state = {"epoch": epoch, "value": value, "wait": 0}
        elif self.state["value"] is None or value < self.state["value"]:
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
        self.put_back(self.model)

    def put_back(self, model: keras.Model) -> None:
        """Give the model the weights that were kept."""
        if self.weights is not None:
            model.set_weights(self.weights)


def _finite_val_loss(epoch: int, logs: dict[str, Any]) -> float:
    losses = {name: float(logs[name]) for name in ("loss", "val_loss") if name in logs}
    if not np.isfinite(list(losses.values())).all():
        raise CheckError(
            f"Training came apart in epoch {epoch + 1}: "
            + " and ".join(f"{name} is {value}" for name, value in losses.items())
            + ".\n  Lower the learning rate; if it stays so, look for values in the data that are not finite."
        )
    return losses["val_loss"]


KEPT = 2
STATE, VARIABLES, BEST = "state.json", "variables", "best.npz"


class _Store:
    """States of one stage, numbered in the order in which they were made.

    All processes of a training take part in each call: some variables are a sum over them. The chief's files remain.

    Args:
      folder: where the chief keeps them, and where all read them.
      checkpoint: of everything that has variables.
      cluster: the processes that take part.
      scratch: where the others write what goes at once.
      warn: is given a sentence when a damaged state is passed over.
    """

    def __init__(
        self,
        folder: Path,
        *,
        checkpoint: tf.train.Checkpoint,
        cluster: Replicas,
        scratch: Path,
        warn: Callable[[str], None],
    ) -> None:
        self._folder = folder
        self._checkpoint = checkpoint
        self._cluster = cluster
        self._scratch = scratch
        self._warn = warn
        self._best: Path | None = None

    def save(self, state: dict[str, Any], best: list[np.ndarray] | None, *, best_name: object) -> None:
        """Write one more state, and remove all but the last two.

        Args:
          state: plain values.
          best: the weights that are kept beside those of the model, if there are such.
          best_name: tells whether they are those of the state before: they are not written again then.

        Raises:
          OSError, tf.errors.OpError: it could not be written; what was there before is there still.
        """
        if self._cluster.index:
            with tempfile.TemporaryDirectory(dir=self._scratch) as folder:
                self._checkpoint.write(f"{folder}/{VARIABLES}")
            return
        number = max(self._numbers(), default=0) + 1
        with files.new_folder(self._folder / f"{number:08d}") as folder:
            self._checkpoint.write(str(folder / VARIABLES))
            if best is not None:
                self._write_best(folder, best, str(best_name))
            digests = {path.name: files.digest_of(path) for path in sorted(folder.iterdir())}
            for path in folder.iterdir():
                _sync(path)
            files.write_json(folder / STATE, {**state, "best_name": str(best_name), "files": digests})
        self._best = self._folder / f"{number:08d}"
        for old in sorted(self._numbers())[:-KEPT]:
            shutil.rmtree(self._folder / f"{old:08d}")

    def restore(self) -> tuple[dict[str, Any], list[np.ndarray] | None] | None:
        """Bring the variables to the last state that is whole.

        Returns:
          What `save` was given with it, or None where nothing was saved.

        Raises:
          RunError: all that was saved is damaged, or belongs to another model.
        """
        chosen, damage = self._newest_whole() if self._cluster.index == 0 else (0, "")
        chosen = int(self._cluster.of_chief([chosen])[0])
        if chosen == 0:
            return None
        if chosen < 0:
            raise _unusable(self._folder, damage or "the chief found it damaged")
        folder = self._folder / f"{chosen:08d}"
        try:
            state = json.loads((folder / STATE).read_text())
            self._checkpoint.read(str(folder / VARIABLES)).assert_existing_objects_matched()
            best = _read_best(folder / BEST) if (folder / BEST).is_file() else None
        except (ValueError, LookupError, OSError, AssertionError, tf.errors.OpError) as error:
            raise _unusable(self._folder, str(error).splitlines()[0]) from error
        self._best = folder
        return state, best

    def _numbers(self) -> list[int]:
        return [int(path.name) for path in self._folder.glob("[0-9]*") if path.name.isdigit()]

    def _newest_whole(self) -> tuple[int, str]:
        """The number of the newest state whose files are as they were written: 0 for none at all, -1 for none whole."""
        damage = ""
        numbers = sorted(self._numbers(), reverse=True)
        for number in numbers:
            folder = self._folder / f"{number:08d}"
            found = _damage(folder)
            if not found:
                for broken in numbers[: numbers.index(number)]:
                    shutil.rmtree(self._folder / f"{broken:08d}")
                    self._warn(f"The newest checkpoint is damaged ({damage}): going on from the one before.")
                return number, ""
            damage = found
        return (-1 if numbers else 0), damage

    def _write_best(self, folder: Path, best: list[np.ndarray], name: str) -> None:
        if self._best is not None and json.loads((self._best / STATE).read_text())["best_name"] == name:
            with contextlib.suppress(OSError):  # not every file system has hard links
                os.link(self._best / BEST, folder / BEST)
                return
        with files.new_file(folder / BEST) as file:
            arrays: dict[str, Any] = {f"weight{place}": value for place, value in enumerate(best)}
            np.savez(file, **arrays)


def _damage(folder: Path) -> str:
    """What is wrong with a state's files; nothing if they are as they were written."""
    try:
        wanted = json.loads((folder / STATE).read_text())["files"]
        changed = [name for name, digest in wanted.items() if files.digest_of(folder / name) != digest]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return f"{folder.name}/{STATE}: {type(error).__name__}"
    return f"{folder.name}/{changed[0]} is not what was written" if changed else ""


def _read_best(path: Path) -> list[np.ndarray]:
    with np.load(path, allow_pickle=False) as kept:
        return [kept[f"weight{place}"] for place in range(len(kept.files))]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unusable(folder: Path, why: str) -> RunError:
    return RunError(
        f"The checkpoint in {folder} cannot be restored: {why}"
        "\n  Start this run again from its beginning with --overwrite."
    )


# At the ends of epochs at most one checkpoint in so many seconds: with epochs of milliseconds they would cost more.
EPOCH_SECONDS = 5.0

# How often several processes ask each other whether one was told to stop: that costs a message.
_ASK_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Cadence:
    """When a training is saved.

    Attributes:
      seconds: the longest time between checkpoints within an epoch; None: none are made there.
      steps: within an epoch also every so many steps; None: no.
      epoch_seconds: at the end of an epoch unless the last checkpoint is younger than this.
    """

    seconds: fields.Positive | None = 300.0
    steps: fields.Count | None = None
    epoch_seconds: Annotated[float, fields.Range(ge=0)] = EPOCH_SECONDS

    def __post_init__(self) -> None:
        """Check the values."""
        fields.check(self)


class Checkpoints(keras.callbacks.Callback):
    """Saves model, optimizer, metrics and best weights; restores them before training.

    Args:
      run: of the training.
      stage: names the folder.
      weights: the callback whose state belongs to the checkpoints; it must stand before this one in the list.
      cluster: the processes that train.
      stop: is looked at after every step.
      steps_per_epoch: batches in an epoch.
      cadence: when it saves.
      variables: further state by name, such as `{"private": variables}`.
    """

    def __init__(
        self,
        run: Run,
        stage: str,
        *,
        weights: KeptWeights,
        cluster: Replicas,
        stop: Stop,
        steps_per_epoch: int,
        cadence: Cadence,
        variables: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self._supports_tf_logs = True  # else Keras would fetch the metrics after every step
        self._run = run
        self._folder: Path = run.backup / stage
        self._kept = weights
        self._cluster = cluster
        self._stop = stop
        self._steps = steps_per_epoch
        self._cadence = cadence
        self._variables = dict(variables)
        self._states: _Store | None = None
        self._began = self._saved_at = self._asked_at = time.monotonic()
        self._asked_step, self._ask_next = 0, 1
        self._earlier_seconds = 0.0
        self._measured: dict[str, list[Any]] = {}
        self.epoch = self.step = 0
        self.finished = False
        self.seconds = 0.0
        self.rows: list[dict[str, Any]] = []

    def restore(self, model: keras.Model) -> None:
        """Bring `model` to where the last checkpoint left it: `epoch`, `step` and `finished` say where that is.

        Raises:
          RunError: the checkpoints cannot be read, or belong to another model.
        """
        if hasattr(model.optimizer, "build"):
            model.optimizer.build(model.trainable_variables)
        checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer, **self._variables)
        self._states = _Store(
            self._folder,
            checkpoint=checkpoint,
            cluster=self._cluster,
            scratch=self._run.path,
            warn=self._run.warn,
        )
        found = self._states.restore()
        if found is None:
            return
        state, self._kept.weights = found
        if state["steps_per_epoch"] != self._steps:
            raise RunError(
                f"{self._folder} was trained in epochs of {state['steps_per_epoch']} steps, and they have {self._steps}"
                " now: the batch, or the data, changed.\n  With --batch-size-per-replica it changes with the replicas:"
                " give the same --global-batch-size instead, or begin anew with --overwrite."
            )
        self._kept.state = state["best"]
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
        """Save, unless the last checkpoint is younger than the interval."""
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
        if self._cluster.workers > 1 and self.step < self._ask_next:
            return False, save
        stop, age = self._agreed()
        return stop, save or (seconds is not None and age >= seconds)

    def _agreed(self) -> tuple[bool, float]:
        """Whether some process was told to stop, and the age of the last checkpoint by the chief's clock."""
        now = time.monotonic()
        clock = (now - self._saved_at, now - self._asked_at) if self._cluster.index == 0 else (0.0, 0.0)
        asked, age, since = self._cluster.total([float(self._stop.requested), *clock])
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
            "best": self._kept.state,
            "metrics": {name: [value.tolist() for value in values] for name, values in measured.items()},
            "rows": self.rows,
            "seconds": self.seconds,
        }
        try:
            self._states.save(state, self._kept.weights, best_name=self._kept.state["epoch"])
        except (OSError, tf.errors.OpError) as error:
            if finished or self._stop.requested:
                raise
            print(
                f"A checkpoint failed ({str(error).splitlines()[0]}); training goes on.",
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

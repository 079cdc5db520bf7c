"""Describe one stage of a training: how it is trained, and what it leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np

from tfkit import tasks
from tfkit.data.augment import Augmentation
from tfkit.data.splits import Splits
from tfkit.environment import stack
from tfkit.privacy.plan import DPSGD
from tfkit.run import Run
from tfkit.settings import fields

IMBALANCE = 3.0


@dataclass(frozen=True, kw_only=True)
class Cadence:
    """The times at which a training is saved: a checkpoint an epoch would cost more than epochs of milliseconds do.

    Attributes:
      seconds: the longest time between checkpoints within an epoch; None: none are made there.
      steps: within an epoch also every so many steps; None: no.
      epoch_seconds: at the end of an epoch unless the last checkpoint is younger than this.
    """

    seconds: fields.Positive | None = 300.0
    steps: fields.Count | None = None
    epoch_seconds: Annotated[float, fields.Range(ge=0)] = 5.0

    def __post_init__(self) -> None:
        """Check the values."""
        fields.check(self)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The settings of one stage of a training.

    Attributes:
      epochs: at most so many.
      name: of the stage; the stages of one run follow each other on one axis of epochs.
      seed: of initial weights, order, augmentation and dropout.
      patience: epochs without a lower validation loss after which training stops; None for no such stop.
      start_val_loss: of the model that is trained: that model is what remains if no epoch is better.
      start_error: standard error of `start_val_loss`: training is given up after two evaluations in a row whose loss is
        above it by more than twice this; one is made in the middle of the first epoch. None: it is not given up.
      keep: the weights of the best epoch, by validation loss, or of the last.
      class_weight: class index to weight in the loss.
      physical_batch_size: examples of a replica whose activations are in memory at a time: the gradient is summed over
        such pieces of a batch; None: the whole batch at once. Not for private training, which has `microbatch_size`.
      augment: applied to each training image anew in each epoch.
      privacy: train with differential privacy; see `tfkit.DPSGD`.
      cadence: when it is saved; see `Cadence`. Private training is saved at the ends of epochs alone.
      profile: whether to trace steps 10 to 20 for TensorBoard, unless an earlier stage of the run has been traced.
      verbose: None: a line an epoch, of private training every tenth; else Keras's own: 1 a progress bar, 2 its lines,
        0 nothing.
    """

    epochs: fields.Count
    name: str = "train"
    seed: fields.Seed = 0
    patience: fields.Count | None = None
    start_val_loss: float | None = None
    start_error: float | None = None
    keep: Literal["best", "last"] = "best"
    class_weight: dict | None = None
    physical_batch_size: fields.Count | None = None
    augment: Augmentation | None = None
    privacy: DPSGD | None = None
    cadence: Cadence | None = None
    profile: bool = False
    verbose: Annotated[int, fields.Range(ge=0, le=2)] | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        fields.check(self)

    @classmethod
    def of_settings(cls, config: Any, **changes: Any) -> Stage:
        """Return the stage that a recipe's settings describe, with some values in place of theirs."""
        cadence = Cadence(seconds=60.0 * config.backup_minutes, steps=config.backup_steps)
        settings = {name: getattr(config, name) for name in ("epochs", "seed", "patience", "profile")}
        return cls(**{"cadence": cadence, **settings, **changes})


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The result of one stage of training.

    Attributes:
      model: with the weights of the best epoch, by validation loss, or of the last.
      rows: one an epoch: epoch, loss, accuracy, val_loss, val_accuracy and what else was measured.
      best_epoch: counted from 0 within the stage; None where no epoch was better than what it started from.
      val_loss: of the model.
      seconds: of training, over all processes that took part.
      logits: whether the model gives logits; None where it was not tried.
    """

    model: stack.keras.Model
    rows: list[dict[str, Any]]
    best_epoch: int | None
    val_loss: float
    seconds: float
    logits: bool | None


def class_weight(splits: Splits, *, when: str, run: Run | None = None) -> dict[int, float] | None:
    """Return weights that give every class the same share of the loss.

    Args:
      splits: the counts of the training split are what matters.
      when: `auto` when the largest class has over 3 times the examples of the smallest; `always`; `never`.
      run: is told when they are on.

    Returns:
      Class index to weight, mean 1 over the examples; None when they are off.

    Raises:
      ConfigError: they are asked for, of a task that has none.
    """
    if not splits.task.exclusive:
        if when == "always":
            tasks.refuse(splits.task, "classes", what="class_weights", why="leave them out (auto).")
        return None
    names, counts = [*splits.counts["train"]], np.array([*splits.counts["train"].values()])
    ratio = counts.max() / max(counts.min(), 1)
    if when == "never" or (when == "auto" and ratio <= IMBALANCE):
        return None
    if run is not None:
        run.note(
            f"Class weights are on: {names[counts.argmax()]!r} has {counts.max()} training examples,"
            f" {names[counts.argmin()]!r} has {counts.min()} ({ratio:.1f} to 1)."
        )
    return {index: counts.sum() / (len(counts) * max(count, 1)) for index, count in enumerate(counts)}

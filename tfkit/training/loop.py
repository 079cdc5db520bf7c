"""Training: a stock `model.fit`, in a strategy's scope, that can be killed and goes on."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tfkit.data.splits import Splits
from tfkit.distribution import strategies
from tfkit.environment import process
from tfkit.environment.heartbeat import on_signals, phase
from tfkit.environment.packages import first_line
from tfkit.errors import ConfigError, TfkitError
from tfkit.metrics import Outputs
from tfkit.run import Run
from tfkit.settings.options import StrategyConfig
from tfkit.training.validation import as_callbacks, make, try_on_a_batch

if TYPE_CHECKING:
    from tfkit.data.augment import Augmentation
    from tfkit.environment.stack import keras, tf
    from tfkit.privacy.plan import DPSGD
    from tfkit.training.checkpoint import Backup, Cadence

IMBALANCE = 3.0


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What one stage of training left.

    Attributes:
      model: with the weights of the best epoch, by validation loss, or of the last.
      rows: one an epoch: epoch, loss, accuracy, val_loss, val_accuracy and what else was measured.
      best_epoch: counted from 0 within the stage; None where no epoch was better than what it started from.
      val_loss: of the model.
      seconds: of training, over all processes that took part.
      logits: whether the model gives logits; None where it was not tried.
    """

    model: keras.Model
    rows: list[dict[str, Any]]
    best_epoch: int | None
    val_loss: float
    seconds: float
    logits: bool | None


def train(
    build_model: Callable[[], keras.Model],
    splits: Splits,
    *,
    run: Run,
    epochs: int,
    stage: str = "train",
    strategy: str | tf.distribute.Strategy = "auto",
    seed: int = 0,
    patience: int | None = None,
    start_val_loss: float | None = None,
    keep: Literal["best", "last"] = "best",
    class_weight: dict[int, float] | None = None,
    augment: Augmentation | None = None,
    privacy: DPSGD | None = None,
    cadence: Cadence | None = None,
    profile: bool = False,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int | None = None,
    output: Outputs | None = None,
) -> Trained:
    """Train one stage of a run, or what is left of it.

    Args:
      build_model: returns a compiled model; called inside the strategy's scope.
      splits: batches of (features, label).
      run: gets history and TensorBoard logs, and holds the backup.
      epochs: at most so many.
      stage: names the backup; stages of one run follow each other on one axis of epochs.
      strategy: see `tfkit.distribution.strategies.strategy`.
      seed: of initial weights, order, augmentation and dropout.
      patience: epochs without a lower validation loss after which training stops; None for no such stop.
      start_val_loss: of the model that build_model returns: that model is what remains if no epoch is better.
      keep: the weights of the best epoch, by validation loss, or of the last.
      class_weight: class index to weight in the loss.
      augment: applied to each training image anew in each epoch.
      privacy: train with differential privacy; see `tfkit.privacy.DPSGD`.
      cadence: when it is saved; see `checkpoint.Cadence`. Private training is saved at the ends of epochs alone.
      profile: whether to trace steps 10 to 20 for TensorBoard, unless an earlier stage of the run has been traced.
      callbacks: of your own; what they keep is not part of the backup.
      verbose: Keras's own: 1 a progress bar, 2 a line an epoch, 0 nothing; None is 1 in a terminal or notebook, else 2.
      output: of a model of a user's own: what they say that its outputs are. It is tried on a batch before the first
        step. None: a model of ours, not tried.

    Raises:
      ConfigError: epochs below 1; a model that cannot be trained on these examples, or not be judged afterwards.
      DataError: labels out of range; a model with more or fewer outputs than classes.
      PrivacyError: no epsilon would hold for the model or the settings.
      RunError: a damaged backup; of private training also one without the account of what was spent.
      KeyboardInterrupt: SIGTERM or SIGINT came; the state was saved, the same call goes on from there.
      CheckError: the loss is no longer a finite number.
    """
    from tfkit import reporting
    from tfkit.distribution.replicas import Together, validation
    from tfkit.environment.stack import keras, tf
    from tfkit.privacy.ledger import refuse_after_private
    from tfkit.reporting.keras_callbacks import GRAPH, write_graph
    from tfkit.training.checkpoint import Backup, Cadence, StepSeeds, Telling
    from tfkit.training.methods import AsUsual, Private

    cadence, callbacks = cadence or Cadence(), as_callbacks(callbacks)
    if epochs < 1:
        raise ConfigError(f"epochs is {epochs}; training takes at least 1.")
    chosen = strategies.strategy(strategy)
    together = Together(chosen)
    earlier = _rows_before(run, stage)
    if privacy is None:
        refuse_after_private(run)
    regime = (
        AsUsual(
            splits, augment=augment, class_weight=class_weight, patience=patience, start_val_loss=start_val_loss,
            keep=keep, cadence=cadence,
        )
        if privacy is None
        else Private(
            splits, privacy=privacy, run=run, stage=stage, epochs=epochs, seed=seed, patience=patience,
            augment=augment, class_weight=class_weight,
        )
    )  # fmt: skip
    keras.utils.set_random_seed(seed)
    # Dropout then draws from a tf.random.Generator, which StepSeeds can reset; else from a hidden counter.
    keras.backend.experimental.enable_tf_random_generator()
    with chosen.scope(), on_signals() as stop:
        model = make(build_model, splits)
        backup = Backup(
            run,
            stage,
            best=regime.best,
            together=together,
            stop=stop,
            steps_per_epoch=regime.steps_per_epoch,
            cadence=regime.cadence,
            also=regime.prepare(model, callbacks, strategy=chosen),
        )
        backup.restore(model)
        logits = None
        _build(model)
        if output is not None:
            logits, assumed = try_on_a_batch(model, splits, strategy=chosen, asked=output)
            if assumed:
                run.note(assumed)
        first, last = backup.epoch, regime.last_epoch(backup.epoch, epochs)
        if backup.finished or regime.best.exhausted or first == last:
            if regime.best.weights is not None:
                model.set_weights(regime.best.weights)
        else:
            if first or backup.step:
                within = f", step {backup.step + 1} of {regime.steps_per_epoch}" if backup.step else ""
                run.note(f"Resumed {stage} at epoch {first + 1} of {last}{within}.")
            logging = reporting.callbacks(
                run.logdir,
                first_epoch=len(earlier),
                steps_per_epoch=regime.steps_per_epoch,
                examples_per_epoch=len(splits.indices["train"]),
                stage=stage,
                of_each=together.of_each,
                profile=profile and run.is_chief,
            )
            telling = Telling(stage=stage, epochs=last, steps_per_epoch=regime.steps_per_epoch)
            phase("training")
            training_batches = regime.batches(first, last, chosen, skip=backup.step)
            regime.rehearse(model, training_batches)
            with _first_step(backup):
                model.fit(
                    training_batches,
                    initial_epoch=first,
                    epochs=last,
                    steps_per_epoch=regime.steps_per_epoch,
                    validation_data=validation(chosen, splits),
                    validation_steps=splits.evaluation_steps("validation"),
                    callbacks=[
                        StepSeeds(seed),
                        *regime.callbacks,
                        *logging,
                        regime.best,
                        backup,
                        telling,
                        *callbacks,
                    ],
                    verbose=_verbosity(verbose, run),
                )
            phase("working")
        regime.conclude(model)
        weights = model.get_weights()
        if stop.requested:
            raise KeyboardInterrupt(f"stopped after {stage}")
    rows = [{"stage": stage, **row, "epoch": len(earlier) + row["epoch"]} for row in backup.rows]
    run.write_history([*earlier, *rows])
    if chosen is not tf.distribute.get_strategy():
        # What comes after training is the work of one process on one device: an ordinary model serves it.
        model = make(build_model, splits)
        model.set_weights(weights)
        if together.workers > 1 and run.is_chief:
            write_graph(model, run.logdir / GRAPH / stage)
    return Trained(
        model=model,
        rows=rows,
        best_epoch=regime.best.state["epoch"],
        val_loss=regime.best.state["value"],
        seconds=backup.seconds,
        logits=logits,
    )


@contextlib.contextmanager
def _first_step(backup: Backup) -> Iterator[None]:
    """Say it as a ConfigError where Keras cannot trace the first step: a train_step or a loss of the user's own."""
    place = backup.epoch, backup.step
    try:
        yield
    except TfkitError:
        raise
    except Exception as error:
        # AutoGraph marks what comes from tracing.
        if (backup.epoch, backup.step) != place or not hasattr(error, "ag_error_metadata"):
            raise
        raise ConfigError(
            f"The first step cannot be taken ({type(error).__name__}: {first_line(error)}).\n"
            "  model.fit(splits.train, steps_per_epoch=1) shows where."
        ) from error


def _build(model: keras.Model) -> None:
    """Make the metrics' variables now: made while `fit` traces its step, they have it traced a second time.

    The optimizer's are made by `training.checkpoint`. A model of several outputs, or of open shapes, is left to Keras.
    """
    from tfkit.environment.stack import tf

    outputs: Sequence[Any] = getattr(model, "outputs", None) or []
    if len(outputs) != 1 or not outputs[0].shape[1:].is_fully_defined():
        return
    predictions, labels = tf.zeros([1, *outputs[0].shape[1:]], outputs[0].dtype), tf.zeros([1], tf.int64)
    model.compiled_loss.build(predictions)
    model.compiled_metrics.build(predictions, labels)


def _verbosity(asked: int | None, run: Run) -> int:
    if not run.is_chief:
        return 0
    if asked is not None:
        return asked
    # Keras draws on stdout.
    return 1 if process.watched(sys.stdout) else 2 if process.talks() else 0


def class_weight(splits: Splits, *, when: str, run: Run | None = None) -> dict[int, float] | None:
    """Weights that give every class the same share of the loss.

    Args:
      splits: the counts of the training split are what matters.
      when: `auto` when the largest class has over 3 times the examples of the smallest; `always`; `never`.
      run: is told when they are on.

    Returns:
      Class index to weight, mean 1 over the examples; None when they are off.
    """
    counts = np.array(list(splits.counts["train"].values()))
    ratio = counts.max() / max(counts.min(), 1)
    if when == "never" or (when == "auto" and ratio <= IMBALANCE):
        return None
    names = list(splits.counts["train"])
    if run is not None:
        run.note(
            f"Class weights are on: {names[counts.argmax()]!r} has {counts.max()} training examples,"
            f" {names[counts.argmin()]!r} has {counts.min()} ({ratio:.1f} to 1)."
        )
    return {index: counts.sum() / (len(counts) * max(count, 1)) for index, count in enumerate(counts)}


def cadence(config: StrategyConfig) -> Cadence:
    """When a training is saved, as a recipe's settings ask."""
    from tfkit.training.checkpoint import Cadence

    return Cadence(seconds=60.0 * config.backup_minutes, steps=config.backup_steps)


def _rows_before(run: Run, stage: str) -> list[dict[str, Any]]:
    """The history of the stages that came before this one, also when an interrupted run had gone further."""
    rows = [{str(name): value for name, value in row.items()} for row in run.history.to_dict("records")]
    return list(itertools.takewhile(lambda row: row["stage"] != stage, rows))

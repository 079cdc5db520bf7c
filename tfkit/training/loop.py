"""Run the training loop: a stock `model.fit`, in a strategy's scope, that can be killed and goes on."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tfkit.data.splits import Splits
from tfkit.distribution import strategies
from tfkit.environment import process
from tfkit.environment.heartbeat import on_signals, phase
from tfkit.metrics import Outputs
from tfkit.run import Run
from tfkit.training.stage import Stage, Trained
from tfkit.training.validation import as_callbacks, make, try_on_a_batch

if TYPE_CHECKING:
    from tfkit.environment.stack import keras, tf


def train(
    build_model: Callable[[], keras.Model],
    splits: Splits,
    stage: Stage,
    *,
    run: Run,
    strategy: str | tf.distribute.Strategy = "auto",
    callbacks: Sequence[keras.callbacks.Callback] = (),
    output: Outputs | None = None,
) -> Trained:
    """Train one stage of a run, or what is left of it.

    Args:
      build_model: returns a compiled model; called inside the strategy's scope.
      splits: batches of (features, label).
      stage: how.
      run: gets history and TensorBoard logs, and holds the checkpoints.
      strategy: see `tfkit.distribution.strategies.strategy`.
      callbacks: of your own; what they keep is not part of the checkpoints.
      output: of a model of a user's own: what they say that its outputs are. It is tried on a batch before the first
        step. None: a model of ours, not tried.

    Raises:
      ConfigError: a model that cannot be trained on these examples, or not be judged afterwards.
      DataError: labels out of range; a model with more or fewer outputs than classes.
      PrivacyError: no epsilon would hold for the model or the settings.
      RunError: a damaged checkpoint; of private training also one without the account of what was spent.
      KeyboardInterrupt: SIGTERM or SIGINT came; the state was saved, the same call goes on from there.
      CheckError: the loss is no longer a finite number.
    """
    from tfkit import reporting
    from tfkit.distribution.replicas import Replicas, validation
    from tfkit.environment.stack import keras, tf
    from tfkit.reporting.keras_callbacks import GRAPH, write_graph
    from tfkit.training.checkpoint import Checkpoints, StepSeeds
    from tfkit.training.methods import PrivateTraining, StandardTraining

    callbacks = as_callbacks(callbacks)
    chosen = strategies.strategy(strategy)
    cluster = Replicas(chosen)
    # The stages that came before this one, also when an interrupted run had gone further.
    rows = [{str(name): value for name, value in row.items()} for row in run.history.to_dict("records")]
    earlier = list(itertools.takewhile(lambda row: row["stage"] != stage.name, rows))
    method = (
        PrivateTraining(stage, splits, run=run) if stage.privacy else StandardTraining(stage, splits, run=run)
    )
    keras.utils.set_random_seed(stage.seed)
    # Dropout then draws from a tf.random.Generator, which StepSeeds can reset; else from a hidden counter.
    keras.backend.experimental.enable_tf_random_generator()
    with chosen.scope(), on_signals() as stop:
        model = make(build_model, splits)
        checkpoints = Checkpoints(
            run,
            stage.name,
            weights=method.weights,
            cluster=cluster,
            stop=stop,
            steps_per_epoch=method.steps_per_epoch,
            cadence=method.cadence,
            variables=method.prepare(model, callbacks, strategy=chosen),
        )
        checkpoints.restore(model)
        logits = None
        _build_metrics(model)
        if output is not None:
            logits, assumption = try_on_a_batch(model, splits, strategy=chosen, asked=output)
            if assumption:
                run.note(assumption)
        first, last = checkpoints.epoch, method.last_epoch(checkpoints.epoch)
        checkpoints.epochs = last
        if checkpoints.finished or method.weights.exhausted or first == last:
            method.weights.put_back(model)
        else:
            if first or checkpoints.step:
                within = (
                    f", step {checkpoints.step + 1} of {method.steps_per_epoch}" if checkpoints.step else ""
                )
                run.note(f"Resumed {stage.name} at epoch {first + 1} of {last}{within}.")
            logging = reporting.callbacks(
                run.logdir,
                first_epoch=len(earlier),
                steps_per_epoch=method.steps_per_epoch,
                examples_per_epoch=len(splits.indices["train"]),
                stage=stage.name,
                of_each=cluster.of_each,
                profile=stage.profile and run.is_chief,
            )
            phase("training")
            training_batches = method.batches(first, last, chosen, skip=checkpoints.step)
            model.fit(
                training_batches,
                initial_epoch=first,
                epochs=last,
                steps_per_epoch=method.steps_per_epoch,
                validation_data=validation(chosen, splits),
                validation_steps=splits.evaluation_steps("validation"),
                callbacks=[
                    StepSeeds(stage.seed),
                    *method.callbacks,
                    *logging,
                    method.weights,
                    checkpoints,
                    *callbacks,
                ],
                verbose=_verbosity(stage.verbose, run),
            )
            phase("working")
        method.conclude(model)
        weights = model.get_weights()
        if stop.requested:
            raise KeyboardInterrupt(f"stopped after {stage.name}")
    rows = [{"stage": stage.name, **row, "epoch": len(earlier) + row["epoch"]} for row in checkpoints.rows]
    run.write_history([*earlier, *rows])
    if chosen is not tf.distribute.get_strategy():
        # What comes after training is the work of one process on one device: an ordinary model serves it.
        model = make(build_model, splits)
        model.set_weights(weights)
        if cluster.workers > 1 and run.is_chief:
            write_graph(model, run.logdir / GRAPH / stage.name)
    return Trained(
        model=model,
        rows=rows,
        best_epoch=method.weights.state["epoch"],
        val_loss=method.weights.state["value"],
        seconds=checkpoints.seconds,
        logits=logits,
    )


def _build_metrics(model: keras.Model) -> None:
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
    return 1 if process.watched(sys.stdout) else 2 if process.is_verbose() else 0

"""Train a model into a run folder: tfkit.fit for a model of one's own, and the loop that all training goes through.

The loop is a stock `model.fit`, in a strategy's scope, that can be killed and goes on.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tfkit import tasks
from tfkit.data.augment import Augmentation
from tfkit.data.splits import Splits, typed_labels
from tfkit.distribution import strategies
from tfkit.environment import stack, timeline
from tfkit.environment.foreign import random_generators
from tfkit.environment.heartbeat import on_signals, phase
from tfkit.errors import PrivacyError
from tfkit.metrics import Outputs, evaluate
from tfkit.privacy.plan import DPSGD
from tfkit.reporting.examples import save
from tfkit.run import EVALUATION, Run
from tfkit.settings import fields
from tfkit.settings.options import UNCOVERED
from tfkit.training.stage import Cadence, Stage, Trained, class_weight
from tfkit.training.validation import as_callbacks, check_on_batch, digest_of_model, make, refuse_splits


def fit(
    build_model: Callable[[], stack.keras.Model],
    splits: Splits,
    *,
    run_dir: str | Path,
    epochs: int,
    strategy: str | stack.tf.distribute.Strategy = "auto",
    resume: bool = True,
    seed: int = 0,
    patience: int | None = None,
    class_weights: Literal["auto", "always", "never"] = "auto",
    augment: Augmentation | None = None,
    privacy: DPSGD | None = None,
    cadence: Cadence | None = None,
    callbacks: Sequence[stack.keras.callbacks.Callback] = (),
    verbose: int | None = None,
    output: Outputs = "auto",
    calibrate: bool = False,
) -> Run:
    """Train your own compiled tf_keras model and get a run folder with its measurements and its SavedModel.

    Args:
      build_model: returns a compiled model; called in the strategy's scope. Its one output is [batch, classes], of
        probabilities or logits, or of two classes [batch, 1], of the second one. Its loss takes class numbers.
      splits: see `tfkit.load_images` and `tfkit.from_arrays`.
      run_dir: the folder; a run that was interrupted there goes on.
      epochs: at most so many.
      strategy: a name, see `distribution.strategies.strategy`, or a stock one. Of several workers each calls
        this, the chief writes the folder, and all read it in the end.
      resume: whether to go on with what an interrupted run left; False begins anew.
      seed: of initial weights, order, augmentation and dropout.
      patience: epochs without a lower validation loss after which training stops.
      class_weights: `auto` (when the largest class has over 3 times the examples of the smallest),
        `always` or `never`.
      augment: see `tfkit.data.Augmentation`.
      privacy: train with differential privacy, with whatever optimizer is compiled; see `tfkit.privacy.DPSGD`.
        The batch size of `splits` is then the expected one of the samples.
      cadence: when it is saved on the way; see `tfkit.training.checkpoint.Cadence`.
      callbacks: stock Keras callbacks of your own.
      verbose: None: a line an epoch; else Keras's own: 0, 1 or 2.
      output: what the model gives, "probabilities" or "logits", where neither its last layer nor its loss shows it.
      calibrate: whether to fit a temperature, which is built into the exported model, and the scores of prediction sets
        to the validation split; see `tfkit.calibration`.

    Returns:
      The run, closed: metrics, history, model.

    Raises:
      PrivacyError: among others, 16-bit images that were scaled by what they use, examples that are several times in
        the training split, and calibration.
      UsageError: before the first step, and before privacy is spent: what `fit`, the evaluation or the export would
        fail at. The model is tried on a batch for that.
      DataError: a private run was begun in that folder on other data, or they cannot be told; see
        `tfkit.privacy.ledger`.
      RunError: the folder is in use, or of another call; what a private training spent is not known any more.

    Example:
      run = tfkit.fit(build_model, tfkit.load_images("digits", image_size=32), run_dir="runs/mine", epochs=5)
      run.metrics["test/accuracy"]
    """
    from tfkit import reporting
    from tfkit.data.groups import limit_groups
    from tfkit.environment.packages import versions
    from tfkit.privacy.ledger import IDENTITY_FIELDS, register
    from tfkit.reporting.tensorboard import best
    from tfkit.training import export

    stage = Stage(
        epochs=epochs, seed=seed, patience=patience, augment=augment, privacy=privacy, cadence=cadence,
        verbose=verbose,
    )  # fmt: skip
    resume = fields.fit(resume, bool, name="resume")
    class_weights = fields.fit(class_weights, Literal["auto", "always", "never"], name="class_weights")
    output = fields.fit(output, Outputs, name="output")
    calibrate = fields.fit(calibrate, bool, name="calibrate")
    refuse_splits(splits)
    if privacy and privacy.examples_per_group is not None:
        splits = limit_groups(splits, privacy.examples_per_group)
    if calibrate and not splits.task.exclusive:
        tasks.refuse(splits.task, "classes", what="calibrate=True", why="leave it out.")
    if privacy and calibrate:
        raise PrivacyError(f"calibrate=True {UNCOVERED}.\n  Leave it out.")
    if privacy and splits.pixel_range.measured:
        low, high = splits.pixel_range[:2]
        raise PrivacyError(
            f"16 bits were scaled by what the training images use, {low} to {high}, which epsilon does not cover.\n"
            "  Give a range of your own: tfkit.load_images(..., pixel_range=(0, 65535)), or (0, 4095) for 12 bits."
        )
    if privacy and (count := np.unique(splits.indices["train"], return_counts=True)[1].max(initial=0)) > 1:
        raise PrivacyError(
            f"An example is {count} times in the training split, as of a rare class that is to count more: epsilon is"
            " that of an example that is there once.\n  Take each once: np.unique(splits.indices['train'])."
        )
    config = {
        "function": "tfkit.fit",
        "data": splits.origin,
        # Of private data nothing that is computed from them stands in the folder: see tfkit.privacy.ledger.
        **({} if privacy else {f"data_{name}": splits.provenance[name] for name in IDENTITY_FIELDS}),
        "global_batch_size": splits.global_batch_size,
        **{name: getattr(stage, name) for name in ("epochs", "seed", "patience")},
        "class_weights": class_weights,
        "augment": repr(augment),
        "calibrate": calibrate,
        "privacy": dataclasses.asdict(privacy) if privacy else None,
    }
    strategy = strategies.strategy(strategy)
    with (
        Run.create(run_dir, config=config, overwrite=not resume) as run,
        run.timed(keep=not privacy) as record_times,
        strategies.join_cluster(strategy, run),
    ):
        run.labels = splits.class_names
        run.versions = {**versions(), "strategy": strategies.describe(strategy)}
        run.provenance = {"data": register(run, splits) if privacy else splits.provenance}
        # Class counts are private: weights from them are refused, if somebody insists, and not noted before.
        when = "never" if privacy and class_weights == "auto" else class_weights
        weights = class_weight(splits, when=when, run=None if privacy else run)
        stage = dataclasses.replace(stage, class_weight=weights)
        trained = train(
            build_model, splits, stage, run=run, strategy=strategy, callbacks=callbacks, output=output
        )
        if run.is_chief:
            evaluate_split = functools.partial(evaluate, trained.model, splits, logits=trained.logits)
            validate = functools.partial(evaluate_split, split="validation")
            options: Any = {"private": bool(privacy), "calibrated": calibrate, "seed": stage.seed}
            evaluation = export.conclude(
                run, trained.model, splits, evaluate_split(), validate, logits=trained.logits, **options
            )
            save(run.path / EVALUATION, evaluation)
            run.record(best(run.history))
            if not privacy:
                run.record({"time/train_seconds": trained.seconds})
            record_times()
            reporting.write_report(run)
    return run


def train(
    build_model: Callable[[], stack.keras.Model],
    splits: Splits,
    stage: Stage,
    *,
    run: Run,
    strategy: str | stack.tf.distribute.Strategy = "auto",
    callbacks: Sequence[stack.keras.callbacks.Callback] = (),
    output: Outputs | None = None,
    plan: Callable[[float], int] | None = None,
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
      plan: is called before the first step of standard training with the seconds that an epoch takes here, see
        `StandardTraining.measure_epoch`, and returns how many epochs are trained: from 0 to those of the stage. In a
        run that goes on it is not called. None: all.

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
    from tfkit.reporting.keras_callbacks import EpochLines, write_graph
    from tfkit.training.checkpoint import Checkpoints, StepSeeds
    from tfkit.training.methods import PrivateTraining, StandardTraining

    callbacks = as_callbacks(callbacks)
    strategy = strategies.strategy(strategy)
    cluster = Replicas(strategy)
    # The stages that came before this one, also when an interrupted run had gone further.
    rows: list[Any] = run.history.to_dict("records")
    old_rows = [*itertools.takewhile(lambda row: row["stage"] != stage.name, rows)]
    method = (PrivateTraining if stage.privacy else StandardTraining)(stage, splits, run=run)
    stack.keras.utils.set_random_seed(stage.seed)
    # Dropout then draws from a tf.random.Generator, which StepSeeds can reset; else from a hidden counter.
    stack.keras.backend.experimental.enable_tf_random_generator()
    timing = timeline.stage(_STAGES.get(stage.name, stage.name), f"Training, stage {stage.name}")
    with timing, strategy.scope(), on_signals() as stop:
        model = make(build_model, splits)
        checkpoints = Checkpoints(run, stage.name, method=method, cluster=cluster, stop=stop)
        digests = {} if output is None else digest_of_model(model)
        checkpoints.restore(model, method.prepare(model, callbacks, strategy=strategy), digests=digests)
        logits = None
        if cluster.replicas > 1 and random_generators(model):
            run.note(
                "Dropout, and whatever else in the model draws by chance, draws on each replica for itself: the weights"
                " are as good as those of another number of replicas, and not the same."
            )
        _build_metrics(model, splits)
        if output is not None:
            logits, assumption = check_on_batch(model, splits, strategy=strategy, output=output)
            if assumption:
                run.note(assumption)
        first, last = checkpoints.epoch, method.last_epoch(checkpoints.epoch)
        if plan is not None and isinstance(method, StandardTraining) and not (first or checkpoints.step):
            with timeline.doing("Measuring what an epoch takes"):
                seconds = method.measure_epoch(model, strategy)
            last = plan(seconds)
        checkpoints.epochs = last
        if checkpoints.finished:
            if output is not None:
                run.say(f"{run.path} holds this training, finished: resume=False would do it again.")
        elif method.weights.exhausted or first == last:
            method.weights.put_back(model)
        else:
            if first or checkpoints.step:
                step = f"step {checkpoints.step + 1} of {method.steps_per_epoch}"
                run.note(f"Resumed {stage.name} at epoch {first + 1} of {last}, {step}.")
            logging = reporting.callbacks(
                run.logdir,
                first_epoch=len(old_rows),
                steps_per_epoch=method.steps_per_epoch,
                examples_per_epoch=None if stage.privacy else len(splits.indices["train"]),
                of_each=cluster.of_each,
                profile=stage.profile and run.is_chief,
            )
            if stage.verbose is None:
                logging.append(EpochLines(run.say, every=10 if stage.privacy else 1))
            own_callbacks = [StepSeeds(stage.seed), *method.callbacks, *logging, method.weights, checkpoints]
            phase("training")
            model.fit(
                method.batches(first, last, strategy, skip=checkpoints.step),
                initial_epoch=first,
                epochs=last,
                steps_per_epoch=method.steps_per_epoch,
                validation_data=validation(strategy, splits),
                validation_steps=splits.evaluation_steps("validation"),
                callbacks=[*own_callbacks, *callbacks],
                verbose=stage.verbose or 0,
            )
            checkpoints.finish()
            phase("working")
        method.conclude(model)
        weights = model.get_weights()
        if stop.requested:
            raise KeyboardInterrupt(f"stopped after {stage.name}")
    rows = [{"stage": stage.name, **row, "epoch": len(old_rows) + row["epoch"]} for row in checkpoints.rows]
    run.write_history([*old_rows, *rows])
    state: Any = method.weights.state if rows else {"epoch": None, "value": stage.start_val_loss}
    if stage.start_val_loss is not None and rows and state["epoch"] is None:
        why = f"no epoch had a validation loss below {stage.start_val_loss:.4f}"
        if stop_reason := method.weights.stop_reason:
            why = f"it began with a validation loss of {stage.start_val_loss:.4f}, and {stop_reason}"
        cost = f"It took {checkpoints.seconds:.0f} s, for {len(rows)} of {last} epochs."
        run.note(f"Stage {stage.name} is undone: {why}. {cost}")
    if strategy is not stack.tf.distribute.get_strategy():
        # What comes after training is the work of one process on one device: an ordinary model serves it.
        # What build_model draws by chance, and the model does not hold as weights, is what it was in training.
        stack.keras.utils.set_random_seed(stage.seed)
        model = make(build_model, splits)
        model.set_weights(weights)
        if cluster.workers > 1 and run.is_chief:
            write_graph(model, run.logdir)
    return Trained(
        model=model,
        rows=rows,
        best_epoch=state["epoch"],
        val_loss=state["value"],
        seconds=checkpoints.seconds,
        logits=logits,
    )


_STAGES = {"train": "fit"}
"""Names of stages in a timeline; time/train_seconds is that of the steps of all of them."""


def _build_metrics(model: stack.keras.Model, splits: Splits) -> None:
    """Make the metrics' variables now: made while `fit` traces its step, they have it traced a second time.

    The optimizer's are made by `training.checkpoint`. A model of several outputs, or of open shapes, is left to Keras.
    """

    outputs: Sequence[Any] = getattr(model, "outputs", None) or []
    if len(outputs) != 1 or not outputs[0].shape[1:].is_fully_defined():
        return
    predictions = stack.tf.zeros([1, *outputs[0].shape[1:]], outputs[0].dtype)
    labels = stack.tf.constant(typed_labels(splits.source.labels[:1]))
    model.compiled_loss.build(predictions)
    model.compiled_metrics.build(predictions, labels)

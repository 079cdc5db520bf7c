"""Train a model of your own into a run folder with its measurements and its SavedModel: tfkit.fit."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tfkit.data.splits import Splits
from tfkit.distribution import strategies
from tfkit.errors import PrivacyError
from tfkit.metrics import Outputs, evaluate
from tfkit.reporting.examples import save
from tfkit.run import EVALUATION, Run
from tfkit.settings import fields
from tfkit.training.loop import train
from tfkit.training.stage import Stage, class_weight
from tfkit.training.validation import refuse_splits

if TYPE_CHECKING:
    from tfkit.data.augment import Augmentation
    from tfkit.environment.stack import keras, tf
    from tfkit.privacy.plan import DPSGD
    from tfkit.training.stage import Cadence


def fit(
    build_model: Callable[[], keras.Model],
    splits: Splits,
    *,
    run_dir: str | Path,
    epochs: int,
    strategy: str | tf.distribute.Strategy = "auto",
    resume: bool = True,
    seed: int = 0,
    patience: int | None = None,
    class_weights: Literal["auto", "always", "never"] = "auto",
    augment: Augmentation | None = None,
    privacy: DPSGD | None = None,
    cadence: Cadence | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int | None = None,
    output: Outputs = "auto",
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
      verbose: Keras's own.
      output: what the model gives, "probabilities" or "logits", where neither its last layer nor its loss shows it.

    Returns:
      The run, closed: metrics, history, model.

    Raises:
      PrivacyError: among others, 16-bit images that were scaled by what they use.
      UsageError: before the first step, and before privacy is spent: what `fit`, the evaluation or the export would
        fail at. The model is tried on a batch for that.
      DataError: a private run was begun in that folder on other data, or they cannot be told; see
        `tfkit.privacy.ledger`.
      RunError: the folder is in use, or of another call; what a private training spent is not known any more.

    Example:
      run = tfkit.fit(build_model, tfkit.load_images("digits", image_size=32), run_dir="runs/mine", epochs=5)
      run.metrics["test/accuracy"]
    """
    from tfkit.distribution.replicas import Replicas
    from tfkit.environment.packages import versions
    from tfkit.privacy.ledger import register
    from tfkit.training import export

    began = time.monotonic()
    stage = Stage(
        epochs=epochs, seed=seed, patience=patience, augment=augment, privacy=privacy, cadence=cadence,
        verbose=verbose,
    )  # fmt: skip
    resume = fields.fit(resume, bool, name="resume")
    class_weights = fields.fit(class_weights, Literal["auto", "always", "never"], name="class_weights")
    output = fields.fit(output, Outputs, name="output")
    refuse_splits(splits)
    if privacy and splits.pixel_range.measured:
        low, high = splits.pixel_range[:2]
        raise PrivacyError(
            f"16 bits were scaled by what the training images use, {low} to {high}, which epsilon does not cover.\n"
            "  Give a range of your own: tfkit.load_images(..., pixel_range=(0, 65535)), or (0, 4095) for 12 bits."
        )
    config = {
        "function": "tfkit.fit",
        "data": splits.origin,
        # Of private data nothing that is computed from them stands in the folder: see tfkit.privacy.ledger.
        **({} if privacy else {"data_fingerprint": splits.source.fingerprint}),
        "global_batch_size": splits.global_batch_size,
        "epochs": stage.epochs,
        "seed": stage.seed,
        "patience": stage.patience,
        "class_weights": class_weights,
        "augment": repr(augment),
        "privacy": dataclasses.asdict(privacy) if privacy else None,
    }
    chosen = strategies.strategy(strategy)
    with Run.create(run_dir, config=config, overwrite=not resume) as run:
        run.labels = splits.class_names
        run.versions = versions()
        run.provenance = {"data": register(run, splits) if privacy else splits.provenance}
        # Class counts are private: weights from them are refused, if somebody insists, and not noted before.
        weights = "never" if privacy and class_weights == "auto" else class_weights
        chosen_weights = class_weight(splits, when=weights, run=None if privacy else run)
        stage = dataclasses.replace(stage, class_weight=chosen_weights)
        trained = train(
            build_model, splits, stage, run=run, strategy=chosen, callbacks=callbacks, output=output
        )
        if run.is_chief:
            measured = evaluate(trained.model, splits, logits=trained.logits)
            measured = measured.numbered() if privacy else measured
            run.record(measured.metrics("test"))
            save(run.path / EVALUATION, measured)
            run.record(export.save(trained.model, run, splits, evaluation=measured, logits=trained.logits))
            run.record(
                {"time/train_seconds": trained.seconds, "time/total_seconds": time.monotonic() - began}
            )
        Replicas(chosen).barrier()
    return run

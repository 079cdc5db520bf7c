"""fit: a model of your own in, a run folder with its measurements and its SavedModel out."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tfkit import distribute, predictions
from tfkit import run as runs
from tfkit.data import Splits
from tfkit.exhibits import save
from tfkit.run import Run
from tfkit.training import class_weight, train

if TYPE_CHECKING:
    from tfkit.backup import Cadence
    from tfkit.data import Augmentation
    from tfkit.privacy import DPSGD
    from tfkit.stack import keras, tf


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
    class_weights: str = "auto",
    augment: Augmentation | None = None,
    privacy: DPSGD | None = None,
    cadence: Cadence | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int | None = None,
) -> Run:
    """Train your own compiled tf_keras model and get a run folder with its measurements and its SavedModel.

    Args:
      build_model: returns a compiled model whose output is [batch, classes]; called in the strategy's scope.
      splits: see `tfkit.load_images` and `tfkit.from_arrays`.
      run_dir: the folder; a run that was interrupted there goes on.
      epochs: at most so many.
      strategy: a name, see `tfkit.distribute.strategy`, or a tf.distribute strategy. Of several workers each calls
        this, the chief writes the folder, and all read it in the end.
      resume: whether to go on with what an interrupted run left; False begins anew.
      seed: of initial weights, order, augmentation and dropout.
      patience: epochs without a lower validation loss after which training stops.
      class_weights: `auto` (when the largest class has over 3 times the examples of the smallest),
        `always` or `never`.
      augment: see `tfkit.data.Augmentation`.
      privacy: train with differential privacy, with whatever optimizer is compiled; see `tfkit.privacy.DPSGD`.
        The batch size of `splits` is then the expected one of the samples.
      cadence: when it is saved on the way; see `tfkit.backup.Cadence`.
      callbacks: stock Keras callbacks of your own.
      verbose: Keras's own.

    Returns:
      The run, closed: metrics, history, model.

    Raises:
      DataError: a private run was begun in that folder on other data, or they cannot be told; see
        `tfkit.privacy.owner`.
      RunError: the folder is in use, or of another call; what a private training spent is not known any more.

    Example:
      run = tfkit.fit(build_model, tfkit.load_images("digits", image_size=32), run_dir="runs/mine", epochs=5)
      run.metrics["test/accuracy"]
    """
    from tfkit import export, stack
    from tfkit.distribute.together import Together
    from tfkit.privacy import owner

    began = time.monotonic()
    config = {
        "function": "tfkit.fit",
        "data": splits.origin,
        # Of private data nothing that is computed from them stands in the folder: see tfkit.privacy.owner.
        **({} if privacy else {"data_fingerprint": splits.source.fingerprint}),
        "global_batch_size": splits.global_batch_size,
        "epochs": epochs,
        "seed": seed,
        "patience": patience,
        "class_weights": class_weights,
        "augment": repr(augment),
        "privacy": dataclasses.asdict(privacy) if privacy else None,
    }
    chosen = distribute.strategy(strategy)
    with Run.create(run_dir, config=config, overwrite=not resume) as run:
        run.labels = splits.class_names
        run.versions = stack.versions()
        run.provenance = {"data": owner.register(run, splits) if privacy else splits.provenance}
        # Class counts are private: weights from them are refused, if somebody insists, and not noted before.
        weights = "never" if privacy and class_weights == "auto" else class_weights
        trained = train(
            build_model, splits, run=run, epochs=epochs, strategy=chosen, seed=seed, patience=patience,
            class_weight=class_weight(splits, when=weights, run=None if privacy else run),
            augment=augment, privacy=privacy, cadence=cadence, callbacks=callbacks, verbose=verbose,
        )  # fmt: skip
        if run.is_chief:
            measured = predictions.evaluate(trained.model, splits)
            measured = measured.numbered() if privacy else measured
            run.record(measured.metrics("test"))
            save(run.path / runs.EVALUATION, measured)
            run.record(export.save(trained.model, run, splits, evaluation=measured))
            run.record(
                {"time/train_seconds": trained.seconds, "time/total_seconds": time.monotonic() - began}
            )
        Together(chosen).barrier()
    return run

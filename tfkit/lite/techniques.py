"""Techniques on a run's model: trained one after the other, each in a folder of its own, so that it can be resumed."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfkit import process, training
from tfkit.compress import Cluster, Prune, QuantizeAware, Stage
from tfkit.compress.preflight import sentence
from tfkit.lite import representative
from tfkit.lite.config import MADE_OF, CompressConfig, check_technique
from tfkit.lite.recipe import Trained
from tfkit.lite.source import pixel_function
from tfkit.run import Run
from tfkit.transfer import models

if TYPE_CHECKING:
    from tfkit.data import Splits
    from tfkit.stack import keras

RANGED = 64
EPOCHS = {"prune": 20, "cluster": 5, "qat": 5}


def stages(technique: str, config: CompressConfig, *, examples: Any = None) -> list[Stage]:
    """What "prune+cluster+qat" consists of: each keeps what those before it did.

    Args:
      technique: its parts, joined by "+".
      config: of the parts.
      examples: a batch of inputs, by which the ranges of qat begin.
    """
    parts = check_technique(technique)
    made: list[Stage] = []
    for part in parts:
        if part == "prune":
            made.append(
                Prune(
                    final_sparsity=config.final_sparsity,
                    schedule=config.pruning_schedule,
                    structure=config.sparsity_structure,
                )
            )
        elif part == "cluster":
            made.append(
                Cluster(number_of_clusters=config.number_of_clusters, preserve_sparsity="prune" in parts)
            )
        else:
            made.append(
                QuantizeAware(
                    preserve_sparsity="prune" in parts,
                    preserve_clusters="cluster" in parts,
                    examples=examples,
                )
            )
    return made


def train(
    run: Run, folder: Path, model: keras.Model, splits: Splits, config: CompressConfig, *, batch_size: int
) -> list[Trained]:
    """Train all techniques that are asked for.

    Args:
      run: is told what was decided.
      folder: gets one folder for each training; a finished one is not trained again.
      model: flat, of images in [0, 1], to logits.
      splits: that it was trained on.
      config: which techniques.
      batch_size: of training.

    Raises:
      UsageError: a technique cannot take the model; all layers are looked at before any training.
      CheckError: training did not do what was asked for.
    """
    examples = representative.from_splits(splits, count=RANGED, seed=config.seed) / np.float32(255)
    chains = {technique: stages(technique, config, examples=examples) for technique in config.techniques}
    for chain in chains.values():
        for stage in chain:
            run.note(sentence(stage.treatments(model), technique=stage.name))
    if any("cluster" in technique and "qat" in technique for technique in chains):
        run.note(
            "Keras will warn that gradients of kernels do not exist in cluster+qat: their centroids have them, and"
            " that the kernels change is measured."
        )
    done: dict[str, tuple[keras.Model, list[str]]] = {}
    trained = []
    for technique, chain in chains.items():
        current, said, name = model, list[str](), ""
        for stage, part in zip(chain, technique.split("+"), strict=True):
            name = f"{name}+{stage.name}" if name else stage.name
            if name not in done:
                made, measured = _train(
                    folder / name, stage, current, splits, config, part=part, batch_size=batch_size
                )
                found = ", ".join(f"{what} {value:.4g}" for what, value in measured.items())
                run.note(f"{name} is trained: {found}.")
                done[name] = (made, [*said, f"{stage.name}: {found}"])
            current, said = done[name]
        wanted = MADE_OF["qat" if technique.endswith("qat") else "others"]
        trained.append(
            Trained(
                technique=name,
                model=pixel_function(
                    functools.partial(current, training=False), keep=current.variables, softmax=True
                ),
                quantizations=[one for one in wanted if one in config.variants],
                notes=said,
            )
        )
    return trained


def _train(
    folder: Path,
    stage: Stage,
    model: keras.Model,
    splits: Splits,
    config: CompressConfig,
    *,
    part: str,
    batch_size: int,
) -> tuple[keras.Model, dict[str, float]]:
    epochs = config.epochs or EPOCHS[part]
    own = splits.replace(global_batch_size=batch_size)
    steps = epochs * own.steps_per_epoch

    def build() -> Any:
        from tfkit.stack import keras

        schedule = models.schedule(config.learning_rate, steps=steps)
        return models.compiled(stage.wrap(model, steps=steps), keras.optimizers.Adam(schedule))

    asked = {
        "technique": folder.name,
        "stage": repr(stage),
        "epochs": epochs,
        "learning_rate": config.learning_rate,
        "global_batch_size": batch_size,
        "seed": config.seed,
        "data": splits.source.fingerprint,
    }
    from tfkit.tensorboard.kernels import Kernels

    process.say(f"Training {folder.name}: {epochs} epochs of {own.steps_per_epoch} steps ...")
    with Run.create(folder, config=asked, overwrite=_differs(folder, asked)) as run:
        trained = training.train(
            build, own, run=run, epochs=epochs, stage="train", strategy="one_device", seed=config.seed,
            keep="last", callbacks=[*stage.callbacks(), Kernels(run.logdir)],
        )  # fmt: skip
    made = stage.strip(trained.model)
    return made, stage.measure(model, made)


def _differs(folder: Path, asked: dict[str, Any]) -> bool:
    """Whether an earlier training in the folder was of other settings: it is then replaced."""
    return (folder / "config.yaml").is_file() and Run.open(folder).config != asked

"""What a run shows in TensorBoard: callbacks during training, summaries after it.

    tensorboard --logdir runs/photos/logs

Where things are, whatever the recipe: `train` and `validation` hold the scalars (and the trace of `--profile`), `graph`
the models, `images`, `texts` and `test` the examples, curves and matrices, `lite` the variants of compress_tflite,
`weights` the kernels of a model that is pruned; the root holds the hparams with the best, last and test numbers, the
layout of the custom scalars, the privacy statement, and the Projector's points. `tensorboard --logdir runs` compares
runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tfkit.tensorboard.layout import write_layout
from tfkit.tensorboard.notebook import notebook
from tfkit.tensorboard.projector import write_projector
from tfkit.tensorboard.roc import write_roc
from tfkit.tensorboard.summaries import best, write_confusion, write_hparams, write_images, write_pr_curves
from tfkit.tensorboard.text_summaries import write_lengths, write_statement, write_texts

if TYPE_CHECKING:
    from tfkit.stack import keras

GRAPH = "graph"
"""The folder of the models' graphs, below the logs."""

__all__ = [
    "GRAPH",
    "best",
    "callbacks",
    "notebook",
    "write_confusion",
    "write_hparams",
    "write_images",
    "write_layout",
    "write_lengths",
    "write_pr_curves",
    "write_projector",
    "write_roc",
    "write_statement",
    "write_texts",
]


def callbacks(
    logdir: Path,
    *,
    first_epoch: int = 0,
    steps_per_epoch: int,
    examples_per_epoch: int,
    stage: str = "train",
    of_each: Callable[[float], Sequence[float]] | None = None,
    profile: bool = False,
) -> list[keras.callbacks.Callback]:
    """Keras callbacks that log one stage of a training.

    They come before callbacks that read the logs: to Keras's own numbers they add `learning_rate` (of the
    epoch's last step), `examples_per_second` and `step_ms`, so that History has them too.

    Args:
      logdir: the folder of the whole run.
      first_epoch: where epoch 0 of this stage stands on the axis: how many epochs earlier stages took.
      steps_per_epoch: batches in a training epoch.
      examples_per_epoch: examples in a training epoch.
      stage: names the model's graph, which is written once, also when the stage is resumed.
      of_each: where several processes train: gives what each of them has, for this one's number. With it the examples
        per second of every worker are logged too.
      profile: whether to trace steps 10 to 20, unless an earlier stage of the run has been traced.

    Returns:
      To be given to one `model.fit`. When fit begins at an `initial_epoch` above 0, TensorBoard forgets what a
      killed process logged of that epoch and of later ones.
    """
    from tfkit.tensorboard.profile import Profile
    from tfkit.tensorboard.training_log import EpochLog, ModelGraph, Speed

    return [
        Speed(steps_per_epoch=steps_per_epoch, examples_per_epoch=examples_per_epoch, of_each=of_each),
        EpochLog(logdir, first_epoch=first_epoch),
        ModelGraph(logdir / GRAPH / stage),
        *([Profile(logdir)] if profile else []),
    ]

"""Pictures, precision-recall curves and hparams of a finished training.

Writing the same thing again replaces it: a run that is killed near its end and resumed shows everything once.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfkit.errors import CheckError
from tfkit.evaluation import Evaluation
from tfkit.tensorboard import figures

# What people compare runs by. Settings are sorted by name in the dashboard, numbers stand as they are written.
FIRST_HPARAMS = (
    "model_handle",
    "image_size",
    "learning_rate",
    "global_batch_size",
    "target_epsilon",
    "epochs",
)
FIRST_METRICS = (
    "test/accuracy",
    "best/val_accuracy",
    "last/val_accuracy",
    "best/val_loss",
    "privacy/epsilon",
)
NOT_COMPARED = ("sha256", "strict")

if TYPE_CHECKING:
    from pandas import DataFrame

THRESHOLDS = 201


def write_images(
    logdir: Path, name: str, images: np.ndarray, *, captions: Sequence[str] | None = None, step: int = 0
) -> None:
    """One picture that shows all these images, each under its caption, in the images dashboard.

    Args:
      logdir: the folder of the whole run.
      name: of the picture, such as "samples" or "worst_mistakes"; one that is there is replaced.
      images: uint8 [k, h, w, 3] or [k, h, w, 1]; for none nothing is written.
      captions: k of them: a class name, or "true → predicted (93 %)" as of `Evaluation.mistake`.
      step: the epoch that they belong to.

    Raises:
      CheckError: another type or shape, or not as many captions as images.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise CheckError(
            f"{name}: images must be uint8 [k, h, w, 3]; found {images.dtype} {list(images.shape)}."
        )
    if captions is not None and len(captions) != len(images):
        raise CheckError(f"{name}: {len(captions)} captions for {len(images)} images.")
    with event_writer(logdir / "images", kind=name) as tf:
        if len(images):
            tf.summary.image(name, figures.pixels(figures.image_grid(images, captions))[None], step=step)


def write_confusion(logdir: Path, evaluation: Evaluation, *, step: int = 0) -> None:
    """The confusion matrix as a picture; beyond 50 classes the pairs that are confused most often.

    Args:
      logdir: of the run.
      evaluation: on the test split.
      step: where it stands on the axis.
    """
    with event_writer(logdir / "test", kind="confusion") as tf:
        tf.summary.image("confusion", figures.pixels(figures.confusion(evaluation))[None], step=step)


def write_pr_curves(logdir: Path, evaluation: Evaluation, *, step: int = 0) -> None:
    """One precision-recall curve for each class that occurs, and one over all, for the PR curves dashboard.

    The one over all counts every (example, class) pair as a yes-or-no question (micro-average).

    Args:
      logdir: of the run.
      evaluation: on the test split.
      step: where it stands on the axis.
    """
    from tensorboard.plugins.pr_curve import summary

    truth = np.eye(len(evaluation.class_names), dtype=bool)[evaluation.labels]
    # TensorBoard sorts what it is given into 201 buckets from 0 to 1; rounding may have left 1.0000001.
    probabilities = np.clip(evaluation.probabilities, 0, 1)
    with event_writer(logdir / "test", kind="pr_curves") as tf:
        protos = [
            summary.pb(
                "pr/all classes", truth.ravel(), probabilities.ravel(), THRESHOLDS, display_name="all classes"
            )
        ]
        for index in map(int, np.flatnonzero(evaluation.counts)):
            name = figures.printable(evaluation.class_names[index])
            # A slash in a tag would open a group of its own in the dashboard.
            tag = f"pr/{index} {name.replace('/', '∕')}"
            protos.append(
                summary.pb(tag, truth[:, index], probabilities[:, index], THRESHOLDS, display_name=name)
            )
        for proto in protos:
            tf.summary.experimental.write_raw_pb(proto.SerializeToString(), step=step)


def write_hparams(logdir: Path, config: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
    """The settings and the final numbers of a run, so that the hparams dashboard compares runs.

    Args:
      logdir: the folder of the whole run; they go to its root, where each run of `tensorboard --logdir runs`
        is one line of the table.
      config: flat names to values; what is not a number, a truth value or a string is written as text, and what was
        left out of the settings (None) is left out here.
      metrics: flat names to numbers, such as "test/accuracy"; those of single classes ("test/recall/cat") and counts of
        examples ("data/...") would fill the table and are left out.

    Raises:
      CheckError: a metric that is not finite.
    """
    if wrong := [name for name, value in metrics.items() if not math.isfinite(value)]:
        raise CheckError(f"Metrics must be finite numbers: {', '.join(wrong)}.")
    from tensorboard.plugins.hparams import api

    hparams = {
        name: value if isinstance(value, bool | int | float) else str(value)
        for name, value in config.items()
        if value not in (None, "", []) and name not in NOT_COMPARED
    }
    metrics = {
        name: value for name, value in metrics.items() if name.count("/") < 2 and not name.startswith("data/")
    }
    with event_writer(logdir, kind="hparams") as tf:
        api.hparams_config(
            # Of several runs the dashboard takes the columns of one: these are in all.
            hparams=[api.HParam(name) for name in dict.fromkeys((*FIRST_HPARAMS, *hparams))],
            metrics=[
                api.Metric(name, display_name=name) for name in dict.fromkeys((*FIRST_METRICS, *metrics))
            ],
        )
        api.hparams(hparams, trial_id="/".join(logdir.absolute().parent.parts[-2:]))
        for name, value in metrics.items():
            tf.summary.scalar(name, value, step=0)


def best(history: DataFrame) -> dict[str, float]:
    """The best and the last validation numbers of a training, for the hparams table and for metrics.json.

    Args:
      history: of a run, a row an epoch, with `val_loss` and perhaps `val_accuracy`.

    Returns:
      "best/epoch" (from 1, of the lowest validation loss), "best/val_loss", "best/val_accuracy" (of that epoch),
      "last/val_loss", "last/val_accuracy"; nothing where there is no validation.
    """
    if "val_loss" not in history or not history["val_loss"].notna().any():
        return {}
    place = int(np.nanargmin(history["val_loss"].to_numpy(float)))
    found = {"best/epoch": float(history["epoch"].iloc[place]) + 1}
    for name in ("val_loss", "val_accuracy"):
        if name in history:
            found |= {
                f"best/{name}": float(history[name].iloc[place]),
                f"last/{name}": float(history[name].iloc[-1]),
            }
    return {name: value for name, value in found.items() if math.isfinite(value)}


@contextlib.contextmanager
def event_writer(folder: Path, *, kind: str) -> Iterator[Any]:
    """TensorFlow, writing into the one event file of this kind in the folder, in place of an earlier one."""
    from tfkit.stack import tf

    suffix = "." + re.sub(r"\W", "_", kind)
    earlier = list(folder.glob(f"events.out.tfevents.*{suffix}"))
    writer = tf.summary.create_file_writer(str(folder), filename_suffix=suffix)
    try:
        with writer.as_default():
            yield tf
    finally:
        writer.close()
    for path in earlier:
        path.unlink()

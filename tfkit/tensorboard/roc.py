"""Receiver operating characteristics: what each threshold finds, and at the price of how many false alarms."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tfkit.evaluation import Evaluation
from tfkit.tensorboard import figures
from tfkit.tensorboard.summaries import event_writer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLASSES = 10
"""Beyond so many classes only those are drawn that are told apart worst."""


def roc(evaluation: Evaluation) -> Figure:
    """One curve a class, against all others; in the legend the area below it, the lowest first."""
    from sklearn.metrics import roc_auc_score, roc_curve

    truth = np.eye(len(evaluation.class_names), dtype=bool)[evaluation.labels]
    # A class of which there is no example, or nothing else, has no curve.
    seen = [int(index) for index in np.flatnonzero((truth.any(axis=0)) & ~(truth.all(axis=0)))]
    areas = {index: roc_auc_score(truth[:, index], evaluation.probabilities[:, index]) for index in seen}
    figure, axes = figures.new_figure(6.4, 4.0)
    axis = axes[0, 0]
    axis.plot([0, 1], [0, 1], color="#999", linewidth=0.8, linestyle=":")
    for index in sorted(areas, key=lambda index: areas[index])[:CLASSES]:
        wrong, right, _ = roc_curve(truth[:, index], evaluation.probabilities[:, index])
        name = figures.printable(evaluation.class_names[index], longest=figures.LABEL_LENGTH)
        # A dollar sign would begin a formula.
        axis.plot(wrong, right, linewidth=1.5, label=f"{name.replace('$', '＄')}  {areas[index]:.3f}")
    axis.set_xlabel("share of the others taken for the class")
    axis.set_ylabel("share of the class that is found")
    axis.grid(color="#ddd", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    if areas:
        title = "area" if len(areas) <= CLASSES else f"area, the lowest of {len(areas)} classes"
        figure.legend(loc="outside right upper", fontsize=8, frameon=False, title=title)
    return figure


def write_roc(logdir: Path, evaluation: Evaluation, *, step: int = 0) -> None:
    """The curves as a picture in the images dashboard, under `test`; an earlier one is replaced.

    Args:
      logdir: of the run.
      evaluation: on the test split.
      step: where it stands on the axis.
    """
    with event_writer(logdir / "test", kind="roc") as tf:
        tf.summary.image("roc", figures.pixels(roc(evaluation))[None], step=step)

"""Pictures of an audit: how well attackers tell members from others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from tfkit.tensorboard import figures
from tfkit.tensorboard.summaries import event_writer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BINS = 40


class Attacked(Protocol):
    """What is drawn of an attack; see `tfkit.audit.Attack`."""

    @property
    def name(self) -> str:
        """Of the attacker."""

    @property
    def members(self) -> np.ndarray:
        """Scores [n] of training examples."""

    @property
    def others(self) -> np.ndarray:
        """Scores [m] of other examples."""

    @property
    def auc(self) -> float:
        """Probability that a member's score is above another's."""

    @property
    def roc(self) -> tuple[np.ndarray, np.ndarray]:
        """False and true positive rates."""


def roc(attacks: Sequence[Attacked]) -> Figure:
    """Receiver operating characteristics of all attackers; the diagonal is a coin."""
    figure, axes = figures.new_figure(4.6, 4.4)
    axis = axes[0, 0]
    axis.plot([0, 1], [0, 1], color="0.7", linestyle="--", label="a coin")
    for attack in attacks:
        axis.plot(*attack.roc, label=f"{attack.name} (AUC {attack.auc:.3f})")
    axis.set_xlabel("others taken for members")
    axis.set_ylabel("members found")
    axis.set_aspect("equal")
    axis.legend(loc="lower right", fontsize=9)
    return figure


def histogram(attack: Attacked) -> Figure:
    """The scores of members and of others."""
    figure, axes = figures.new_figure(5.0, 3.2)
    axis = axes[0, 0]
    both = np.concatenate([attack.members, attack.others])
    low, high = np.quantile(both, [0.005, 0.995])
    edges = np.linspace(low, high, BINS + 1)
    if low < high:
        for name, scores in (("members", attack.members), ("others", attack.others)):
            axis.hist(np.clip(scores, low, high), edges, alpha=0.55, label=name)
        axis.legend(fontsize=9)
    axis.set_xlabel(f"score of the {attack.name} attacker: larger looks like a member")
    axis.set_ylabel("examples")
    return figure


def write_audit(logdir: Path, attacks: Sequence[Attacked]) -> None:
    """ROC and histograms in the images dashboard, under `audit`; earlier ones are replaced."""
    pictures = {"roc": roc(attacks), **{f"scores_{attack.name}": histogram(attack) for attack in attacks}}
    with event_writer(logdir / "audit", kind="audit") as tf:
        for name, figure in pictures.items():
            tf.summary.image(name, figures.pixels(figure)[None], step=0)

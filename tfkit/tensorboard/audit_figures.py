"""Pictures of an audit: how well attackers tell members from others; drawn from what audit.json holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfkit.tensorboard import figures
from tfkit.tensorboard.summaries import event_writer

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def roc(attacks: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Receiver operating characteristics of all attackers; the diagonal is a coin.

    Args:
      attacks: name to what is known of it: `auc`, and `roc` with its rates `false` and `true`.
    """
    figure, axes = figures.new_figure(4.6, 4.4)
    axis = axes[0, 0]
    axis.plot([0, 1], [0, 1], color="0.7", linestyle="--", label="a coin")
    for name, attack in attacks.items():
        label = f"{_name(name)} (AUC {attack['auc']:.3f})"
        axis.plot(attack["roc"]["false"], attack["roc"]["true"], label=label)
    axis.set_xlabel("others taken for members")
    axis.set_ylabel("members found")
    axis.set_aspect("equal")
    axis.legend(loc="lower right", fontsize=9)
    return figure


def histogram(name: str, attack: Mapping[str, Any]) -> Figure:
    """The scores of members and of others.

    Args:
      name: of the attacker.
      attack: its `histogram`: `edges` [k + 1], and the counts of `members` and `others` [k].
    """
    figure, axes = figures.new_figure(5.0, 3.2)
    axis = axes[0, 0]
    counts = attack["histogram"]
    for group in ("members", "others"):
        axis.stairs(counts[group], counts["edges"], fill=True, alpha=0.55, label=group)
    axis.legend(fontsize=9)
    axis.set_xlabel(f"score of the {_name(name)} attacker: larger looks like a member")
    axis.set_ylabel("examples")
    return figure


def write_audit(logdir: Path, attacks: Mapping[str, Mapping[str, Any]]) -> None:
    """ROC and histograms in the images dashboard, under `audit`; earlier ones are replaced."""
    pictures = {
        "roc": roc(attacks),
        **{f"scores_{name}": histogram(name, attack) for name, attack in attacks.items()},
    }
    with event_writer(logdir / "audit", kind="audit") as tf:
        for name, figure in pictures.items():
            tf.summary.image(name, figures.pixels(figure)[None], step=0)


def _name(name: str) -> str:
    # A dollar sign would begin a formula.
    return figures.printable(name, longest=figures.LABEL_LENGTH).replace("$", "＄")

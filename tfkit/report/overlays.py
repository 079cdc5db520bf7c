"""Curves of several runs in one figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tfkit.report import words
from tfkit.report.facts import Facts
from tfkit.report.pictures import svg
from tfkit.tensorboard import figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_DRAWN = 12
PANELS = {
    "validation accuracy": "val_accuracy",
    "validation loss": "val_loss",
    "training loss": "loss",
    "epsilon": "epsilon",
}
# Told apart by colour, by line, and in grey print.
COLOURS = ("#1f5fae", "#b8560f", "#2b7a3b", "#8a3a94")
LINES = ("-", "--", ":")


def overlaid(named: Sequence[tuple[str, Facts]]) -> list[Any]:
    """An SVG for each measurement that at least one run's history holds; the first 12 runs are drawn."""
    shown = []
    for place, (title, column) in enumerate(PANELS.items()):
        lines = {
            name: ((facts.history["epoch"] + 1).tolist(), facts.history[column].tolist())
            for name, facts in named[:MOST_DRAWN]
            if column in facts.history and facts.history[column].notna().any()
        }
        if lines:
            last = "; ".join(f"{name} {words.number(values[-1])}" for name, (_, values) in lines.items())
            alt = f"{title} over the epochs. In the last one: {last}"
            shown.append(svg(_figure(title, lines), alt=alt, prefix=f"overlay{place}-"))
    return shown


def _figure(title: str, lines: dict[str, tuple[list[float], list[float]]]) -> Figure:
    from matplotlib.ticker import MaxNLocator

    figure, axes = figures.new_figure(5.2, 3.2 + 0.2 * len(lines))
    axis = axes[0, 0]
    for place, (name, (epochs, values)) in enumerate(lines.items()):
        label = figures.printable(name, longest=2 * figures.LABEL_LENGTH).replace("$", "＄")
        axis.plot(
            epochs, values, color=COLOURS[place % len(COLOURS)], linestyle=LINES[place // len(COLOURS) % 3],
            marker="o", markersize=3, linewidth=1.5, label=f" {label}" if label.startswith("_") else label,
        )  # fmt: skip
    axis.set_xlabel("epoch")
    axis.set_ylabel(title)
    axis.grid(color="#ddd", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside lower center", frameon=False, fontsize=8)
    return figure

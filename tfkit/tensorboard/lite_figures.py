"""Pictures of TFLite variants: size, latency and accuracy against each other; drawn from what variants.json holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfkit.tensorboard import figures
from tfkit.tensorboard.summaries import event_writer

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def pareto(content: Mapping[str, Any]) -> Figure:
    """Accuracy over size and over latency; ringed: no other is at least as good in all three.

    Args:
      content: of variants.json; without labels the agreement with the original stands for accuracy.
    """
    variants = content["variants"]
    known = all(variant["accuracy"] is not None for variant in variants)
    quality = "accuracy" if known else "agreement"
    figure, axes = figures.new_figure(9.0, 3.8, 1, 2)
    sizes = [variant["size_bytes"] / 1e6 for variant in variants]
    _scatter(axes[0, 0], variants, sizes, quality, "size, MB", content["chosen"])
    timed = [variant for variant in variants if variant["latency_ms"].get("1")]
    latencies = [variant["latency_ms"]["1"]["p50"] for variant in timed]
    _scatter(axes[0, 1], timed, latencies, quality, "milliseconds on one thread", content["chosen"])
    return figure


def write_variants(logdir: Path, content: Mapping[str, Any]) -> None:
    """The picture in the images dashboard, under `lite`; an earlier one is replaced."""
    with event_writer(logdir / "lite", kind="lite") as tf:
        tf.summary.image("pareto", figures.pixels(pareto(content))[None], step=0)


def _scatter(
    axis: Axes, variants: Sequence[Any], x: Sequence[float], quality: str, label: str, chosen: str | None
) -> None:
    for place, (variant, across) in enumerate(zip(variants, x, strict=True)):
        up = variant[quality]
        colour = "C1" if variant["name"] == chosen else "C0"
        axis.scatter([across], [up], color=colour, zorder=3)
        if variant["pareto"]:
            axis.scatter([across], [up], s=120, facecolors="none", edgecolors=colour)
        name = figures.printable(variant["name"], longest=figures.LABEL_LENGTH)
        # Neighbours have their names above and below.
        axis.annotate(
            name.replace("$", "＄"),
            (across, up),
            xytext=(5, 7 if place % 2 else -12),
            textcoords="offset points",
            fontsize=7,
        )
    axis.set_xlabel(label)
    axis.set_ylabel(quality)
    axis.margins(x=0.25, y=0.2)
    axis.grid(color="#ddd", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)

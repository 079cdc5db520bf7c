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
    """Accuracy (or what stands for it) over size and over latency; ringed: no other is at least as good in all three.

    Args:
      content: of variants.json; of real values R2 is drawn. Without labels the agreement with the original is.
    """
    variants = content["variants"]
    known = [name for name in ("accuracy", "r2") if all(one.get(name) is not None for one in variants)]
    quality = known[0] if known else "agreement"
    figure, axes = figures.new_figure(11.0, 4.0, 1, 2)
    sizes = [variant["size_bytes"] / 1e6 for variant in variants]
    _scatter(axes[0, 0], variants, sizes, quality, "size, MB", content["chosen"])
    latencies = [variant["latency_ms"].get("1", {}).get("p50", float("nan")) for variant in variants]
    _scatter(axes[0, 1], variants, latencies, quality, "milliseconds on one thread", content["chosen"])
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right upper", fontsize=8, frameon=False)
    return figure


def write_variants(logdir: Path, content: Mapping[str, Any]) -> None:
    """The picture in the images dashboard, under `lite`; an earlier one is replaced."""
    with event_writer(logdir / "lite", kind="lite") as tf:
        tf.summary.image("pareto", figures.pixels(pareto(content))[None], step=0)


def _scatter(
    axis: Axes, variants: Sequence[Any], x: Sequence[float], quality: str, label: str, chosen: str | None
) -> None:
    for place, (variant, across) in enumerate(zip(variants, x, strict=True)):
        name = figures.printable(variant["name"], longest=figures.LABEL_LENGTH).replace("$", "＄")
        marker = "*" if variant["name"] == chosen else "osD^v<>pPX"[place // 10 % 10]
        colour = f"C{place % 10}"
        axis.scatter(
            [across], [variant[quality]], color=colour, marker=marker, s=110 if marker == "*" else 45, zorder=3,
            label=name + (" (chosen)" if marker == "*" else ""),
        )  # fmt: skip
        if variant["pareto"]:
            axis.scatter([across], [variant[quality]], s=220, facecolors="none", edgecolors=colour)
    axis.set_xlabel(label)
    axis.set_ylabel("R2" if quality == "r2" else quality)
    axis.margins(x=0.1, y=0.15)
    axis.grid(color="#ddd", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)

"""The custom scalars dashboard: the curves that belong together, in one chart each, whatever the job."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tfkit.reporting.tensorboard import event_writer

if TYPE_CHECKING:
    from tensorboard.plugins.custom_scalar import layout_pb2

# Category to its charts; a chart is a title and the tags of its lines, as regular expressions.
_TRAINING = (
    ("loss", ("^epoch_loss$",)),
    ("accuracy", ("^epoch_accuracy$",)),
    ("learning rate", ("^epoch_learning_rate$",)),
)
_SPEED = (
    ("examples per second", ("^epoch_examples_per_second$",)),
    ("milliseconds of a step", ("^epoch_step_ms$",)),
)
_WORKERS = (("examples per second of each worker", (r"^epoch_worker_\d+_examples_per_second$",)),)
_PRIVACY = (
    ("epsilon spent", ("^epoch_epsilon$",)),
    ("length that gradients are cut to", ("^epoch_l2_norm_clip$",)),
)
SPARSITY = "sparsity"
"""The tag of the share of zeros in the kernels."""


def write_layout(logdir: Path, measured: Iterable[str]) -> None:
    """Say which charts the custom scalars dashboard has for this run: those of what was measured, and no others.

    Args:
      logdir: the folder of the whole run.
      measured: names of what was logged for each epoch ("loss", "epsilon", "worker_0_examples_per_second"), and
        "sparsity".
    """
    names = {name.removeprefix("val_") for name in measured}
    chosen = [
        ("Training", [chart for chart in _TRAINING if _tag(chart) in names]),
        ("Privacy", [chart for chart in _PRIVACY if _tag(chart) in names]),
        ("Sparsity", [("share of zeros in the kernels", (f"^{SPARSITY}$",))] if SPARSITY in names else []),
        ("Speed", [chart for chart in _SPEED if _tag(chart) in names]),
        ("Workers", [*_WORKERS] if any(name.startswith("worker_") for name in names) else []),
    ]
    from tensorboard.plugins.custom_scalar import layout_pb2, summary

    categories = [
        layout_pb2.Category(title=title, chart=[_chart(*chart) for chart in charts])
        for title, charts in chosen
        if charts
    ]
    with event_writer(logdir, kind="layout") as tf:
        if categories:
            layout = summary.pb(layout_pb2.Layout(category=categories))
            tf.summary.experimental.write_raw_pb(layout.SerializeToString(), step=0)


def _tag(chart: tuple[str, Sequence[str]]) -> str:
    return chart[1][0].strip("^$").removeprefix("epoch_")


def _chart(title: str, tags: Sequence[str]) -> layout_pb2.Chart:
    from tensorboard.plugins.custom_scalar import layout_pb2

    return layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=tags))

"""Draw the figures of a run, for TensorBoard as pixels and for the report as SVG.

Class names and file names are strangers' text: they are drawn as they are, never read as markup.
"""

from __future__ import annotations

import contextlib
import textwrap
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tfkit import calibration
from tfkit.calibration import with_temperature
from tfkit.data.splits import draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from tfkit.metrics import Evaluation

MATRIX_CLASSES = 50
COUNTED_CLASSES = 25
CONFUSED_PAIRS = 30
CURVED_CLASSES = 10
"""Beyond so many classes only those have a ROC curve that are told apart worst."""

LABEL_LENGTH = 24
CAPTION_WIDTH = 22
# Unicode's controls of writing direction can make a name look like another one.
_DIRECTION_CONTROLS = {*map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A))}


def printable(text: str, *, longest: int | None = None) -> str:
    """Return a stranger's text on one line: no control characters, no broken UTF-8, cut in the middle where too long.

    Example:
      >>> printable("tab\\there, bell\\x07", longest=12)
      'tab h… bell�'
    """

    controls = {c for c in text if unicodedata.category(c) in ("Cc", "Cs") or c in _DIRECTION_CONTROLS}
    line = "".join("�" if c in controls else c for c in " ".join(text.split()))
    if longest is not None and len(line) > longest:
        line = line[: (longest - 1) // 2] + "…" + line[-(longest // 2) :]
    return line


def label(text: str, *, longest: int = LABEL_LENGTH) -> str:
    """Return a stranger's text for a legend, where a dollar sign would begin a formula and "_" hide the line."""
    line = printable(text, longest=longest).replace("$", "＄")
    return f" {line}" if line.startswith("_") else line


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Let text stay text in SVG, and what a font lacks show as a box without a warning a glyph."""
    import matplotlib as mpl

    with mpl.rc_context({"svg.fonttype": "none", "font.family": "sans-serif"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        yield


def pixels(figure: Figure) -> np.ndarray:
    """Return the figure as uint8 [h, w, 3]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    with drawing():
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def new_figure(
    width: float, height: float, rows: int = 1, columns: int = 1, *, layout: Any = "constrained"
) -> tuple[Figure, Any]:
    """Return a figure outside of pyplot, which keeps figures alive and picks a backend for a screen, and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout=layout)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _make_chart(width: float, height: float, x: str, y: str) -> tuple[Figure, Axes]:
    """Return a figure of one pair of axes, with their names and a grid."""
    figure, axes = new_figure(width, height)
    _style(axes[0, 0], x, y)
    return figure, axes[0, 0]


def _style(axis: Axes, x: str, y: str) -> None:
    axis.set(xlabel=x, ylabel=y)
    axis.grid(color="#ddd", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)


def image_grid(images: np.ndarray, captions: Sequence[str] | None = None) -> Figure:
    """Draw images in rows of four, each under its caption.

    Args:
      images: uint8 [k, h, w, 3] or [k, h, w, 1], k at least 1.
      captions: k of them.
    """
    columns = min(4, len(images))
    rows = -(-len(images) // columns)
    height = 2.6 if captions else 2.1  # inches of a row: an image, its margins, three lines
    figure, axes = new_figure(2.2 * columns, height * rows, layout="none")
    # All on one pair of axes, in inches: a pair for each image would take as long as all other figures together.
    axis = axes[0, 0]
    axis.set_position((0, 0, 1, 1))
    axis.set_axis_off()
    dy, dx = (side / max(images.shape[1:3]) for side in images.shape[1:3])
    for index, image in enumerate(images):
        x, y = 2.2 * (index % columns + 0.5), -height * (index // columns + 1) + 0.05
        extent = (x - dx, x + dx, y, y + 2 * dy)
        # Small images are shown pixel by pixel: smoothing would invent what the model never saw.
        style: Any = {"cmap": "gray", "vmin": 0, "vmax": 255, "extent": extent, "aspect": "auto"}
        axis.imshow(image.squeeze(), interpolation="nearest", **style)
        if captions:
            # Matplotlib's own wrapping reads "$" as the beginning of a formula whatever parse_math says.
            caption = textwrap.fill(printable(captions[index]), CAPTION_WIDTH, max_lines=3, placeholder="…")
            axis.text(x, y + 2 * dy + 0.04, caption, ha="center", va="bottom", fontsize=9, parse_math=False)
    axis.set(xlim=(0, 2.2 * columns), ylim=(-height * rows, 0))
    return figure


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Lay a heat map over an image in grey: dark where it is 0, yellow where it is 1.

    Args:
      image: uint8 [h, w, 3].
      heat: float [h, w] in [0, 1].

    Returns:
      uint8 [h, w, 3].
    """
    import matplotlib as mpl

    grey = image.mean(axis=-1, keepdims=True)
    return np.rint(0.4 * grey + 0.6 * 255 * mpl.colormaps["inferno"](heat)[..., :3]).astype(np.uint8)


def confusion(evaluation: Evaluation) -> Figure:
    """Draw the confusion matrix, or for more than 50 classes the pairs that are confused most often."""
    if len(evaluation.class_names) > MATRIX_CLASSES:
        return _draw_pairs(evaluation)
    counts, classes = evaluation.confusion, len(evaluation.class_names)
    side = min(max(4.0, 1.6 + 0.42 * classes), 14.0)
    figure, axes = new_figure(side, side)
    axis = axes[0, 0]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    names = [printable(name, longest=LABEL_LENGTH) for name in evaluation.class_names]
    size = 9 if classes <= COUNTED_CLASSES else 7
    rotation = 0 if max(map(len, names)) <= 2 else 90
    axis.set_xticks(range(classes), names, rotation=rotation, fontsize=size, parse_math=False)
    axis.set_yticks(range(classes), names, fontsize=size, parse_math=False)
    axis.set(xlabel="predicted", ylabel="true")
    for row, column in np.argwhere(counts):
        # Beyond that a matrix of numbers is a grey carpet: only the mistakes are counted in it.
        if classes <= COUNTED_CLASSES or row != column:
            colour, text = "white" if shares[row, column] > 0.55 else "black", str(counts[row, column])
            axis.text(column, row, text, ha="center", va="center", color=colour, fontsize=size - 1)
    return figure


def confused_pairs(evaluation: Evaluation, most: int = CONFUSED_PAIRS) -> list[tuple[str, str, int]]:
    """Return (true class, predicted class, how often), the most frequent mistakes first."""
    mistakes = evaluation.confusion - np.diag(evaluation.confusion.diagonal())
    names = evaluation.class_names
    cells = sorted(np.argwhere(mistakes), key=lambda pair: -mistakes[tuple(pair)])[:most]
    return [(names[row], names[column], int(mistakes[row, column])) for row, column in cells]


def _draw_pairs(evaluation: Evaluation) -> Figure:
    pairs = confused_pairs(evaluation)
    words = f"examples (the {len(pairs)} most confused pairs of {len(evaluation.class_names)} classes)"
    figure, axis = _make_chart(7, 1.2 + 0.25 * len(pairs), words, "")
    names = [" → ".join(printable(name, longest=LABEL_LENGTH) for name in pair[:2]) for pair in pairs]
    axis.barh(range(len(pairs)), [count for *_, count in pairs], color="#2f6db5")
    axis.set_yticks(range(len(pairs)), names, fontsize=8, parse_math=False)
    axis.invert_yaxis()
    axis.locator_params(axis="x", integer=True)
    return figure


Lines = Mapping[str, tuple[Sequence[float], Sequence[float]]]
"""Names to (epochs, values)."""


def curves(name: str, lines: Lines, starts: Mapping[str, float] | None = None) -> Figure:
    """Draw measurements over the epochs.

    Args:
      name: what is measured.
      lines: name to (epochs, values).
      starts: of one run, stage to its first epoch; marked where there is more than one. None: of several runs.
    """
    figure, axis = _make_chart(5.2, 3.2 + 0.2 * len(lines), "epoch", name)
    # Lines are told apart by colour, by dashes, and in grey print.
    colours = ["#1f5fae", "#b8560f", "#2b7a3b", "#8a3a94"]
    axis.set_prop_cycle(color=3 * colours, linestyle=[dashes for dashes in ("-", "--", ":") for _ in colours])
    for title, (epochs, values) in lines.items():
        text = label(title, longest=2 * LABEL_LENGTH)
        axis.plot(epochs, values, label=text, marker="o", markersize=3, linewidth=1.5)
    for stage, start in starts.items() if starts and len(starts) > 1 else ():
        axis.axvline(start - 0.5, color="#888", linewidth=0.8, linestyle=":")
        text, transform = printable(stage, longest=LABEL_LENGTH), axis.get_xaxis_transform()
        axis.text(start - 0.4, 1.01, text, parse_math=False, transform=transform, fontsize=8, color="#555")
    axis.locator_params(axis="x", integer=True)
    if len(lines) > 1 or starts is None:
        figure.legend(loc="outside lower center", frameon=False, fontsize=8)
    return figure


def roc(evaluation: Evaluation) -> Figure:
    """Draw one ROC curve a class, against all others; in the legend the area below it, the lowest first."""
    from sklearn.metrics import auc, roc_curve

    curves = []
    columns = evaluation.truth.T, evaluation.probabilities.T
    for name, truth, probabilities in zip(evaluation.class_names, *columns, strict=True):
        # A class of which there is no example, or nothing else, has no curve.
        if truth.any() and not truth.all():
            fpr, tpr, _ = roc_curve(truth, probabilities)
            curves.append((auc(fpr, tpr), name, fpr, tpr))
    worst = sorted(curves, key=lambda curve: curve[0])[:CURVED_CLASSES]
    title = "area" if len(worst) == len(curves) else f"area, the lowest of {len(curves)} classes"
    axes = "share of the others taken for the class", "share of the class that is found"
    return _draw_roc(worst, *axes, title=title)


def residuals(evaluation: Evaluation) -> Figure:
    """Draw predicted over true numbers, with intervals of 90 %, and the errors over the predicted ones.

    Args:
      evaluation: a `tfkit.regression.ValueEvaluation`, of which a thousand examples are drawn.
    """
    results: Any = evaluation
    figure, axes = new_figure(11.0, 4.2, 1, 2)
    rows = draw(len(results.labels), 1000)
    truth, mean, reach = (
        array[rows] for array in (results.labels, results.predicted, results.quantiles[0] * results.scales)
    )
    dots = {"fmt": "o", "markersize": 3, "color": "#1f5fae", "ecolor": "#1f5fae33", "elinewidth": 1}
    axes[0, 0].errorbar(truth, mean, yerr=np.nan_to_num(reach), **dots)
    ends = [min(truth.min(), mean.min()), max(truth.max(), mean.max())]
    axes[0, 0].plot(ends, ends, color="#999", linewidth=0.8, linestyle=":")
    axes[0, 1].scatter(mean, truth - mean, s=9, color="#1f5fae")
    axes[0, 1].axhline(0, color="#999", linewidth=0.8, linestyle=":")
    name = label(results.class_names[0])
    _style(axes[0, 0], f"true {name}", f"predicted {name}")
    _style(axes[0, 1], f"predicted {name}", "true less predicted")
    return figure


def reliability(evaluation: Evaluation, *, temperature: float) -> Figure:
    """Draw how often the model is right over how sure it is, before and after the temperature; the diagonal is exact.

    Args:
      evaluation: at the temperature.
      temperature: that is taken back for the line of before.
    """
    figure, axis = _make_chart(5.0, 4.0, "probability of the predicted class", "share that is right")
    axis.plot([0, 1], [0, 1], color="#999", linewidth=0.8, linestyle=":")
    # Of a temperature of 1 both are one.
    styles = {1 / temperature: ("before", "#b8560f", "--", "s"), 1: ("as exported", "#1f5fae", "-", "o")}
    for factor, (name, colour, dashes, marker) in styles.items():
        bins = calibration.reliability(with_temperature(evaluation.probabilities, factor), evaluation.labels)
        is_filled = bins.examples > 0
        x, y, text = bins.confidence[is_filled], bins.accuracy[is_filled], f"{name} (error {bins.error:.3f})"
        axis.plot(x, y, color=colour, linestyle=dashes, label=text)
        # The area of a point is the share of the examples.
        sizes = 400 * bins.examples[is_filled] / bins.examples.sum()
        axis.scatter(x, y, s=sizes, color=colour, marker=marker, alpha=0.6)
    axis.legend(fontsize=9, frameon=False)
    return figure


def attack_roc(attacks: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draw the receiver operating characteristics of all attackers; the diagonal is a coin.

    Args:
      attacks: name to what is known of it: `auc`, and `roc` with its rates `false` and `true`.
    """
    curves = [(row["auc"], name, row["roc"]["false"], row["roc"]["true"]) for name, row in attacks.items()]
    return _draw_roc(curves, "others taken for members", "members found", title="AUC")


def _draw_roc(curves: Sequence[tuple[float, str, Any, Any]], x: str, y: str, *, title: str) -> Figure:
    """Draw (area, name, false positive rates, true positive rates) of each curve."""
    figure, axis = _make_chart(6.4, 4.0, x, y)
    axis.plot([0, 1], [0, 1], color="#999", linewidth=0.8, linestyle=":")
    for area, name, fpr, tpr in curves:
        axis.plot(fpr, tpr, linewidth=1.5, label=f"{label(name)}  {area:.3f}")
    if curves:
        figure.legend(loc="outside right upper", fontsize=8, frameon=False, title=title)
    return figure


def pareto(content: Mapping[str, Any]) -> Figure:
    """Draw accuracy (or what stands for it) over size and over latency; ringed: no other is at least as good in all.

    Args:
      content: of variants.json; of real values R2 is drawn. Without labels the agreement with the original is.
    """
    variants = content["variants"]
    scores = [
        name for name in ("micro_f1", "accuracy", "r2") if all(row.get(name) is not None for row in variants)
    ]
    quality = scores[0] if scores else "agreement"
    figure, axes = new_figure(11.0, 4.0, 1, 2)
    names = ("size, MB", "milliseconds on one thread")
    for index, row in enumerate(variants):
        is_chosen, colour, y = row["name"] == content["chosen"], f"C{index % 10}", row[quality]
        marker = "*" if is_chosen else "osD^v<>pPX"[index // 10 % 10]
        text, area = label(row["name"]) + (" (chosen)" if is_chosen else ""), 110 if is_chosen else 45
        xs = row["size_bytes"] / 1e6, row["latency_ms"].get("1", {}).get("p50", float("nan"))
        for axis, x in zip(axes[0], xs, strict=True):
            axis.scatter(x, y, s=area, marker=marker, color=colour, label=text, zorder=3)
            if row["pareto"]:
                axis.scatter(x, y, s=220, facecolors="none", edgecolors=colour)
    for axis, name in zip(axes[0], names, strict=True):
        axis.margins(x=0.1, y=0.15)
        _style(axis, name, {"r2": "R2", "micro_f1": "micro F1"}.get(quality, quality))
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside right upper", fontsize=8, frameon=False)
    return figure

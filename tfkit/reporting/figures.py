"""Figures of a run, for TensorBoard as pixels and for the report as SVG.

Class names and file names are strangers' text: they are drawn as they are, never read as markup.
"""

from __future__ import annotations

import contextlib
import io
import textwrap
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

    from tfkit.metrics import Evaluation

MATRIX_CLASSES = 50
COUNTED_CLASSES = 25
CONFUSED_PAIRS = 30
LABEL_LENGTH = 24
CAPTION_WIDTH = 22
# Unicode's controls of writing direction can make a name look like another one.
_DIRECTION_CONTROLS = {*map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A))}


def printable(text: str, *, longest: int | None = None) -> str:
    """A stranger's text on one line: no control characters, no broken UTF-8, cut in the middle where too long.

    Example:
      >>> printable("tab\\there, bell\\x07", longest=12)
      'tab h… bell�'
    """
    line = " ".join(text.split())
    line = "".join("�" if _unprintable(character) else character for character in line)
    if longest is not None and len(line) > longest:
        line = line[: (longest - 1) // 2] + "…" + line[-(longest // 2) :]
    return line


def _unprintable(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs") or character in _DIRECTION_CONTROLS


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Text stays text in SVG, and what a font lacks shows as a box without a warning a glyph."""
    import matplotlib as mpl

    with mpl.rc_context({"svg.fonttype": "none", "font.family": "sans-serif"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        yield


def pixels(figure: Figure, *, dpi: int = 100) -> np.ndarray:
    """The figure as an image: uint8 [h, w, 3]."""
    from PIL import Image

    file = io.BytesIO()
    with drawing():
        figure.savefig(file, format="png", dpi=dpi, facecolor="white", bbox_inches="tight")
    return np.asarray(Image.open(file).convert("RGB"))


def image_grid(images: np.ndarray, captions: Sequence[str] | None = None, *, columns: int = 4) -> Figure:
    """Images in rows, each under its caption.

    Args:
      images: uint8 [k, h, w, 3] or [k, h, w, 1], k at least 1.
      captions: k of them.
      columns: images in a row.
    """
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    figure, axes = new_figure(columns * 2.2, rows * (2.6 if captions else 2.2), rows, columns)
    for axis in axes.flat:
        axis.set_axis_off()
    for place, image in enumerate(images):
        axis = axes.flat[place]
        # Small images are shown pixel by pixel: smoothing would invent what the model never saw.
        axis.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        if captions:
            # Matplotlib's own wrapping reads "$" as the beginning of a formula whatever parse_math says.
            caption = textwrap.fill(printable(captions[place]), CAPTION_WIDTH, max_lines=3, placeholder="…")
            axis.set_title(caption, fontsize=10, parse_math=False)
    return figure


def confusion(evaluation: Evaluation) -> Figure:
    """The confusion matrix, or for more than 50 classes the pairs that are confused most often."""
    if len(evaluation.class_names) > MATRIX_CLASSES:
        return _confused_pairs(evaluation)
    return _matrix(evaluation)


def _matrix(evaluation: Evaluation) -> Figure:
    counts, classes = evaluation.confusion, len(evaluation.class_names)
    side = min(max(4.0, 1.6 + 0.42 * classes), 14.0)
    figure, axes = new_figure(side, side)
    axis = axes[0, 0]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    names = [printable(name, longest=LABEL_LENGTH) for name in evaluation.class_names]
    size = 9 if classes <= COUNTED_CLASSES else 7
    upright = max(map(len, names)) <= 2
    axis.set_xticks(range(classes), names, rotation=0 if upright else 90, fontsize=size, parse_math=False)
    axis.set_yticks(range(classes), names, fontsize=size, parse_math=False)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    for row, column in np.argwhere(counts):
        # Beyond that a matrix of numbers is a grey carpet: only the mistakes are counted in it.
        if classes <= COUNTED_CLASSES or row != column:
            color = "white" if shares[row, column] > 0.55 else "black"
            axis.text(
                column,
                row,
                str(counts[row, column]),
                ha="center",
                va="center",
                color=color,
                fontsize=size - 1,
            )
    return figure


def confused_pairs(evaluation: Evaluation, most: int = CONFUSED_PAIRS) -> list[tuple[str, str, int]]:
    """(true class, predicted class, how often), the most frequent mistakes first."""
    mistakes = evaluation.confusion - np.diag(evaluation.confusion.diagonal())
    order = np.argsort(-mistakes, axis=None, kind="stable")[:most]
    pairs = zip(*np.unravel_index(order, mistakes.shape), strict=True)
    names = evaluation.class_names
    return [
        (names[row], names[column], int(mistakes[row, column]))
        for row, column in pairs
        if mistakes[row, column]
    ]


def _confused_pairs(evaluation: Evaluation) -> Figure:
    pairs = confused_pairs(evaluation)
    if not pairs:
        figure, axes = new_figure(7, 0.6)
        axes[0, 0].text(
            0.5, 0.5, f"no mistakes among {len(evaluation.labels):,} examples", ha="center", va="center"
        )
        axes[0, 0].set_axis_off()
        return figure
    figure, axes = new_figure(7, 1.2 + 0.25 * len(pairs))
    axis = axes[0, 0]
    names = [
        f"{printable(true, longest=LABEL_LENGTH)} → {printable(guess, longest=LABEL_LENGTH)}"
        for true, guess, _ in pairs
    ]
    axis.barh(range(len(pairs)), [count for *_, count in pairs], color="#2f6db5")
    axis.set_yticks(range(len(pairs)), names, fontsize=8, parse_math=False)
    axis.invert_yaxis()
    axis.set_xlabel(
        f"examples (the {len(pairs)} most confused pairs of {len(evaluation.class_names)} classes)"
    )
    _whole_numbers(axis.xaxis)
    return figure


def curves(
    axis_name: str, lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], starts: Mapping[str, float]
) -> Figure:
    """Measurements over the epochs.

    Args:
      axis_name: what is measured.
      lines: name to (epochs, values).
      starts: stage to its first epoch; marked where there is more than one.
    """
    figure, axes = new_figure(5.2, 3.2)
    axis = axes[0, 0]
    for (name, (epochs, values)), color in zip(
        lines.items(), ("#2f6db5", "#d1741f", "#3b8f4b"), strict=False
    ):
        axis.plot(epochs, values, label=name, color=color, marker="o", markersize=3, linewidth=1.5)
    for stage, start in starts.items() if len(starts) > 1 else ():
        axis.axvline(start - 0.5, color="#888", linewidth=0.8, linestyle=":")
        axis.text(
            start - 0.4, 1.01, printable(stage, longest=LABEL_LENGTH), transform=axis.get_xaxis_transform(),
            fontsize=8, color="#555", parse_math=False,
        )  # fmt: skip
    axis.set_xlabel("epoch")
    axis.set_ylabel(axis_name)
    axis.grid(color="#ddd", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    _whole_numbers(axis.xaxis)
    if len(lines) > 1:
        axis.legend(frameon=False)
    return figure


def new_figure(
    width: float, height: float, rows: int = 1, columns: int = 1
) -> tuple[Figure, np.ndarray[Any, Any]]:
    """A figure outside of pyplot: that keeps figures alive and picks a backend for a screen."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes: np.ndarray[Any, Any] = figure.subplots(rows, columns, squeeze=False)
    return figure, axes


def _whole_numbers(axis: Axis) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True))

"""Write what TensorBoard shows of a finished training, and show it in a notebook.

Writing the same thing again replaces it: a run that is killed near its end and resumed shows everything once.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfkit.environment import files, timeline
from tfkit.errors import RunError
from tfkit.metrics import Evaluation
from tfkit.reporting import figures
from tfkit.reporting.figures import printable
from tfkit.run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

MOST_POINTS = 2000
# Browsers refuse textures above 8192 pixels a side, phones above 4096.
SPRITE_SIDE = 4096
THUMBNAIL_SIDE = 64


def write_projector(
    logdir: Path,
    features: np.ndarray,
    *,
    labels: Sequence[str],
    names: Sequence[str],
    images: np.ndarray | None = None,
) -> None:
    """Write feature vectors as points that the Projector shows, coloured by class, drawn as their images.

    Beyond 2,000 points it takes every second, third, ... one: the browser computes t-SNE and UMAP itself.

    Args:
      logdir: the folder of the whole run; the Projector's configuration goes to its root.
      features: float32 [n, d], finite.
      labels: n class names.
      names: n names of the examples.
      images: uint8 [n, h, w, 3].
    """
    from google.protobuf import text_format
    from tensorboard.plugins import projector

    selection = slice(None, None, math.ceil(len(features) / MOST_POINTS))
    config = projector.ProjectorConfig()
    embedding = config.embeddings.add()
    embedding.tensor_name = "test features"
    embedding.tensor_path, embedding.metadata_path = "projector/tensors.tsv", "projector/metadata.tsv"
    with files.new_folder(logdir / "projector") as folder:
        np.savetxt(folder / "tensors.tsv", features[selection], fmt="%.6g", delimiter="\t")
        rows = [("class", "name"), *zip(labels[selection], names[selection], strict=True)]
        # An empty cell would shift all that follow.
        lines = [[printable(str(cell)) or "(no name)" for cell in row] for row in rows]
        files.write_text(folder / "metadata.tsv", "".join("\t".join(line) + "\n" for line in lines))
        if images is not None:
            size = _write_sprite(folder / "sprite.png", images[selection])
            embedding.sprite.image_path = "projector/sprite.png"
            embedding.sprite.single_image_dim.extend(size)
    files.write_text(logdir / "projector_config.pbtxt", text_format.MessageToString(config))


def _write_sprite(path: Path, images: np.ndarray) -> tuple[int, int]:
    """Write all images as thumbnails in one PNG, row by row, as many columns as rows; return one's width and height."""
    from PIL import Image

    columns = math.ceil(math.sqrt(len(images)))
    height, width = images.shape[1:3]
    scale = min(1.0, min(THUMBNAIL_SIDE, SPRITE_SIDE // columns) / max(height, width))
    width, height = max(1, round(width * scale)), max(1, round(height * scale))
    sheet = Image.new("RGB", (columns * width, columns * height), "white")
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        sheet.paste(Image.fromarray(image).resize((width, height)), (column * width, row * height))
    with files.new_file(path) as file:
        sheet.save(file, "PNG")
    return width, height


# What people compare runs by. Settings are sorted by name in the dashboard, numbers stand as they are written.
FIRST_HPARAMS = (
    "data", "model_handle", "image_size", "learning_rate", "global_batch_size", "target_epsilon", "epochs",
)  # fmt: skip
FIRST_METRICS = (
    "test/accuracy", "best/val_accuracy", "last/val_accuracy", "best/val_loss", "privacy/epsilon",
)  # fmt: skip
NOT_COMPARED = ("sha256", "strict")
RESULTS = "results/"
"""Before the tags of single numbers: one group of cards, after the curves, whose tags are sorted before it."""


@contextlib.contextmanager
def event_writer(folder: Path, *, kind: str) -> Iterator[Any]:
    """Yield TensorFlow, writing into the one event file of this kind in the folder, in place of an earlier one."""
    from tfkit.environment.stack import tf

    suffix = "." + re.sub(r"\W", "_", kind)
    old_paths = list(folder.glob(f"events.out.tfevents.*{suffix}"))
    writer = tf.summary.create_file_writer(str(folder), filename_suffix=suffix)
    try:
        with writer.as_default():
            yield tf
    finally:
        writer.close()
    for path in old_paths:
        path.unlink()


def _write_figures(folder: Path, kind: str, pictures: Mapping[str, Figure]) -> None:
    """Write figures as pictures in the images dashboard; earlier ones of this kind are replaced."""
    with event_writer(folder, kind=kind) as tf:
        for name, figure in pictures.items():
            tf.summary.image(name, figures.pixels(figure)[np.newaxis], step=0)


def write_images(
    logdir: Path, name: str, images: np.ndarray, *, captions: Sequence[str] | None = None
) -> None:
    """Write one picture that shows all these images, each under its caption, in the images dashboard.

    Args:
      logdir: the folder of the whole run.
      name: of the picture, such as "samples" or "worst_mistakes"; one that is there is replaced.
      images: uint8 [k, h, w, 3] or [k, h, w, 1]; for none nothing is written.
      captions: k of them: a class name, or "true → predicted (93 %)" as of `Evaluation.mistake`.
    """
    pictures = {name: figures.image_grid(images, captions)} if len(images) else {}
    _write_figures(logdir, name, pictures)


def write_audit(logdir: Path, attacks: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the ROC of all attackers, of audit.json, as a picture."""
    _write_figures(logdir, "audit", {"audit/roc": figures.attack_roc(attacks)})


def write_variants(logdir: Path, content: Mapping[str, Any]) -> None:
    """Write a picture of the TFLite variants, of variants.json."""
    _write_figures(logdir, "lite", {"lite/pareto": figures.pareto(content)})


def write_evaluation(logdir: Path, evaluation: Evaluation) -> None:
    """Write what the test split says: the confusion matrix and ROC as pictures, and precision-recall curves.

    Of labels there is no matrix; beyond 50 classes it is the pairs that are confused most often. There is a
    precision-recall curve for each class that occurs, and one over all: it counts every (example, class) pair as a
    yes-or-no question (micro-average).

    Args:
      logdir: of the run.
      evaluation: on the test split.
    """
    from tensorboard.plugins.pr_curve import summary

    pictures = {f"test/{name}": getattr(figures, name)(evaluation) for name in evaluation.figures}
    _write_figures(logdir, "figures", pictures)
    if not (truth := evaluation.truth).size:
        return  # of numbers there are no curves
    # TensorBoard sorts what it is given into 201 buckets from 0 to 1; rounding may have left 1.0000001.
    probabilities = np.clip(evaluation.probabilities, 0, 1)
    curves = [("pr/all classes", "all classes", truth.ravel(), probabilities.ravel())]
    for index in map(int, np.flatnonzero(evaluation.counts)):
        name = printable(evaluation.class_names[index])
        # A slash in a tag would open a group of its own in the dashboard.
        tag = f"pr/{index} {name.replace('/', '∕')}"
        curves.append((tag, name, truth[:, index], probabilities[:, index]))
    with event_writer(logdir, kind="pr_curves") as tf:
        for tag, name, is_true, probability in curves:
            proto = summary.pb(tag, is_true, probability, 201, display_name=name)
            tf.summary.experimental.write_raw_pb(proto.SerializeToString(), step=0)


def write_calibration(logdir: Path, evaluation: Evaluation, *, numbers: Mapping[str, float]) -> None:
    """Write the reliability diagram of the test split as a picture, and what was measured as scalars.

    Args:
      logdir: of the run.
      evaluation: at the temperature.
      numbers: by their tags, `calibration/temperature` among them.
    """
    picture = figures.reliability(evaluation, temperature=numbers["calibration/temperature"])
    _write_figures(logdir, "reliability", {"test/reliability": picture})
    with event_writer(logdir, kind="calibration") as tf:
        for name, value in numbers.items():
            tf.summary.scalar(RESULTS + name, value, step=0)


def write_hparams(logdir: Path, config: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
    """Write the settings and the final numbers of a run, so that the hparams dashboard compares runs.

    Args:
      logdir: the folder of the whole run; they go to its root, where each run of `tensorboard --logdir runs`
        is one line of the table.
      config: flat names to values, and "data", the origin of the examples; what is not a number, a truth value or a
        string is written as text, and what was left out of the settings (None) is left out here.
      metrics: flat names to numbers, such as "test/accuracy"; those of single classes ("test/recall/cat") and counts of
        examples ("data/...") would fill the table and are left out, as are CPU seconds and memory of stages.
    """
    from tensorboard.plugins.hparams import api

    hparams = {
        name: value if isinstance(value, bool | int | float) else str(value)
        for name, value in config.items()
        if value not in (None, "", []) and name not in NOT_COMPARED
    }
    numbers = {name: value for name, value in metrics.items() if name.count("/") < 2 and name[:5] != "data/"}
    numbers = {name: value for name, value in numbers.items() if not timeline.is_detail(name)}
    with event_writer(logdir, kind="hparams") as tf:
        # Of several runs the dashboard takes the columns of one: these are in all.
        api.hparams_config(
            hparams=[api.HParam(name) for name in dict.fromkeys((*FIRST_HPARAMS, *hparams))],
            metrics=[
                api.Metric(RESULTS + name, display_name=name)
                for name in dict.fromkeys((*FIRST_METRICS, *numbers))
            ],
        )
        # Runs of one trial id are one line, of the mean of their metrics: trials/001 of two searches are two.
        path = logdir.absolute().parent
        api.hparams(hparams, trial_id=f"{'/'.join(path.parts[-2:])} {files.digest_of(str(path))[:6]}")
        for name, value in numbers.items():
            tf.summary.scalar(RESULTS + name, value, step=0)


def best(history: DataFrame) -> dict[str, float]:
    """Return the best and the last validation numbers of a training, for the hparams table and for metrics.json.

    Args:
      history: of a run, a row an epoch, with `val_loss` and perhaps `val_accuracy`.

    Returns:
      "best/epoch" (from 1, of the lowest validation loss), "best/val_loss", "best/val_accuracy" (of that epoch),
      "last/val_loss", "last/val_accuracy"; nothing where there is no validation.
    """
    if "val_loss" not in history or not history["val_loss"].notna().any():
        return {}
    row: Any = history["val_loss"].idxmin()
    results = {"best/epoch": history["epoch"][row] + 1}
    for name in ("val_loss", "val_accuracy", "val_binary_accuracy", "val_mean_absolute_error"):
        if name in history:
            results |= {f"best/{name}": history[name][row], f"last/{name}": history[name].iloc[-1]}
    return {name: float(value) for name, value in results.items() if math.isfinite(value)}


SPARSITY = "sparsity"
"""The tag of the share of zeros in the kernels."""

# Category to title to the tags of the lines, a regular expression.
_CHARTS = {
    "Training": {
        "loss": "epoch_loss",
        "accuracy": "epoch_(binary_)?accuracy",
        "error": "epoch_mean_absolute_error",
        "learning rate (log10)": "epoch_log10_learning_rate",
    },
    "Privacy": {"epsilon spent": "epoch_epsilon", "length that gradients are cut to": "epoch_l2_norm_clip"},
    "Sparsity": {"share of zeros in the kernels": SPARSITY},
    "Speed": {"examples per second": "epoch_examples_per_second", "milliseconds of a step": "epoch_step_ms"},
    "Workers": {"examples per second of each worker": r"epoch_worker_\d+_examples_per_second"},
}


def write_layout(logdir: Path, measured: Iterable[str]) -> None:
    """Write which charts the custom scalars dashboard has for this run: those of what was measured, and no others.

    Args:
      logdir: the folder of the whole run.
      measured: names of what was logged for each epoch ("loss", "epsilon", "worker_0_examples_per_second"), and
        "sparsity".
    """
    from tensorboard.plugins.custom_scalar import layout_pb2, summary

    names = [name.removeprefix("val_") for name in measured]
    tags = [tag for name in names for tag in (name, f"epoch_{name}", f"epoch_log10_{name}")]
    layout = layout_pb2.Layout()
    for category, charts in _CHARTS.items():
        lines = {title: tag for title, tag in charts.items() if any(re.fullmatch(tag, key) for key in tags)}
        group = layout_pb2.Category(title=category)
        for title, tag in lines.items():
            group.chart.add(title=title, multiline=layout_pb2.MultilineChartContent(tag=[f"^{tag}$"]))
        layout.category.extend([group] if lines else [])
    with event_writer(logdir, kind="layout") as tf:
        if layout.category:
            proto = summary.pb(layout)
            tf.summary.experimental.write_raw_pb(proto.SerializeToString(), step=0)


LONGEST = 300
# What means something to TensorBoard's Markdown in a paragraph or a cell of a table.
_MARKDOWN = str.maketrans({**{char: f"\\{char}" for char in "\\`*_[|"}, "<": "&lt;", "&": "&amp;"})


def write_texts(logdir: Path, name: str, texts: Iterable[str], *, captions: Sequence[str]) -> None:
    """Write a table of texts in the text dashboard; one of this name that is there is replaced.

    Args:
      logdir: the folder of the whole run.
      name: of the table, such as "worst_mistakes".
      texts: shown from their beginning; for none nothing is written.
      captions: one a text: a class name, or "true → predicted (93 %)" as of `Evaluation.mistake`.
    """

    def cell(text: str) -> str:
        return printable(str(text)[: 2 * LONGEST], longest=LONGEST).translate(_MARKDOWN)

    rows = [f"| {cell(caption)} | {cell(text)} |" for caption, text in zip(captions, texts, strict=True)]
    with event_writer(logdir, kind=name) as tf:
        if rows:
            tf.summary.text(name, "\n".join(["| class | text |", "| --- | --- |", *rows]), step=0)


def write_statement(logdir: Path, sentences: Sequence[str]) -> None:
    """Write what holds for the privacy of the training, in words, in the text dashboard.

    Args:
      logdir: of the run.
      sentences: one paragraph each.
    """
    with event_writer(logdir, kind="privacy") as tf:
        tf.summary.text("privacy", "\n\n".join(line.translate(_MARKDOWN) for line in sentences), step=0)


def write_lengths(logdir: Path, name: str, lengths: np.ndarray) -> None:
    """Write how long texts are, int [n], in the histograms dashboard.

    Args:
      logdir: of the run.
      name: of the histogram.
      lengths: in tokens or characters, int [n].
    """
    with event_writer(logdir, kind=name) as tf:
        tf.summary.histogram(name, lengths, step=0, buckets=min(50, max(1, int(np.ptp(lengths)))))


def notebook(run: Run | str | Path, *others: Run | str | Path) -> None:
    """Show the logs of runs in TensorBoard, below the cell of a notebook that calls it.

        run = transfer_image.run(...)
        tfkit.reporting.tensorboard.notebook(run)

    TensorBoard starts in a process of its own, on this machine's loopback address, and stays; a second call with
    the same runs shows the same one. Outside of a notebook its address is printed.

    Args:
      run: finished or not; a run folder, or what recipes return.
      others: further ones, beside it.

    Raises:
      RunError: a folder holds no logs.
    """
    logdirs = {}
    for item in (run, *others):
        path = item.path if isinstance(item, Run) else Path(item)
        logdir = (path / "logs" if (path / "logs").is_dir() else path).resolve()
        # An index has points for the Projector, and no events.
        if not any([*logdir.rglob("*tfevents*"), *logdir.glob("projector_config.pbtxt")]):
            raise RunError(f"{path} holds no TensorBoard logs (no event file below {logdir}).")
        logdirs[path.resolve()] = logdir
    from tensorboard import notebook as cell

    from tfkit.reporting.comparison import common_parent

    # A notebook's PATH may have no, or another one.
    if (program := Path(sys.executable).with_name("tensorboard")).is_file():
        os.environ.setdefault("TENSORBOARD_BINARY", str(program))
    common = common_parent([*logdirs])
    spec = ",".join(f"{path.relative_to(common)}:{logdir}" for path, logdir in logdirs.items())
    command = ["--logdir", str(*logdirs.values())] if len(logdirs) == 1 else ["--logdir_spec", spec]
    cell.start(shlex.join([*command, "--host", "localhost", "--port", "0"]))

"""TensorBoard in a cell of a notebook, in Colab and in Jupyter.

The points of TensorBoard's Projector.

Pictures, precision-recall curves and hparams of a finished training.

Writing the same thing again replaces it: a run that is killed near its end and resumed shows everything once.

Receiver operating characteristics: what each threshold finds, and at the price of how many false alarms.

Texts and their lengths in TensorBoard.

Pictures of an audit: how well attackers tell members from others; drawn from what audit.json holds.

Pictures of TFLite variants: size, latency and accuracy against each other; drawn from what variants.json holds.
"""

from __future__ import annotations

import contextlib
import io
import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfkit.environment import files
from tfkit.errors import CheckError, RunError
from tfkit.metrics import Evaluation
from tfkit.reporting import figures
from tfkit.reporting.figures import printable
from tfkit.run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

FOLDER = "projector"
MOST_POINTS = 2000
# Browsers refuse textures above 8192 pixels a side, phones above 4096.
SPRITE_SIDE = 4096
THUMBNAIL_SIDE = 64


def write_projector(
    logdir: Path,
    features: np.ndarray,
    *,
    labels: Sequence[str],
    names: Sequence[str] | None = None,
    images: np.ndarray | None = None,
) -> None:
    """Feature vectors as points that the Projector shows, coloured by class, drawn as their images.

    Beyond 2,000 points it takes every second, third, ... one: the browser computes t-SNE and UMAP itself.

    Args:
      logdir: the folder of the whole run; the Projector's configuration goes to its root.
      features: float32 [n, d], finite.
      labels: n class names.
      names: n names of the examples.
      images: uint8 [n, h, w, 3].

    Raises:
      CheckError: the lengths do not agree, or a feature is not finite.
    """
    features = np.asarray(features, np.float32)
    _check(features, labels=labels, names=names, images=images)
    kept = slice(None, None, math.ceil(len(features) / MOST_POINTS))
    with files.new_folder(logdir / FOLDER) as folder:
        np.savetxt(folder / "tensors.tsv", features[kept], fmt="%.6g", delimiter="\t")
        columns = {"class": labels[kept], **({"name": names[kept]} if names is not None else {})}
        files.write_text(folder / "metadata.tsv", _table(columns))
        if images is not None:
            thumbnails = _thumbnails(images[kept])
            files.write_bytes(folder / "sprite.png", _sprite(thumbnails))
    _write_config(logdir, thumbnail=thumbnails.shape[1:3] if images is not None else None)


def _check(features: np.ndarray, **others: Sequence[object] | np.ndarray | None) -> None:
    if features.ndim != 2 or not features.size:
        raise CheckError(f"features must be float32 [n, d]; found {list(features.shape)}.")
    for name, values in others.items():
        if values is not None and len(values) != len(features):
            raise CheckError(f"{len(values)} {name} for {len(features)} feature vectors.")
    if not np.isfinite(features).all():
        raise CheckError(f"{int((~np.isfinite(features)).any(axis=1).sum())} feature vectors are not finite.")


def _table(columns: dict[str, Sequence[str]]) -> str:
    """Tab-separated rows as the Projector reads them.

    One column must be without a header and two need one; an empty line would shift all that follow.
    """
    rows = zip(
        *([printable(str(value)) or "(no name)" for value in values] for values in columns.values()),
        strict=True,
    )
    lines = ["\t".join(row) for row in rows]
    header = ["\t".join(columns)] if len(columns) > 1 else []
    return "\n".join([*header, *lines]) + "\n"


def _thumbnails(images: np.ndarray) -> np.ndarray:
    """Images small enough that all of them fit into one sprite: uint8 [n, h, w, 3]."""
    from PIL import Image

    columns = math.ceil(math.sqrt(len(images)))
    side = min(THUMBNAIL_SIDE, SPRITE_SIDE // columns)
    height, width = images.shape[1:3]
    scale = min(1.0, side / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.stack([np.asarray(Image.fromarray(image).resize(size)) for image in images])


def _sprite(thumbnails: np.ndarray) -> bytes:
    """All thumbnails in one PNG, row by row, as many columns as rows."""
    from PIL import Image

    count, height, width, _ = thumbnails.shape
    columns = math.ceil(math.sqrt(count))
    sheet = np.full((columns * height, columns * width, 3), 255, np.uint8)
    for place, image in enumerate(thumbnails):
        row, column = divmod(place, columns)
        sheet[row * height : (row + 1) * height, column * width : (column + 1) * width] = image
    file = io.BytesIO()
    Image.fromarray(sheet).save(file, "PNG")
    return file.getvalue()


def _write_config(logdir: Path, *, thumbnail: tuple[int, int] | None) -> None:
    from google.protobuf import text_format
    from tensorboard.plugins import projector

    config = projector.ProjectorConfig()
    embedding = config.embeddings.add()
    embedding.tensor_name = "test features"
    embedding.tensor_path = f"{FOLDER}/tensors.tsv"
    embedding.metadata_path = f"{FOLDER}/metadata.tsv"
    if thumbnail is not None:
        height, width = thumbnail
        embedding.sprite.image_path = f"{FOLDER}/sprite.png"
        embedding.sprite.single_image_dim.extend([width, height])
    files.write_text(logdir / "projector_config.pbtxt", text_format.MessageToString(config))


# What people compare runs by. Settings are sorted by name in the dashboard, numbers stand as they are written.
FIRST_HPARAMS = (
    "model_handle",
    "image_size",
    "learning_rate",
    "global_batch_size",
    "target_epsilon",
    "epochs",
)
FIRST_METRICS = (
    "test/accuracy",
    "best/val_accuracy",
    "last/val_accuracy",
    "best/val_loss",
    "privacy/epsilon",
)
NOT_COMPARED = ("sha256", "strict")

THRESHOLDS = 201


def write_images(
    logdir: Path, name: str, images: np.ndarray, *, captions: Sequence[str] | None = None, step: int = 0
) -> None:
    """One picture that shows all these images, each under its caption, in the images dashboard.

    Args:
      logdir: the folder of the whole run.
      name: of the picture, such as "samples" or "worst_mistakes"; one that is there is replaced.
      images: uint8 [k, h, w, 3] or [k, h, w, 1]; for none nothing is written.
      captions: k of them: a class name, or "true → predicted (93 %)" as of `Evaluation.mistake`.
      step: the epoch that they belong to.

    Raises:
      CheckError: another type or shape, or not as many captions as images.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise CheckError(
            f"{name}: images must be uint8 [k, h, w, 3]; found {images.dtype} {list(images.shape)}."
        )
    if captions is not None and len(captions) != len(images):
        raise CheckError(f"{name}: {len(captions)} captions for {len(images)} images.")
    with event_writer(logdir / "images", kind=name) as tf:
        if len(images):
            tf.summary.image(name, figures.pixels(figures.image_grid(images, captions))[None], step=step)


def write_confusion(logdir: Path, evaluation: Evaluation, *, step: int = 0) -> None:
    """The confusion matrix as a picture; beyond 50 classes the pairs that are confused most often.

    Args:
      logdir: of the run.
      evaluation: on the test split.
      step: where it stands on the axis.
    """
    with event_writer(logdir / "test", kind="confusion") as tf:
        tf.summary.image("confusion", figures.pixels(figures.confusion(evaluation))[None], step=step)


def write_pr_curves(logdir: Path, evaluation: Evaluation, *, step: int = 0) -> None:
    """One precision-recall curve for each class that occurs, and one over all, for the PR curves dashboard.

    The one over all counts every (example, class) pair as a yes-or-no question (micro-average).

    Args:
      logdir: of the run.
      evaluation: on the test split.
      step: where it stands on the axis.
    """
    from tensorboard.plugins.pr_curve import summary

    truth = np.eye(len(evaluation.class_names), dtype=bool)[evaluation.labels]
    # TensorBoard sorts what it is given into 201 buckets from 0 to 1; rounding may have left 1.0000001.
    probabilities = np.clip(evaluation.probabilities, 0, 1)
    with event_writer(logdir / "test", kind="pr_curves") as tf:
        protos = [
            summary.pb(
                "pr/all classes", truth.ravel(), probabilities.ravel(), THRESHOLDS, display_name="all classes"
            )
        ]
        for index in map(int, np.flatnonzero(evaluation.counts)):
            name = figures.printable(evaluation.class_names[index])
            # A slash in a tag would open a group of its own in the dashboard.
            tag = f"pr/{index} {name.replace('/', '∕')}"
            protos.append(
                summary.pb(tag, truth[:, index], probabilities[:, index], THRESHOLDS, display_name=name)
            )
        for proto in protos:
            tf.summary.experimental.write_raw_pb(proto.SerializeToString(), step=step)


def write_hparams(logdir: Path, config: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
    """The settings and the final numbers of a run, so that the hparams dashboard compares runs.

    Args:
      logdir: the folder of the whole run; they go to its root, where each run of `tensorboard --logdir runs`
        is one line of the table.
      config: flat names to values; what is not a number, a truth value or a string is written as text, and what was
        left out of the settings (None) is left out here.
      metrics: flat names to numbers, such as "test/accuracy"; those of single classes ("test/recall/cat") and counts of
        examples ("data/...") would fill the table and are left out.

    Raises:
      CheckError: a metric that is not finite.
    """
    if wrong := [name for name, value in metrics.items() if not math.isfinite(value)]:
        raise CheckError(f"Metrics must be finite numbers: {', '.join(wrong)}.")
    from tensorboard.plugins.hparams import api

    hparams = {
        name: value if isinstance(value, bool | int | float) else str(value)
        for name, value in config.items()
        if value not in (None, "", []) and name not in NOT_COMPARED
    }
    metrics = {
        name: value for name, value in metrics.items() if name.count("/") < 2 and not name.startswith("data/")
    }
    with event_writer(logdir, kind="hparams") as tf:
        api.hparams_config(
            # Of several runs the dashboard takes the columns of one: these are in all.
            hparams=[api.HParam(name) for name in dict.fromkeys((*FIRST_HPARAMS, *hparams))],
            metrics=[
                api.Metric(name, display_name=name) for name in dict.fromkeys((*FIRST_METRICS, *metrics))
            ],
        )
        api.hparams(hparams, trial_id="/".join(logdir.absolute().parent.parts[-2:]))
        for name, value in metrics.items():
            tf.summary.scalar(name, value, step=0)


def best(history: DataFrame) -> dict[str, float]:
    """The best and the last validation numbers of a training, for the hparams table and for metrics.json.

    Args:
      history: of a run, a row an epoch, with `val_loss` and perhaps `val_accuracy`.

    Returns:
      "best/epoch" (from 1, of the lowest validation loss), "best/val_loss", "best/val_accuracy" (of that epoch),
      "last/val_loss", "last/val_accuracy"; nothing where there is no validation.
    """
    if "val_loss" not in history or not history["val_loss"].notna().any():
        return {}
    place = int(np.nanargmin(history["val_loss"].to_numpy(float)))
    found = {"best/epoch": float(history["epoch"].iloc[place]) + 1}
    for name in ("val_loss", "val_accuracy"):
        if name in history:
            found |= {
                f"best/{name}": float(history[name].iloc[place]),
                f"last/{name}": float(history[name].iloc[-1]),
            }
    return {name: value for name, value in found.items() if math.isfinite(value)}


@contextlib.contextmanager
def event_writer(folder: Path, *, kind: str) -> Iterator[Any]:
    """TensorFlow, writing into the one event file of this kind in the folder, in place of an earlier one."""
    from tfkit.environment.stack import tf

    suffix = "." + re.sub(r"\W", "_", kind)
    earlier = list(folder.glob(f"events.out.tfevents.*{suffix}"))
    writer = tf.summary.create_file_writer(str(folder), filename_suffix=suffix)
    try:
        with writer.as_default():
            yield tf
    finally:
        writer.close()
    for path in earlier:
        path.unlink()


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


LONGEST = 300


def write_texts(logdir: Path, name: str, texts: Sequence[str], *, captions: Sequence[str]) -> None:
    """A table of texts in the text dashboard; one of this name that is there is replaced.

    Args:
      logdir: the folder of the whole run.
      name: of the table, such as "worst_mistakes".
      texts: shown from their beginning; for none nothing is written.
      captions: one a text: a class name, or "true → predicted (93 %)" as of `Evaluation.mistake`.
    """
    rows = [f"| {_cell(caption)} | {_cell(text)} |" for caption, text in zip(captions, texts, strict=True)]
    with event_writer(logdir / "texts", kind=name) as tf:
        if rows:
            tf.summary.text(name, "\n".join(["| class | text |", "| --- | --- |", *rows]), step=0)


def write_statement(logdir: Path, sentences: Sequence[str]) -> None:
    """What holds for the privacy of the training, in words, in the text dashboard; an earlier one is replaced.

    Args:
      logdir: of the run.
      sentences: one paragraph each.
    """
    with event_writer(logdir, kind="privacy") as tf:
        tf.summary.text("privacy", "\n\n".join(map(_escaped, sentences)), step=0)


def write_lengths(logdir: Path, name: str, lengths: np.ndarray) -> None:
    """How long texts are, int [n], in the histograms dashboard.

    Args:
      logdir: of the run.
      name: of the histogram.
      lengths: in tokens or characters, int [n].
    """
    with event_writer(logdir / "texts", kind=name) as tf:
        tf.summary.histogram(name, lengths, step=0, buckets=min(50, max(1, int(np.ptp(lengths)))))


def _cell(text: str) -> str:
    """Text of a stranger in a cell of Markdown: nothing in it is markup."""
    return _escaped(printable(text[: 2 * LONGEST], longest=LONGEST))


def _escaped(line: str) -> str:
    for character in ("\\", "|", "`", "*", "_", "[", "]", "<", ">", "#", "~", "!", "$"):
        line = line.replace(character, f"&#{ord(character)};")
    return line


def attack_roc(attacks: Mapping[str, Mapping[str, Any]]) -> Figure:
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
        "roc": attack_roc(attacks),
        **{f"scores_{name}": histogram(name, attack) for name, attack in attacks.items()},
    }
    with event_writer(logdir / "audit", kind="audit") as tf:
        for name, figure in pictures.items():
            tf.summary.image(name, figures.pixels(figure)[None], step=0)


def _name(name: str) -> str:
    # A dollar sign would begin a formula.
    return figures.printable(name, longest=figures.LABEL_LENGTH).replace("$", "＄")


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


def notebook(*runs: Run | str | Path) -> None:
    """Show the logs of runs below the cell that calls it.

        run = transfer_image.run(...)
        tfkit.reporting.tensorboard.notebook(run)

    TensorBoard starts in a process of its own, on this machine's loopback address, and stays; a second call with
    the same runs shows the same one. Outside of a notebook its address is printed.

    Args:
      runs: finished or not; run folders, or what recipes return.

    Raises:
      RunError: none is given, or a folder holds no logs.
    """
    if not runs:
        raise RunError("Which run? tfkit.reporting.tensorboard.notebook(run), or a folder of one.")
    logdirs = {}
    for run in runs:
        path = run.path if isinstance(run, Run) else Path(run)
        logdir = (path / "logs" if (path / "logs").is_dir() else path).resolve()
        if not any(logdir.rglob("*tfevents*")):
            raise RunError(f"{path} holds no TensorBoard logs (no event file below {logdir}).")
        logdirs[path.resolve().name] = logdir
    from tensorboard import notebook as cell

    if len(logdirs) == 1:
        words = ["--logdir", str(next(iter(logdirs.values())))]
    else:
        words = ["--logdir_spec", ",".join(f"{name}:{logdir}" for name, logdir in logdirs.items())]
    cell.start(shlex.join([*words, "--host", "localhost", "--port", "0"]))

"""The report: what a run did and how good its model is, on one HTML page that needs nothing beside itself.

It is made from the run folder alone and leaves out what is not there. All text that came from the data (class
names, file names) is shown and never interpreted: escaped in HTML and SVG, and no script could run on the page.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfkit import exhibits, files
from tfkit import run as runs
from tfkit.errors import RunError
from tfkit.evaluation import Evaluation
from tfkit.exhibits import Excerpts, Pictures
from tfkit.report.pictures import png, svg
from tfkit.run import Run
from tfkit.tensorboard import figures, lite_figures

if TYPE_CHECKING:
    from pandas import DataFrame

TEMPLATE = Path(__file__).with_name("report.html.j2")
SKIPPED_SHOWN = 50
PANELS = (
    ("loss", "loss", "val_loss"),
    ("accuracy", "accuracy", "val_accuracy"),
    ("learning rate", "learning_rate"),
    ("epsilon", "epsilon"),
)
LINE_NAMES = {
    "loss": "training",
    "accuracy": "training",
    "val_loss": "validation",
    "val_accuracy": "validation",
}


def write_report(run: Run) -> Path:
    """Write report.html into the run folder, in place of an earlier one.

    Args:
      run: whatever of metrics.json, history.csv, evaluation.npz, provenance.json, versions.json and notes.txt
        is not there has no section.

    Returns:
      The page's path; it is under 2 MB and makes no request.

    Raises:
      RunError, CheckError: a file of the run is damaged.
    """
    path = run.path / runs.REPORT
    files.write_text(path, _environment().from_string(TEMPLATE.read_text()).render(_content(run)))
    return path


def main(paths: Iterable[str | Path]) -> int:
    """`python -m tfkit report RUN ...`: write the reports of finished runs anew.

    Returns:
      The exit code.

    Raises:
      RunError: a folder holds no run, or one that has not come to its end.
    """
    opened = [Run.open(path) for path in paths]
    for run in opened:
        # A report marks a run as finished, so that the same command would not go on with it.
        if not run.finished and "time/total_seconds" not in run.metrics:
            raise RunError(f"{run.path} has not come to its end. The command that began it goes on with it.")
    for run in opened:
        print(write_report(run))
    return 0


def _environment() -> Any:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    def clean(value: Any) -> Any:
        return figures.printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=clean, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = _number
    environment.filters["share"] = _share
    return environment


def _content(run: Run) -> dict[str, Any]:
    """What the template shows; absent parts are None or empty."""
    stored = run.path / runs.EVALUATION
    measured, shown = exhibits.load(stored) if stored.is_file() else (None, None)
    pictures = shown if isinstance(shown, Pictures) else None
    excerpts = shown if isinstance(shown, Excerpts) else None
    metrics, provenance = run.metrics, run.provenance
    data = dict(provenance.get("data", {}))
    counts = data.pop("counts", {})
    axes = len(data.get("shape", [0]))
    things = "images" if pictures or axes == 3 else "texts" if excerpts or axes == 0 else "examples"
    return {
        "title": run.path.resolve().name,
        "things": things,
        "privacy": run.read(runs.PRIVACY),
        "audit": run.read(runs.AUDIT),
        "lite": (lite := run.read(runs.VARIANTS)),
        "pareto": svg(lite_figures.pareto(lite), alt=lite["verdict"], prefix="pareto-") if lite else None,
        "metrics": metrics,
        "measured": measured,
        "notes": run.notes,
        "curves": _curves(run.history),
        "confusion": _confusion(measured) if measured else None,
        "classes": _classes(measured, counts) if measured else [],
        "worst": _worst(measured, pictures) if measured and pictures else [],
        "samples": _samples(measured, pictures) if measured and pictures else [],
        "worst_texts": _worst_texts(measured, excerpts) if measured and excerpts else [],
        "sample_texts": _sample_texts(measured, excerpts) if measured and excerpts else [],
        "languages": excerpts.by_language(measured) if measured and excerpts else {},
        "baseline": metrics.get("baseline/accuracy"),
        "skipped": data.pop("skipped", [])[:SKIPPED_SHOWN],
        "split_sizes": {split: sum(of_class.values()) for split, of_class in counts.items()},
        "data": data,
        "model": provenance.get("model", {}),
        "numbers": {name: value for name, value in metrics.items() if name.count("/") < 2},
        "config": run.config,
        "versions": run.versions,
        "load_lines": [*map(_code, _load_lines(run, things=things))]
        if (run.path / runs.SAVED_MODEL).is_dir()
        else [],
        "commands": {purpose: _code(command) for purpose, command in _commands(run, provenance).items()},
    }


def _curves(history: DataFrame) -> list[Any]:
    """A figure for each measurement that the history holds."""
    if not len(history):
        return []
    epochs = (history["epoch"] + 1).tolist()
    starts = {str(stage): rows["epoch"].min() + 1 for stage, rows in history.groupby("stage", sort=False)}
    shown = []
    for place, (name, *columns) in enumerate(PANELS):
        lines = {
            LINE_NAMES.get(column, name): (epochs, history[column].tolist())
            for column in columns
            if column in history
        }
        if lines:
            last = ", ".join(f"{label} {_number(values[-1])}" for label, (_, values) in lines.items())
            alt = f"{name} over {len(epochs)} epochs; in the last one: {last}"
            shown.append(svg(figures.curves(name, lines, starts), alt=alt, prefix=f"curve{place}-"))
    return shown


def _confusion(measured: Evaluation) -> Any:
    pairs = [
        f"{true} taken for {guess}: {count}" for true, guess, count in figures.confused_pairs(measured, 5)
    ]
    alt = "Confusion matrix. " + ("Most frequent: " + "; ".join(pairs) if pairs else "No mistakes.")
    return svg(figures.confusion(measured), alt=alt, prefix="confusion-", smallest=0.7)


def _classes(measured: Evaluation, counts: dict[str, dict[str, int]]) -> list[dict[str, Any]]:
    """One row a class, those found worst first; what is not defined is None."""
    columns = {
        "train": [counts.get("train", {}).get(name) for name in measured.class_names],
        "examples": measured.counts.tolist(),
        "recall": _defined(measured.recall),
        "precision": _defined(measured.precision),
        "average_precision": _defined(measured.average_precision),
    }
    rows = [
        {"name": name, **{column: values[index] for column, values in columns.items()}}
        for index, name in enumerate(measured.class_names)
    ]
    return sorted(rows, key=lambda row: (row["recall"] is None, row["recall"] or 0.0))


def _worst(measured: Evaluation, pictures: Pictures) -> list[dict[str, str]]:
    return [
        {"source": png(image), "caption": measured.mistake(index), "name": measured.names[index]}
        for index, image in zip(pictures.worst, pictures.worst_images, strict=True)
    ]


def _samples(measured: Evaluation, pictures: Pictures) -> list[dict[str, str]]:
    return [
        {"source": png(image), "caption": measured.class_names[label]}
        for label, image in zip(pictures.sample_labels, pictures.sample_images, strict=True)
    ]


def _worst_texts(measured: Evaluation, excerpts: Excerpts) -> list[tuple[str, str, str]]:
    """What the model said of a text, the text, and its name."""
    return [
        (measured.mistake(index), str(text), measured.names[index])
        for index, text in zip(excerpts.worst, excerpts.worst_texts, strict=True)
    ]


def _sample_texts(measured: Evaluation, excerpts: Excerpts) -> list[tuple[str, str]]:
    return [
        (measured.class_names[label], str(text))
        for label, text in zip(excerpts.sample_labels, excerpts.sample_texts, strict=True)
    ]


def _load_lines(run: Run, *, things: str) -> list[str]:
    """Python that loads the model and uses it."""
    load = [
        f"model = tf.saved_model.load({str(run.path / runs.SAVED_MODEL)!r})",
        f"labels = open({str(run.path / runs.LABELS)!r}, encoding='utf-8').read().splitlines()",
    ]
    if things == "texts":
        return [
            "import tensorflow as tf",
            "import tensorflow_text  # the operations of the tokenizer",
            "",
            *load,
            "probabilities = model(tf.constant(['a text, as it is'])).numpy()",
            "print(labels[probabilities[0].argmax()], probabilities.max())",
        ]
    if things != "images":
        return ["import tensorflow as tf", "", *load, "", "probabilities = model(features)  # [n, classes]"]
    return [
        "import numpy as np",
        "import tensorflow as tf",
        "from PIL import Image",
        "",
        *load,
        "image = np.asarray(Image.open('photo.jpg').convert('RGB'))  # any size, as it is",
        "probabilities = model(tf.constant(image)).numpy()",
        "print(labels[probabilities.argmax()], probabilities.max())",
    ]


def _commands(run: Run, provenance: dict[str, dict[str, Any]]) -> dict[str, str]:
    """What to type: purpose to command."""
    commands = {"Look at it in TensorBoard": ["tensorboard", "--logdir", str(run.logdir)]}
    if recipe := provenance.get("recipe", {}).get("name"):
        config, again = run.path / runs.CONFIG, run.path.with_name(run.path.name + "-again")
        words = ["python", "-m", f"recipes.{recipe}", "--config", str(config), "--run-dir", str(again)]
        commands["Run it again"] = words
    return {purpose: shlex.join(words) for purpose, words in commands.items()}


def _code(line: str) -> Any:
    """A line to be copied: every space of it stays."""
    from markupsafe import Markup

    return Markup.escape(line.encode(errors="replace").decode())


def _defined(values: np.ndarray) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]


def _number(value: Any) -> Any:
    """Numbers as a person reads them; all else as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"

"""report.html: the page of one run. All that came from the data is shown and never interpreted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfkit import files
from tfkit import run as runs
from tfkit.evaluation import Evaluation
from tfkit.exhibits import Excerpts, Pictures
from tfkit.report import card, words
from tfkit.report import facts as known
from tfkit.report.facts import Facts
from tfkit.report.pictures import png, svg
from tfkit.report.templates import render
from tfkit.run import Run
from tfkit.tensorboard import figures, lite_figures

if TYPE_CHECKING:
    from pandas import DataFrame

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
    """Write report.html and model_card.md into the run folder, in place of earlier ones.

    What the author has written into the folder's intended_use.md stands in both, as plain text.

    Args:
      run: whatever of metrics.json, history.csv, evaluation.npz, provenance.json, versions.json and notes.txt
        is not there has no section.

    Returns:
      The page's path; it is under 2 MB and makes no request.

    Raises:
      RunError: a file of the run is damaged, or a link out of its folder.
    """
    path = run.path / runs.REPORT
    with known.readable(run.path):
        facts = known.gather(run)
        page = render("report.html.j2", card.content(facts) | _content(facts))
        card.write(facts)
    # The page is the sign that the run has come to its end: it is written last.
    files.write_text(path, page)
    return path


def _content(facts: Facts) -> dict[str, Any]:
    """What the page shows beyond the card; absent parts are None or empty."""
    measured, pictures, excerpts, lite = facts.measured, facts.pictures, facts.excerpts, facts.lite
    return {
        "pareto": svg(lite_figures.pareto(lite), alt=lite["verdict"], prefix="pareto-", smallest=0.7)
        if lite
        else None,
        "metrics": facts.metrics,
        "measured": measured,
        "notes": facts.notes,
        "curves": _curves(facts.history),
        "confusion": _confusion(measured) if measured else None,
        "worst": _worst(measured, pictures) if measured and pictures else [],
        "samples": _samples(measured, pictures) if measured and pictures else [],
        "worst_texts": _worst_texts(measured, excerpts) if measured and excerpts else [],
        "sample_texts": _sample_texts(measured, excerpts) if measured and excerpts else [],
        "languages": excerpts.by_language(measured) if measured and excerpts else {},
        "baseline": facts.metrics.get("baseline/accuracy"),
        "skipped": facts.skipped,
        "split_sizes": facts.split_sizes,
        "numbers": {name: value for name, value in facts.metrics.items() if name.count("/") < 2},
        "packages": facts.versions.get("packages", {}),
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
            last = ", ".join(f"{label} {words.number(values[-1])}" for label, (_, values) in lines.items())
            alt = f"{name} over {len(epochs)} epochs; in the last one: {last}"
            shown.append(svg(figures.curves(name, lines, starts), alt=alt, prefix=f"curve{place}-"))
    return shown


def _confusion(measured: Evaluation) -> Any:
    pairs = [
        f"{true} taken for {guess}: {count}" for true, guess, count in figures.confused_pairs(measured, 5)
    ]
    alt = "Confusion matrix. " + ("Most frequent: " + "; ".join(pairs) if pairs else "No mistakes.")
    return svg(figures.confusion(measured), alt=alt, prefix="confusion-", smallest=0.7)


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

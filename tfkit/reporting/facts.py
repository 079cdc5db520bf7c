"""What is known of a run, read from its folder alone: the page, the card and the comparison show the same.

Where training was to be private, what the privacy code keeps out of a run folder is not shown either, whoever put
it there: no example, no name of a file, no count of a class, no number of the training examples.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tfkit import run, run_files
from tfkit.errors import RunError
from tfkit.metrics import Evaluation
from tfkit.privacy import ledger
from tfkit.reporting.examples import Examples, load
from tfkit.run import Run

LONGEST_BY_AUTHOR = 20_000
SKIPPED_SHOWN = 50
OF_TRAINING = ("loss", "accuracy")
STATEMENT_LOST: dict[str, Any] = {
    "private": False,
    "epsilon": None,
    "in_words": f"{run.PRIVACY} is not there: nobody can tell what was spent, and no promise holds.",
}
_MALFORMED = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
NOT_PRIVATE = (
    "Trained without differential privacy: the model may give away whether a given example was among those it was"
    " trained on."
)


class Facts:
    """A run's folder, read; what is not there is None or empty. The templates of page and card see every attribute.

    Attributes:
      path: the folder.
      title: its name.
      things: what the examples are: images, texts or examples.
      metrics: of metrics.json.
      measured: the evaluation of evaluation.npz.
      examples: that go with it.
      privacy: of privacy.json.
      audit: of audit.json.
      lite: of tflite/variants.json.
      chosen: the TFLite variant that was chosen.
      data: where the examples came from; without counts and without what was left out.
      counts: split to class to number of examples.
      skipped: (path, reason), the first 50.
      split_sizes: split to number of examples.
      history: a pandas DataFrame, one row an epoch.
      author: paragraphs of intended_use.md, each a list of lines.
    """

    def __init__(self, run_: Run) -> None:
        """Read all of a run's folder.

        Raises:
          RunError: a file of the run is damaged.
        """
        self.path, self.title = run_.path, run_.path.resolve().name
        stored = self.path / run.EVALUATION
        self.measured: Evaluation | None = None
        self.examples: Examples | None = None
        if stored.exists():
            self.measured, self.examples = load(stored)
        self.metrics, self.notes, self.config, self.versions = (
            run_.metrics,
            run_.notes,
            run_.config,
            run_.versions,
        )
        self.privacy, self.audit, self.lite = (
            run_.read(run.PRIVACY),
            run_.read(run.AUDIT),
            run_.read(run.VARIANTS),
        )
        self.model: dict[str, Any] = run_.provenance.get("model", {})
        self.recipe: str | None = run_.provenance.get("recipe", {}).get("name")
        self.data = dict(run_.provenance.get("data", {}))
        self.history = run_.history
        if len(self.history) and not {"stage", "epoch"} <= set(self.history):
            raise run_files.damaged(self.path / run.HISTORY, "it has no columns `stage` and `epoch`")
        variants: list[dict[str, Any]] = self.lite.get("variants", [])
        if len(variants) > run_files.MOST_LISTED:
            raise run_files.damaged(self.path / run.VARIANTS, f"it has {len(variants):,} variants")
        self.chosen = next((one for one in variants if one["name"] == self.lite["chosen"]), None)
        if private := ledger.is_private(run_):
            self.examples, self.data = None, ledger.shown(self.data)
            self.privacy = self.privacy or STATEMENT_LOST
            if not self.privacy.get("diagnostics"):
                self.history = self.history.drop(columns=[*OF_TRAINING], errors="ignore")
        self.counts: dict[str, dict[str, int]] = self.data.pop("counts", {})
        self.skipped = self.data.pop("skipped", [])[:SKIPPED_SHOWN]
        self.split_sizes = {split: sum(of_class.values()) for split, of_class in self.counts.items()}
        if not self.split_sizes and not private:
            sizes = {split: f"data/{split}_examples" for split in ("train", "validation", "test")}
            self.split_sizes = {
                split: int(self.metrics[name]) for split, name in sizes.items() if name in self.metrics
            }
        axes = len(self.data.get("shape", [0]))
        self.things = {0: "texts", 3: "images"}.get(axes, "examples")
        if self.examples:
            self.things = self.examples.kind
        self.author = _by_author(self.path / run.INTENDED_USE)

    @property
    def accuracy(self) -> float | None:
        """On the test split."""
        return self.measured.accuracy if self.measured else self.metrics.get("test/accuracy")

    @property
    def numbers(self) -> dict[str, float]:
        """The metrics without those of single classes."""
        return {name: value for name, value in self.metrics.items() if name.count("/") < 2}


@contextlib.contextmanager
def readable(*folders: Path) -> Iterator[None]:
    """Raise a RunError that says so where a run's files are like no run's, and nobody noticed as they were read.

    Raises:
      RunError: whatever a wrong type, a missing name or a number out of range raises in the block.
    """
    from jinja2.exceptions import UndefinedError

    try:
        yield
    except (*_MALFORMED, UndefinedError) as err:
        raise RunError(
            f"No report can be made of the files in {' and '.join(map(str, folders))}: {type(err).__name__}: {err}."
            f"\n  {', '.join(run.SHOWN)}: one of them is not as a run writes it. Copy the run again"
            " from where it was made."
        ) from err


def classes(facts: Facts) -> list[dict[str, Any]]:
    """Return one row a class, those found worst first; what is not defined is None."""
    measured, trained = facts.measured, facts.counts.get("train", {})
    if measured is None:
        return []
    columns = ("recall", "precision", "average_precision")
    rows: list[dict[str, Any]] = [
        {"name": name, "train": trained.get(name), "examples": int(measured.counts[place])}
        | {column: _defined(getattr(measured, column)[place]) for column in columns}
        for place, name in enumerate(measured.class_names)
    ]
    return sorted(rows, key=lambda row: (row["recall"] is None, row["recall"] or 0.0))


def _defined(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _by_author(path: Path) -> list[list[str]]:
    """Return the lines of each paragraph; paragraphs are divided by empty lines."""
    content = run_files.read_bytes(path.parent, path.name, most=4 * LONGEST_BY_AUTHOR, cut=True) or b""
    lines = content.decode(errors="replace")[:LONGEST_BY_AUTHOR].splitlines()
    paragraphs = "\n".join(line.strip() for line in lines).split("\n\n")
    return [paragraph.strip("\n").split("\n") for paragraph in paragraphs if paragraph.strip("\n")]


def load_lines(facts: Facts) -> list[str]:
    """Return Python that loads the model of a run and uses it; nothing where there is none."""
    model, labels = facts.path / run.SAVED_MODEL, facts.path / run.LABELS
    if not model.is_dir():
        return []
    text = "import tensorflow_text  # the operations of the tokenizer"
    image = "import numpy as np\nfrom PIL import Image, ImageOps"
    use = {
        "texts": """probabilities = model(tf.constant(['a text, as it is'])).numpy()
print(labels[probabilities[0].argmax()], probabilities.max())""",
        "images": """image = ImageOps.exif_transpose(Image.open('photo.jpg'))  # any size
image = image if image.mode.startswith('I;16') else image.convert('RGBA')  # grey of 16 bits as it is
probabilities = model(np.asarray(image)).numpy()
print(labels[probabilities.argmax()], probabilities.max())""",
        "examples": "\nprobabilities = model(features)  # [n, classes]",
    }
    imports = {"texts": [text], "images": image.split("\n")}.get(facts.things, [])
    return [
        "import tensorflow as tf",
        *imports,
        "",
        f"model = tf.function(tf.saved_model.load({str(model)!r}), reduce_retracing=True)",
        f"labels = open({str(labels)!r}, encoding='utf-8').read().splitlines()",
        *use[facts.things].split("\n"),
    ]


def commands(facts: Facts) -> dict[str, str]:
    """Return purpose to command: TensorBoard, the run done again where a recipe made it, and the report."""
    path = facts.path
    words = {"Look at it in TensorBoard": ["tensorboard", "--logdir", str(path / run.LOGS)]}
    if facts.recipe:
        again = ["--config", str(path / run.CONFIG), "--run-dir", str(path.with_name(path.name + "-again"))]
        words["Run it again"] = ["python", "-m", f"recipes.{facts.recipe}", *again]
    words["Write this report anew"] = ["python", "-m", "tfkit", "report", str(path)]
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
    """Return a part of one in percent.

    >>> share(0.98265), share(None)
    ('98.3 %', '–')
    """
    return "–" if value is None else f"{100 * value:.1f} %"


def kilobytes(size: int) -> str:
    """Return bytes in units of 1,000, as the table of variants prints them.

    >>> kilobytes(3968552)
    '3,969'
    """
    return f"{size / 1000:,.0f}"


def summary(facts: Facts) -> dict[str, str]:
    """Return the run in a few sentences: what was trained on what, how good it is, how private, and what was chosen.

    Returns:
      Heading to sentences; strangers' words are in them as they are.
    """
    sentences = {
        "What it is": _what(facts),
        "How good": _how_good(facts),
        "Privacy": _how_private(facts),
        "Audit": facts.audit.get("verdict", ""),
        "On a device": facts.lite.get("verdict", ""),
    }
    return {heading: sentence for heading, sentence in sentences.items() if sentence}


def _what(facts: Facts) -> str:
    origin, handle = facts.data.get("origin"), facts.model.get("handle")
    known = facts.measured.class_names if facts.measured else range(facts.data.get("classes", 0))
    kind = {"images": "A classifier of images", "texts": "A classifier of texts"}.get(
        facts.things, "A classifier"
    )
    if "documents" in facts.data:
        kind = f"A search index of {number(facts.data['documents'])} documents"
    elif known:
        kind += f" with {number(len(known))} classes"
    elif not origin:
        return ""
    based = f", based on {handle}" if "digest" in facts.model else f", {handle}" if handle else ""
    source = (
        f", made of {origin}" if "documents" in facts.data else f", trained on {origin}" if origin else ""
    )
    sizes = ", ".join(f"{number(size)} {split}" for split, size in facts.split_sizes.items())
    total = f" ({number(sum(facts.split_sizes.values()))} {facts.things}: {sizes})" if sizes else ""
    return f"{kind}{based}{source}{total}."


def _how_good(facts: Facts) -> str:
    measured = facts.measured
    if measured is None:
        return ""
    low, high = measured.accuracy_interval
    text = (
        f"{share(measured.accuracy)} of {number(len(measured.labels))} test {facts.things} are classified right;"
        f" on new {facts.things} of the same kind expect {share(low)} to {share(high)} (95 % interval)."
    )
    recall = measured.recall
    if np.nanmin(recall) < 1 and len(recall) > 1:
        worst = int(np.nanargmin(recall))
        text += f" Found least: {measured.class_names[worst]}, {share(float(recall[worst]))} of its"
        text += f" {number(int(measured.counts[worst]))}."
    return text


def _how_private(facts: Facts) -> str:
    privacy = facts.privacy
    if not privacy:
        if "documents" in facts.data:
            return "The index holds what the documents say: whoever may not read them must not have it."
        return NOT_PRIVATE if facts.measured or facts.model else ""
    epsilon = privacy.get("epsilon")
    if not privacy.get("private") or epsilon is None:
        return "NOT PRIVATE: training was to be differentially private, and is not; the statement says why."
    return (
        f"Training was differentially private with epsilon {epsilon:.4g} at delta {privacy['delta']:.3g}, for"
        f" {privacy['neighbouring_relation']}."
    )

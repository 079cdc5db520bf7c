"""What is known of a run, read from its folder alone: the page, the card and the comparison show the same.

Where training was to be private, what the privacy code keeps out of a run folder is not shown either, whoever put
it there: no example, no name of a file, no count of a class, no number of the training examples.

What to type: how the model of a run is loaded, and how the run is done again.

Numbers as a person reads them, and a run in a few sentences.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfkit import run, run_files
from tfkit.errors import RunError
from tfkit.metrics import Evaluation
from tfkit.privacy import ledger
from tfkit.privacy.ledger import is_private
from tfkit.reporting.examples import Excerpts, Pictures, load
from tfkit.run import AUDIT, EVALUATION, HISTORY, INTENDED_USE, PRIVACY, SHOWN, VARIANTS, Run

if TYPE_CHECKING:
    from pandas import DataFrame


def load_lines(path: Path, *, things: str) -> list[str]:
    """Python that loads the model of a run and uses it; nothing where there is none.

    Args:
      path: the run's folder.
      things: images, texts or examples: what it takes.
    """
    if not (path / run.SAVED_MODEL).is_dir():
        return []
    load = [
        f"model = tf.function(tf.saved_model.load({str(path / run.SAVED_MODEL)!r}), reduce_retracing=True)",
        f"labels = open({str(path / run.LABELS)!r}, encoding='utf-8').read().splitlines()",
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
        "from PIL import Image, ImageOps",
        "",
        *load,
        "image = ImageOps.exif_transpose(Image.open('photo.jpg'))  # any size",
        "image = image if image.mode.startswith('I;16') else image.convert('RGBA')  # grey of 16 bits as it is",
        "probabilities = model(np.asarray(image)).numpy()",
        "print(labels[probabilities.argmax()], probabilities.max())",
    ]


def commands(path: Path, *, recipe: str | None) -> dict[str, str]:
    """Purpose to command.

    Args:
      path: the run's folder.
      recipe: the name of what made it, where a recipe did.
    """
    found = {"Look at it in TensorBoard": ["tensorboard", "--logdir", str(path / run.LOGS)]}
    if recipe:
        config, again = path / run.CONFIG, path.with_name(path.name + "-again")
        found["Run it again"] = [
            *("python", "-m", f"recipes.{recipe}"),
            *("--config", str(config), "--run-dir", str(again)),
        ]
    found["Write this report anew"] = ["python", "-m", "tfkit", "report", str(path)]
    return {purpose: shlex.join(words) for purpose, words in found.items()}


LONGEST_BY_AUTHOR = 20_000
SKIPPED_SHOWN = 50
OF_TRAINING = ("loss", "accuracy")
STATEMENT_LOST: dict[str, Any] = {
    "private": False,
    "epsilon": None,
    "in_words": f"{run.PRIVACY} is not there: nobody can tell what was spent, and no promise holds.",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Facts:
    """A run's folder, read; what is not there is None or empty.

    Attributes:
      path: the folder.
      things: what the examples are: images, texts or examples.
      metrics: of metrics.json.
      measured: of evaluation.npz, with pictures or excerpts.
      privacy: of privacy.json.
      audit: of audit.json.
      lite: of tflite/variants.json.
      data: where the examples came from; without counts and without what was left out.
      counts: split to class to number of examples.
      skipped: (path, reason), the first 50.
      split_sizes: split to number of examples.
      history: one row an epoch.
      author: paragraphs of intended_use.md, each a list of lines.
    """

    path: Path
    things: str
    metrics: dict[str, float]
    measured: Evaluation | None
    pictures: Pictures | None
    excerpts: Excerpts | None
    privacy: dict[str, Any]
    audit: dict[str, Any]
    lite: dict[str, Any]
    data: dict[str, Any]
    counts: dict[str, dict[str, int]]
    skipped: list[list[str]]
    split_sizes: dict[str, int]
    model: dict[str, Any]
    recipe: str | None
    history: DataFrame
    notes: list[str]
    config: dict[str, Any]
    versions: dict[str, Any]
    author: list[list[str]]

    @property
    def title(self) -> str:
        """The name of the run's folder."""
        return self.path.resolve().name

    @property
    def chosen(self) -> dict[str, Any] | None:
        """The TFLite variant that was chosen."""
        variants = self.lite.get("variants", ())
        return next((one for one in variants if one["name"] == self.lite["chosen"]), None)

    @property
    def accuracy(self) -> float | None:
        """On the test split."""
        return self.measured.accuracy if self.measured else self.metrics.get("test/accuracy")


def gather(run: Run) -> Facts:
    """Read all of a run's folder.

    Raises:
      RunError: a file of the run is damaged.
    """
    stored = run.path / EVALUATION
    measured, shown = load(stored) if stored.exists() else (None, None)
    metrics, provenance, privacy = run.metrics, run.provenance, run.read(PRIVACY)
    data = dict(provenance.get("data", {}))
    history = run.history
    if len(history) and not {"stage", "epoch"} <= set(history):
        raise run_files.damaged(run.path / HISTORY, "it has no columns `stage` and `epoch`")
    lite = run.read(VARIANTS)
    if len(lite.get("variants", ())) > run_files.MOST_LISTED:
        raise run_files.damaged(run.path / VARIANTS, f"it has {len(lite['variants']):,} variants")
    if private := is_private(run):
        shown, data, privacy = None, ledger.shown(data), privacy or STATEMENT_LOST
        if not privacy.get("diagnostics"):
            history = history.drop(columns=[name for name in OF_TRAINING if name in history])
    counts, skipped = data.pop("counts", {}), data.pop("skipped", [])
    sizes = {split: sum(of_class.values()) for split, of_class in counts.items()}
    if not sizes and not private:
        named = {split: metrics.get(f"data/{split}_examples") for split in ("train", "validation", "test")}
        sizes = {split: int(size) for split, size in named.items() if size is not None}
    pictures = shown if isinstance(shown, Pictures) else None
    excerpts = shown if isinstance(shown, Excerpts) else None
    axes = len(data.get("shape", [0]))
    return Facts(
        path=run.path,
        things="images" if pictures or axes == 3 else "texts" if excerpts or axes == 0 else "examples",
        metrics=metrics,
        measured=measured,
        pictures=pictures,
        excerpts=excerpts,
        privacy=privacy,
        audit=run.read(AUDIT),
        lite=lite,
        data=data,
        counts=counts,
        skipped=skipped[:SKIPPED_SHOWN],
        split_sizes=sizes,
        model=provenance.get("model", {}),
        recipe=provenance.get("recipe", {}).get("name"),
        history=history,
        notes=run.notes,
        config=run.config,
        versions=run.versions,
        author=_by_author(run.path / INTENDED_USE),
    )


@contextlib.contextmanager
def readable(*folders: Path) -> Iterator[None]:
    """Raise a RunError that says so where a run's files are like no run's, and nobody noticed as they were read.

    Raises:
      RunError: whatever a wrong type, a missing name or a number out of range raises in the block.
    """
    from jinja2.exceptions import UndefinedError

    try:
        yield
    except (
        ArithmeticError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
        AttributeError,
        UndefinedError,
    ) as err:
        raise RunError(
            f"No report can be made of the files in {' and '.join(map(str, folders))}: {type(err).__name__}: {err}."
            f"\n  {', '.join(name for name in SHOWN)}: one of them is not as a run writes it. Copy the run again"
            " from where it was made."
        ) from err


def classes(facts: Facts) -> list[dict[str, Any]]:
    """One row a class, those found worst first; what is not defined is None."""
    measured = facts.measured
    if measured is None:
        return []
    columns = {
        "train": [facts.counts.get("train", {}).get(name) for name in measured.class_names],
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


def _defined(values: np.ndarray) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]


def _by_author(path: Path) -> list[list[str]]:
    """Plain text: paragraphs are divided by empty lines."""
    content = run_files.read_bytes(path.parent, path.name, most=4 * LONGEST_BY_AUTHOR, cut=True) or b""
    text = content.decode(errors="replace")[:LONGEST_BY_AUTHOR]
    paragraphs: list[list[str]] = [[]]
    for line in text.splitlines():
        if line.strip():
            paragraphs[-1].append(line.strip())
        elif paragraphs[-1]:
            paragraphs.append([])
    return [lines for lines in paragraphs if lines]


NOT_PRIVATE = (
    "Trained without differential privacy: the model may give away whether a given example was among those it was"
    " trained on."
)


def number(value: Any) -> Any:
    """Numbers with separators and four digits; all else as it is.

    >>> number(4694024), number(0.123456), number("as it is")
    ('4,694,024', '0.1235', 'as it is')
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def share(value: float | None) -> str:
    """A part of one in percent.

    >>> share(0.98265), share(None)
    ('98.3 %', '–')
    """
    return "–" if value is None else f"{100 * value:.1f} %"


def kilobytes(size: int) -> str:
    """Bytes in units of 1,000, as the table of variants prints them.

    >>> kilobytes(3968552)
    '3,969'
    """
    return f"{size / 1000:,.0f}"


def summary(facts: Facts) -> dict[str, str]:
    """The run in a few sentences: what was trained on what, how good it is, how private, and what was chosen.

    Returns:
      Heading to sentences; strangers' words are in them as they are.
    """
    told = {
        "What it is": _what(facts),
        "How good": _how_good(facts),
        "Privacy": _how_private(facts),
        "Audit": facts.audit.get("verdict", ""),
        "On a device": facts.lite.get("verdict", ""),
    }
    return {heading: sentence for heading, sentence in told.items() if sentence}


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
    made = f", made of {origin}" if "documents" in facts.data else f", trained on {origin}" if origin else ""
    sizes = ", ".join(f"{number(size)} {split}" for split, size in facts.split_sizes.items())
    total = f" ({number(sum(facts.split_sizes.values()))} {facts.things}: {sizes})" if sizes else ""
    return f"{kind}{based}{made}{total}."


def _how_good(facts: Facts) -> str:
    measured = facts.measured
    if measured is None:
        return ""
    low, high = measured.accuracy_interval
    told = (
        f"{share(measured.accuracy)} of {number(len(measured.labels))} test {facts.things} are classified right;"
        f" on new {facts.things} of the same kind expect {share(low)} to {share(high)} (95 % interval)."
    )
    recall = measured.recall
    if np.nanmin(recall) < 1 and len(recall) > 1:
        worst = int(np.nanargmin(recall))
        told += f" Found least: {measured.class_names[worst]}, {share(float(recall[worst]))} of its"
        told += f" {number(int(measured.counts[worst]))}."
    return told


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

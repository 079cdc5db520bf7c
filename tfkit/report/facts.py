"""What is known of a run, read from its folder alone: the page, the card and the comparison show the same.

Where training was to be private, what the privacy code keeps out of a run folder is not shown either, whoever put
it there: no example, no name of a file, no count of a class, no number of the training examples.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfkit import claim, exhibits, run_files
from tfkit import run as runs
from tfkit.claim import INTENDED_USE
from tfkit.errors import RunError
from tfkit.evaluation import Evaluation
from tfkit.exhibits import Excerpts, Pictures
from tfkit.privacy import owner
from tfkit.run import Run

if TYPE_CHECKING:
    from pandas import DataFrame

LONGEST_BY_AUTHOR = 20_000
SKIPPED_SHOWN = 50
OF_TRAINING = ("loss", "accuracy")
STATEMENT_LOST: dict[str, Any] = {
    "private": False,
    "epsilon": None,
    "in_words": f"{runs.PRIVACY} is not there: nobody can tell what was spent, and no promise holds.",
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
    stored = run.path / runs.EVALUATION
    measured, shown = exhibits.load(stored) if stored.exists() else (None, None)
    metrics, provenance, privacy = run.metrics, run.provenance, run.read(runs.PRIVACY)
    data = dict(provenance.get("data", {}))
    history = run.history
    if len(history) and not {"stage", "epoch"} <= set(history):
        raise run_files.damaged(run.path / runs.HISTORY, "it has no columns `stage` and `epoch`")
    lite = run.read(runs.VARIANTS)
    if len(lite.get("variants", ())) > run_files.MOST_LISTED:
        raise run_files.damaged(run.path / runs.VARIANTS, f"it has {len(lite['variants']):,} variants")
    if private := owner.is_private(run):
        shown, data, privacy = None, owner.shown(data), privacy or STATEMENT_LOST
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
        audit=run.read(runs.AUDIT),
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
            f"\n  {', '.join(name for name in claim.SHOWN)}: one of them is not as a run writes it. Copy the run again"
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

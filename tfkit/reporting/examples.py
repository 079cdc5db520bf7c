"""The test examples that a report shows, and the file that keeps them with their evaluation."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfkit import run_files
from tfkit.environment import files
from tfkit.errors import CheckError
from tfkit.metrics import Evaluation
from tfkit.tasks import EVALUATIONS

if TYPE_CHECKING:
    from tfkit.data.splits import Splits

EXCERPT = 300
"""Characters of a text that are shown."""

MOST_SHOWN = 256
"""Examples that a report has room for."""

_KIND = "evaluation"


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """Images as the model sees them, or the beginnings of texts, that go with an evaluation.

    Attributes:
      worst: int64 [k], indices into the evaluation, see `Evaluation.worst`.
      worst_inputs: of these, uint8 [k, s, s, 3] or str [k].
      samples: of others, uint8 [m, s, s, 3] or str [m].
      sample_labels: int64 [m]; of labels [m, c]; of numbers float [m].
      languages: str [n], of all examples of the evaluation; [0] where nobody knows.
      heat: uint8 [k, s, s], where the model looked in the worst; [0] where that is not known.
    """

    worst: np.ndarray
    worst_inputs: np.ndarray
    samples: np.ndarray
    sample_labels: np.ndarray
    languages: np.ndarray = field(default_factory=lambda: np.array([], np.str_))
    heat: np.ndarray = field(default_factory=lambda: np.array([], np.uint8))

    @classmethod
    def of(cls, evaluation: Evaluation, splits: Splits, *, worst: int = 16, samples: int = 16) -> Examples:
        """Return the worst mistakes, and test examples spread evenly over the split.

        Args:
          evaluation: of the test split of `splits`, in its order.
          splits: of images (not of features that were made of them) or texts.
          worst: how many mistakes at most.
          samples: how many others at most.
        """
        test, source = np.asarray(splits.indices["test"]), splits.source
        mistakes = evaluation.worst(worst)
        sample_rows = np.unique(np.linspace(0, len(test) - 1, min(samples, len(test))).astype(np.int64))
        indices = test[np.concatenate([mistakes, sample_rows])]
        if splits.kind == "texts":
            texts = (" ".join(str(source.raw(int(index))).split()) for index in indices)
            # NumPy drops NULs at the end of a string; readers of the file must not depend on that.
            inputs = np.array([text.replace("\0", " ")[:EXCERPT] for text in texts], np.str_)
        else:
            inputs = source.read(indices)
        all_languages = getattr(source, "languages", None)
        return cls(
            worst=mistakes,
            worst_inputs=inputs[: len(mistakes)],
            samples=inputs[len(mistakes) :],
            sample_labels=evaluation.labels[sample_rows],
            languages=np.array([all_languages[index] for index in test] if all_languages else [], np.str_),
        )

    @property
    def kind(self) -> str:
        """Return what they are: images or texts."""
        return "texts" if self.worst_inputs.dtype.kind == "U" else "images"


def by_language(evaluation: Evaluation, languages: np.ndarray) -> dict[str, tuple[int, float]]:
    """Return language to its number of examples and the share that is right, the most frequent one first.

    Args:
      evaluation: of examples.
      languages: of each of them, str [n]; [0] where nobody knows.
    """
    is_right = evaluation.right
    names, counts = np.unique(languages, return_counts=True)
    shares = {
        str(name): (int(count), float(is_right[languages == name].mean()))
        for name, count in zip(names, counts, strict=True)
    }
    return dict(sorted(shares.items(), key=lambda item: -item[1][0]))


def save(path: Path, evaluation: Evaluation, examples: Examples | None = None) -> None:
    """Write both into one .npz without pickles."""
    arrays: dict[str, Any] = {
        field.name: np.asarray(getattr(evaluation, field.name)) for field in dataclasses.fields(evaluation)
    }
    arrays |= {_KIND: np.array(next(name for name, kind in EVALUATIONS.items() if kind is type(evaluation)))}
    arrays |= vars(examples) if examples is not None else {}
    with files.new_file(path) as file:
        np.savez_compressed(file, **arrays)


def load(path: Path) -> tuple[Evaluation, Examples | None]:
    """Return what `save` wrote.

    Raises:
      RunError: the file does not hold an evaluation.
    """
    arrays = run_files.read_arrays(path.parent, path.name)
    try:
        kind = EVALUATIONS[str(arrays.pop(_KIND, next(iter(EVALUATIONS))))]
        values: dict[str, Any] = {field.name: arrays.pop(field.name) for field in dataclasses.fields(kind)}
        evaluation = kind(**values)
        classes = len(evaluation.class_names)
        if 8 * classes**2 > run_files.UNPACKED + run_files.RATIO * path.stat().st_size:
            raise ValueError(f"{classes} classes of {len(evaluation.labels)} examples")
        examples = Examples(**arrays) if arrays else None
        if examples and not (
            examples.worst.ndim == 1
            and _is_valid(examples.worst, examples.worst_inputs, limit=len(evaluation.labels))
            and examples.sample_labels.shape[1:] == evaluation.labels.shape[1:]
            and _is_valid(_as_classes(examples.sample_labels, evaluation), examples.samples, limit=classes)
            and examples.samples.dtype.kind == examples.worst_inputs.dtype.kind
            and (not examples.heat.size or examples.heat.shape == examples.worst_inputs.shape[:3])
            and examples.heat.dtype == np.uint8
        ):
            raise ValueError("its examples are not of its evaluation")
    except (ValueError, KeyError, TypeError, AttributeError, CheckError) as error:
        raise run_files.damaged(path, f"it holds no evaluation: {error}") from error
    return evaluation, examples


def _as_classes(labels: np.ndarray, evaluation: Evaluation) -> np.ndarray:
    """Return labels of samples as they are, and of numbers zeros: they have no range, but are finite."""
    is_numeric = evaluation.labels.dtype.kind == "f" and labels.dtype.kind == "f"
    return np.zeros(len(labels), np.int64) if is_numeric and np.isfinite(labels).all() else labels


def _is_valid(indices: np.ndarray, inputs: np.ndarray, *, limit: int) -> bool:
    """Return whether indices or labels are in range, and each has its image or text."""
    is_list = indices.ndim > 0 and indices.dtype.kind in "iu" and len(indices) == len(inputs) <= MOST_SHOWN
    is_image = inputs.dtype == np.uint8 and inputs.ndim == 4 and inputs.shape[3] == 3
    is_shown = is_image or inputs.dtype.kind == "U"
    return is_list and is_shown and not ((indices < 0) | (indices >= limit)).any()

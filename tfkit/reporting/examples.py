"""What goes with an evaluation: the test examples that are worth looking at, and the file that keeps all of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tfkit import run_files
from tfkit.environment import files
from tfkit.errors import CheckError
from tfkit.metrics import Evaluation

if TYPE_CHECKING:
    from tfkit.data.splits import Splits

EXCERPT = 300
"""Characters of a text that are shown."""

SHOWN = 256
"""Examples that a report has room for."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pictures:
    """Images that go with an evaluation, as the model sees them.

    Attributes:
      worst: int64 [k], indices into the evaluation, see `Evaluation.worst`.
      worst_images: uint8 [k, s, s, 3].
      sample_images: uint8 [m, s, s, 3].
      sample_labels: int64 [m].
    """

    worst: np.ndarray
    worst_images: np.ndarray
    sample_images: np.ndarray
    sample_labels: np.ndarray

    @classmethod
    def of(cls, evaluation: Evaluation, splits: Splits, *, worst: int = 16, samples: int = 16) -> Pictures:
        """The worst mistakes, and test images spread evenly over the split.

        Args:
          evaluation: of the test split of `splits`, in its order.
          splits: of images (not of features that were made of them).
          worst: how many mistakes at most.
          samples: how many others at most.
        """
        test = np.asarray(splits.indices["test"])
        mistakes = evaluation.worst(worst)
        spread = _spread(len(test), samples)
        images = splits.source.read(test[np.concatenate([mistakes, spread])])
        return cls(
            worst=mistakes,
            worst_images=images[: len(mistakes)],
            sample_images=images[len(mistakes) :],
            sample_labels=evaluation.labels[spread],
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Excerpts:
    """Texts that go with an evaluation: the beginning of each.

    Attributes:
      worst: int64 [k], indices into the evaluation, see `Evaluation.worst`.
      worst_texts: str [k].
      sample_texts: str [m].
      sample_labels: int64 [m].
      languages: str [n], of all examples of the evaluation; [0] where nobody knows.
    """

    worst: np.ndarray
    worst_texts: np.ndarray
    sample_texts: np.ndarray
    sample_labels: np.ndarray
    languages: np.ndarray

    @classmethod
    def of(cls, evaluation: Evaluation, splits: Splits, *, worst: int = 16, samples: int = 16) -> Excerpts:
        """The worst mistakes, and test texts spread evenly over the split; arguments as of `Pictures.of`."""
        test = np.asarray(splits.indices["test"])
        mistakes = evaluation.worst(worst)
        spread = _spread(len(test), samples)
        spoken = getattr(splits.source, "languages", None)
        return cls(
            worst=mistakes,
            worst_texts=_excerpts(splits, test[mistakes]),
            sample_texts=_excerpts(splits, test[spread]),
            sample_labels=evaluation.labels[spread],
            languages=np.array([spoken[index] for index in test] if spoken else [], np.str_),
        )

    def by_language(self, evaluation: Evaluation) -> dict[str, tuple[int, float]]:
        """Language to its examples and their accuracy, the most frequent one first."""
        right = evaluation.predicted == evaluation.labels
        names, counts = np.unique(self.languages, return_counts=True)
        of_each = {
            str(name): (int(count), float(right[self.languages == name].mean()))
            for name, count in zip(names, counts, strict=True)
        }
        return dict(sorted(of_each.items(), key=lambda item: -item[1][0]))


Exhibits = Pictures | Excerpts


def save(path: Path, evaluation: Evaluation, exhibits: Exhibits | None = None) -> None:
    """Write both into one .npz without pickles: the fields of the two classes under their names."""
    arrays = {
        "labels": evaluation.labels,
        "probabilities": evaluation.probabilities,
        "names": np.array(evaluation.names, np.str_),
        "class_names": np.array(evaluation.class_names, np.str_),
        **(vars(exhibits) if exhibits is not None else {}),
    }
    with files.new_file(path) as file:
        np.savez_compressed(file, **arrays)


def load(path: Path) -> tuple[Evaluation, Exhibits | None]:
    """Read back what `save` wrote.

    Raises:
      RunError: the file does not hold an evaluation.
    """
    arrays = run_files.read_arrays(path.parent, path.name)
    try:
        evaluation = Evaluation(
            labels=arrays.pop("labels"),
            probabilities=arrays.pop("probabilities"),
            names=arrays.pop("names").tolist(),
            class_names=arrays.pop("class_names").tolist(),
        )
        classes = len(evaluation.class_names)
        if 8 * classes**2 > run_files.UNPACKED + run_files.RATIO * path.stat().st_size:
            raise ValueError(f"{classes} classes of {len(evaluation.labels)} examples")
        if not arrays:
            return evaluation, None
        found = Excerpts(**arrays) if "worst_texts" in arrays else Pictures(**arrays)
        if not _belong(evaluation, vars(found)):
            raise ValueError("its examples are not of its evaluation")
    except (ValueError, KeyError, TypeError, AttributeError, CheckError) as error:
        raise run_files.damaged(path, f"it holds no evaluation: {error}") from error
    return evaluation, found


def _belong(evaluation: Evaluation, arrays: Mapping[str, np.ndarray]) -> bool:
    """Return whether indices and labels are in range, and each has its picture or text."""
    for name, labels, limit in (
        ("worst", arrays["worst"], len(evaluation.labels)),
        ("sample", arrays["sample_labels"], len(evaluation.class_names)),
    ):
        shown = arrays[f"{name}_images" if f"{name}_images" in arrays else f"{name}_texts"]
        if labels.ndim != 1 or labels.dtype.kind not in "iu" or not len(labels) == len(shown) <= SHOWN:
            return False
        if ((labels < 0) | (labels >= limit)).any():
            return False
        if shown.dtype.kind != "U" and (shown.dtype != np.uint8 or shown.ndim != 4 or shown.shape[3] != 3):
            return False
    return True


def _spread(count: int, most: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(most, count)).astype(np.int64))


def _excerpts(splits: Splits, indices: np.ndarray) -> np.ndarray:
    texts = (" ".join(str(splits.source.raw(int(index))).split()) for index in indices)
    # NumPy drops NULs at the end of a string; readers of the file must not depend on that.
    return np.array([text.replace("\0", " ")[:EXCERPT] for text in texts], np.str_)

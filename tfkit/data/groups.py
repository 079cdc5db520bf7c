"""Examples that belong together, of one text or of one person, and so are in one split."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tfkit.data.splits import Splits, cut_by_class, leaks
from tfkit.errors import ConfigError


def fold_text(text: str) -> str:
    """Return what makes two texts the same one: composed characters, and white space of one kind."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def text_digest(text: str) -> bytes:
    """Return 16 bytes that are the same of what `fold_text` makes the same."""
    return hashlib.blake2b(fold_text(text).encode("utf-8", "replace"), digest_size=16).digest()


def as_digests(content: bytes) -> np.ndarray:
    """Return what `text_digest` gave for n texts, one after the other, as uint64 [n, 2]."""
    return np.frombuffer(content, "<u8").reshape(-1, 2)


def group_digests(names: Iterable[object]) -> np.ndarray:
    """Return digests of the names of groups, uint64 [n, 2]."""
    return as_digests(b"".join(text_digest(str(name)) for name in names))


class Groups:
    """Examples of the same text, or of the same person, by digests.

    Attributes:
      names: one for each group, of its digest.
      labels: int64, one for each group: of the labels of its examples the one that is rarest among all examples.
      repeated: examples that are not alone in their group.
      contradicting: examples in whose group there is another label too.
    """

    def __init__(self, digests: np.ndarray, labels: np.ndarray) -> None:
        """Find the groups.

        Args:
          digests: uint64 [n, 2]; the first half says which are of one group.
          labels: int64 [n].
        """
        _, starts, self._group_of, counts = np.unique(
            digests[:, 0], return_index=True, return_inverse=True, return_counts=True
        )
        self.names = [f"{first:016x}{second:016x}" for first, second in digests[starts].tolist()]
        self.repeated = int(counts[counts > 1].sum())
        totals = np.bincount(labels, minlength=1)
        group, label = np.divmod(np.unique(self._group_of * len(totals) + labels), len(totals))
        order = np.lexsort((label, totals[label], group))
        _, first, labels_of = np.unique(group[order], return_index=True, return_counts=True)
        self.labels = label[order][first]
        self.contradicting = int(counts[labels_of > 1].sum())

    def cut(self, class_names: Sequence[str], **kwargs: Any) -> dict[str, np.ndarray]:
        """Return the examples of each split, drawn from the digest of the group: they may move in their file.

        Args:
          class_names: one for each label.
          kwargs: see `cut_by_class`.

        Raises:
          DataError: a class has fewer groups than there are splits.
        """
        parts = cut_by_class(self.names, self.labels, class_names=class_names, **kwargs)
        rows = {}
        for split, groups in parts.items():
            rank = np.full(len(self.names), -1)
            rank[groups] = np.arange(len(groups))
            members = np.flatnonzero(rank[self._group_of] >= 0)
            rows[split] = members[np.argsort(rank[self._group_of[members]], kind="stable")]
        return rows


def cut_groups(
    digests: np.ndarray, labels: np.ndarray, *, class_names: Sequence[str], **kwargs: Any
) -> dict[str, np.ndarray]:
    """Cut examples such that those of a group are in one split.

    Each class is cut by itself, as in `cut_by_class`, a group counting as one of its rarest class; classes that are the
    rarest in too few groups are cut together with the largest one.

    Args:
      digests: of the group of each example, see `group_digests`.
      labels: int64 [n].
      class_names: one for each label.
      kwargs: see `cut_by_class`.

    Raises:
      DataError: there are fewer groups than splits.
    """
    groups = Groups(digests, labels)
    sizes = np.bincount(groups.labels, minlength=len(class_names))
    is_small = sizes < 1 + len(kwargs["held_out"])
    strata, groups.labels = np.unique(
        np.where(is_small[groups.labels], sizes.argmax(), groups.labels), return_inverse=True
    )
    return groups.cut([class_names[label] for label in strata], **{**kwargs, "noun": "groups"})


def group_notes(indices: Mapping[str, np.ndarray], digests: np.ndarray, *, where: str) -> Iterator[str]:
    """Yield what a user should know of the groups of examples, one sentence each.

    Args:
      indices: of each split.
      digests: of the group of each example.
      where: what says the groups: "The column 'patient' of scans.csv".
    """
    keys = digests[:, 0]
    counts = {split: len(np.unique(keys[rows])) for split, rows in indices.items()}
    split_counts = ", ".join(f"{split} {count}" for split, count in counts.items())
    yield (
        f"{where} says which examples belong together: {len(np.unique(keys))} groups ({split_counts}). Intervals in the"
        " report take examples as independent of each other, which those of a group are not: they are too narrow."
    )
    spread, _ = leaks(indices, keys.tolist(), "examples")
    if spread:
        yield (
            f"Examples whose group is in an earlier split too, since the data have splits of their own: {spread}. They"
            " make the result look better than it is."
        )


def limit_groups(splits: Splits, most: int) -> Splits:
    """Return the splits with no more than so many training examples of a group, drawn by their contents.

    Which of a group are drawn depends on the group alone, so that nobody's presence shows in the choice of others'.

    Args:
      splits: of a source that knows the groups, as with `group_column`.
      most: examples of a group.

    Raises:
      ConfigError: the groups are not known.
    """
    source: Any = splits.source
    if getattr(source, "groups", None) is None:
        raise ConfigError(
            f"examples_per_group {most} needs groups, and {splits.origin} has none.\n  Name the column that says"
            " which examples belong together, such as the patient: --group-column (group_column=; of arrays groups=)."
        )
    train = splits.indices["train"]
    lots = np.array([text_digest(f"{splits.seed}/{source.digests[row]}")[:8] for row in train]).view("<u8")
    _, group_of = np.unique(source.groups[train, 0], return_inverse=True)
    order = np.lexsort((lots, group_of))
    starts = np.searchsorted(group_of[order], np.arange(group_of.max() + 1))
    place = np.empty(len(train), np.int64)  # within its group
    place[order] = np.arange(len(train)) - starts[group_of[order]]
    return splits.replace(indices={**splits.indices, "train": train[place < most]})

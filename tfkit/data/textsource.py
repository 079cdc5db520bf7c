"""Texts in their store as a Source, and as Splits: one text is in one split, however often it is there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import overload

import numpy as np

from tfkit.data.cut import check_enough, cut_by_class
from tfkit.data.splits import SPLIT_NAMES
from tfkit.data.textstore import RECIPE, TextStore
from tfkit.files import digest


class TextSource:
    """Strings, read from their store as they are asked for; see `tfkit.data.Source`."""

    def __init__(
        self,
        store: TextStore,
        names: Sequence[str],
        *,
        with_languages: bool = False,
        columns: Mapping[str, str | None] | None = None,
    ) -> None:
        """Take all texts of the store.

        Args:
          store: of n texts.
          names: n.
          with_languages: whether the store knows the language of each.
          columns: of a table, which were taken: text_column, label_column, language_column.
        """
        self.columns = columns or {}
        self.labels = store.labels
        self.names = names
        self.shape: tuple[int, ...] = ()
        self.lengths = store.lengths
        """int32 [n], in characters."""
        self.fingerprint = digest(store.entry["fingerprint"], "texts", RECIPE)
        self.languages: tuple[str, ...] | None = None
        """Of each text, where a column says."""
        if with_languages:
            of_code = store.entry["languages"]
            self.languages = tuple(of_code[code] for code in store.language)
        self._store = store

    def read(self, indices: np.ndarray) -> np.ndarray:
        """bytes [b], UTF-8."""
        out = np.empty(len(indices), object)
        for row, index in enumerate(indices):
            out[row] = self._store.content(int(index))
        return out

    def raw(self, index: int) -> str:
        """The text."""
        return self._store.content(index).decode()


class LineNames(Sequence[str]):
    """ "mails.csv:17" for each row, from the numbers alone."""

    def __init__(self, file: str, lines: np.ndarray) -> None:
        self._file, self._lines = file, lines

    def __len__(self) -> int:
        return len(self._lines)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        """The name of one row, or of some."""
        if isinstance(index, slice):
            return LineNames(self._file, self._lines[index])
        return f"{self._file}:{self._lines[index]}"


class Groups:
    """Rows of the same text, by their digests."""

    def __init__(self, digests: np.ndarray, labels: np.ndarray) -> None:
        """Sort the rows so that those of one text follow each other, in the order of the table.

        Args:
          digests: uint64 [n, 2].
          labels: int64 [n].
        """
        first, second = digests[:, 0], digests[:, 1]
        self.order = np.lexsort((second, first))
        a, b = first[self.order], second[self.order]
        new = np.ones(len(a), bool)
        new[1:] = (a[1:] != a[:-1]) | (b[1:] != b[:-1])
        self.starts = np.flatnonzero(new)
        self.counts = np.diff([*self.starts, len(a)]).astype(np.int64)
        self.names = [f"{x:016x}{y:016x}" for x, y in zip(a[self.starts], b[self.starts], strict=True)]
        labels = labels[self.order]
        self.labels = labels[self.starts].copy()
        self.repeated = int(np.sum(self.counts[self.counts > 1]))
        """Rows whose text is in another row too."""
        self.contradicting = 0
        """Rows whose text has another label in another row."""
        for group in np.flatnonzero(self.counts > 1):
            own = labels[self.starts[group] : self.starts[group] + self.counts[group]]
            if (own != own[0]).any():
                self.contradicting += len(own)
                # The most frequent label; the order of the rows decides nothing.
                self.labels[group] = min(Counter(own.tolist()).items(), key=lambda item: (-item[1], item[0]))[
                    0
                ]

    def rows(self, groups: np.ndarray) -> np.ndarray:
        """The rows of these groups, int64, group after group."""
        counts = self.counts[groups]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return self.order[np.repeat(self.starts[groups], counts) + within]


def cut_texts(
    groups: Groups,
    class_names: Sequence[str],
    *,
    held_out: Mapping[str, float],
    seed: int,
    where: str,
    hint: str = "",
) -> dict[str, np.ndarray]:
    """split -> its rows. The digest of a text is what its split is drawn from, so that rows may move in their file.

    Raises:
      DataError: a class has fewer different texts than there are splits.
    """
    check_enough(
        groups.labels,
        class_names=class_names,
        splits=("train", *held_out),
        where=where,
        hint=hint,
        noun="different texts",
    )
    parts = cut_by_class(groups.names, groups.labels, class_names=class_names, held_out=held_out, seed=seed)
    return {split: groups.rows(parts[split]) for split in SPLIT_NAMES if split in parts}

"""The meaning of a column of labels: classes, classes in an order, several labels each, or a number."""

from __future__ import annotations

import ast
import contextlib
import functools
import itertools
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from tfkit.data.splits import Splits, listed
from tfkit.data.text_decoding import short
from tfkit.errors import DataError
from tfkit.tasks import Classes, as_number, task_of, unclear_commas

Task = Literal["auto", "classes", "order", "labels", "value"]
"""One of several classes; likewise, and these have an order; any number of labels; a real number. auto: decided."""

# What pandas takes for missing, with the cases that it lacks.
_MISSING_WORDS = frozenset({"", "#n/a", "#n/a n/a", "#na", "-nan", "<na>", "n/a", "nan", "null"})
_MISSING_AS_WRITTEN = frozenset({"NA", "None"})
_WHOLE_NUMBER = re.compile(r"[+-]?\d+(\.0+|,(?!000$)0+)")
_BITS = {"0", "1", "0.0", "1.0", "False", "True"}
_DATE = re.compile(r"\d{1,4}([-/.])\d{1,2}\1\d{1,4}([T ].*)?|\d{1,2}:\d{2}(:\d{2})?")
_FEW_NUMBERS = 10
_MANY_NUMBERS = 20
_MAX_LENGTH = 200


class LabelCleaner:
    """Labels as they are compared; counts what it changes."""

    def __init__(self) -> None:
        self.missing: Counter[str] = Counter()
        self._whole_count = self._list_count = self._longer_count = 0

    def __call__(self, value: str) -> str | None:
        """Return a label; empty where there is none, None for a word that says so. 1.0 is 1, a list of one that one."""
        label = _normalize(value)
        if isinstance(items := _as_list(label), list) and len(items) > 1:
            self._longer_count += 1
        elif isinstance(items, list):
            label = _normalize("" if items in ([], [None]) else str(items[0]))
            self._list_count += 1
        if label.lower() in _MISSING_WORDS or label in _MISSING_AS_WRITTEN:
            if not label:
                return ""
            self.missing[label[:_MAX_LENGTH]] += 1
            return None
        if _WHOLE_NUMBER.fullmatch(label):
            self._whole_count += 1
            label = re.split("[.,]", label)[0]
        return label

    def notes(self) -> Iterator[str]:
        """Yield what was changed."""
        if self.missing:
            words = listed([f"{label!r} ({count})" for label, count in self.missing.most_common()])
            yield f"Labels that count as missing, as pandas has it: {words}. A class needs another name."
        if self._list_count and not self._longer_count:  # beside longer ones they are as good as these
            yield f"{self._list_count} labels are lists of one or none: each is taken as that one, or as none."
        if self._whole_count:
            yield f"{self._whole_count} labels are whole numbers with decimals: 1.0 is taken as 1."


def _normalize(value: str) -> str:
    return unicodedata.normalize("NFC", " ".join(value.split()))


def settle_task(
    task: Task, counts: Mapping[str, int], *, where: str, is_joined: bool
) -> tuple[Task, list[str]]:
    """Return the task that was asked for, or the one that is plain, and what there is to say of it.

    Args:
      task: as it was asked for.
      counts: of each label.
      where: as in `decide_task`.
      is_joined: whether several columns said which labels an example has.

    Raises:
      DataError: see `decide_task` and `check_classes`.
    """
    if task == "auto":
        return ("labels", []) if is_joined else decide_task(counts, where=where)
    return task, check_classes(counts, where=where) if task == "classes" else []


def decide_task(counts: Mapping[str, int], *, where: str) -> tuple[Task, list[str]]:
    """Return what labels mean, and a sentence where that is not plain.

    Args:
      counts: of each label.
      where: "The label column 'score' of mails.csv".

    Raises:
      DataError: they can mean several things, or they are ids, dates, texts or objects.
    """
    names, rows = list(counts), sum(counts.values())
    mark, sets = _find_sets(names)
    if sets:
        example = max(sets, key=lambda name: counts[name])
        sign = "written as lists or objects" if mark == "[" else f"joined by {mark!r}"
        text = (
            f"{where} has several labels in {sum(counts[name] for name in sets)} of {rows} rows, {sign}:"
            f" {short(example)!r} ({counts[example]} times) and {len(sets) - 1} other combinations."
        )
        if any(isinstance(_as_list(name), dict) for name in sets):
            raise DataError(f"{text}\n  Of objects, pandas.json_normalize(records) makes columns.")
        if mark == ",":
            raise DataError(
                f"{text}\n  Say whether each is a class (--task classes), or several labels (--task labels)."
            )
        return "labels", [f"{text} Each example has any of them (--task classes: one of the combinations)."]
    numbers = _to_numbers(names)
    if not numbers or any(re.fullmatch(r"0\d+", name) for name in names):  # such as postal codes
        notes = check_classes(counts, where=where)
        if joined_names := [name for name in names if re.search(r"\S[|;]\s*\S", name)]:
            text = (
                f"{where} has names such as {short(joined_names[0])!r}, {len(joined_names)} of {len(names)}"
            )
            notes.append(f"{text}: each is taken for a class (--task labels: for several labels).")
        return "classes", notes
    low, high = min(numbers), max(numbers)
    span = f"{where} holds {len(names)} numbers, from {low:g} to {high:g}"
    has_fractions, has_many = any(value % 1 for value in numbers), len(names) > max(rows / 2, _FEW_NUMBERS)
    choices = "task='value' (--task value) or 'classes', or 'order', of classes in an order"
    if has_fractions and len(names) > _FEW_NUMBERS:
        return "value", [f"{span}: they are taken for real numbers (--task value)."]
    if has_many:
        raise DataError(f"{span}, in {rows} rows: quantities or ids. Of quantities: --task value.")
    is_dense = low in (0, 1) and high - low == len(names) - 1
    if has_fractions or (len(names) > _MANY_NUMBERS and is_dense):
        raise DataError(f"{span}, that may be quantities, ratings or names.\n  Say which: {choices}.")
    if len(names) > _MANY_NUMBERS:
        return "value", [f"{span}: they are taken for quantities (--task classes: each is a class)."]
    notes = check_classes(counts, where=where)
    if len(names) > 2:
        notes.append(f"{span}: each is taken for a class (else --task order, or --task value).")
    return "classes", notes


def check_classes(counts: Mapping[str, int], *, where: str) -> list[str]:
    """Refuse labels of which each is hardly a class: dates, ids, texts.

    Args:
      counts: of each label.
      where: as in `decide_task`.

    Returns:
      A note on numbers in several spellings.

    Raises:
      DataError: with what would work.
    """
    names, rows = list(counts), sum(counts.values())
    has_many, has_few = len(names) > max(rows / 2, _FEW_NUMBERS), len(names) <= _FEW_NUMBERS
    kind = ""
    if sum(bool(_DATE.fullmatch(name)) for name in names) >= 0.9 * len(names) and not has_few:
        kind = "dates or times"
    elif has_many or any(len(name) > _MAX_LENGTH for name in names):
        kind = "an id or a text"
    if kind:
        examples = ", ".join(f"{short(name)!r} ({count})" for name, count in Counter(counts).most_common(3))
        raise DataError(
            f"{where} has {len(names)} values in {rows} rows ({examples}, ...): it looks like {kind}.\n"
            "  Each would be a class. Give another label_column (--label-column)."
        )
    numbers = sorted(zip(_to_numbers(names) or [], names, strict=False))
    dupes = [name for (a, name), (b, _) in itertools.pairwise(numbers) if a == b]
    return [f"{where} has one number in several spellings, each a class: {listed(dupes)}."] if dupes else []


def _to_numbers(names: Sequence[str]) -> list[float] | None:
    """Return the labels as numbers; None where one is none."""
    numbers = [*map(as_number, names)]
    return None if None in numbers else numbers  # type: ignore[return-value]


class Targets(NamedTuple):
    """Hold what a model learns to give for each example.

    Attributes:
      task: what they mean.
      class_names: of the classes, in their order, or of the labels; of a number, what it is called.
      labels: int64 [n] of classes; float32 [n, c] of 0 and 1 of several labels; float32 [n] of numbers.
    """

    task: Classes
    class_names: tuple[str, ...]
    labels: np.ndarray

    def strata(self) -> tuple[np.ndarray, list[str]]:
        """Return int64 [n], the part of which each example is cut and drawn, and the names of these parts."""
        groups = self.task.strata(self.labels, len(self.class_names))
        if self.labels.dtype.kind == "i":
            return groups, [*self.class_names]
        sizes = np.bincount(groups)
        groups = np.where(sizes[groups] < _MIN_SIZE, sizes.argmax(), groups)  # with others, if it is no part
        parts, groups = np.unique(groups, return_inverse=True)
        return groups, [f"part {number}" for number in parts]

    def check_cut(self, indices: Mapping[str, np.ndarray], *, where: str) -> None:
        """Refuse splits of which one lacks a class or a label.

        Raises:
          DataError: with the labels and how often they occur.
        """
        if self.labels.ndim == 2 or self.labels.dtype.kind == "i":
            count = functools.partial(self.task.counts, classes=len(self.class_names))
            mask = np.any([count(self.labels[rows]) == 0 for rows in indices.values()], axis=0)
            totals = count(self.labels).astype(int)
            if names := [f"{name!r} ({totals[i]})" for i, name in enumerate(self.class_names) if mask[i]]:
                raise DataError(
                    f"{where} has {self.task.name} too rare to be in each of {', '.join(indices)}: {listed(names)}.\n"
                    "  Add examples that have them, or leave these out; of groups another --seed may cut them well."
                )


_MIN_SIZE = 3


def make_targets(
    names: Sequence[str],
    codes: np.ndarray,
    *,
    task: Task,
    where: str,
    class_order: Sequence[str] = (),
    name: str = "value",
    context: str = "",
) -> Targets:
    """Return the targets of labels as they are written.

    Args:
      names: the different labels, sorted; empty: none.
      codes: int64 [n], of each example which of these it has.
      task: what they mean; not "auto".
      where: as in `decide_task`.
      class_order: for "order": the classes from the lowest to the highest; left out, they must be numbers.
      name: what a number is called.
      context: what else is known, for messages.

    Raises:
      DataError: they cannot mean this.
    """
    values, meaning = _to_numbers(names), task_of({"name": task})
    if class_order and task != "order":
        raise DataError(f"class_order (--class-order) is for --task order; the task is {task}.")
    are_numbers = task == "value" or (task == "order" and not class_order)
    if are_numbers and (unclear_names := unclear_commas(names)):
        raise DataError(
            f"{where} has numbers such as {unclear_names[0]!r}, whose comma may be of thousands or of decimals.\n"
            "  Write thousands without a sign, decimals with a point: frame[NAME].str.replace(',', ''), or (',', '.')."
        )
    shares = [text for text in names if text.endswith("%")]
    reals = [text for text in names if not text.endswith("%") and text != "0"]
    if are_numbers and values is not None and shares and reals:
        raise DataError(
            f"{where} has numbers in percent, such as {shares[0]!r}, and others, such as {reals[0]!r}: write one unit."
        )
    if task == "value":
        if values is None:
            non_numbers = [f"{short(text)!r}" for text in names if as_number(text) is None]
            raise DataError(
                f"{where} has what is no number: {listed(non_numbers)}.\n  Leave these rows out, or --task classes."
            )
        if len({*values}) < 2:
            raise DataError(f"{where} has the same number, {names[0]}, everywhere.")
        return Targets(meaning, (name,), np.asarray(values, np.float32)[codes])
    if task == "labels":
        mark, _ = _find_sets(names, any_mark=True)
        parts = [_split_label(text, mark) for text in names]
        labels = tuple(in_order({part for row in parts for part in row}))
        if not labels:
            raise DataError(f"{where} has no label in any row.")
        if {*labels} <= _BITS and len(lengths := {len(row) for row in parts if row}) == 1 and lengths != {1}:
            raise DataError(
                f"{where} has rows of 0 and 1, such as {names[-1]!r}: as one-hot, whose places have no names here.\n"
                "  Write the names of those labels that an example has, as a list or joined by '|'."
            )
        rows = np.asarray([[label in row for label in labels] for row in parts], np.float32)
        return Targets(meaning, labels, rows[codes])
    if len(names) < 2:
        content = ", ".join(repr(short(text)) for text in names) or "no value"
        raise DataError(
            f"{where} has {content} in all {len(codes)} rows that can be used; a classifier needs two.{context}"
        )
    if task == "classes":
        return Targets(meaning, tuple(names), codes)
    if class_order and sorted(class_order) != sorted(names):
        content = f"{' '.join(class_order)}, and the classes are {listed(names)}"
        raise DataError(f"class_order (--class-order) must name each class once; it is {content}.")
    if not class_order and values is None:
        raise DataError(
            f"{where} has classes that are no numbers: {listed(names)}.\n"
            "  Say their order, from the lowest to the highest: class_order=('low', 'high') (--class-order low high)."
        )
    order = [*class_order] or [text for _, text in sorted(zip(values or [], names, strict=True))]
    return Targets(meaning, tuple(order), np.asarray([order.index(text) for text in names])[codes])


def with_task(splits: Splits, task: Task, class_order: Sequence[str] = ()) -> Splits:
    """Return splits of classes as ones of another task: folders whose names are numbers, or have an order.

    Raises:
      DataError: they cannot be.
    """
    if task in ("auto", "classes") and not class_order:
        return splits
    names, labels = splits.class_names, splits.source.labels
    target = make_targets(names, labels, task=task, where=splits.origin, class_order=class_order)
    splits.source.labels = target.labels
    return splits.replace(class_names=target.class_names, task=target.task)


def in_order(names: Iterable[str]) -> list[str]:
    """Return labels sorted, as numbers where all are whole ones."""
    names = sorted(names)  # of "1" and "01" too: a set has another order in each process
    numbers = all(name.isascii() and name.isdecimal() for name in names)
    return sorted(names, key=int) if numbers else names


def _find_sets(names: Sequence[str], *, any_mark: bool = False) -> tuple[str, list[str]]:
    """Return how several labels are put into one, "[" or what joins them, and which of these are.

    Args:
      names: the different labels.
      any_mark: whether they are known to hold several: a sign then counts wherever it is.
    """
    if lists := [name for name in names if _as_list(name) is not None]:
        return "[", lists
    for mark in "|;,":
        if matches := [name for name in names if mark in name] if any_mark else _find_joined(names, mark):
            return mark, matches
    return "[", []


def _split_label(text: str, mark: str) -> list[str]:
    """Return the single labels of one."""
    items = _as_list(text) if mark == "[" else text.split(mark)
    return [part for part in map(_normalize, [text] if items is None else map(str, items)) if part]


def split_labels(text: str) -> list[str]:
    """Return the labels that one text holds, in a list or joined by one of "|", ";" and ","."""
    return _split_label(text, _find_sets([text], any_mark=True)[0])


def _find_joined(names: Sequence[str], mark: str) -> list[str]:
    """Return the labels that are put together of others by this sign: each part is met in other labels too."""
    if mark == "," and all(re.fullmatch(r"[+-]?\d+(,\d+)?", name) for name in names):
        pairs = sum("," in name for name in names)
        if pairs == len(names) or (2 * pairs > len(names) > _FEW_NUMBERS):
            return []  # decimals
    all_parts = {name: [part.strip() for part in name.split(mark) if part.strip()] for name in names}
    parts_of = {name: parts for name, parts in all_parts.items() if len(parts) > 1}
    part_counts = Counter(part for parts in all_parts.values() for part in set(parts))
    joined_parts = {part for parts in parts_of.values() for part in parts}
    repeat_count = sum(part_counts[part] > 1 for part in joined_parts)
    set_counts = Counter(frozenset(parts) for parts in parts_of.values())
    is_likely = repeat_count >= 0.8 * len(joined_parts) and len(part_counts) < len(names)
    return list(parts_of) if is_likely or max(set_counts.values(), default=0) > 1 else []


def _as_list(label: str) -> list[Any] | dict[str, Any] | None:
    """Return a list, or an object, as JSON or as Python writes it."""
    if label[:1] not in ("[", "(", "{") or len(label) > 10_000:
        return None
    if "' '" in label:  # as NumPy prints one: ['joy' 'anger']
        return re.findall(r"'([^']*)'", label)
    for parse in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            value = parse(label)
            if isinstance(value, dict):
                return value
            return list(value) if isinstance(value, list | tuple | set) else None
    return None

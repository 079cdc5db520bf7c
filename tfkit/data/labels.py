"""Labels as classes: how they are compared, and what is no class: several at once, numbers, dates, ids, sentences."""

from __future__ import annotations

import ast
import contextlib
import itertools
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from tfkit.data.splits import listed
from tfkit.data.text_decoding import short
from tfkit.errors import DataError

# What pandas takes for missing, with the cases that it lacks.
_MISSING = frozenset({"", "#n/a", "#n/a n/a", "#na", "-nan", "<na>", "n/a", "nan", "null"})
_MISSING_AS_WRITTEN = frozenset({"NA", "None"})
_WHOLE = re.compile(r"[+-]?\d+[.,]0+")
_NUMBER = re.compile(r"[+-]?(\d+([.,]\d+)?|[.,]\d+)([eE][+-]?\d+)?%?")
_DATE = re.compile(r"\d{1,4}([-/.])\d{1,2}\1\d{1,4}([T ].*)?|\d{1,2}:\d{2}(:\d{2})?")
_FEW_NUMBERS = 10
_MANY_NUMBERS = 20
_LONGEST = 200


class LabelCleaner:
    """Labels as they are compared; counts what it changes."""

    def __init__(self) -> None:
        self.missing: Counter[str] = Counter()
        self._whole = self._lists = 0

    def __call__(self, value: str) -> str:
        """Return a label; empty where it is missing. A list of one label is that label, and 1.0 is 1."""
        label = _normal(value)
        if isinstance(found := _as_list(label), list) and len(found) < 2:
            label = _normal("" if found in ([], [None]) else str(found[0]))
            self._lists += 1
        if label.lower() in _MISSING or label in _MISSING_AS_WRITTEN:
            if label:
                self.missing[label[:_LONGEST]] += 1
            return ""
        if _WHOLE.fullmatch(label):
            self._whole += 1
            label = re.split("[.,]", label)[0]
        return label

    def notes(self) -> Iterator[str]:
        """Yield what was changed."""
        if self.missing:
            shown = listed([f"{label!r} ({count})" for label, count in self.missing.most_common()])
            yield f"Labels that count as missing, as pandas has it: {shown}. A class needs another name."
        if self._lists:
            yield f"{self._lists} labels are lists of one or none: that one is taken."
        if self._whole:
            yield f"{self._whole} labels are whole numbers with decimals: 1.0 is taken as 1."


def _normal(value: str) -> str:
    return unicodedata.normalize("NFC", " ".join(value.split()))


def check_labels(counts: Mapping[str, int], *, where: str) -> list[str]:
    """Refuse labels that are no classes.

    Args:
      counts: of each label.
      where: "The label column 'score' of mails.csv".

    Returns:
      A note where they can be either.

    Raises:
      DataError: they are several at once, quantities, dates, ids or texts; with what would work.
    """
    names, rows = list(counts), sum(counts.values())
    several = [name for name in names if _as_list(name) is not None]
    sign = "written as lists or objects"
    for mark in ";|,":
        if not several:
            several, sign = _joined(names, mark), f"joined by {mark!r}"
    if several:
        often = max(several, key=lambda name: counts[name])
        raise DataError(
            f"{where} has several labels in {sum(counts[name] for name in several)} of {rows} rows, {sign}:"
            f" {short(often)!r} ({counts[often]} times) and {len(several) - 1} other combinations.\n"
            "  Each would be a class. Give a column that says yes or no to one label, and train for each such column;\n"
            "  or only the rows that have one. Of objects, pandas.json_normalize(records) makes columns."
        )
    many, few = len(names) > max(rows / 2, _FEW_NUMBERS), len(names) <= _FEW_NUMBERS
    numeric = all(_NUMBER.fullmatch(name) for name in names)
    numbers = sorted((float(name.rstrip("%").replace(",", ".")), name) for name in names if numeric)
    fractions = any(not value.is_integer() for value, _ in numbers)
    kind = ""
    if numeric:
        kind = "quantities" if many or (fractions and not few) else ""
    elif sum(bool(_DATE.fullmatch(name)) for name in names) >= 0.9 * len(names) and not few:
        kind = "dates or times"
    elif many or any(len(name) > _LONGEST for name in names):
        kind = "an id or a text"
    if kind:
        shown = ", ".join(f"{short(name)!r} ({count})" for name, count in Counter(counts).most_common(3))
        raise DataError(
            f"{where} has {len(names)} values in {rows} rows ({shown}, ...): it looks like {kind}, and each value would"
            " be a class.\n  Give another one: label_column (--label-column). Of quantities make ranges:\n"
            "  frame['label'] = pandas.cut(frame[COLUMN], 3, labels=['low', 'medium', 'high'])"
        )
    notes = []
    if twice := [name for (value, name), (after, _) in itertools.pairwise(numbers) if value == after]:
        notes.append(f"{where} has one number in several spellings, each a class: {listed(twice)}.")
    if fractions or (numeric and len(names) > _MANY_NUMBERS):
        notes.append(
            f"{where} holds {len(names)} numbers, from {numbers[0][1]} to {numbers[-1][1]}: each is a class of its own,"
            " near to no other. If they are quantities, cut them in ranges (pandas.cut)."
        )
    return notes


def _joined(names: list[str], mark: str) -> list[str]:
    """Return the labels that are put together of others by this sign: each part is met in other labels too."""
    if mark == "," and all(re.fullmatch(r"[+-]?\d+(,\d+)?", name) for name in names):
        pairs = sum("," in name for name in names)
        if pairs == len(names) or (2 * pairs > len(names) > _FEW_NUMBERS):
            return []  # decimals
    split = {name: [part.strip() for part in name.split(mark) if part.strip()] for name in names}
    found = {name: parts for name, parts in split.items() if len(parts) > 1}
    met = Counter(part for parts in split.values() for part in set(parts))
    of_found = {part for parts in found.values() for part in parts}
    again = sum(met[part] > 1 for part in of_found)
    turned = Counter(frozenset(parts) for parts in found.values())
    likely = again >= 0.8 * len(of_found) and len(met) < len(names)
    return list(found) if likely or max(turned.values(), default=0) > 1 else []


def _as_list(label: str) -> list[Any] | dict[str, Any] | None:
    """Return a list, or an object, as JSON or as Python writes it."""
    if label[:1] not in ("[", "(", "{") or len(label) > 10_000:
        return None
    if "' '" in label:  # as NumPy prints one: ['joy' 'anger']
        return re.findall(r"'([^']*)'", label)
    for parse in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            found = parse(label)
            if isinstance(found, dict):
                return found
            return list(found) if isinstance(found, list | tuple | set) else None
    return None

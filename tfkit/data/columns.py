"""Which columns of a table hold the text, the label and the language."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import NamedTuple

from tfkit.data.cut import listed
from tfkit.data.rows import Table, short
from tfkit.errors import DataError

# Names that say it, the likeliest first, between spaces.
_TEXTS = (
    "text body message content review comment sentence description mail email e-mail tweet post document utterance "
    "question headline abstract title subject"
)
_LABELS = "label labels class category folder target sentiment topic intent tag type"
_LANGUAGES = "language lang locale"
_MOST_LANGUAGES = 100


class Columns(NamedTuple):
    """Numbers of columns."""

    text: int
    label: int
    language: int | None
    notes: tuple[str, ...] = ()

    @property
    def wanted(self) -> tuple[int, ...]:
        """Those to read: text, label, and language if there is one."""
        return (self.text, self.label) if self.language is None else (self.text, self.label, self.language)

    def named(self, table: Table) -> dict[str, str | None]:
        """The settings that choose these columns."""
        language = None if self.language is None else table.columns[self.language]
        return {
            "text_column": table.columns[self.text],
            "label_column": table.columns[self.label],
            "language_column": language,
        }


def choose(
    table: Table, *, text_column: str | None, label_column: str | None, language_column: str | None
) -> Columns:
    """The columns that are asked for, and for those left out the ones that are obvious.

    Raises:
      DataError: a column is not there, is not obvious, or cannot be what it is taken for.
    """
    if not table.sample:
        raise DataError(f"{table.path} has columns ({listed([*map(short, table.columns)])}), but no rows.")
    text = _named(table, text_column, "text_column")
    label = _named(table, label_column, "label_column")
    language = _named(table, language_column, "language_column")
    taken = [column for column in (text, label, language) if column is not None]
    if len(set(taken)) < len(taken):
        raise DataError(
            f"One column of {table.path}, '{short(table.columns[taken[0]])}', is given for two things; the text, its"
            f" label and its language are columns of their own.\n{_listing(table)}"
        )
    notes = []
    if text is None:
        text = _obvious(table, _TEXTS, taken)
        if text is None and label is not None:
            text = _only_other(table, label, taken)
    if label is None:
        label = _obvious(table, _LABELS, [*taken, *([] if text is None else [text])])
        if label is None and text is not None:
            label = _only_other(table, text, taken)
    if text is None and label is not None:
        text = _only_other(table, label, taken)
    if text is None and label is None and len(table.columns) == 2:
        text = max((0, 1), key=lambda column: sum(map(len, table.values(column))))
        label = 1 - text
    if text is None or label is None:
        lacking = [
            flag for flag, column in (("text_column", text), ("label_column", label)) if column is None
        ]
        raise DataError(
            f"Which columns of {table.path} to take is not obvious: give {' and '.join(lacking)}"
            f" ({' '.join('--' + flag.replace('_', '-') for flag in lacking)}).\n{_listing(table)}{_hints(table)}"
        )
    if text_column is None or label_column is None:
        names = f"'{short(table.columns[text])}' is taken as the text, '{short(table.columns[label])}' as the label"
        notes.append(f"{table.path.name}: The column {names}.")
    if language is None:
        language = _obvious(table, _LANGUAGES, [text, label])
        if language is not None and len(set(table.values(language))) > _MOST_LANGUAGES:
            language = None
        if language is not None:
            notes.append(
                f"{table.path.name}: The column '{short(table.columns[language])}' is taken as the language."
            )
    return Columns(text, label, language, tuple(notes))


def choose_text(table: Table, *, text_column: str | None) -> int:
    """The column of the texts alone, for a use that needs no labels; see `choose`.

    Raises:
      DataError: it is not there, or none is obvious.
    """
    if not table.sample:
        raise DataError(f"{table.path} has columns ({listed([*map(short, table.columns)])}), but no rows.")
    text = _named(table, text_column, "text_column")
    if text is None:
        text = 0 if len(table.columns) == 1 else _obvious(table, _TEXTS, [])
    if text is None:
        raise DataError(
            f"Which column of {table.path} holds the texts is not obvious: give text_column (--text-column).\n"
            f"{_listing(table)}"
        )
    return text


def _named(table: Table, name: str | None, flag: str) -> int | None:
    if name is None:
        return None
    found = [number for number, column in enumerate(table.columns) if column == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(f"{table.path} has {len(found)} columns '{name}' ({flag}): rename all but one.")
    near = difflib.get_close_matches(name, table.columns, n=1, cutoff=0.5)
    raise DataError(
        f"{table.path} has no column '{name}' ({flag})."
        + (f" Did you mean '{near[0]}'?" if near else "")
        + f"\n{_listing(table)}"
    )


def _obvious(table: Table, names: str, taken: Sequence[int]) -> int | None:
    """The column that bears the first of these names."""
    of_name = {column.lower(): number for number, column in reversed([*enumerate(table.columns)])}
    numbers = (of_name[name] for name in names.split() if name in of_name)
    return next((number for number in numbers if number not in taken), None)


def _only_other(table: Table, one: int, taken: Sequence[int]) -> int | None:
    others = [number for number in range(len(table.columns)) if number != one and number not in taken]
    return others[0] if len(others) == 1 else None


def check_text(table: Table, text: int, numbers: int, rows: int) -> None:
    """Refuse a column of texts that are numbers in all of its rows.

    Raises:
      DataError: there is nothing to read.
    """
    if rows and numbers == rows:
        values = [value for value in table.values(text) if value.strip()]
        raise DataError(
            f"The text column '{short(table.columns[text])}' of {table.path} holds numbers"
            f" ({', '.join(values[:3])}, ...): there is nothing to read.\n{_listing(table)}"
        )


def is_number(value: str) -> bool:
    """Return whether a cell holds a number and nothing else."""
    try:
        float(value.replace(",", "."))
    except ValueError:
        return False
    return True


def _hints(table: Table) -> str:
    """Where the labels may be if no column is called so."""
    hints = []
    marks = [
        short(name)
        for number, name in enumerate(table.columns)
        if {value.strip().lower() for value in table.values(number)} in ({"0", "1"}, {"true", "false"})
    ]
    if len(marks) > 1:
        hints.append(
            f"{len(marks)} columns say yes or no ({listed(marks)}): each of them can be the label of a training of its"
            " own."
        )
    beside = sorted(
        path.name
        for path in table.path.parent.iterdir()
        if "label" in path.name.lower() and path != table.path
    )
    if beside:
        hints.append(
            f"{listed(beside, 3)} lies beside it: if the labels are there, join them first (pandas.merge, on their id)."
        )
    return "".join(f"\n  {hint}" for hint in hints)


def _listing(table: Table) -> str:
    """The columns, each with a value."""
    lines = []
    for number, name in enumerate(table.columns[:20]):
        values = [value for value in table.values(number) if value.strip()]
        shown = " ".join(values[0].split()) if values else ""
        shown = shown if len(shown) <= 50 else f"{shown[:50]}..."
        lines.append(f"  {short(name)}: {shown!r}" if values else f"  {short(name)}: (empty)")
    more = len(table.columns) - 20
    return "\n".join(
        ["  Its columns, with a value of each:", *lines, *([f"  ... ({more} more)"] if more > 0 else [])]
    )

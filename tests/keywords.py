"""The keyword arguments of the verbs, as editors and type checkers see them: made of the settings' dataclasses.

python -m tests.keywords            (prints tfkit/settings/keywords.pyi)
python -m tests.keywords --write    (writes it)
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import types
import typing
from pathlib import Path
from typing import Any

from tfkit.auditing.audit import audit
from tfkit.compression.compress import compress
from tfkit.searching.search import search
from tfkit.settings import jobs, options
from tfkit.transfer.train import RECIPES, train
from tfkit.tuning.tune import tune

STUB = Path(options.__file__).with_name("keywords.pyi")
CLASSES = {  # each with the one that it adds to, the verb, and the settings
    "Recipe": ("", None, (options.RecipeConfig,)),
    "TextSource": ("Recipe", None, (options.TextSource,)),
    "Train": ("TextSource", train, tuple(RECIPES.values())),
    "Tune": ("Train", tune, (jobs.TuneConfig,)),
    "Search": ("TextSource", search, (jobs.SearchConfig,)),
    "Compress": ("Recipe", compress, (jobs.CompressConfig,)),
    "Audit": ("Recipe", audit, (jobs.AuditConfig,)),
}
NOT_OF_CALLS = ("json", "quiet", "debug")
NAMED = {
    hint: f"{module.__name__.rpartition('.')[2]}.{name}"
    for module in (options, jobs)
    for name, hint in vars(module).items()
    if typing.get_origin(hint) is typing.Literal and not name.startswith("_")
}
"""Choices that have a name among the settings."""
HEAD = '''"""The keyword arguments of tfkit's verbs, made of the settings: `uv run python -m tests.keywords --write`."""

import os
from collections.abc import Sequence
from typing import Literal, TypedDict

from tfkit.settings import jobs, options

_Path = str | os.PathLike[str]
'''


def text() -> str:
    """Return what the stub must hold."""
    stub = HEAD + "".join(map(_typed_dict, CLASSES))
    words = [sys.executable, "-m", "ruff", "format", "-", f"--stdin-filename={STUB}"]
    return subprocess.run(words, input=stub, capture_output=True, text=True, check=True).stdout


def _typed_dict(name: str) -> str:
    base, verb, _ = CLASSES[name]
    inherited = _keywords(base)
    lines = ""
    for keyword, hints in _keywords(name).items():
        if keyword not in inherited:
            lines += f"    {keyword}: {' | '.join(sorted(hints, key=lambda hint: hint == 'None'))}\n"
    text = f"Of tfkit.{name.lower()}." if verb else "Shared by several of the following."
    above = f"{base}Keywords" if base else "TypedDict"
    return f'\nclass {name}Keywords({above}, total=False):\n    """{text}"""\n\n{lines}'


def _keywords(name: str) -> dict[str, dict[str, None]]:
    """Return the keywords of a class and of those above it, with what each may be."""
    keywords: dict[str, dict[str, None]] = {}
    base, verb, classes = CLASSES.get(name, ("", None, ()))
    written: Any = getattr(verb, "__wrapped__", verb)
    code = getattr(written, "__code__", None)
    own = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount] if code else ()
    for config_class in classes:
        hints = typing.get_type_hints(config_class)
        for field in dataclasses.fields(config_class):
            if field.name not in (*NOT_OF_CALLS, *own):
                several = keywords.setdefault(field.name, {})  # recipes differ: one may have a default
                several |= dict.fromkeys(_type(hints[field.name]).split(" | "))
    return _keywords(base) | keywords if base else keywords


def _type(hint: Any) -> str:
    """Return a hint as a caller may satisfy it: a path may be a string, a tuple any sequence."""
    arguments = typing.get_args(hint)
    match typing.get_origin(hint):
        case None:
            return {types.NoneType: "None", Path: "_Path"}.get(hint) or hint.__name__
        case typing.Literal:
            return NAMED.get(hint) or f"Literal[{', '.join(map(repr, arguments))}]"
        case origin if origin is tuple:
            return f"Sequence[{_type(arguments[0])}]"
        case types.UnionType | typing.Union:
            return " | ".join(dict.fromkeys(map(_type, arguments)))
    raise TypeError(f"no type for {hint}")


if __name__ == "__main__":
    if "--write" in sys.argv:
        STUB.write_text(text())
    print(text(), end="")

"""The keyword arguments of the verbs, as editors and type checkers see them: made of the settings' dataclasses.

python -m tests.keywords            (prints tfkit/settings/keywords.py)
python -m tests.keywords --write    (writes it)
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tfkit.auditing.audit import audit
from tfkit.compression.compress import compress
from tfkit.searching.search import search
from tfkit.settings import jobs, options
from tfkit.transfer.train import RECIPES, train
from tfkit.tuning.tune import tune

STUB = Path(options.__file__).with_name("keywords.py")
VERBS = {
    "Train": (train, tuple(RECIPES.values())),
    "Tune": (tune, (jobs.TuneConfig,)),
    "Search": (search, (jobs.SearchConfig,)),
    "Compress": (compress, (jobs.CompressConfig,)),
    "Audit": (audit, (jobs.AuditConfig,)),
}
NOT_OF_CALLS = ("json", "quiet", "debug")
HEAD = '''"""The keyword arguments of tfkit's verbs, made of the settings: `uv run python -m tests.keywords --write`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal, TypedDict

_Path = str | os.PathLike[str]
'''


def text() -> str:
    """Return what the stub must hold."""
    stub = HEAD + "".join(_typed_dict(name, *of_verb) for name, of_verb in VERBS.items())
    words = [sys.executable, "-m", "ruff", "format", "-", f"--stdin-filename={STUB}"]
    return subprocess.run(words, input=stub, capture_output=True, text=True, check=True).stdout


def _typed_dict(name: str, function: Any, classes: tuple[type[Any], ...]) -> str:
    written = typing.cast("types.FunctionType", getattr(function, "__wrapped__", function)).__code__
    own = written.co_varnames[: written.co_argcount + written.co_kwonlyargcount]
    keywords: dict[str, dict[str, None]] = {}
    for config_class in classes:
        hints = typing.get_type_hints(config_class)
        for field in dataclasses.fields(config_class):
            if field.name not in (*NOT_OF_CALLS, *own):
                several = keywords.setdefault(field.name, {})  # recipes differ: one may have a default
                several |= dict.fromkeys(_type(hints[field.name]).split(" | "))
    base = "TypedDict, total=False"
    if name == "Tune":  # it takes what training takes
        base = "TrainKeywords, total=False"
        keywords = {
            keyword: hints for keyword, hints in keywords.items() if keyword not in _names(RECIPES.values())
        }
    lines = ""
    for keyword, hints in keywords.items():
        lines += f"    {keyword}: {' | '.join(sorted(hints, key=lambda hint: hint == 'None'))}\n"
    return f'\nclass {name}Keywords({base}):\n    """Of tfkit.{name.lower()}."""\n\n{lines}'


def _names(classes: Iterable[type[Any]]) -> set[str]:
    return {field.name for one in classes for field in dataclasses.fields(one)}


def _type(hint: Any) -> str:
    """Return a hint as a caller may satisfy it: a path may be a string, a tuple any sequence."""
    arguments = typing.get_args(hint)
    match typing.get_origin(hint):
        case None:
            return {types.NoneType: "None", Path: "_Path"}.get(hint) or hint.__name__
        case typing.Literal:
            return f"Literal[{', '.join(map(repr, arguments))}]"
        case origin if origin is tuple:
            return f"Sequence[{_type(arguments[0])}]"
        case types.UnionType | typing.Union:
            return " | ".join(dict.fromkeys(map(_type, arguments)))
    raise TypeError(f"no type for {hint}")


if __name__ == "__main__":
    if "--write" in sys.argv:
        STUB.write_text(text())
    print(text(), end="")

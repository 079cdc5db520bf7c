"""Values have nouns for names, in the field's words: what a stranger would search for."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Participles, pronouns and adjectives by themselves tell nobody what a value is.
RIDDLES = {
    "asked", "begun", "chosen", "drawn", "each", "few", "found", "given", "gone", "held", "joined", "kept", "known",
    "made", "moved", "named", "noted", "one", "ours", "own", "said", "seen", "shown", "some", "taken", "theirs", "told",
    "tried", "two", "used", "wanted", "whole", "wrong",
}  # fmt: skip
# Of the public face, of files that earlier versions have written, and of SavedModels.
PUBLIC = {
    ("tfkit/tasks.py", "each"), ("tfkit/reporting/page.py", "chosen"), ("tfkit/compression/variants.py", "chosen"),
    ("tfkit/inference/explain.py", "said"), ("tfkit/compression/sources.py", "kept"),
    ("tfkit/privacy/plan.py", "whole"),
}  # fmt: skip


def assigned_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and name of each variable, parameter, attribute, function and class."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield node.lineno, name
            case ast.arg(arg=name) | ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name


def riddles(source: str) -> Iterator[tuple[int, str]]:
    for line, name in assigned_names(ast.parse(source)):
        if name.strip("_").lower() in RIDDLES:
            yield line, name


def test_a_name_says_what_it_names():
    paths = [path for folder in ("tfkit", "recipes", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    assert len(paths) > 100
    sources = {path.relative_to(ROOT).as_posix(): path.read_text() for path in paths}
    places = [(path, line, name) for path, source in sources.items() for line, name in riddles(source)]
    assert [place for place in places if (place[0], place[2]) not in PUBLIC] == []


def test_riddles_are_seen():
    source = "def f(given, *, _one=1):\n for found in given:\n  self.kept = found\n made: int = 2"
    assert {name for _, name in riddles(source)} == {"given", "_one", "found", "kept", "made"}

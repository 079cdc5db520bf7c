"""Every public name says what it takes and gives."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import tfkit
from tfkit.settings.parse import documentation

ROOT = Path(__file__).parents[1]
PACKAGES = [
    "tfkit",
    *sorted(f"tfkit.{name}" for name in dir(tfkit) if hasattr(getattr(tfkit, name), "__path__")),
    "tfkit.calibration",
    "tfkit.errors",
    *(f"recipes.{path.stem}" for path in sorted((ROOT / "recipes").glob("[a-z]*.py"))),
]


def public_names(module: Any) -> list[str]:
    return dir(module) if module is tfkit else list(getattr(module, "__all__", ()))


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_says_what_it_takes_and_gives(package):
    module = importlib.import_module(package)
    values = {name: getattr(module, name) for name in public_names(module)}
    wrong = {name: lacks for name, value in values.items() if callable(value) and (lacks := lacking(value))}
    assert wrong == {}


def test_every_public_name_is_in_the_reference():
    pages = "".join(page.read_text() for page in (ROOT / "docs/manual/reference").glob("*.md"))
    listed = set(re.findall(r"^::: tfkit\.\S*\.(\w+)$", pages, re.M))
    for package in PACKAGES:
        module = importlib.import_module(package)
        names = {name for name in public_names(module) if inspect.isroutine(getattr(module, name))}
        assert names <= listed, package


def lacking(value: Any) -> list[str]:
    """What the docstring of a function or class does not tell."""
    docstring = inspect.getdoc(value)
    if not docstring:
        return ["a docstring"]
    lacks = []
    if inspect.isfunction(value):
        signature = inspect.signature(value)
        # What `takes_settings` adds to a signature is told with the recipe's settings.
        own = value.__code__.co_varnames[: value.__code__.co_argcount + value.__code__.co_kwonlyargcount]
        lacks += [f"argument {name}" for name in own if name not in explained(docstring, "Args")]
        if signature.return_annotation not in (None, "None") and not re.search(
            r"^(Returns|Yields):$", docstring, re.M
        ):
            lacks.append("Returns")
    elif dataclasses.is_dataclass(value):
        documented = explained(docstring, "Args") | set(documentation(value))
        for base in value.__mro__[:-1]:
            documented |= explained(inspect.cleandoc(base.__doc__ or ""), "Attributes")
        fields = [field.name for field in dataclasses.fields(value)]
        lacks += [f"field {name}" for name in fields if name not in documented]
    return [one for one in lacks if not one.split()[-1].startswith("_")]


def explained(docstring: str, section: str) -> set[str]:
    """The names that a section explains."""
    lines = re.findall(r"^  \*{0,2}(\w+(?:, \w+)*):", docstring.partition(f"{section}:\n")[2], re.M)
    return {name for line in lines for name in line.split(", ")}

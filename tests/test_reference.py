"""The API reference: rendered without a warning, and every public name says what it takes and gives."""

from __future__ import annotations

import dataclasses
import html
import inspect
import re

import pdoc
import pytest

import tfkit
from tests import reference

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def modules():
    return reference.modules()


@pytest.fixture(scope="module")
def rendered(modules, tmp_path_factory):
    """The folder of the pages, and what pdoc warned of."""
    folder = tmp_path_factory.mktemp("reference")
    return folder, reference.render(folder)


@pytest.fixture(scope="module")
def public(modules):
    """What is public, by its name."""
    return {
        f"{module.__name__}.{name}": getattr(module, name)
        for module in modules
        for name in getattr(module, "__all__", ())
    }


def page(folder, module):
    return (folder / f"{module.__name__.replace('.', '/')}.html").read_text()


def test_what_has_a_page(modules):
    names = [module.__name__ for module in modules]
    packages = {f"tfkit.{name}" for name in tfkit.__all__ if hasattr(getattr(tfkit, name), "__path__")}
    recipes = {name for name in names if name.startswith("recipes.")}
    assert set(names) == {"tfkit", "recipes", "tfkit.calibration", "tfkit.errors", *packages, *recipes}
    assert len(recipes) == 9


def test_nothing_is_warned_of_and_every_public_name_is_there(modules, rendered):
    folder, warned = rendered
    assert warned == []
    for module in modules:
        text = page(folder, module)
        for name in getattr(module, "__all__", ()):
            if not inspect.ismodule(getattr(module, name)) and not name.startswith("__"):
                assert f'id="{name}"' in text, (module, name)


def test_sections_are_lists_and_settings_are_told(rendered):
    folder, _ = rendered
    text = page(folder, tfkit.privacy)
    assert re.search(r"<h6[^>]*>Arguments:</h6>\s*<ul>\s*<li><strong>noise_multiplier:</strong>", text)
    assert "Args:\n" not in re.sub(r"(?s)<pre>.*?</pre>|<div class=\"pdoc-code.*?</div>", "", text)
    recipe = html.unescape((folder / "recipes/train_private.html").read_text())
    for setting in ("target_epsilon", "run_dir", "image_size"):  # its own, and inherited ones
        assert f"<strong>{setting}:</strong>" in recipe


def test_every_public_name_says_what_it_takes_and_gives(public):
    wrong = {name: lacks for name, value in public.items() if callable(value) and (lacks := lacking(value))}
    assert wrong == {}


def lacking(value) -> list[str]:
    """What the docstring of a function or class does not tell."""
    said = inspect.getdoc(value)
    if not said:
        return ["a docstring"]
    lacks = []
    if inspect.isfunction(value):
        signature = inspect.signature(value)
        # What `takes_settings` adds to a signature is told with the recipe's settings.
        own = value.__code__.co_varnames[: value.__code__.co_argcount + value.__code__.co_kwonlyargcount]
        lacks += [f"argument {name}" for name in own if name not in told(said, "Args")]
        if signature.return_annotation not in (None, "None") and not re.search(
            r"^(Returns|Yields):$", said, re.M
        ):
            lacks.append("Returns")
    elif dataclasses.is_dataclass(value):
        documented = told(said, "Args")
        for base in value.__mro__[:-1]:
            documented |= told(inspect.cleandoc(base.__doc__ or ""), "Attributes")
            documented |= set(pdoc.doc_ast.walk_tree(base).var_docstrings)
        lacks += [
            f"field {field.name}" for field in dataclasses.fields(value) if field.name not in documented
        ]
    return [one for one in lacks if not one.split()[-1].startswith("_")]


def told(said: str, section: str) -> set[str]:
    """The names that a section explains."""
    lines = re.findall(r"^  \*{0,2}(\w+(?:, \w+)*):", said.partition(f"{section}:\n")[2], re.M)
    return {name for line in lines for name in line.split(", ")}

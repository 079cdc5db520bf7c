"""The API reference: `python -m tests.reference FOLDER` renders it by pdoc, and FOLDER/index.html begins it.

A program, for what pdoc's own command line cannot be told: which modules are public, which names are loaded late, and
what the inherited fields of a recipe's settings are.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import sys
import typing
import warnings
from pathlib import Path
from types import ModuleType

import pdoc

import tfkit

# The packages that tfkit names, without the files that they consist of; and the recipes.
PUBLIC = ("tfkit", r"!tfkit\.\w+\.", "recipes")


def modules() -> list[ModuleType]:
    """What has a page."""
    return [importlib.import_module(name) for name in pdoc.extract.walk_specs(PUBLIC)]


def prepare(module: ModuleType) -> None:
    """Make what is loaded late, or written as a string in another module, what pdoc can read."""
    for name in getattr(module, "__all__", ()):
        value = getattr(module, name)
        setattr(module, name, value)
        if inspect.isclass(value) and hasattr(value, "_fields"):
            value.__new__.__annotations__ = typing.get_type_hints(value)
    if hasattr(module, "Config"):
        module.__doc__ = (module.__doc__ or "").replace(
            "Examples:\n", "Examples\n\n"
        )  # lines, not a paragraph
        describe(module.Config)


def describe(config: type) -> None:
    """Give the settings of a recipe, most of them inherited, one list of what each is for."""
    config.__init__.__annotations__ = typing.get_type_hints(config)
    said: dict[str, str] = {}
    for base in reversed(config.__mro__[:-1]):
        said |= pdoc.doc_ast.walk_tree(base).var_docstrings
    settings = [
        f"  {field.name}: {' '.join(said[field.name].split())}" for field in dataclasses.fields(config)
    ]
    config.__doc__ = "\n".join([inspect.getdoc(config) or "", "", "Attributes:", *settings])


def render(folder: Path) -> list[str]:
    """Write the pages.

    Args:
      folder: for index.html and a page a module.

    Returns:
      What pdoc warned of.
    """
    for module in modules():
        prepare(module)
    pdoc.render.configure(docformat="google", math=True, footer_text=f"tfkit {tfkit.__version__}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        pdoc.pdoc(*PUBLIC, output_directory=folder)
    return [str(one.message) for one in caught if one.category is UserWarning]


if __name__ == "__main__":
    print(*render(Path(sys.argv[1])), sep="\n")

"""The environment: the packages that work together, the doctor, processes, files and the cache; and lazy names.

A package whose names bring heavy libraries has them in a stub, `__init__.pyi`: for editors and type checkers, and for
`lazy_names`, by which each is imported when it is first used.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def lazy_names(package: str, file: str) -> tuple[Callable[[str], Any], list[str]]:
    """Return the `__getattr__` of a package, and the names that its stub imports.

    Args:
      package: its `__name__`.
      file: its `__file__`; the stub stands beside it.
    """
    stub = ast.parse(Path(file).with_suffix(".pyi").read_bytes()).body
    rows = [row for row in stub if isinstance(row, ast.ImportFrom)]
    homes = {alias.name: str(row.module) for row in rows for alias in row.names}

    def get_attribute(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        is_package = homes[name] == package
        module = importlib.import_module(f"{package}.{name}" if is_package else homes[name])
        value = module if is_package else getattr(module, name)
        setattr(sys.modules[package], name, value)
        return value

    return get_attribute, sorted(homes)

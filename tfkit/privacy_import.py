"""TensorFlow Privacy's import, without the estimators: its top level imports them, and TensorFlow has them no longer.

Its own switch, sys.skip_tf_privacy_import, leaves its packages empty. Here each of their names is imported when it is
used: `tensorflow_privacy.DPKerasSGDOptimizer`, `from tensorflow_privacy import DPModel`, `tensorflow_privacy.privacy`.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any

_PACKAGE = "tensorflow_privacy"


class PrivacyFinder(PathFinder):
    """Find TensorFlow Privacy; every other module is for the finders after this one."""

    start: Callable[[], None] = staticmethod(lambda: None)  # run before the package is imported

    @classmethod
    def find_spec(cls, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return what the usual finder returns, with a loader of our own for packages."""
        if fullname.partition(".")[0] != _PACKAGE:
            return None
        spec = super().find_spec(fullname, path, target)
        if spec and spec.submodule_search_locations and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(fullname, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        if module.__name__ == _PACKAGE:
            PrivacyFinder.start()
        sys.skip_tf_privacy_import = True  # type: ignore[attr-defined]
        super().exec_module(module)
        _name_lazily(module, self)


def install(start: Callable[[], None]) -> None:
    """Find TensorFlow Privacy this way from now on, also where the switch has imported it before.

    Args:
      start: run before the package is imported. What it raises, the import raises.
    """
    PrivacyFinder.start = staticmethod(start)
    if PrivacyFinder not in sys.meta_path:
        sys.meta_path.insert(0, PrivacyFinder)
    for name, module in [*sys.modules.items()]:
        loader = getattr(module, "__loader__", None)
        found = name.partition(".")[0] == _PACKAGE and hasattr(module, "__path__")
        if found and isinstance(loader, SourceFileLoader):
            _name_lazily(module, loader)


def _name_lazily(package: ModuleType, loader: SourceFileLoader) -> None:
    """Give a package its modules, and the names that its `__init__` imports without the switch, when they are used."""
    name = package.__name__
    homes = {
        alias.asname or alias.name: (node.module, alias.name)
        for node in ast.walk(ast.parse(loader.get_source(name) or ""))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(f"{_PACKAGE}.")
        for alias in node.names
    }

    def attribute(wanted: str) -> Any:
        module, original = homes.get(wanted, (f"{name}.{wanted}", None))
        try:
            if wanted.startswith("__"):
                raise ImportError("the package does not define it")
            found = importlib.import_module(module)
        except ImportError as err:
            raise AttributeError(f"module {name!r} has no attribute {wanted!r}: {err}", name=wanted) from err
        value = getattr(found, original) if original else found
        setattr(package, wanted, value)
        return value

    package.__getattr__ = attribute  # type: ignore[method-assign]
    package.__dir__ = lambda: sorted({*vars(package), *homes})  # type: ignore[method-assign]

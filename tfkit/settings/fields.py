"""Check the fields of a dataclass of settings against their type hints, where it is made."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import math
import numbers
import os
import reprlib
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tfkit.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Range:
    """Bounds of a number, for the hint of a field: `epochs: Annotated[int, Range(ge=1)]`."""

    gt: float = -math.inf
    ge: float = -math.inf
    lt: float = math.inf
    le: float = math.inf

    def contains(self, value: float) -> bool:
        """Return whether the number is finite and within the bounds."""
        return self.gt < value < self.lt and self.ge <= value <= self.le and math.isfinite(value)

    def __str__(self) -> str:
        bounds = {"above": self.gt, "at least": self.ge, "below": self.lt, "at most": self.le}
        return " and ".join(f"{word} {bound:.10g}" for word, bound in bounds.items() if math.isfinite(bound))


Count = Annotated[int, Range(ge=1)]
"""1 or more."""
Whole = Annotated[int, Range(ge=0)]
"""0 or more."""
Positive = Annotated[float, Range(gt=0)]
"""Above 0."""
Share = Annotated[float, Range(ge=0, lt=1)]
"""From 0 to below 1."""
Seed = Annotated[int, Range(ge=0, lt=2**32)]
"""What NumPy's generator takes."""


def check(settings: Any, *, label: Callable[[str], str] = str) -> None:
    """Bring the fields of a frozen dataclass to their types, or raise with all that do not fit.

    A path may be a string, a tuple a list, and a float or an int one of NumPy's; True is no number, and no number is
    NaN. To be called first in `__post_init__`.

    Args:
      settings: of a dataclass whose hints can be read at run time.
      label: from a field's name to how the user knows it.

    Raises:
      ConfigError: it names each field, what it holds, and what it may hold.
    """
    hints = typing.get_type_hints(type(settings), include_extras=True)
    problems = []
    for field in dataclasses.fields(settings):
        try:
            fitted = fit(getattr(settings, field.name), hints[field.name], name=label(field.name))
            object.__setattr__(settings, field.name, fitted)
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("\n  ".join(["These settings cannot be:", *problems][len(problems) == 1 :]))


def fit(value: Any, hint: Any, *, name: str) -> Any:
    """Return a value as its hint has it.

    Raises:
      ConfigError: it does not fit.
    """
    try:
        return _fitted(value, hint)
    except (TypeError, ValueError, OverflowError):
        near = difflib.get_close_matches(value, _choices(hint), n=1) if isinstance(value, str) else []
        meant = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{name} is {reprlib.repr(value)}; expected {_expected(hint)}.{meant}") from None


def _expected(hint: Any) -> str:
    """Say in words what fits a hint."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return f"{_expected(args[0])} {args[1]}"
    if origin in (types.UnionType, typing.Union):
        return " or ".join(map(_expected, args))
    if origin is Literal:
        return "one of " + ", ".join(map(repr, args))
    if origin is tuple:
        each = ", ".join(_expected(part) for part in args if part is not ...)
        return f"a list, each of it {each}" if ... in args else f"{len(args)} values ({each})"
    words = {int: "a whole number", float: "a number", bool: "True or False", str: "a string"}
    return {**words, Path: "a path", types.NoneType: "None"}.get(hint) or f"a {hint.__name__}"


def _fitted(value: Any, hint: Any) -> Any:
    """Return the value as it is to be kept; raise a TypeError or ValueError without words."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        value = _fitted(value, args[0])
        fits = args[1].contains(value)
    elif origin in (types.UnionType, typing.Union):
        for option in args:
            with contextlib.suppress(TypeError, ValueError, OverflowError):
                return _fitted(value, option)
        fits = False
    elif origin is Literal:
        fits = any(type(value) is type(choice) and value == choice for choice in args)
    elif origin is tuple:
        fits = isinstance(value, list | tuple)
        if fits:
            each = args[:1] * len(value) if ... in args else args
            return tuple(_fitted(item, own) for item, own in zip(value, each, strict=True))
    elif hint is Path:
        fits = isinstance(value, os.PathLike) or (isinstance(value, str) and value != "")
        value = Path(value) if fits else value
    elif hint in (int, float):
        kind = numbers.Integral if hint is int else numbers.Real
        fits = isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)
        value = hint(value) if fits else value
    else:
        fits = hint is Any or isinstance(value, hint)
    if not fits:
        raise TypeError
    return value


def _choices(hint: Any) -> list[str]:
    args = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        return [choice for choice in args if isinstance(choice, str)]
    return [choice for part in args for choice in _choices(part)]

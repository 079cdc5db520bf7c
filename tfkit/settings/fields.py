"""Check the fields of a dataclass of settings against their type hints, where it is made."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import numbers
import os
import re
import reprlib
import types
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tfkit.errors import ConfigError


@dataclass(frozen=True)
class Pattern:
    """A pattern of strings, and what it is in words: `name: Annotated[str, Pattern("[a-z]+", "of letters")]`."""

    expression: str
    meaning: str

    def contains(self, value: str) -> bool:
        """Return whether all of the string matches."""
        return re.fullmatch(self.expression, value) is not None

    def __str__(self) -> str:
        return self.meaning


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
NonNegativeInt = Annotated[int, Range(ge=0)]
"""0 or more."""
Positive = Annotated[float, Range(gt=0)]
"""Above 0."""
Share = Annotated[float, Range(ge=0, lt=1)]
"""From 0 to below 1."""
Seed = Annotated[int, Range(ge=0, lt=2**32)]
"""A seed of NumPy's generator."""


def check(settings: Any, *, label: Callable[[str], str] = str) -> None:
    """Bring the fields of a frozen dataclass to their types, or raise with all that do not fit.

    A path may be a string, a tuple a list, and a number one of NumPy's, or its digits, as a command line has them, and
    YAML 1e-7; True is no number, and no number is NaN. "None" is None. To be called first in `__post_init__`.

    Args:
      settings: of a dataclass whose hints can be read at run time.
      label: from a field's name to how the user knows it.

    Raises:
      ConfigError: it names each field, what it holds, and what it may hold.
    """
    if errors := problems(settings, [field.name for field in dataclasses.fields(settings)], label=label):
        raise ConfigError("\n  ".join(["These settings cannot be:", *errors][len(errors) == 1 :]))


def problems(settings: Any, names: Iterable[str], *, label: Callable[[str], str]) -> list[str]:
    """Bring the fields of these names to their types; return what is wrong with those that do not fit."""
    hints = typing.get_type_hints(type(settings), include_extras=True)
    errors = []
    for name in names:
        try:
            object.__setattr__(settings, name, fit(getattr(settings, name), hints[name], name=label(name)))
        except ConfigError as error:
            errors.append(str(error))
    return errors


def flag(name: str) -> str:
    """Return the flag of a field."""
    return f"--{name.replace('_', '-')}"


def fit(value: Any, hint: Any, *, name: str) -> Any:
    """Return a value as its hint has it.

    Raises:
      ConfigError: it does not fit.
    """
    try:
        return _coerce(value, hint)
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(f"{name} is {reprlib.repr(value)}; expected {_describe_hint(hint)}.") from None


def _describe_hint(hint: Any) -> str:
    """Say in words what fits a hint."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return f"{_describe_hint(args[0])} {args[1]}"
    if origin in (types.UnionType, typing.Union):
        return " or ".join(map(_describe_hint, args))
    if origin is Literal:
        return "one of " + ", ".join(map(repr, args))
    if origin is tuple:
        parts = ", ".join(_describe_hint(part) for part in args if part is not ...)
        return f"a list, each of it {parts}" if ... in args else f"{len(args)} values ({parts})"
    words = {int: "a whole number", float: "a number", bool: "True or False", str: "a string"}
    return {**words, Path: "a path", types.NoneType: "None"}.get(hint) or f"a {hint.__name__}"


def _coerce(value: Any, hint: Any) -> Any:
    """Return the value as it is to be kept; raise a TypeError or ValueError without words."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        for option in sorted(args, key=lambda arg: arg is not types.NoneType):
            with contextlib.suppress(TypeError, ValueError, OverflowError):
                return _coerce(value, option)
        raise TypeError
    if origin is tuple and isinstance(value, list | tuple):
        hints = args[:1] * len(value) if ... in args else args
        return tuple(_coerce(item, item_hint) for item, item_hint in zip(value, hints, strict=True))
    if origin is Annotated:
        value = _coerce(value, args[0])
        fits = args[1].contains(value)
    elif origin is Literal:
        fits = any(type(value) is type(choice) and value == choice for choice in args)
    elif hint is types.NoneType:
        value, fits = None, value in (None, "None")
    elif hint is Path:
        fits = isinstance(value, os.PathLike) or (isinstance(value, str) and value != "")
        value = Path(value) if fits else value
    elif hint in (int, float):
        kind = numbers.Integral if hint is int else numbers.Real
        value = hint(value) if isinstance(value, str) else value
        fits = isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)
        value = hint(value) if fits else value
    else:
        fits = hint is Any or (origin is None and isinstance(value, hint))
    if not fits:
        raise TypeError
    return value

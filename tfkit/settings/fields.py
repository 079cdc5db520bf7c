"""Settings are checked where they are made: each field of a dataclass against its own type hint."""

from __future__ import annotations

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

    def holds(self, value: float) -> bool:
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
    problems = []
    for name, hint in _hints(type(settings)).items():
        value = getattr(settings, name)
        try:
            fitted = fit(value, hint, name=label(name))
        except ConfigError as error:
            problems.append(str(error))
        else:
            if fitted is not value:
                object.__setattr__(settings, name, fitted)
    if problems:
        raise ConfigError(
            problems[0] if len(problems) == 1 else "\n  ".join(["These settings cannot be:", *problems])
        )


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
        raise ConfigError(f"{name} is {_shown(value)}; expected {expected(hint)}.{meant}") from None


def expected(hint: Any) -> str:
    """Say in words what fits a hint."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return f"{expected(args[0])} {args[1]}"
    if origin in (types.UnionType, typing.Union):
        return " or ".join(map(expected, args))
    if origin is Literal:
        return "one of " + ", ".join(map(repr, args))
    if origin is tuple:
        each = ", ".join(expected(one) for one in args if one is not ...)
        return f"a list, each of it {each}" if ... in args else f"{len(args)} values ({each})"
    words = {int: "a whole number", float: "a number", bool: "True or False", str: "a string"}
    return {**words, Path: "a path", types.NoneType: "None"}.get(hint) or f"a {hint.__name__}"


def _hints(settings: type[Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(settings, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(settings)}


def _fitted(value: Any, hint: Any) -> Any:
    """Return the value as it is to be kept; raise a TypeError or ValueError without words."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin is Annotated:
        fitted = _fitted(value, args[0])
        return fitted if args[1].holds(fitted) else _raise()
    if origin in (types.UnionType, typing.Union):
        for one in args:
            try:
                return _fitted(value, one)
            except (TypeError, ValueError, OverflowError):
                continue
        _raise()
    if origin is Literal:
        return value if any(type(value) is type(one) and value == one for one in args) else _raise()
    if origin is tuple:
        if not isinstance(value, list | tuple):
            _raise()
        each = (args[0],) * len(value) if ... in args else args
        return tuple(_fitted(one, own) for one, own in zip(value, each, strict=True))
    if hint is Path:
        return (
            Path(value) if isinstance(value, os.PathLike) or (isinstance(value, str) and value) else _raise()
        )
    if hint in (int, float):
        kind = numbers.Integral if hint is int else numbers.Real
        if not isinstance(value, kind) or isinstance(value, bool) or not math.isfinite(value):
            _raise()
        return value if type(value) is hint else hint(value)
    return value if isinstance(value, hint) else _raise()


def _raise() -> typing.NoReturn:
    raise TypeError


def _choices(hint: Any) -> list[str]:
    args = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        return [one for one in args if isinstance(one, str)]
    return [choice for one in args for choice in _choices(one)]


def _shown(value: Any) -> str:
    return reprlib.repr(value)

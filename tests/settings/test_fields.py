"""Settings are refused, or brought to their type, where they are made: every field of every class of settings."""

from __future__ import annotations

import dataclasses
import importlib
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest

from tfkit.compression import Cluster, Gates, Prune, QuantizeAware
from tfkit.data import Augmentation
from tfkit.errors import ConfigError
from tfkit.privacy import DPSGD
from tfkit.settings import fields
from tfkit.training.stage import Cadence

RECIPES = [path.stem for path in (Path(__file__).parents[2] / "recipes").glob("*.py") if path.stem[0] != "_"]
NEEDED = {
    "CompressConfig": {"from_run": "a run"},
    "AuditConfig": {"run_dir": "a run"},
    "DPSGD": {"target_epsilon": 3.0},
}


def settings_classes():
    of_recipes = [importlib.import_module(f"recipes.{name}") for name in RECIPES]
    found = [module.Config for module in of_recipes if hasattr(module, "Config")]
    return [*found, DPSGD, Augmentation, Cadence, Prune, Cluster, QuantizeAware, Gates]


def options(hint) -> list[Any]:
    """What a hint is made of, without bounds and None."""
    args = typing.get_args(hint)
    if not args or typing.get_origin(hint) is Literal:
        return [hint]
    return [one for arg in args if arg not in (..., type(None)) for one in options(arg)]


ALL = [
    pytest.param(kind, field.name, id=f"{kind.__module__.split('.')[-1]}.{kind.__name__}.{field.name}")
    for kind in settings_classes()
    for field in dataclasses.fields(kind)
]


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_what_a_field_cannot_hold_is_refused_where_it_is_made(kind, name):
    needed = NEEDED.get(kind.__name__, {})
    kind(**needed)
    made_of = options(typing.get_type_hints(kind)[name])
    if made_of == [Any]:
        return
    wrong: list[Any] = [object(), b"bytes", {"a": 1}, [object()]]
    if not {str, Path} & set(made_of):
        wrong.append("no such")
    if bool not in made_of:
        wrong += [True, np.float32("nan"), float("nan"), float("inf"), 1j]
    for value in wrong:
        with pytest.raises(ConfigError) as error:
            kind(**{**needed, name: value})
        assert name in str(error.value).replace("-", "_")


def test_no_number_of_a_setting_is_without_bounds():
    """A field that may hold any number at all is one whose bounds were forgotten."""
    free = {
        f"{kind.__module__}.{field.name}"
        for kind in settings_classes()
        for field in dataclasses.fields(kind)
        if {int, float} & set(options(typing.get_type_hints(kind)[field.name]))
        and "Range(" not in repr(typing.get_type_hints(kind, include_extras=True)[field.name])
    }
    assert {name.split(".")[-1] for name in free} == {
        "input_range",
        "label_range",
        "pixel_range",
    }  # checked as a whole


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Of the test."""

    count: fields.Count = 1
    rate: fields.Positive | None = None
    share: fields.Share = 0.5
    kind: Literal["soft", "hard"] = "soft"
    sizes: tuple[int, ...] = ()
    pair: tuple[float, float] = (0.0, 1.0)
    folder: Path | None = None
    size: Annotated[int, fields.Range(ge=16, le=1024)] = 16

    def __post_init__(self):
        fields.check(self)


def test_what_fits_is_brought_to_its_type():
    made = Settings(count=np.int64(3), rate=2, sizes=[1, np.int32(2)], pair=[1, 2], folder="a/b")
    assert made == Settings(count=3, rate=2.0, sizes=(1, 2), pair=(1.0, 2.0), folder=Path("a/b"))
    assert [type(value) for value in (made.count, made.rate, made.sizes[1])] == [int, float, int]


def test_the_words_of_a_command_line_and_of_yaml_are_numbers_where_a_field_is_one():
    words = Settings(count="3", rate="1e-7", sizes=["1", "2"], pair=("0", "0.5"), folder="None")
    assert words == Settings(count=3, rate=1e-7, sizes=(1, 2), pair=(0.0, 0.5), folder=None)


def test_all_that_is_wrong_is_named_with_what_is_allowed():
    with pytest.raises(ConfigError) as error:
        Settings(count=0, rate=0, share=1, kind="sof", sizes="12", pair=(1,), folder="", size=1025)
    said = str(error.value).splitlines()
    assert len(said) == 9
    for word in (
        "count",
        "above 0",
        "below 1",
        "'soft', 'hard'",
        "sizes",
        "2 values",
        "a path",
        "at most 1024",
    ):
        assert word in str(error.value)
    assert len(str(error.value)) < 1000

"""One voice: in every recipe the same flags mean the same, stand in the same groups, and say what they do."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from pathlib import Path

import pytest

from tfkit.errors import ConfigError
from tfkit.settings.parse import GROUPS, documentation, parse

ROOT = Path(__file__).parents[2]
RECIPES = sorted(
    path.stem for path in (ROOT / "recipes").glob("*.py") if "cli.main(Config" in path.read_text()
)
assert len(RECIPES) >= 7


def config_of(recipe):
    return importlib.import_module(f"recipes.{recipe}").Config


def shown(recipe, capsys):
    module = importlib.import_module(f"recipes.{recipe}")
    with pytest.raises(SystemExit) as ended:
        parse(
            module.Config, ["--help"], prog=f"python -m recipes.{recipe}", description=inspect.getdoc(module)
        )
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("recipe", RECIPES)
def test_help_is_grouped_and_has_an_example_and_the_exit_codes(recipe, capsys):
    printed = shown(recipe, capsys)
    assert f"    python -m recipes.{recipe} " in printed
    assert "exit codes:\n  0 done" in printed
    assert not re.search(r"[\x1b\r\b]|[ \t]\n", printed)
    titles = [title for title in GROUPS if f"\n{title}:\n" in printed]
    assert titles[-1] == "output"
    places = [printed.index(f"\n{title}:\n") for title in ("start here", *titles)]
    assert places == sorted(places)
    first = printed[places[0] : places[1]]
    assert sorted(re.findall(r"^  --([\w-]+)", first, re.M)) == sorted(
        name.replace("_", "-") for name in config_of(recipe).start_here
    )
    assert len(config_of(recipe).start_here) == 5
    grouped = " ".join(GROUPS.values()).split()
    assert {field.name for field in dataclasses.fields(config_of(recipe))} <= set(grouped)
    assert len(grouped) == len(set(grouped))
    assert "None" not in printed
    for field in dataclasses.fields(config_of(recipe)):
        assert f"  --{field.name.replace('_', '-')}" in printed


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_flag_says_what_it_is_and_what_happens_without_it(recipe):
    config_class = config_of(recipe)
    docs = documentation(config_class)
    for field in dataclasses.fields(config_class):
        text = docs.get(field.name, "")
        assert text.endswith("."), field.name
        if field.default in (None, ()):
            assert "Left out" in text or "nstead of" in text, f"{field.name}: {text}"


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--run-dri", "x"], r"--run-dri.*; did you mean --run-dir\?"),
        (["--seed", "many"], r"--seed is 'many'; expected a whole number"),
        (["--seed"], r"argument --seed"),
        (["stray"], r"stray"),
    ],
)
def test_wrong_words_are_one_error(recipe, wrong, said):
    with pytest.raises(ConfigError, match=said):
        parse(config_of(recipe), wrong, prog=f"python -m recipes.{recipe}", description="")

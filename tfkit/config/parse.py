"""A recipe's settings: one frozen dataclass, from the command line, from YAML, and back."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tfkit import files
from tfkit.config.base import RecipeConfig
from tfkit.errors import ConfigError

# Where a run goes, how it talks, and on what it is computed: not part of what was asked, so config.yaml leaves them
# out, and a run that was interrupted on one machine goes on on four.
_ABOUT_THE_CALL = (
    *("config", "run_dir", "overwrite", "debug"),
    *("strategy", "cluster", "logical_cpus", "backup_minutes", "backup_steps", "profile"),
    *("query", "queries_file", "top"),  # what an index is asked is no part of it
)


C = TypeVar("C", bound=RecipeConfig)


def parse(config_class: type[C], arguments: Sequence[str], *, prog: str, description: str) -> C:
    """Read a command line, and the YAML file that its `--config` names.

    A setting of the file becomes the flag of the same name and is read by the same parser, so that both
    are checked alike.

    Args:
      config_class: a frozen dataclass below `RecipeConfig`; its field docstrings are the help texts.
      arguments: without the program's name.
      prog: how the program is called in the help text.
      description: the help text's first paragraph.

    Raises:
      ConfigError: the file is unreadable, has unknown keys or values that cannot be.
      SystemExit: 0 after --help, 2 after a wrong flag (tyro explains it).
    """
    import tyro

    config = _config_flag(arguments)
    from_file = _flags_of(config, config_class) if config else []
    return tyro.cli(
        config_class,
        prog=prog,
        description=description,
        args=[*from_file, *arguments],
        config=(tyro.conf.HelptextFromCommentsOff,),
    )


def as_dict(config: RecipeConfig) -> dict[str, Any]:
    """What was asked, as plain values for config.yaml; a path that exists becomes absolute: it replays anywhere."""
    return {
        field.name: _plain(getattr(config, field.name))
        for field in dataclasses.fields(config)
        if field.name not in _ABOUT_THE_CALL
    }


def run_dir(config: RecipeConfig, *, recipe: str) -> Path:
    """The folder that was asked for, or one whose name the same settings always give."""
    if config.run_dir is not None:
        return config.run_dir
    return Path("runs") / f"{recipe}-{files.digest(sorted(as_dict(config).items()))[:8]}"


def _config_flag(arguments: Sequence[str]) -> Path | None:
    for position, argument in enumerate(arguments):
        if argument == "--config" and position + 1 < len(arguments):
            return Path(arguments[position + 1])
        if argument.startswith("--config="):
            return Path(argument.removeprefix("--config="))
    return None


def _flags_of(path: Path, config_class: type[RecipeConfig]) -> list[str]:
    settings = _read_yaml(path)
    names = [
        field.name for field in dataclasses.fields(config_class) if field.name not in ("config", "debug")
    ]
    problems = []
    for name in settings:
        if name not in names:
            near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
            problems.append(f"unknown key {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    if problems:
        raise ConfigError(f"{path}: " + "\n  ".join(problems) + f"\n  Known keys: {', '.join(names)}.")
    return flags(settings)


def flags(settings: Mapping[str, Any]) -> list[str]:
    """The command line that says the same as these settings: each is the flag of its name."""
    words: list[str] = []
    for name, value in settings.items():
        flag = f"--{str(name).replace('_', '-')}"
        if isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
        elif isinstance(value, list):
            words += [flag, *map(str, value)]
        else:
            words.append(f"{flag}={value}")
    return words


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        settings = yaml.safe_load(path.read_text()) or {}
    except OSError as error:
        raise ConfigError(f"--config {path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"{path} must hold `name: value` lines; it holds a {type(settings).__name__}.")
    return settings


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value.resolve()) if value.exists() else str(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value

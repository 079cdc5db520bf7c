"""How the flags of a recipe stand together in its --help, with defaults and without what only Python needs to know.

A recipe's settings: one frozen dataclass, from the command line, from YAML, and back.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import difflib
import inspect
import io
import textwrap
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from tfkit import run_files
from tfkit.environment import files
from tfkit.errors import ConfigError
from tfkit.settings.options import RecipeConfig

GROUPS: dict[str, tuple[str, ...]] = {
    "data": (
        *("data_dir", "data_file", "dataset", "text_column", "label_column", "language_column"),
        *("pixel_range", "strict", "from_run", "saved_model", "signature", "input_shape", "output"),
        "representative_data",
    ),
    "question": ("query", "queries_file", "top"),
    "model": ("model_handle", "sha256", "input_range", "image_size", "preprocessor", "max_length"),
    "attack": ("attacks", "shadows", "canaries"),
    "compression": (
        *("variants", "techniques", "final_sparsity", "pruning_schedule", "sparsity_structure"),
        *("number_of_clusters", "select_tf_ops"),
    ),
    "limit": ("max_size_kb", "gzipped", "max_accuracy_drop", "max_latency_ms"),
    "training": (
        *(
            "epochs",
            "learning_rate",
            "fine_tune_epochs",
            "fine_tune_learning_rate",
            "layer_decay",
            "unfreeze",
        ),
        *("optimizer", "warmup", "patience", "features", "class_weights", "augment"),
        *("global_batch_size", "batch_size_per_replica", "learning_rate_scaling", "seed"),
    ),
    "privacy": (
        *(
            "target_epsilon",
            "delta",
            "noise_multiplier",
            "l2_norm_clip",
            "adaptive_clip_quantile",
            "mean_budget",
        ),
        *("sampler", "accountant", "microbatch_size", "deterministic_noise", "diagnostics"),
    ),
    "devices": ("strategy", "cluster", "logical_cpus", "backup_minutes", "backup_steps", "profile"),
    "output": ("run_dir", "overwrite", "config", "json", "quiet", "debug"),
}
"""The same in every recipe, in this order; a recipe shows those that it has."""


def grouped(config_class: type[Any]) -> type[Any]:
    """A dataclass of one dataclass a group, with the fields of a flat one: tyro makes it the same flags.

    Args:
      config_class: a dataclass all of whose fields have defaults.
    """
    hints, docs = typing.get_type_hints(config_class), documentation(config_class)
    fields = {field.name: field for field in dataclasses.fields(config_class)}
    known = {name for names in GROUPS.values() for name in names}
    groups = {**GROUPS, "other": tuple(name for name in fields if name not in known)}
    made: list[tuple[str, Any, Any]] = []
    for title, names in groups.items():
        own = [
            (name, _annotated(hints[name], docs.get(name, ""), fields[name].default), fields[name].default)
            for name in names
            if name in fields
        ]
        if own:
            group = dataclasses.make_dataclass(title, own, frozen=True, kw_only=True)
            made.append((title, group, dataclasses.field(default_factory=group)))
    return dataclasses.make_dataclass(config_class.__name__, made, frozen=True, kw_only=True)


def flat(chosen: Any) -> dict[str, Any]:
    """The values of what `grouped` made, by their names."""
    return {
        field.name: getattr(group, field.name)
        for group in (getattr(chosen, one.name) for one in dataclasses.fields(chosen))
        for field in dataclasses.fields(group)
    }


def documentation(config_class: type[Any]) -> dict[str, str]:
    """The string below each field, of the class or of the nearest one above it, on one line."""
    found: dict[str, str] = {}
    for one in reversed(config_class.__mro__):
        if not dataclasses.is_dataclass(one) or not Path(inspect.getsourcefile(one) or "").is_file():
            continue
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(one))).body
        assert isinstance(body, ast.ClassDef)
        for field, after in zip(body.body, body.body[1:], strict=False):
            match field, after:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    found[name] = " ".join(text.split())
    return found


def _annotated(hint: Any, text: str, default: Any) -> Any:
    import tyro

    return Annotated[
        hint, tyro.conf.arg(help=text, metavar=_metavar(hint), help_behavior_hint=_shown(default))
    ]


def _metavar(hint: Any) -> str | None:
    """What stands for a value that may be left out: None is no news."""
    options = [one for one in typing.get_args(hint) if one is not types.NoneType]
    if typing.get_origin(hint) not in (types.UnionType, typing.Union) or len(options) > 1:
        return None
    parts = typing.get_args(options[0]) or options
    return " ".join(part.__name__.upper() for part in parts)


def _shown(default: Any) -> str:
    """The default; what None means, the text says."""
    if default is None or default == ():
        return ""
    if isinstance(default, bool):
        return f"(default: {'on' if default else 'off'})"
    if isinstance(default, tuple):
        return f"(default: {' '.join(map(str, default))})"
    return f"(default: {default})"


# Where a run goes, how it talks, and on what it is computed: not part of what was asked, so config.yaml leaves them
# out, and a run that was interrupted on one machine goes on on four.
_ABOUT_THE_CALL = (
    *("config", "run_dir", "overwrite", "json", "quiet", "debug"),
    *("strategy", "cluster", "logical_cpus", "backup_minutes", "backup_steps", "profile"),
    *("query", "queries_file", "top"),  # what an index is asked is no part of it
)


EXIT_CODE_HELP = """exit codes:
  0 done    1 a check or a limit failed, or something unexpected    2 what was asked cannot be done
  3 interrupted: the same command goes on    4 another worker was lost: so it does, in all of them"""

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
      ConfigError: a flag, or a key of the file, is unknown or has a value that cannot be; the file is unreadable.
      SystemExit: 0 after --help.
    """
    names = [field.name for field in dataclasses.fields(config_class)]
    _refuse_unknown(arguments, names, prog=prog)
    config = None if {"-h", "--help"} & set(arguments) else _config_flag(arguments)
    from_file = _flags_of(config, config_class) if config else []
    chosen = _read(grouped(config_class), [*from_file, *arguments], prog=prog, description=description)
    return config_class(**flat(chosen))


def _read(grouped: type[Any], words: list[str], *, prog: str, description: str) -> Any:
    """What tyro reads; what it prints goes through our own printer, without colours."""
    import tyro

    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            return tyro.cli(
                grouped,
                prog=prog,
                description=description,
                args=words,
                config=(tyro.conf.HelptextFromCommentsOff, tyro.conf.OmitArgPrefixes),
            )
    except SystemExit as ended:
        if not ended.code:
            shown = "\n".join(line.rstrip() for line in printed.getvalue().rstrip().splitlines())
            print(f"{shown}\n\n{EXIT_CODE_HELP}")
            raise
        raise ConfigError(_plain_error(printed.getvalue(), prog)) from None


def _plain_error(printed: str, prog: str) -> str:
    """What tyro says of a wrong value, without its title and its rules."""
    lines = [line.strip("│|+ ") for line in printed.splitlines()]
    kept = [line for line in lines if not line.startswith(("╭", "For full helptext", "Argument helptext"))]
    rules = [place for place, line in enumerate(kept) if line and not line.strip("─-╰╯")]
    titled = not printed.startswith("╭") and rules
    said = [line for line in kept[rules[0] if titled else 0 :] if line.strip("─-╰╯")]
    return "\n  ".join([*said, f"{prog} --help explains all flags."])


def _refuse_unknown(words: Sequence[str], names: Sequence[str], *, prog: str) -> None:
    known = [name.replace("_", "-") for name in names]
    problems = []
    for word in words:
        name = word.removeprefix("--").partition("=")[0].replace("_", "-")
        if not word.startswith("--") or name in ("help", *known) or name.removeprefix("no-") in known:
            continue
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        problems.append(f"unknown flag --{name}" + (f"; did you mean --{near[0]}?" if near else "."))
    if problems:
        raise ConfigError("\n  ".join([*problems, f"{prog} --help lists all flags."]))


def as_dict(config: RecipeConfig) -> dict[str, Any]:
    """Return what was asked, as plain values for config.yaml; a path that exists becomes absolute: it replays anywhere.

    Defaults that are not used are left out, such as the name of a data set where there is a folder.
    """
    return {
        field.name: _plain(getattr(config, field.name))
        for field in dataclasses.fields(config)
        if field.name not in (*_ABOUT_THE_CALL, *config.unused)
    }


def run_dir(config: RecipeConfig, *, recipe: str) -> Path:
    """The folder that was asked for, or one whose name the same settings always give."""
    if config.run_dir is not None:
        return config.run_dir
    return Path("runs") / f"{recipe}-{files.digest_of(sorted(as_dict(config).items()))[:8]}"


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
        field.name
        for field in dataclasses.fields(config_class)
        if field.name not in ("config", "debug", "json", "quiet")
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
    try:
        return run_files.parse_yaml(path.read_text())
    except OSError as error:
        raise ConfigError(f"--config {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ConfigError(f"{path}: {error}.") from error


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value.resolve()) if value.exists() else str(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def from_keywords(config_class: type[C], keywords: Mapping[str, Any], *, call: str) -> C:
    """Stand-in until the settings branch is merged."""
    names = [field.name for field in dataclasses.fields(config_class)]
    for name in keywords:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
            raise ConfigError(f"{call}() has no {name}=" + (f"; did you mean {near[0]}=?" if near else "."))
    return config_class(**keywords)

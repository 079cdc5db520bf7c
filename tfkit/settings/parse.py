"""A recipe's settings, one frozen dataclass, from the command line, from YAML and from keywords, and back to YAML."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import functools
import inspect
import itertools
import re
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from tfkit import run_files
from tfkit.environment import files
from tfkit.errors import ConfigError
from tfkit.settings.fields import flag
from tfkit.settings.options import RecipeConfig

GROUPS = {
    "data": "data_dir data_file dataset text_column image_column label_column language_column group_column split_column"
    " task class_order label_range validation_fraction test_fraction pixel_range strict from_run "
    "saved_model signature input_shape output representative_data",
    "question": "query queries_file interactive top",
    "model": "model_handle continue_from sha256 input_range image_size preprocessor max_length windows words",
    "attack": "attacks shadows canaries",
    "compression": "variants techniques final_sparsity pruning_schedule sparsity_structure number_of_clusters"
    " select_tf_ops",
    "search": "trials minutes target model_handles search_whole",
    "limit": "max_size_kb gzipped max_accuracy_drop max_latency_ms",
    "training": "agent environment steps epochs learning_rate fine_tune_epochs fine_tune_minutes"
    " fine_tune_learning_rate layer_decay unfreeze optimizer warmup patience hidden dropout features class_weights"
    " augment global_batch_size batch_size_per_replica"
    " learning_rate_scaling seed calibrate",
    "privacy": "target_epsilon delta noise_multiplier l2_norm_clip adaptive_clip_quantile mean_budget sampler"
    " accountant expected_trials examples_per_group microbatch_size engine deterministic_noise diagnostics",
    "devices": "strategy cluster logical_cpus backup_minutes backup_steps profile",
    "output": "run_dir overwrite config json quiet debug",
}
"""Flags by what they are about, in the order of every recipe's --help; a recipe shows those that it has."""

_CALL_FLAGS = "config run_dir overwrite json quiet debug " + GROUPS["devices"] + " " + GROUPS["question"]
"""Flags of one call, not of a run: its folder, messages, devices, a search's query. config.yaml leaves these out:
a run that was interrupted on one machine goes on on four."""

EXIT_CODES = """exit codes:
  0 done    1 a check or a limit failed, or something unexpected    2 what was asked cannot be done
  3 interrupted: the same command goes on    4 another worker was lost: so it does, in all of them"""

C = TypeVar("C", bound=RecipeConfig)
F = TypeVar("F", bound=Callable[..., Any])


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(text, width, break_on_hyphens=False)  # a flag stays whole, to be copied


class Parser(argparse.ArgumentParser):
    """An argparse parser that raises ConfigError, with the nearest right word."""

    def __init__(self, **settings: Any) -> None:
        defaults = {"allow_abbrev": False, "epilog": EXIT_CODES, "formatter_class": _HelpFormatter}
        super().__init__(**{**defaults, **settings})

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong with the words.

        Raises:
          ConfigError: always.
        """
        match = re.search(r"(?:invalid choice: '|unrecognized arguments: (?=--))([\w-]+)", message)
        choices = re.findall(r"[\w-]+", message.partition("choose from")[2])
        flags = re.findall(r"--[\w-]+", self.format_help())
        hint = suggest(match[1], choices or flags) if match else ""
        raise ConfigError(f"{message}{hint}\n  {self.prog} --help explains all of it.")


def parse(config_class: type[C], arguments: Sequence[str], *, prog: str, description: str) -> C:
    """Return the settings of a command line, and of the YAML file that its `--config` names.

    Args:
      config_class: a frozen dataclass below `RecipeConfig`; its field docstrings are the help texts.
      arguments: without the program's name.
      prog: how the program is called in the help text.
      description: the help text's first paragraph.

    Raises:
      ConfigError: a flag, or a key of the file, is unknown or has a value that cannot be; the file is unreadable.
      SystemExit: 0 after --help.
    """
    parser = _build_parser(config_class, prog=prog, description=description)
    # Flags may be written with underscores, as the fields are.
    words = [re.sub(r"^--[\w-]+", lambda flag: flag[0].replace("_", "-"), word) for word in arguments]
    return _build_config(config_class, vars(parser.parse_args(words)))


def from_keywords(config_class: type[C], keywords: Mapping[str, Any], *, call: str) -> C:
    """Return the settings that a call in Python names, checked as flags are.

    Args:
      config_class: a frozen dataclass below `RecipeConfig`.
      keywords: field names to values; where the field is a path, a string will do. `config` names a YAML file.
      call: how the user calls it, for messages: `tfkit.train()`.

    Raises:
      ConfigError: a keyword is unknown, or has a value that cannot be; it is named as `name=`.
    """
    names = [field.name for field in dataclasses.fields(config_class)]
    _check_known(keywords, names, "keyword {}=", call)

    def to_keyword(flag: re.Match[str]) -> str:
        name = flag[1].replace("-", "_")
        return f"{name}=" if name in names else flag[0]

    try:
        return _build_config(config_class, keywords)
    except ConfigError as error:
        raise ConfigError(f"{call}: {re.sub(r'--([a-z][a-z0-9-]*)', to_keyword, str(error))}") from None


def takes_settings(*config_classes: type[Any]) -> Callable[[F], F]:
    """Return a decorator that lists the settings of classes in a function's signature, in place of its **settings.

    Editors and notebooks complete them, and help() shows them.
    """

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        params = {name: p for name, p in signature.parameters.items() if p.kind is not p.VAR_KEYWORD}
        for config_class in config_classes:  # of several defaults the first class's is shown
            hints = typing.get_type_hints(config_class)
            for field in dataclasses.fields(config_class):
                if field.name not in ("config", "json", "quiet", "debug", *params):
                    keyword = inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY)
                    params[field.name] = keyword.replace(default=field.default, annotation=hints[field.name])
        vars(function)["__signature__"] = signature.replace(parameters=[*params.values()])
        return function

    return decorate


def _build_config(config_class: type[C], settings: Mapping[str, Any]) -> C:
    """Make a config of what was given and of its YAML file."""
    values = dict(settings)
    if values.get("config") is not None:
        names = [field.name for field in dataclasses.fields(config_class)]
        values = _read_yaml(Path(values["config"]), names) | values
    config = config_class(**values)
    idle_flags = [
        f"{flag(name)} is for {use}" for name, use in config.unused.items() if settings.get(name) is not None
    ]
    if idle_flags:
        raise ConfigError(f"{'; '.join(idle_flags)}. Here it would change nothing: leave it out.")
    object.__setattr__(config, "given_names", frozenset(values))
    return config


def _split_hint(hint: Any) -> tuple[Any, ...]:
    """Return the types and Literals that a hint is made of."""
    args = [arg for arg in typing.get_args(hint) if arg is not ...]
    if not args or typing.get_origin(hint) is typing.Literal:
        return (hint,)
    return tuple(kind for arg in args for kind in _split_hint(arg))


def suggest(word: str, words: Iterable[str], form: str = "{}") -> str:
    """Return a question that names the nearest of the words, "" where none is near; a form stands around it."""
    import difflib  # for those who mistyped

    matches = difflib.get_close_matches(word, list(words), n=1, cutoff=0.5)
    return f"; did you mean {form.format(matches[0])}?" if matches else ""


def _check_known(names: Iterable[str], choices: Sequence[str], form: str, place: str) -> None:
    """Raise with all names that are not known, each with the nearest that is."""
    name_form, unknown_names = form.split()[1], [name for name in names if name not in choices]
    problems = [f"unknown {form.format(name)}{suggest(name, choices, name_form)}" for name in unknown_names]
    if problems:
        raise ConfigError(f"{place}: " + "\n  ".join(problems))


def _build_parser(config_class: type[Any], *, prog: str, description: str) -> Parser:
    """Return a parser whose flags are the fields: those that matter first, then all others by what they are about."""
    fields = [field.name for field in dataclasses.fields(config_class)]
    parser = Parser(prog=prog, usage=f"{prog} [FLAGS]", description=description, add_help=False)
    start: tuple[str, ...] = config_class.start_here
    groups = {"start here": start} | {
        title: tuple(name for name in names.split() if name not in start) for title, names in GROUPS.items()
    }
    grouped_names = {name for names in groups.values() for name in names}
    groups["output"] += tuple(name for name in fields if name not in grouped_names)
    for title, names in groups.items():
        group = parser.add_argument_group(title)
        add_flags(group, config_class, [name for name in names if name in fields])
    group.add_argument("-h", "--help", action="help", help="Show this and end.")
    return parser


def add_flags(group: argparse._ActionsContainer, config_class: type[Any], names: Iterable[str]) -> None:
    """Add fields of a dataclass to a parser as flags: the string below each is its help."""
    hints = typing.get_type_hints(config_class)
    docs = documentation(config_class)  # type: ignore[arg-type]  # classes are hashable
    defaults = {field.name: field.default for field in dataclasses.fields(config_class)}
    for name in names:
        text = f"{docs.get(name, '')} {_show_default(defaults[name])}".strip().replace("%", "%%")
        group.add_argument(flag(name), help=text, default=argparse.SUPPRESS, **_to_argument(hints[name]))


def flag_value(words: Sequence[str], name: str) -> str | None:
    """Return the last value of the flag `--name` in a command line, written `--name VALUE` or `--name=VALUE`."""
    parser = Parser(add_help=False)
    parser.add_argument(f"--{name}", f"--{name.replace('-', '_')}", dest="value")
    value: str | None = parser.parse_known_args(list(words))[0].value
    return value


def _to_argument(hint: Any) -> dict[str, Any]:
    """Return how argparse reads the value of a flag, and how its help calls it."""
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction}
    kinds = [kind for kind in _split_hint(hint) if kind is not types.NoneType]
    names = {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH"}
    words = tuple(names.get(kind) or f"{{{','.join(typing.get_args(kind))}}}" for kind in kinds)
    if len(words) > 1:
        return {"nargs": len(words), "metavar": words}
    is_list = any(typing.get_origin(part) is tuple for part in (hint, *typing.get_args(hint)))
    return {"metavar": words[0], "nargs": "*" if is_list else None}


def _show_default(default: Any) -> str:
    """Return the default for a help text; what None means, the text says."""
    if default in (None, (), ""):
        return ""
    if isinstance(default, bool):
        return f"(default: {'on' if default else 'off'})"
    return f"(default: {' '.join(map(str, default)) if isinstance(default, tuple) else default})"


@functools.cache  # of each group of flags
def documentation(config_class: type[Any]) -> dict[str, str]:
    """Return the string below each field, of the class or of the nearest one above it, on one line."""
    docs: dict[str, str] = {}
    for base in reversed(config_class.__mro__):
        if dataclasses.is_dataclass(base) and base.__module__ in sys.modules:
            path = getattr(sys.modules[base.__module__], "__file__", None) or ""
            docs |= _read_docstrings(path).get(base.__name__, {})
    return docs


@functools.cache  # inspect.getsource would read the module once a class
def _read_docstrings(path: str) -> dict[str, dict[str, str]]:
    """Return the string below each field of each class of a module's file; nothing where it has no source."""
    if not Path(path).is_file():
        return {}
    docs: dict[str, dict[str, str]] = {}
    for node in ast.walk(ast.parse(Path(path).read_bytes())):
        if isinstance(node, ast.ClassDef):
            docs[node.name] = {}
            for field, doc in itertools.pairwise(node.body):
                match field, doc:
                    case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(
                        value=ast.Constant(value=str(text))
                    ):
                        docs[node.name][name] = " ".join(text.split())
    return docs


def as_dict(config: RecipeConfig) -> dict[str, Any]:
    """Return what was asked, as plain values for config.yaml; a path that exists becomes absolute: it replays anywhere.

    Defaults that are not used are left out, such as the name of a data set where there is a folder.
    """
    omissions = {*_CALL_FLAGS.split(), *config.unused}
    names = [field.name for field in dataclasses.fields(config) if field.name not in omissions]
    return {name: _to_plain(getattr(config, name)) for name in names}


def run_dir(config: RecipeConfig, *, recipe: str) -> Path:
    """Return the folder that was asked for, or one whose name the same settings always give."""
    if config.run_dir is not None:
        return config.run_dir
    return Path("runs") / f"{recipe}-{files.digest_of(sorted(as_dict(config).items()))[:8]}"


def flags(settings: Mapping[str, Any]) -> list[str]:
    """Return the command line that says the same as these settings: each is the flag of its name."""
    words: list[str] = []
    for name, value in settings.items():
        if value is None:  # what the default of such a setting is
            continue
        if isinstance(value, bool):
            words.append(flag(name if value else f"no_{name}"))
        else:
            words += [flag(name), *map(str, value)] if isinstance(value, list) else [f"{flag(name)}={value}"]
    return words


def _read_yaml(path: Path, names: Sequence[str]) -> dict[str, Any]:
    """Return the settings of a YAML file, whose keys are some of these names."""
    try:
        settings = run_files.parse_yaml(path.read_text())
    except OSError as error:
        raise ConfigError(f"--config {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ConfigError(f"{path}: {error}.") from error
    known_names = [name for name in names if name not in ("config", "debug", "json", "quiet")]
    _check_known(settings, known_names, "key {!r}", str(path))
    return settings


def _to_plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value.resolve()) if value.exists() else str(value)
    return [_to_plain(item) for item in value] if isinstance(value, tuple | list) else value

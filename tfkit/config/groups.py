"""How the flags of a recipe stand together in its --help, with defaults and without what only Python needs to know."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
import types
import typing
from pathlib import Path
from typing import Annotated, Any

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

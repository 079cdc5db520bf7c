"""Write a finished run in the form that a browser or a model server takes, checked, in a folder of its own."""

from __future__ import annotations

import contextlib
import importlib
import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tfkit.environment import files
from tfkit.environment.timeline import doing
from tfkit.errors import ConfigError, RunError
from tfkit.run import EXPORTS, Run
from tfkit.settings.parse import suggest

MARK = "export.json"
"""Stands in every folder that `export` has made: no other is replaced."""


def export(run: Run | str | Path, target: str, *, output: str | Path | None = None, **options: Any) -> Path:
    """Write the model of a finished run in another form, checked, into a folder of its own.

    Args:
      run: a finished run, or its folder.
      target: "browser", "tfjs", "serving" or "tfx".
      output: the folder; RUN/TARGET when left out. One that an earlier export made is replaced.
      options: of the target, see `tfkit.exporting.browser.export_browser` and its neighbours.

    Returns:
      The folder.

    Raises:
      ConfigError: the target or an option is unknown.
      RunError: the run has not come to its end, or the folder holds something else.
      CheckError: what was written is not equal to the run's model.

    Example:
      tfkit.export("runs/photos", "browser")
    """
    # Each is written by `export_TARGET` of a module of its name.
    _check_known(target, EXPORTS, "There is no target", "there are")
    function = getattr(importlib.import_module(f"tfkit.exporting.{target}"), f"export_{target}")
    option_names = list(inspect.signature(function).parameters)[2:]
    for name in options:
        _check_known(name, option_names, f"export to {target} has no option", "it has")
    source = Run.open(run.path if isinstance(run, Run) else run)
    if not source.finished:
        raise RunError(f"{source.path} has not come to its end. The command that began it goes on with it.")
    _ = source.labels  # of a run that is no classifier there are none, which is said
    folder = source.path / target if output is None else Path(output)
    if output is None:
        source.check_writable()
    if folder.exists() and not (folder.is_dir() and ((folder / MARK).is_file() or not any(folder.iterdir()))):
        raise RunError(
            f"{folder} holds other things, and is not replaced.\n  Give a new folder: --output FOLDER."
        )
    with doing(f"Exporting for {target}"):
        result: Path = function(source, folder, **options)
    return result


@contextlib.contextmanager
def new_export(folder: Path) -> Iterator[Path]:
    """Make a folder that appears under its name when it is whole, and that a later export may replace."""
    with files.new_folder(folder) as path:
        yield path
        files.write_json(path / MARK, {"made_by": "tfkit.export"})


def template(name: str) -> str:
    """Return the text of a file that is written into exports, as it is kept beside this one."""
    return Path(__file__).with_name(f"{name}.txt").read_text()


def _check_known(word: str, names: Sequence[str], sentence: str, verb: str) -> None:
    if word not in names:
        choices = ", ".join(names) or "none"
        raise ConfigError(f"{sentence} {word!r}; {verb}: {choices}{suggest(word, names)}")

"""A run folder before a run begins in it: nobody else is in it, it is of the same config, and it is clean."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from tfkit import files, run_files
from tfkit.errors import RunError

CONFIG = "config.yaml"
LABELS = "labels.txt"
METRICS = "metrics.json"
NOTES = "notes.txt"
HISTORY = "history.csv"
PROVENANCE = "provenance.json"
VERSIONS = "versions.json"
EVALUATION = "evaluation.npz"
SAVED_MODEL = "saved_model"
LOGS = "logs"
BACKUP = "backup"
REPORT = "report.html"
MODEL_CARD = "model_card.md"
PRIVACY = "privacy.json"
AUDIT = "audit.json"
TFLITE = "tflite"
VARIANTS = f"{TFLITE}/variants.json"
INDEX = "index"
HITS = "hits.json"
LOCK = ".lock"
INTENDED_USE = "intended_use.md"
"""The author's own file in the run folder; no run writes or removes it."""

RESTARTED_VARIABLE = "TFKIT_RESTARTED"
"""How often a launcher has started this job again."""

_ASKED = "# Decided by the run; what was asked: "

MADE = (
    *(CONFIG, LABELS, METRICS, NOTES, HISTORY, PROVENANCE, VERSIONS, EVALUATION, MODEL_CARD, REPORT),
    *(SAVED_MODEL, LOGS, BACKUP, PRIVACY, AUDIT, TFLITE, INDEX, HITS),
)
SHOWN = (CONFIG, METRICS, PROVENANCE, VERSIONS, PRIVACY, AUDIT, VARIANTS, HISTORY, EVALUATION)
"""What a report is made of."""

READ = (*(name for name in MADE if name != BACKUP), LOCK, f".{TFLITE}.lock", INTENDED_USE)
"""What is read or written in a run that has ended."""


def claim(folder: Path, *, config: Mapping[str, Any], overwrite: bool) -> TextIO:
    """Make the folder this process's own, for a new run or for what is left of one that was interrupted.

    Args:
      folder: made if absent.
      config: what was asked; written, or compared with what an earlier process wrote.
      overwrite: whether a run of another config, or a finished one, is replaced.

    Returns:
      The lock: closing it, or the end of the process, releases the folder.

    Raises:
      RunError: the folder is in use, belongs to another config, holds something else, or cannot be written.
    """
    try:
        return _claim(folder, config=config, overwrite=overwrite)
    except OSError as error:
        raise unwritable(folder, error) from error


def unwritable(folder: Path, error: OSError) -> RunError:
    """Return the error of a folder in which a run cannot write."""
    at = f" ({error.filename})" if error.filename and str(error.filename) != str(folder) else ""
    return RunError(
        f"{folder} cannot be written: {error.strerror}{at}.\n"
        "  Choose another --run-dir (run_dir in Python), on a disk that has room and where you may write."
    )


def _claim(folder: Path, *, config: Mapping[str, Any], overwrite: bool) -> TextIO:
    if folder.is_file():
        raise RunError(f"{folder} is a file; a run needs a folder of its own. Choose another --run-dir.")
    _refuse_other_things(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = _acquire(folder)
    _remove_halves(folder)
    # A launcher gives a restarted job the same words: what --overwrite was to remove is removed.
    if (overwrite and is_first_start()) or not ((folder / BACKUP).is_dir() or (folder / METRICS).is_file()):
        _clear(folder)
    if (folder / CONFIG).is_file():
        _refuse_other(folder, config)
    else:
        _write_config(folder, config, {})
    return lock


def _settings(config: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """YAML that `run_files.read_yaml` takes; its first line keeps what was asked where the run decided."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    first = f"{_ASKED}{json.dumps(asked)}\n" if asked else ""
    text = first + yaml.dump(dict(config), Dumper=Dumper, sort_keys=False, allow_unicode=True)
    if len(text.encode()) > run_files.SMALL:
        raise RunError(
            f"The config of the run has {len(text):,} characters of YAML; {run_files.SMALL:,} are taken."
            "\n  It is for settings: name a file of your data in it, not the data."
        )
    return str(text)


def decide(folder: Path, decided: Mapping[str, Any]) -> None:
    """Put what a run decided into its config.yaml, in place of what was asked, which its first line keeps.

    Args:
      folder: of the run, locked.
      decided: settings to plain values; those that the config does not have are left out.
    """
    config, asked = _read_config(folder)
    changed = {name: value for name, value in decided.items() if name in config and config[name] != value}
    if changed:
        asked = {**{name: config[name] for name in changed}, **asked}
        _write_config(folder, {**config, **changed}, asked)


def _write_config(folder: Path, config: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    files.write_text(folder / CONFIG, _settings(config, asked))


def _read_config(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings, and what was asked where the run decided them."""
    text = run_files.read_text(folder, CONFIG, most=run_files.SMALL) or ""
    first = text.partition("\n")[0]
    asked: Any = {}
    if first.startswith(_ASKED):
        try:
            asked = json.loads(first.removeprefix(_ASKED))
        except (ValueError, RecursionError) as error:
            raise run_files.damaged(folder / CONFIG, f"its first line is no JSON: {error}") from error
    if not isinstance(asked, dict):
        raise run_files.damaged(folder / CONFIG, "its first line holds no settings")
    return run_files.read_yaml(folder, CONFIG), asked


def is_first_start() -> bool:
    """Whether no launcher has started this job before."""
    return os.environ.get(RESTARTED_VARIABLE, "0") == "0"


def _refuse_other_things(folder: Path) -> None:
    there = sorted(found.name for found in folder.iterdir()) if folder.is_dir() else []
    # Others write a config.yaml too: the lock, or the numbers, tell.
    is_run = CONFIG in there and (LOCK in there or METRICS in there)
    if not is_run and there not in ([], [LOCK]):
        raise RunError(
            f"{folder} is not a run folder, but holds other things ({_some(there)})."
            "\n  Choose an empty or new --run-dir: nothing in it was touched."
        )


def _acquire(folder: Path) -> TextIO:
    lock = (folder / LOCK).open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise RunError(
            f"{folder} is in use: another process is running in it."
            "\n  Wait for it, or give this run another --run-dir."
        ) from None
    return lock


def _remove_halves(folder: Path) -> None:
    """What a killed process left under temporary names; the lock says that nobody is writing it."""
    for name in MADE:
        for half in folder.glob(f".{name}.*"):
            shutil.rmtree(half) if half.is_dir() else half.unlink()


def _clear(folder: Path) -> None:
    """Remove what runs make; what somebody put beside it stays."""
    for name in MADE:
        found = folder / name
        if found.is_dir() and not found.is_symlink():
            shutil.rmtree(found)
        else:
            found.unlink(missing_ok=True)


def _refuse_other(folder: Path, config: Mapping[str, Any]) -> None:
    decided, asked = _read_config(folder)
    # What the run decided, said outright, is the same: a replay of its config.yaml.
    old = {**decided, **asked}
    differing = [
        name for name in {**old, **config} if config.get(name) not in (old.get(name), decided.get(name))
    ]
    if differing:
        changes = "".join(
            f"\n    {name}: {old.get(name)!r} there, {config.get(name)!r} now" for name in differing
        )
        state = "finished" if (folder / REPORT).is_file() else "begun"
        raise RunError(
            f"{folder} holds a {state} run of another config:{changes}"
            "\n  Give this run another --run-dir, or replace the old one with --overwrite."
        )


def _some(names: list[str]) -> str:
    return ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")

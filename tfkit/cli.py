"""What every recipe does on the command line: read the settings, run, say how it ended.

Exit codes: 0 done, 1 a check failed or something unexpected happened, 2 what was asked cannot be done (also where a
disk is full or a folder cannot be written),
3 interrupted: the same command goes on from there, 4 another worker was lost: so it does, in all of them.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import errno
import inspect
import json
import os
import re
import signal
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

from tfkit.environment import cluster, heartbeat, process
from tfkit.environment.heartbeat import give_up, interrupt, start, what_next
from tfkit.errors import ConfigError, TfkitError
from tfkit.run import Run
from tfkit.settings.options import RecipeConfig
from tfkit.settings.parse import EXIT_CODE_HELP, parse

INTERRUPTED = 3
PEER_LOST = 4

EXIT_CODES = EXIT_CODE_HELP

C = TypeVar("C", bound=RecipeConfig)


class Parser(argparse.ArgumentParser):
    """argparse whose errors go the way of all others."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **settings})

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the words.

        Raises:
          ConfigError: always.
        """
        wrong = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        near = difflib.get_close_matches(wrong[1], re.findall(r"[\w-]+", wrong[2]), n=1) if wrong else []
        message += f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"{message}\n  {self.prog} --help explains all of it.")


def main(
    config_class: type[C],
    run: Callable[[C], Run],
    arguments: Sequence[str] | None = None,
    *,
    closing: Callable[[Run], list[str]] | None = None,
) -> NoReturn:
    """Run a recipe as a program; never returns.

    Args:
      config_class: the recipe's settings; the recipe's module docstring is the help text.
      run: takes the settings, does the job, returns the finished run.
      arguments: instead of those of the command line.
      closing: gives the lines that are printed at the end; `closing_lines` when left out.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    module = inspect.getmodule(config_class)
    start()
    heartbeat.backups = None
    # Outside of training, which saves first, a scheduler's SIGTERM is what Ctrl-C is.
    signal.signal(signal.SIGTERM, interrupt)
    read = False
    try:
        spec = getattr(module, "__spec__", None)
        prog = f"python -m {spec.name}" if spec else config_class.__module__
        config = parse(config_class, words, prog=prog, description=inspect.getdoc(module) or "")
        read = True
        with contextlib.ExitStack() as voice:
            if config.json:
                voice.enter_context(process.stdout_for_programs())
            if config.quiet:
                voice.enter_context(process.hushed())
            done = run(config)
        if done.is_chief:
            print(as_json(done) if config.json else "\n".join((closing or closing_lines)(done)))
    except KeyboardInterrupt as interrupted:
        _say_error(interrupted, words)
        _leave(INTERRUPTED)
    except Exception as error:
        if cluster.is_loss_of_peer(error):
            _say_error(
                error, words, f"Another worker is gone ({_first_line(error)}); this one ends.", PEER_LOST
            )
            _leave(PEER_LOST)
        if isinstance(error, TfkitError) or _disk_is_full(error):
            give_up(_first_line(error))
        if "--debug" in words:
            raise
        # All workers read the same words: the first one says what is wrong with them.
        if read or _is_first():
            _say_error(error, words)
        _leave(exit_code(error))
    _leave(0)


def exit_code(error: BaseException) -> int:
    """What a program ends with."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, TfkitError):
        return error.exit_code
    return 2 if _disk_is_full(error) or _is_of_folder(error) else 1


def explain(error: BaseException) -> str:
    """An error as every command of tfkit says it."""
    if isinstance(error, KeyboardInterrupt):
        where = f" ({error})" if str(error) else ""
        return f"Interrupted{where}. {what_next()}"
    if isinstance(error, TfkitError):
        return f"{type(error).__name__}: {error}"
    if _disk_is_full(error):
        return "The disk is full. Nothing that was whole is lost: free some space and give the same command again."
    if _is_of_folder(error):
        assert isinstance(error, OSError)
        return (
            f"{error.filename} cannot be written or read: {error.strerror}.\n"
            "  Choose another --run-dir, or another cache (export TFKIT_CACHE=/some/folder), where you may write."
        )
    if isinstance(error, OSError) and error.filename:
        return f"{type(error).__name__}: {error.strerror}: {error.filename}\n  (--debug shows where)"
    first = textwrap.shorten(str(error) or repr(error), 600)
    return f"Unexpected {type(error).__name__}: {first}\n  tfkit did not foresee this: --debug shows where it arose."


def as_json(run: Run) -> str:
    """How a run ended, as a program reads it: one JSON object on one line.

    Returns:
      run_dir, metrics (flat names to numbers), files (names in the run folder to paths) and exit_code, 0.
    """
    files = {path.name: str(path) for path in sorted(run.path.iterdir()) if not path.name.startswith(".")}
    return json.dumps({"run_dir": str(run.path), "metrics": run.metrics, "files": files, "exit_code": 0})


def _say_error(
    error: BaseException, words: Sequence[str], said: str | None = None, code: int | None = None
) -> None:
    """To stderr; to programs that asked for it, on stdout."""
    said = said or explain(error)
    if "--json" in words:
        kind = type(error).__name__
        print(
            json.dumps({"error": said, "kind": kind, "exit_code": exit_code(error) if code is None else code})
        )
    else:
        # Ctrl-C stands at the beginning of its line.
        print(f"\n{said}" if isinstance(error, KeyboardInterrupt) else said, file=sys.stderr)


def _is_first() -> bool:
    """Whether this process is alone, or the chief of several; also where TF_CONFIG cannot be understood."""
    try:
        return cluster.current().is_chief
    except TfkitError:
        return True


def _leave(code: int) -> NoReturn:
    """End the process; as one of several workers at once: TensorFlow would wait for the others at its exit."""
    try:
        several = cluster.current().size > 1
    except TfkitError:
        several = False
    if several:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if "unhealthy" in line or "UNAVAILABLE" in line] or lines
    return textwrap.shorten(told[0], 300) if told else repr(error)


_OF_FOLDERS = (
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.EISDIR,
    errno.ENAMETOOLONG,
)


def _is_of_folder(error: BaseException) -> bool:
    """Return whether a folder or disk that was named does not do: another one can."""
    return isinstance(error, OSError) and bool(error.filename) and error.errno in _OF_FOLDERS


def _disk_is_full(error: BaseException) -> bool:
    return "No space left on device" in str(error)


def closing_lines(run: Run) -> list[str]:
    """The lines that end a recipe: how good, how private, where, how to load it, how to look at it."""
    metrics, folder = run.metrics, run.path
    accuracy = metrics.get("test/accuracy", float("nan"))
    examples = int(metrics.get("test/examples", 0))
    return [
        "",
        *_words_win(metrics),
        f"accuracy     {accuracy:.4f} on {examples} test examples that training never saw",
        *_baseline_line(metrics),
        *_privacy_line(metrics),
        f"took         {metrics.get('time/total_seconds', float('nan')):.0f} s",
        f"model        {folder / 'saved_model'}",
        f'load it      tf.function(tf.saved_model.load("{folder / "saved_model"}"), reduce_retracing=True)'
        f"({_takes(run)}",
        *where_to_look(run),
    ]


def where_to_look(run: Run) -> list[str]:
    """The last lines of every recipe."""
    return [
        f"report       {run.path / 'report.html'}",
        f"TensorBoard  tensorboard --logdir {run.path / 'logs'}",
    ]


def _takes(run: Run) -> str:
    if run.provenance.get("data", {}).get("shape") == []:
        return "texts)   # strings to probabilities; import tensorflow_text first"
    return "images)   # raw pixels to probabilities"


def _baseline_line(metrics: dict[str, float]) -> list[str]:
    if "baseline/accuracy" not in metrics:
        return []
    return [
        f"baseline     {metrics['baseline/accuracy']:.4f} by TF-IDF and logistic regression on the same split"
        f" ({_gain(metrics)})"
    ]


def _words_win(metrics: dict[str, float]) -> list[str]:
    """The first of the closing lines, where the model is not worth its name."""
    if metrics.get("baseline/gain", 0.0) >= 0:
        return []
    return [
        f"Counting words is better: {metrics['baseline/accuracy']:.4f} by TF-IDF and logistic regression on the same"
        f" test texts ({_gain(metrics)})."
    ]


def _gain(metrics: dict[str, float]) -> str:
    """Of the model over the baseline, with its interval."""
    text = f"{metrics.get('baseline/gain', 0.0):+.4f}"
    if "baseline/gain_low" in metrics:
        text += f", 95 % interval {metrics['baseline/gain_low']:+.4f} to {metrics['baseline/gain_high']:+.4f}"
    return text


def _privacy_line(metrics: dict[str, float]) -> list[str]:
    if "privacy/delta" not in metrics:
        return []
    epsilon = metrics.get("privacy/epsilon")
    spent = "none" if epsilon is None else f"epsilon {epsilon:.3g}, delta {metrics['privacy/delta']:.3g}"
    return [f"privacy      {spent}   # in words: report.html, privacy.json"]

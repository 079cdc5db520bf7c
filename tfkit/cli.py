"""What every recipe does on the command line: read the settings, run, say how it ended.

Exit codes: 0 done, 1 a check failed or something unexpected happened, 2 what was asked cannot be done,
3 interrupted: the same command goes on from there, 4 another worker was lost: so it does, in all of them.
"""

from __future__ import annotations

import inspect
import os
import signal
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar

from tfkit import cluster, pulse, stopping
from tfkit import config as configs
from tfkit.errors import TfkitError
from tfkit.run import Run

INTERRUPTED = 3
PEER_LOST = 4

C = TypeVar("C", bound=configs.RecipeConfig)


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
    pulse.start()
    # Outside of training, which saves first, a scheduler's SIGTERM is what Ctrl-C is.
    signal.signal(signal.SIGTERM, stopping.interrupt)
    try:
        spec = getattr(module, "__spec__", None)
        prog = f"python -m {spec.name}" if spec else config_class.__module__
        config = configs.parse(config_class, words, prog=prog, description=inspect.getdoc(module) or "")
        done = run(config)
        if done.is_chief:
            print("\n".join((closing or closing_lines)(done)))
    except KeyboardInterrupt as interrupted:
        where = f" ({interrupted})" if str(interrupted) else ""
        print(f"\nInterrupted{where}. The same command goes on from the last backup.", file=sys.stderr)
        _leave(INTERRUPTED)
    except Exception as error:
        if cluster.is_loss_of_peer(error):
            print(f"Another worker is gone ({_first_line(error)}); this one ends.", file=sys.stderr)
            _leave(PEER_LOST)
        if isinstance(error, TfkitError) or _disk_is_full(error):
            pulse.give_up(_first_line(error))
        if "--debug" in words:
            raise
        print(_explain(error), file=sys.stderr)
        _leave(error.exit_code if isinstance(error, TfkitError) else 1)
    _leave(0)


def _leave(code: int) -> NoReturn:
    """End the process; as one of several workers at once: TensorFlow would wait for the others at its exit."""
    if cluster.current().size > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if "unhealthy" in line or "UNAVAILABLE" in line] or lines
    return textwrap.shorten(told[0], 300) if told else repr(error)


def _disk_is_full(error: Exception) -> bool:
    return "No space left on device" in str(error)


def closing_lines(run: Run) -> list[str]:
    """The lines that end a recipe: how good, how private, where, how to load it, how to look at it."""
    metrics, folder = run.metrics, run.path
    accuracy = metrics.get("test/accuracy", float("nan"))
    examples = int(metrics.get("test/examples", 0))
    return [
        "",
        f"accuracy     {accuracy:.4f} on {examples} test examples that training never saw",
        *_baseline_line(metrics),
        *_privacy_line(metrics),
        f"took         {metrics.get('time/total_seconds', float('nan')):.0f} s",
        f"model        {folder / 'saved_model'}",
        f'load it      tf.saved_model.load("{folder / "saved_model"}")({_takes(run)}',
        f"report       {folder / 'report.html'}",
        f"TensorBoard  tensorboard --logdir {folder / 'logs'}",
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
        f" ({metrics.get('baseline/gain', 0.0):+.4f})"
    ]


def _privacy_line(metrics: dict[str, float]) -> list[str]:
    if "privacy/delta" not in metrics:
        return []
    epsilon = metrics.get("privacy/epsilon")
    spent = "none" if epsilon is None else f"epsilon {epsilon:.3g}, delta {metrics['privacy/delta']:.3g}"
    return [f"privacy      {spent}   # in words: report.html, privacy.json"]


def _explain(error: Exception) -> str:
    if isinstance(error, TfkitError):
        return f"{type(error).__name__}: {error}"
    if _disk_is_full(error):
        return "The disk is full. Nothing that was whole is lost: free some space and give the same command again."
    if isinstance(error, OSError) and error.filename:
        return f"{type(error).__name__}: {error.strerror}: {error.filename}\n  (--debug shows where)"
    first = textwrap.shorten(str(error) or repr(error), 600)
    return f"Unexpected {type(error).__name__}: {first}\n  tfkit did not foresee this: --debug shows where it arose."

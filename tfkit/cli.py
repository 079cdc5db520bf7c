"""Run a recipe from the command line: read the settings, run, say how it ended.

A disk that is full or a folder that cannot be written ends with 2: what was asked cannot be done.
"""

from __future__ import annotations

import contextlib
import errno
import inspect
import json
import os
import signal
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar

from tfkit.environment import cluster, heartbeat, packages, process, timeline
from tfkit.environment.heartbeat import INTERRUPTED, PEER_LOST, give_up, start, what_next
from tfkit.environment.process import rounded_up
from tfkit.errors import TfkitError
from tfkit.run import PRIVACY, Run
from tfkit.settings.options import RecipeConfig
from tfkit.settings.parse import Parser as Parser
from tfkit.settings.parse import parse

C = TypeVar("C", bound=RecipeConfig)


def main(
    config_class: type[C],
    run: Callable[[C], Run],
    arguments: Sequence[str] | None = None,
    *,
    closing: Callable[[Run], list[str]] | None = None,
) -> NoReturn:
    """Run a recipe as a program; never returns.

    Args:
      config_class: the recipe's settings.
      run: takes the settings, does the job, returns the finished run; its module's docstring is the help text.
      arguments: instead of those of the command line.
      closing: gives the lines that are printed at the end; `closing_lines` when left out.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    module = inspect.getmodule(run)
    spec = getattr(module, "__spec__", None)
    prog = f"python -m {spec.name}" if spec else config_class.__module__
    start()
    timeline.begin_with_process()
    heartbeat.backups = None
    # Outside of training, which saves first, a scheduler's SIGTERM is what Ctrl-C is.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    config, code = None, 0
    try:
        config = parse(config_class, words, prog=prog, description=inspect.getdoc(module) or "")
        with timeline.doing("Starting"), contextlib.ExitStack() as output:
            if config.json:
                output.enter_context(process.stdout_for_programs())
            if config.quiet:
                output.enter_context(process.muted())
            result = run(config)
        if result.is_chief:
            print(as_json(result) if config.json else "\n".join((closing or closing_lines)(result)))
    except (Exception, KeyboardInterrupt) as error:
        code, message = exit_code(error), explain(error)
        if cluster.is_loss_of_peer(error):
            lines = [line for line in str(error).splitlines() if "unhealthy" in line or "UNAVAILABLE" in line]
            cause = textwrap.shorten([*lines, packages.first_line(error)][0], 300)
            code, message = PEER_LOST, f"Another worker is gone ({cause}); this one ends."
        elif isinstance(error, TfkitError) or _is_disk_full(error):
            give_up(packages.first_line(error))
        if code not in (INTERRUPTED, PEER_LOST) and "--debug" in words:
            raise
        # All workers read the same words: the first one says what is wrong with them.
        if config is not None or code == INTERRUPTED or cluster.or_alone().is_chief:
            if "--json" in words:
                print(json.dumps({"error": message, "kind": type(error).__name__, "exit_code": code}))
            else:  # Ctrl-C stands at the beginning of its line.
                print("\n" * isinstance(error, KeyboardInterrupt) + message, file=sys.stderr)
    if cluster.or_alone().size > 1:
        # One of several workers: TensorFlow would wait for the others at its exit.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def exit_code(error: BaseException) -> int:
    """Return what a program ends with."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, TfkitError):
        return error.exit_code
    return 2 if _is_disk_full(error) or _is_folder_error(error) else 1


def explain(error: BaseException) -> str:
    """Return an error as every command of tfkit says it."""
    if isinstance(error, KeyboardInterrupt):
        return f"Interrupted{f' ({error})' if str(error) else ''}. {what_next()}"
    if isinstance(error, TfkitError):
        return f"{type(error).__name__}: {error}"
    if _is_disk_full(error):
        return "The disk is full. Nothing that was whole is lost: free some space and give the same command again."
    if isinstance(error, OSError) and error.filename:
        advice = "--debug shows where."
        if _is_folder_error(error):
            advice = "Choose another --run-dir or --output, or another cache (export TFKIT_CACHE=/a/folder)."
        return f"{error.filename} cannot be written or read: {error.strerror}.\n  {advice}"
    first = textwrap.shorten(str(error) or repr(error), 600)
    return f"Unexpected {type(error).__name__}: {first}\n  tfkit did not foresee this: --debug shows where it arose."


def as_json(run: Run) -> str:
    """Return how a run ended, as a program reads it: one JSON object on one line.

    Returns:
      run_dir, metrics (flat names to numbers), files (names in the run folder to paths) and exit_code, 0.
    """
    files = {path.name: str(path) for path in sorted(run.path.iterdir()) if not path.name.startswith(".")}
    return json.dumps({"run_dir": str(run.path), "metrics": run.metrics, "files": files, "exit_code": 0})


def _is_folder_error(error: BaseException) -> bool:
    """Return whether a folder or disk that was named does not do: another one can."""
    kinds = ("EROFS", "EACCES", "EPERM", "ENOTDIR", "EEXIST", "EISDIR", "ENAMETOOLONG")
    has_path = isinstance(error, OSError) and bool(error.filename)
    return has_path and errno.errorcode.get(getattr(error, "errno", 0)) in kinds


def _is_disk_full(error: BaseException) -> bool:
    return "No space left on device" in str(error)


def closing_lines(run: Run) -> list[str]:
    """Return the lines that end a recipe: how good, how private, where, how to load it, how to look at it."""
    metrics, task, model, nan = run.metrics, run.task, run.path / "saved_model", float("nan")
    score, examples = metrics.get(f"test/{task.score}", nan), int(metrics.get("test/examples", 0))
    data, scope = run.provenance.get("data", {}), " that training never saw"
    if copies := data.get("duplicates"):
        scope = f"; {copies} of validation and test are copies of earlier ones"
    if seen_count := int(metrics.get("data/test_examples_seen_before", 0)):
        scope = f", {seen_count} of which earlier training saw"
    lines = [f"{task.score_name:<12} {score:.4f} on {examples} test examples{scope}"]
    if (baseline_score := metrics.get(f"baseline/{task.score}")) is not None:
        gain = f"{metrics.get('baseline/gain', 0.0):+.4f}"
        if "baseline/gain_low" in metrics:
            low, high = metrics["baseline/gain_low"], metrics["baseline/gain_high"]
            gain += f", 95 % interval {low:+.4f} to {high:+.4f}"
        kind = "logistic" if task.each else "ridge"
        baseline = f"{baseline_score:.4f} by TF-IDF and {kind} regression on the same split ({gain})"
        lines.append(f"baseline     {baseline}")
        if gain.startswith("-"):
            lines.insert(0, f"Counting words is better: {baseline}.")
    if "privacy/delta" in metrics:
        epsilon, delta = metrics.get("privacy/epsilon"), metrics["privacy/delta"]
        budget = "none"
        if epsilon is not None:
            size = run.read(PRIVACY).get("examples_per_group")
            unit = "" if size is None else f", of a group of at most {size}"
            budget = f"epsilon {rounded_up(epsilon, 3)}, delta {rounded_up(delta, 3)}{unit}"
        lines.append(f"privacy      {budget}   # in words: report.html, privacy.json")
    gives = "the number and its scale" if task.output == "values" else "probabilities"
    usage = f"images)   # raw pixels to {gives}"
    if data.get("shape") == []:
        usage = f"texts)   # strings to {gives}; import tensorflow_text first"
    return [
        "",
        *lines,
        took(run, metrics.get("time/total_seconds", nan)),
        f"model        {model}",
        f'load it      tf.function(tf.saved_model.load("{model}"), reduce_retracing=True)({usage}',
        *where_to_look(run),
    ]


def took(run: Run, seconds: float | None = None) -> str:
    """Return the line that says where the time went.

    Args:
      run: that this process made, or has read back.
      seconds: of all stages; None: of those that this process measured.
    """
    usage = run.times or timeline.usage_in(run.metrics)
    seconds = sum(stage.seconds for stage in usage.values()) if seconds is None else seconds
    parts = timeline.in_words(usage)
    return f"took         {seconds:.0f} s{': ' * bool(parts)}{parts}"


def where_to_look(run: Run) -> list[str]:
    """Return the last lines of every recipe."""
    report, logs = run.path / "report.html", run.path / "logs"
    return [f"report       {report}", f"TensorBoard  tensorboard --logdir {logs}"]

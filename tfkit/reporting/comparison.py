"""Write one page that shows several runs side by side: what differs in what was asked, and in what came out."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from tfkit import run
from tfkit.environment import files
from tfkit.environment.process import rounded_up
from tfkit.errors import ConfigError, RunError
from tfkit.privacy.ledger import IDENTITY_FIELDS, with_record
from tfkit.reporting.page import Facts, curve, kilobytes, readable, render, scored, share, write_report
from tfkit.run import RUN_FILES, Run

COMPARISON = "compare.html"
MOST_DRAWN = 12
CLASSES_SHOWN = 60
_PANELS = {
    "val_accuracy": "validation accuracy", "val_loss": "validation loss", "loss": "training loss", "epsilon": "epsilon",
    "val_mean_absolute_error": "validation mean absolute error", "val_binary_accuracy": "validation binary accuracy",
}  # fmt: skip
_PRIVACY = (
    "private", "epsilon", "delta", "accountant", "noise_multiplier", "l2_norm_clip", "sampler", "sampling_probability",
    "expected_batch_size", "examples", "steps", "neighbouring_relation",
)  # fmt: skip

Rows = dict[str, list[Any]]
"""The name of a row to its value in each run; None where a run has none."""


def write_comparison(opened: Sequence[Run], output: Path) -> Path:
    """Write a page that shows finished runs beside each other.

    Args:
      opened: two or more runs, in the order in which they are shown.
      output: the page; an earlier one is replaced.

    Returns:
      Its path.

    Raises:
      RunError: a file of a run is damaged, or a link out of its folder.
    """
    with readable(*(run.path for run in opened)):
        all_facts = [Facts(run) for run in opened]
        common = common_parent([facts.path for facts in all_facts])
        # What tells the folders apart.
        names = [facts.path.resolve().relative_to(common).as_posix() for facts in all_facts]
        tested_facts = [facts for facts in all_facts if facts.measured]
        content = {
            "names": names,
            "links": [_to_link(facts.path / run.REPORT, start=output.parent) for facts in all_facts],
            "overview": _build_overview(all_facts),
            "tested": len(tested_facts),
            "same_test": all(_has_same_test(tested_facts[0], facts) for facts in tested_facts[1:]),
            "private": sum(bool(facts.privacy) for facts in all_facts),
            "curves": _draw_curves(dict(zip(names, all_facts, strict=True))),
            "settings": _drop_equal([facts.config for facts in all_facts]),
            "metrics": _to_rows([dict(sorted(facts.numbers.items())) for facts in all_facts]),
            "classes": _compare_classes(all_facts),
            "privacy": _to_rows([{key: facts.privacy.get(key) for key in _PRIVACY} for facts in all_facts]),
            "environment": _drop_equal([_flatten_environment(facts) for facts in all_facts]),
        }
        page = render("compare.html.j2", content)
    files.write_text(output, page)
    return output


def common_parent(paths: Sequence[Path]) -> Path:
    """Return the deepest folder that holds all of them, and is none of them."""
    return Path(os.path.commonpath([path.resolve().parent for path in paths]))


def _to_link(page: Path, *, start: Path) -> str:
    # A folder may be named like a scheme: "javascript:...".
    return "./" + quote(Path(os.path.relpath(page.resolve(), start.resolve())).as_posix())


def _draw_curves(facts_by_name: Mapping[str, Facts]) -> list[Any]:
    """Return a figure for each measurement that at least one run's history holds; the first 12 runs are drawn."""
    plots = []
    for column, title in _PANELS.items():
        lines = {
            name: ((facts.history["epoch"] + 1).tolist(), facts.history[column].tolist())
            for name, facts in [*facts_by_name.items()][:MOST_DRAWN]
            if column in facts.history and facts.history[column].notna().any()
        }
        if lines:
            plots.append(curve(title, lines))
    return plots


def _build_overview(all_facts: Sequence[Facts]) -> Rows:
    columns = []
    for facts, comparison in zip(all_facts, _compare_with_best(all_facts), strict=True):
        evaluation, variant = facts.measured, facts.chosen or {}
        size, accuracy = variant.get("size_bytes"), variant.get(facts.task.score)
        columns.append(
            {
                f"test {facts.score_name}": None if facts.score is None else scored(facts.score, facts.task),
                "95 % interval": evaluation
                and " to ".join(scored(end, facts.task) for end in evaluation.interval),
                "test examples": evaluation and len(evaluation.labels),
                "backbone": facts.model.get("handle"),
                "epsilon": _format_epsilon(facts.privacy),
                "best TFLite variant": variant.get("name"),
                "its size, kB": None if size is None else kilobytes(size),
                f"its {facts.score_name}": None if accuracy is None else scored(accuracy, facts.task),
                "its ms, 1 thread": variant.get("latency_ms", {}).get("1", {}).get("p50"),
                "seconds in all": facts.metrics.get("time/total_seconds"),
                "beside the best": comparison,
            }
        )
    return _to_rows(columns)


def _format_epsilon(privacy: Mapping[str, Any]) -> str:
    if not privacy:
        return "no promise"
    if not privacy.get("private") or privacy.get("epsilon") is None:
        return "NOT PRIVATE"
    return f"{rounded_up(privacy['epsilon'], 3)} at delta {rounded_up(privacy['delta'], 2)}"


def _compare_with_best(all_facts: Sequence[Facts]) -> list[str | None]:
    """Return how much worse than the best run each is, where both were tested on the very same examples.

    Of accuracies it is McNemar's exact test; of other scores, the mean of no right and wrong, the interval of the gain.
    """
    from scipy.stats import binomtest

    best = max(all_facts, key=lambda facts: -math.inf if facts.score is None else facts.score)

    def compare(facts: Facts) -> str | None:
        if facts is best or not (best.measured and facts.measured and _has_same_test(best, facts)):
            return None
        if facts.task.score != facts.task.share:
            gain = facts.measured.score - best.measured.score
            low, high = facts.measured.gain_interval(best.measured)
            return f"{facts.score_name} {gain:+.3f}, 95 % interval {low:+.3f} to {high:+.3f}"
        best_hits, hits = best.measured.right, facts.measured.right
        losses, wins = int((best_hits & ~hits).sum()), int((~best_hits & hits).sum())
        p_value = binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
        return f"{losses} more wrong, {wins} more right; by chance: p = {p_value:.2g}"

    words = [*map(compare, all_facts)]
    if any(words):
        words[all_facts.index(best)] = "the best"
    return words


def _has_same_test(first: Facts, second: Facts) -> bool:
    """Return whether both were tested on the very same examples, by the same score."""
    if first.measured is None or second.measured is None:
        return False
    first_data, second_data = with_record(first.data), with_record(second.data)
    # What earlier versions and private runs keep is of the images at their size, too.
    keys = ("test_examples",) if "test_examples" in {*first_data} & {*second_data} else IDENTITY_FIELDS
    is_same = first.task.score == second.task.score
    is_same = is_same and all(key in first_data and first_data[key] == second_data.get(key) for key in keys)
    return is_same and np.array_equal(first.measured.labels, second.measured.labels)


def _flatten_environment(facts: Facts) -> dict[str, Any]:
    scalars = {name: value for name, value in facts.versions.items() if name not in ("packages", "problems")}
    return scalars | facts.versions.get("packages", {})


def _to_rows(columns: Sequence[Mapping[str, Any]]) -> Rows:
    """Return all names, in the order in which they first come, without those that nobody has."""
    names = dict.fromkeys(name for column in columns for name in column)
    rows = {name: [column.get(name) for column in columns] for name in names}
    return {name: values for name, values in rows.items() if any(value is not None for value in values)}


def _drop_equal(columns: Sequence[Mapping[str, Any]]) -> Rows:
    rows = _to_rows(columns).items()
    return {name: values for name, values in rows if any(value != values[0] for value in values)}


def _compare_classes(all_facts: Sequence[Facts]) -> Rows:
    """Return the recall of each class, where the runs have the same few classes; the least even one first."""
    evaluations = [facts.measured for facts in all_facts if facts.measured]
    names = evaluations[0].class_names if evaluations else ()
    is_alike = all(item.class_names == names and "recall" in item.columns for item in evaluations)
    if len(evaluations) < len(all_facts) or len(names) > CLASSES_SHOWN or not is_alike:
        return {}
    recall = np.stack([evaluation.recall for evaluation in evaluations])
    spread = np.nan_to_num(np.fmax.reduce(recall) - np.fmin.reduce(recall), nan=-1.0)
    return {names[index]: [*map(share, recall[:, index])] for index in np.argsort(-spread, kind="stable")}


def report(*runs: Run | str | Path, output: str | Path | None = None) -> Path:
    """Write each run's report and model card anew, and of several runs a page that has them side by side.

    Args:
      runs: finished runs, or their folders.
      output: the page of several; compare.html in the deepest folder that holds all of them when left out.

    Returns:
      The page: report.html of one run, the comparison of several.

    Raises:
      RunError: a folder holds no run, or one that has not come to its end. Nothing is written then.
      ConfigError: there is nothing to compare, or the page would be written where it must not be.

    Example:
      tfkit.report("runs/photos", "runs/private", output="compare.html")
    """
    if lists := [run for run in runs if not isinstance(run, str | os.PathLike)]:
        raise ConfigError(
            f"tfkit.report takes runs one by one, not a {type(lists[0]).__name__}: report(*runs)."
        )
    unique_runs = list({Path(run).resolve(): Run.open(Path(run)) for run in runs}.values())
    if not unique_runs or (len(unique_runs) == 1 and output is not None):
        raise ConfigError(
            f"tfkit.report: {len(unique_runs)} given. Name a run, or several for --output: the page that compares them."
        )
    for item in unique_runs:
        item.check_writable()
        # A report marks a run as finished, so that the same command would not go on with it.
        if not item.finished and "time/total_seconds" not in item.metrics:
            raise RunError(f"{item.path} has not come to its end. The command that began it goes on with it.")
    common = common_parent([item.path for item in unique_runs])
    page = common / COMPARISON if output is None else Path(output)
    is_root = output is None and common == Path(common.anchor)
    if len(unique_runs) > 1 and (page.is_dir() or page.name in RUN_FILES or is_root):
        raise ConfigError(
            f"The comparison cannot be {page}: a folder, what a run calls a file of its own, or at the root of all.\n"
            f"  Name the page: --output runs/{COMPARISON}"
        )
    pages = [write_report(item) for item in unique_runs]
    return write_comparison(unique_runs, page) if len(unique_runs) > 1 else pages[-1]

"""Write one page that shows several runs side by side: what differs in what was asked, and in what came out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from tfkit import run
from tfkit.environment import files
from tfkit.errors import ConfigError, RunError
from tfkit.privacy.ledger import KEPT, known
from tfkit.reporting import figures
from tfkit.reporting.facts import Facts, kilobytes, number, readable, share
from tfkit.reporting.page import render, svg, write_report
from tfkit.run import MADE, Run

COMPARISON = "compare.html"
MOST_DRAWN = 12
CLASSES_SHOWN = 60
_PANELS = {
    "validation accuracy": "val_accuracy",
    "validation loss": "val_loss",
    "training loss": "loss",
    "epsilon": "epsilon",
}
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
        names = labels([facts.path for facts in all_facts])
        content = {
            "names": names,
            "links": [_link(facts.path / run.REPORT, start=output.parent) for facts in all_facts],
            "overview": _overview(all_facts),
            "remarks": _remarks(all_facts),
            "curves": _curves(dict(zip(names, all_facts, strict=True))),
            "settings": _differing([facts.config for facts in all_facts]),
            "metrics": _rows([dict(sorted(facts.numbers.items())) for facts in all_facts]),
            "classes": _classes(all_facts),
            "privacy": _rows([{key: facts.privacy.get(key) for key in _PRIVACY} for facts in all_facts]),
            "environment": _differing([_environment(facts) for facts in all_facts]),
        }
        page = render("compare.html.j2", content)
    files.write_text(output, page)
    return output


def labels(paths: Sequence[Path]) -> list[str]:
    """Return what tells the folders apart: each one's path below their common parent.

    >>> labels([Path("/runs/a"), Path("/runs/old/a")])
    ['a', 'old/a']
    """
    common = common_parent(paths)
    return [path.resolve().relative_to(common).as_posix() for path in paths]


def common_parent(paths: Sequence[Path]) -> Path:
    """Return the deepest folder that holds all of them, and is none of them."""
    return Path(os.path.commonpath([path.resolve().parent for path in paths]))


def _link(page: Path, *, start: Path) -> str:
    # A folder may be named like a scheme: "javascript:...".
    return "./" + quote(Path(os.path.relpath(page.resolve(), start.resolve())).as_posix())


def _curves(named: Mapping[str, Facts]) -> list[Any]:
    """Return an SVG for each measurement that at least one run's history holds; the first 12 runs are drawn."""
    shown = []
    for place, (title, column) in enumerate(_PANELS.items()):
        lines = {
            name: ((facts.history["epoch"] + 1).tolist(), facts.history[column].tolist())
            for name, facts in [*named.items()][:MOST_DRAWN]
            if column in facts.history and facts.history[column].notna().any()
        }
        if lines:
            last = "; ".join(f"{name} {number(values[-1])}" for name, (_, values) in lines.items())
            alt = f"{title} over the epochs. In the last one: {last}"
            shown.append(svg(figures.curves(title, lines), alt=alt, prefix=f"overlay{place}-"))
    return shown


def _overview(all_facts: Sequence[Facts]) -> Rows:
    against = _against_best(all_facts)
    columns = []
    for facts, beside in zip(all_facts, against, strict=True):
        measured, chosen = facts.measured, facts.chosen or {}
        interval = "{} to {}".format(*map(share, measured.accuracy_interval)) if measured else None
        size, accuracy = chosen.get("size_bytes"), chosen.get("accuracy")
        columns.append(
            {
                "test accuracy": None if facts.accuracy is None else share(facts.accuracy),
                "95 % interval": interval,
                "test examples": len(measured.labels) if measured else None,
                "backbone": facts.model.get("handle"),
                "epsilon": _epsilon(facts.privacy),
                "best TFLite variant": chosen.get("name"),
                "its size, kB": None if size is None else kilobytes(size),
                "its accuracy": None if accuracy is None else share(accuracy),
                "its ms, 1 thread": chosen.get("latency_ms", {}).get("1", {}).get("p50"),
                "seconds in all": facts.metrics.get("time/total_seconds"),
                "beside the best": beside,
            }
        )
    return _rows(columns)


def _epsilon(privacy: Mapping[str, Any]) -> str:
    if not privacy:
        return "no promise"
    if not privacy.get("private") or privacy.get("epsilon") is None:
        return "NOT PRIVATE"
    return f"{privacy['epsilon']:.3g} at delta {privacy['delta']:.2g}"


def _against_best(all_facts: Sequence[Facts]) -> list[str | None]:
    """Return McNemar's exact test against the best run, where both were tested on the very same examples."""
    from scipy.stats import binomtest

    accuracies = [facts.accuracy or 0.0 for facts in all_facts]
    best = accuracies.index(max(accuracies))
    words: list[str | None] = []
    for facts in all_facts:
        if facts is all_facts[best] or not _same_test(all_facts[best], facts):
            words.append(None)
            continue
        evaluations = [one.measured for one in (all_facts[best], facts) if one.measured]
        right, right_there = (measured.predicted == measured.labels for measured in evaluations)
        lost, won = int((right & ~right_there).sum()), int((~right & right_there).sum())
        chance = binomtest(won, won + lost).pvalue if won + lost else 1.0
        words.append(f"{lost} more wrong, {won} more right; by chance: p = {chance:.2g}")
    if any(words):
        words[best] = "the best"
    return words


def _same_test(one: Facts, other: Facts) -> bool:
    """Return whether both were tested on the very same examples."""
    if one.measured is None or other.measured is None:
        return False
    ours, theirs = known(one.data), known(other.data)
    same = all(key in ours and ours[key] == theirs.get(key) for key in KEPT)
    return same and np.array_equal(one.measured.labels, other.measured.labels)


def _remarks(all_facts: Sequence[Facts]) -> list[str]:
    remarks = []
    tested = [facts for facts in all_facts if facts.measured]
    if len(tested) > 1 and all(_same_test(tested[0], other) for other in tested[1:]):
        remarks.append("All were tested on the very same examples.")
    elif len(tested) > 1:
        remarks.append(
            "They were not all tested on the same examples (other data, another seed, other splits, or nobody recorded"
            " it). Their accuracies compare only as far as their test sets are alike."
        )
    if sum(bool(facts.privacy) for facts in all_facts) > 1:
        remarks.append(
            "Each epsilon is that of one run. Whoever sees several models that were trained on the same people has"
            " seen more: what they spent adds up."
        )
    return remarks


def _environment(facts: Facts) -> dict[str, Any]:
    plain = {name: value for name, value in facts.versions.items() if name not in ("packages", "problems")}
    return plain | facts.versions.get("packages", {})


def _rows(columns: Sequence[Mapping[str, Any]]) -> Rows:
    """Return all names, in the order in which they first come, without those that nobody has."""
    names = dict.fromkeys(name for column in columns for name in column)
    rows = {name: [column.get(name) for column in columns] for name in names}
    return {name: values for name, values in rows.items() if any(value is not None for value in values)}


def _differing(columns: Sequence[Mapping[str, Any]]) -> Rows:
    return {
        name: values for name, values in _rows(columns).items() if any(one != values[0] for one in values)
    }


def _classes(all_facts: Sequence[Facts]) -> Rows:
    """Return the recall of each class, where the runs have the same few classes; the least even one first."""
    evaluations = [facts.measured for facts in all_facts if facts.measured]
    names = evaluations[0].class_names if evaluations else ()
    if len(evaluations) < len(all_facts) or len(names) > CLASSES_SHOWN:
        return {}
    if any(measured.class_names != names for measured in evaluations):
        return {}
    recall = np.stack([measured.recall for measured in evaluations])
    defined = np.isfinite(recall)
    spread = np.where(defined, recall, -1.0).max(axis=0) - np.where(defined, recall, 2.0).min(axis=0)
    return {
        names[place]: [share(float(value)) if np.isfinite(value) else "–" for value in recall[:, place]]
        for place in np.argsort(-spread, kind="stable")
    }


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
    folders = [run.path if isinstance(run, Run) else Path(run) for run in runs]
    opened = list({folder.resolve(): Run.open(folder) for folder in folders}.values())
    if not opened:
        raise ConfigError("tfkit.report: no run is given. Name one, or several to compare.")
    for opened_run in opened:
        opened_run.check_writable()
        # A report marks a run as finished, so that the same command would not go on with it.
        if not opened_run.finished and "time/total_seconds" not in opened_run.metrics:
            raise RunError(
                f"{opened_run.path} has not come to its end. The command that began it goes on with it."
            )
    page = _output(opened, None if output is None else Path(output))
    written = [write_report(opened_run) for opened_run in opened]
    return write_comparison(opened, page) if page is not None else written[-1]


def _output(opened: Sequence[Run], output: Path | None) -> Path | None:
    """Return where the comparison goes; None: there is nothing to compare."""
    if len(opened) < 2:
        if output is not None:
            raise ConfigError(
                "--output names the page that compares several runs; one was given.\n  Name more runs."
            )
        return None
    if output is None:
        common = common_parent([run.path for run in opened])
        if common == Path(common.anchor):
            raise ConfigError(
                "The runs share no folder for their comparison.\n  Say where: --output compare.html"
            )
        return common / COMPARISON
    if output.is_dir():
        raise ConfigError(f"{output} is a folder.\n  Name the page: --output {output / COMPARISON}")
    if output.name in MADE:
        raise ConfigError(
            f"{output.name} is what a run calls a file of its own: the comparison would stand in for it."
            f"\n  Give it another name: --output {output.with_name(COMPARISON)}"
        )
    return output

"""`python -m tfkit report RUN [RUN ...]`: the reports of finished runs anew, and several runs beside each other.

Curves of several runs in one figure.

Several runs side by side on one page: what differs in what was asked, and in what came out.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from tfkit import run
from tfkit.environment import files
from tfkit.errors import ConfigError, RunError
from tfkit.privacy.ledger import KEPT, known
from tfkit.reporting import facts, figures
from tfkit.reporting.facts import Facts, kilobytes, number, share
from tfkit.reporting.page import render, svg, write_report
from tfkit.run import MADE, Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_DRAWN = 12
PANELS = {
    "validation accuracy": "val_accuracy",
    "validation loss": "val_loss",
    "training loss": "loss",
    "epsilon": "epsilon",
}
# Told apart by colour, by line, and in grey print.
COLOURS = ("#1f5fae", "#b8560f", "#2b7a3b", "#8a3a94")
LINES = ("-", "--", ":")


def overlaid(named: Sequence[tuple[str, Facts]]) -> list[Any]:
    """An SVG for each measurement that at least one run's history holds; the first 12 runs are drawn."""
    shown = []
    for place, (title, column) in enumerate(PANELS.items()):
        lines = {
            name: ((facts.history["epoch"] + 1).tolist(), facts.history[column].tolist())
            for name, facts in named[:MOST_DRAWN]
            if column in facts.history and facts.history[column].notna().any()
        }
        if lines:
            last = "; ".join(f"{name} {number(values[-1])}" for name, (_, values) in lines.items())
            alt = f"{title} over the epochs. In the last one: {last}"
            shown.append(svg(_figure(title, lines), alt=alt, prefix=f"overlay{place}-"))
    return shown


def _figure(title: str, lines: dict[str, tuple[list[float], list[float]]]) -> Figure:
    from matplotlib.ticker import MaxNLocator

    figure, axes = figures.new_figure(5.2, 3.2 + 0.2 * len(lines))
    axis = axes[0, 0]
    for place, (name, (epochs, values)) in enumerate(lines.items()):
        label = figures.printable(name, longest=2 * figures.LABEL_LENGTH).replace("$", "＄")
        axis.plot(
            epochs, values, color=COLOURS[place % len(COLOURS)], linestyle=LINES[place // len(COLOURS) % 3],
            marker="o", markersize=3, linewidth=1.5, label=f" {label}" if label.startswith("_") else label,
        )  # fmt: skip
    axis.set_xlabel("epoch")
    axis.set_ylabel(title)
    axis.grid(color="#ddd", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside lower center", frameon=False, fontsize=8)
    return figure


CLASSES_SHOWN = 60
PRIVACY = (
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
    with facts.readable(*(run.path for run in opened)):
        all_facts = [facts.gather(run) for run in opened]
        names = labels([facts.path for facts in all_facts])
        named = list(zip(names, all_facts, strict=True))
        content = {
            "names": names,
            "links": [_link(facts.path / run.REPORT, start=output.parent) for facts in all_facts],
            "overview": _overview(all_facts),
            "remarks": [*_same_test(all_facts), *_spent_together(all_facts)],
            "curves": overlaid(named),
            "settings": _differing([facts.config for facts in all_facts]),
            "metrics": _rows([_numbers(facts) for facts in all_facts]),
            "classes": _classes(all_facts),
            "privacy": _rows([{key: facts.privacy.get(key) for key in PRIVACY} for facts in all_facts]),
            "environment": _differing([_environment(facts) for facts in all_facts]),
        }
        page = render("compare.html.j2", content)
    files.write_text(output, page)
    return output


def labels(paths: Sequence[Path]) -> list[str]:
    """What tells the folders apart: each one's path below their common parent.

    >>> labels([Path("/runs/a"), Path("/runs/old/a")])
    ['a', 'old/a']
    """
    common = common_parent(paths)
    return [path.resolve().relative_to(common).as_posix() for path in paths]


def common_parent(paths: Sequence[Path]) -> Path:
    """The deepest folder that holds all of them, and is none of them."""
    return Path(os.path.commonpath([path.resolve().parent for path in paths]))


def _link(page: Path, *, start: Path) -> str:
    # A folder may be named like a scheme: "javascript:...".
    return "./" + quote(Path(os.path.relpath(page.resolve(), start.resolve())).as_posix())


def _overview(all_facts: Sequence[Facts]) -> Rows:
    best = max((facts.accuracy or 0.0, -place) for place, facts in enumerate(all_facts))
    paired = _against(all_facts, -best[1])
    told: dict[str, Callable[[Facts], Any]] = {
        "test accuracy": lambda facts: share(facts.accuracy) if facts.accuracy is not None else None,
        "95 % interval": lambda facts: (
            "{} to {}".format(*map(share, facts.measured.accuracy_interval)) if facts.measured else None
        ),
        "test examples": lambda facts: len(facts.measured.labels) if facts.measured else None,
        "backbone": lambda facts: facts.model.get("handle"),
        "epsilon": lambda facts: _epsilon(facts.privacy),
        "best TFLite variant": lambda facts: facts.chosen and facts.chosen["name"],
        "its size, kB": lambda facts: facts.chosen and kilobytes(facts.chosen["size_bytes"]),
        "its accuracy": lambda facts: (
            share(facts.chosen["accuracy"]) if facts.chosen and facts.chosen["accuracy"] is not None else None
        ),
        "its ms, 1 thread": lambda facts: facts.chosen and facts.chosen["latency_ms"].get("1", {}).get("p50"),
        "seconds in all": lambda facts: facts.metrics.get("time/total_seconds"),
    }
    rows = {title: [tell(facts) for facts in all_facts] for title, tell in told.items()}
    rows["beside the best"] = paired
    return {title: values for title, values in rows.items() if any(value is not None for value in values)}


def _epsilon(privacy: Mapping[str, Any]) -> str:
    if not privacy:
        return "no promise"
    if not privacy.get("private") or privacy.get("epsilon") is None:
        return "NOT PRIVATE"
    return f"{privacy['epsilon']:.3g} at delta {privacy['delta']:.2g}"


def _against(all_facts: Sequence[Facts], best: int) -> list[str | None]:
    """McNemar's exact test against the best one, where both were tested on the very same examples."""
    from scipy.stats import binomtest

    ours = all_facts[best].measured
    told: list[str | None] = []
    for place, run_facts in enumerate(all_facts):
        theirs = run_facts.measured
        if place == best:
            told.append("the best")
        elif ours is None or theirs is None or not _same(all_facts[best], run_facts):
            told.append(None)
        else:
            right, right_there = ours.predicted == ours.labels, theirs.predicted == theirs.labels
            lost, won = int((right & ~right_there).sum()), int((~right & right_there).sum())
            chance = binomtest(won, won + lost).pvalue if won + lost else 1.0
            told.append(f"{lost} more wrong, {won} more right; by chance: p = {chance:.2g}")
    return told if ours is not None and any(told[:best] + told[best + 1 :]) else [None] * len(told)


def _same(one: Facts, other: Facts) -> bool:
    """Whether both were tested on the very same examples."""
    if one.measured is None or other.measured is None:
        return False
    ours, theirs = known(one.data), known(other.data)
    return all(key in ours and ours[key] == theirs.get(key) for key in KEPT) and np.array_equal(
        one.measured.labels, other.measured.labels
    )


def _same_test(all_facts: Sequence[Facts]) -> list[str]:
    tested = [facts for facts in all_facts if facts.measured]
    if len(tested) < 2:
        return []
    if all(_same(tested[0], other) for other in tested[1:]):
        return ["All were tested on the very same examples."]
    return [
        "They were not all tested on the same examples (other data, another seed, other splits, or nobody recorded it)."
        " Their accuracies compare only as far as their test sets are alike."
    ]


def _spent_together(all_facts: Sequence[Facts]) -> list[str]:
    private = [facts for facts in all_facts if facts.privacy]
    if len(private) < 2:
        return []
    return [
        "Each epsilon is that of one run. Whoever sees several models that were trained on the same people has seen"
        " more: what they spent adds up."
    ]


def _numbers(facts: Facts) -> dict[str, Any]:
    return {name: value for name, value in sorted(facts.metrics.items()) if name.count("/") < 2}


def _environment(facts: Facts) -> dict[str, Any]:
    plain = {name: value for name, value in facts.versions.items() if name not in ("packages", "problems")}
    return plain | facts.versions.get("packages", {})


def _rows(columns: Sequence[Mapping[str, Any]]) -> Rows:
    """All names, in the order in which they first come, without those that nobody has."""
    names = dict.fromkeys(name for column in columns for name in column)
    rows = {name: [column.get(name) for column in columns] for name in names}
    return {name: values for name, values in rows.items() if any(value is not None for value in values)}


def _differing(columns: Sequence[Mapping[str, Any]]) -> Rows:
    return {
        name: values for name, values in _rows(columns).items() if any(one != values[0] for one in values)
    }


def _classes(all_facts: Sequence[Facts]) -> Rows:
    """Recall of each class, where the runs have the same classes and they are few; the least even one first."""
    first = all_facts[0].measured
    if first is None or len(first.class_names) > CLASSES_SHOWN:
        return {}
    recalls = []
    for run_facts in all_facts:
        if run_facts.measured is None or run_facts.measured.class_names != first.class_names:
            return {}
        recalls.append([float(value) if np.isfinite(value) else None for value in run_facts.measured.recall])
    rows = {name: [recall[place] for recall in recalls] for place, name in enumerate(first.class_names)}

    def spread(values: list[float | None]) -> float:
        defined = [value for value in values if value is not None]
        return max(defined) - min(defined) if defined else 0.0

    ordered = sorted(rows.items(), key=lambda row: -spread(row[1]))
    return {name: [share(value) for value in values] for name, values in ordered}


COMPARISON = "compare.html"


def main(paths: Iterable[str | Path], *, output: str | Path | None = None) -> int:
    """Write each run's report and model card anew, and of several runs a comparison too; say where they are.

    Args:
      paths: run folders.
      output: the page of the comparison; compare.html in the deepest folder that holds all of them when left out.

    Returns:
      The exit code.

    Raises:
      RunError: a folder holds no run, or one that has not come to its end. Nothing is written then.
      ConfigError: there is nothing to compare, or the page would be written where it must not be.
    """
    opened = list({Path(path).resolve(): Run.open(path) for path in paths}.values())
    for opened_run in opened:
        opened_run.check_writable()
        # A report marks a run as finished, so that the same command would not go on with it.
        if not opened_run.finished and "time/total_seconds" not in opened_run.metrics:
            raise RunError(
                f"{opened_run.path} has not come to its end. The command that began it goes on with it."
            )
    page = _page(opened, None if output is None else Path(output))
    for opened_run in opened:
        print(write_report(opened_run))
    if page is not None:
        print(write_comparison(opened, page))
    return 0


def _page(opened: Sequence[Run], output: Path | None) -> Path | None:
    """Where the comparison goes; None: there is nothing to compare."""
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

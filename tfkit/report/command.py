"""`python -m tfkit report RUN [RUN ...]`: the reports of finished runs anew, and several runs beside each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tfkit import claim
from tfkit.errors import ConfigError, RunError
from tfkit.report.comparison import common_parent, write_comparison
from tfkit.report.page import write_report
from tfkit.run import Run

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
    for run in opened:
        run.check_writable()
        # A report marks a run as finished, so that the same command would not go on with it.
        if not run.finished and "time/total_seconds" not in run.metrics:
            raise RunError(f"{run.path} has not come to its end. The command that began it goes on with it.")
    page = _page(opened, None if output is None else Path(output))
    for run in opened:
        print(write_report(run))
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
    if output.name in claim.MADE:
        raise ConfigError(
            f"{output.name} is what a run calls a file of its own: the comparison would stand in for it."
            f"\n  Give it another name: --output {output.with_name(COMPARISON)}"
        )
    return output

"""What every training recipe does around its own lines: a folder, the other workers, the clock, the report."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from tfkit import distribute
from tfkit.config import StrategyConfig, as_dict, run_dir
from tfkit.run import PRIVACY, Run

if TYPE_CHECKING:
    from tfkit.stack import tf

C = TypeVar("C", bound=StrategyConfig)


def once(config: C, train: Callable[[C, Run, tf.distribute.Strategy], None], *, recipe: str) -> Run:
    """Do a recipe's job, or what an interrupted process left of it, or nothing where it is done.

    Args:
      config: what was asked.
      train: does the recipe's own part; of several workers each calls it.
      recipe: its name.

    Returns:
      The finished run; a worker that is not the chief can read it.
    """
    distribute.locate(config)
    folder = run_dir(config, recipe=recipe)
    with Run.create(folder, config=as_dict(config), overwrite=config.overwrite) as run:
        if run.finished:
            again = ", and spend its epsilon on the same people once more" if run.read(PRIVACY) else ""
            run.say(
                f"{run.path} holds the finished run of this very config; --overwrite would do it again{again}."
            )
            return run
        from tfkit import report, stack

        began = time.monotonic()
        with distribute.joined(config, run) as strategy:
            run.versions = {**stack.versions(), "strategy": distribute.describe(strategy)}
            train(config, run, strategy)
            if run.is_chief:
                run.record({"time/total_seconds": time.monotonic() - began})
                report.write_report(run)
    return run

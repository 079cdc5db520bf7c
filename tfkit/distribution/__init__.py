"""Where the work is done: one device, several of one machine, or several processes and machines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tfkit.distribution.strategies import STRATEGIES, describe, logical_cpus, strategy

if TYPE_CHECKING:
    from tfkit.distribution.notebook import launch

__all__ = ["STRATEGIES", "describe", "launch", "logical_cpus", "strategy"]


def __getattr__(name: str) -> Any:
    if name != "launch":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # A worker runs this module as its program: it is not to be imported before.
    from tfkit.distribution.notebook import launch

    return launch

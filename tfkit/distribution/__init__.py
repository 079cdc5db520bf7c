"""Do the work on one device, several of one machine, or several processes and machines."""

from typing import TYPE_CHECKING, Any

from tfkit.distribution.strategies import STRATEGIES, describe, logical_cpus, strategy

if TYPE_CHECKING:
    from tfkit.distribution.launcher import launch as launch

__all__ = ["STRATEGIES", "describe", "launch", "logical_cpus", "strategy"]


def __getattr__(name: str) -> Any:
    if name != "launch":  # which every recipe's --help would pay for
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tfkit.distribution.launcher import launch

    return launch

"""Do the work on one device, several of one machine, or several processes and machines."""

from tfkit.distribution.launcher import launch
from tfkit.distribution.strategies import STRATEGIES, describe, logical_cpus, strategy

__all__ = ["STRATEGIES", "describe", "launch", "logical_cpus", "strategy"]

"""Where the work is done: one device, several of one machine, or several processes and machines."""

from tfkit.distribute.notebook import launch
from tfkit.distribute.strategies import STRATEGIES, describe, logical_cpus, strategy

__all__ = ["STRATEGIES", "describe", "launch", "logical_cpus", "strategy"]

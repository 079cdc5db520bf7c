"""Where the work is done: one device, several of one machine, or several processes and machines."""

from tfkit.distribute.begin import joined, locate, scaled
from tfkit.distribute.strategies import STRATEGIES, describe, logical_cpus, strategy
from tfkit.launch import launch

__all__ = ["STRATEGIES", "describe", "joined", "launch", "locate", "logical_cpus", "scaled", "strategy"]

"""Where the work is done: one device, several of one machine, or several machines."""

from tfkit.distribute.begin import joined, locate, scaled
from tfkit.distribute.strategies import STRATEGIES, describe, logical_cpus, strategy

__all__ = ["STRATEGIES", "describe", "joined", "locate", "logical_cpus", "scaled", "strategy"]

"""Where the work is done: one device, several of one machine, or several machines."""

from tfkit.distribute.strategies import STRATEGIES, describe, logical_cpus, strategy

__all__ = ["STRATEGIES", "describe", "logical_cpus", "strategy"]

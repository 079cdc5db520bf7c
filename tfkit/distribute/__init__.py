"""Where the work is done: one device, or several of one machine."""

from tfkit.distribute.strategies import STRATEGIES, describe, logical_cpus, strategy

__all__ = ["STRATEGIES", "describe", "logical_cpus", "strategy"]

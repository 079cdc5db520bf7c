"""The names of the package, see `tfkit.environment.lazy_names`."""

from tfkit.distribution.launcher import launch as launch
from tfkit.distribution.strategies import STRATEGIES as STRATEGIES
from tfkit.distribution.strategies import describe as describe
from tfkit.distribution.strategies import logical_cpus as logical_cpus
from tfkit.distribution.strategies import strategy as strategy

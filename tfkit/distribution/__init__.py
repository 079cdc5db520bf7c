"""Do the work on one device, several of one machine, or several processes and machines."""

from tfkit.environment import lazy_names

# For the launcher every recipe's --help would pay.
__getattr__, __all__ = lazy_names(__name__, __file__)

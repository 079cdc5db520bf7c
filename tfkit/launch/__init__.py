"""Processes that train together: started, watched, started again, stopped; TensorFlow is not imported here."""

from tfkit.launch.notebook import launch

__all__ = ["launch"]

"""The report: what a run did and how good its model is, on one HTML page that needs nothing beside itself.

`write_report` writes the page and the model card of one run, `write_comparison` puts several beside each other.
"""

from tfkit.reporting.callbacks import callbacks
from tfkit.reporting.comparison import write_comparison
from tfkit.reporting.page import write_report

__all__ = ["callbacks", "write_comparison", "write_report"]

"""The report: what a run did and how good its model is, on one HTML page that needs nothing beside itself.

`write_report` writes the page and the model card of one run, `write_comparison` puts several beside each other.
"""

from tfkit.report.command import main
from tfkit.report.comparison import write_comparison
from tfkit.report.page import write_report

__all__ = ["main", "write_comparison", "write_report"]

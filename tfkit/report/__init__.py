"""The report: what a run did and how good its model is, on one HTML page that needs nothing beside itself."""

from tfkit.report.page import main, write_report

__all__ = ["main", "write_report"]

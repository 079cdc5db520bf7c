"""The names of the package, see `tfkit.environment.lazy_names`."""

from tfkit.reporting.comparison import report as report
from tfkit.reporting.comparison import write_comparison as write_comparison
from tfkit.reporting.keras_callbacks import callbacks as callbacks
from tfkit.reporting.page import write_report as write_report

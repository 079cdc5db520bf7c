"""Use a trained model: predict, explain, find label errors."""

from tfkit.inference.explain import Explanation, explain
from tfkit.inference.label_errors import find_label_errors, label_errors

__all__ = ["Explanation", "explain", "find_label_errors", "label_errors"]

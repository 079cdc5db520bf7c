"""Transfer learning: a classifier on a pretrained backbone, on stored features first, then as a whole."""

from tfkit.transfer.conclude import conclude, describe
from tfkit.transfer.load import load
from tfkit.transfer.models import head, schedule, whole
from tfkit.transfer.private import train_private
from tfkit.transfer.stages import Classifier, train

__all__ = [
    "Classifier",
    "conclude",
    "describe",
    "head",
    "load",
    "schedule",
    "train",
    "train_private",
    "whole",
]

"""Transfer learning: a classifier on a pretrained backbone, on stored features first, then as a whole."""

from tfkit.transfer.conclude import conclude, describe
from tfkit.transfer.load import load
from tfkit.transfer.models import head, schedule, whole
from tfkit.transfer.private import train_private, train_private_head
from tfkit.transfer.stages import Classifier, plain_head, train

__all__ = [
    "Classifier",
    "conclude",
    "describe",
    "head",
    "load",
    "plain_head",
    "schedule",
    "train",
    "train_private",
    "train_private_head",
    "whole",
]

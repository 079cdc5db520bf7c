"""Transfer learning: a classifier on a pretrained backbone, on stored features first, then as a whole."""

from tfkit.transfer.conclude import conclude, describe
from tfkit.transfer.load import load, load_any
from tfkit.transfer.models import head, schedule, whole
from tfkit.transfer.private import train_private, train_private_head
from tfkit.transfer.stages import Classifier, plain_head, train
from tfkit.transfer.whole_model import train_all

__all__ = [
    "Classifier",
    "conclude",
    "describe",
    "head",
    "load",
    "load_any",
    "plain_head",
    "schedule",
    "train",
    "train_all",
    "train_private",
    "train_private_head",
    "whole",
]

"""Transfer learning: a classifier on a pretrained backbone, on stored features first, then as a whole."""

from tfkit.transfer.baseline import baseline
from tfkit.transfer.baseline import compare as compare_with_baseline
from tfkit.transfer.conclude import conclude, describe
from tfkit.transfer.light_training import train_light
from tfkit.transfer.load import load, load_any, load_encoder_and_texts, load_texts
from tfkit.transfer.models import head, schedule, whole
from tfkit.transfer.private import train_private, train_private_head, train_private_light
from tfkit.transfer.stages import Classifier, plain_head, train
from tfkit.transfer.whole_model import train_all

__all__ = [
    "Classifier",
    "baseline",
    "compare_with_baseline",
    "conclude",
    "describe",
    "head",
    "load",
    "load_any",
    "load_encoder_and_texts",
    "load_texts",
    "plain_head",
    "schedule",
    "train",
    "train_all",
    "train_light",
    "train_private",
    "train_private_head",
    "train_private_light",
    "whole",
]

"""Data: image folders, arrays and embedded sets become `Splits`."""

from tfkit.data.arrays import from_arrays
from tfkit.data.augment import Augmentation
from tfkit.data.images import load_images
from tfkit.data.splits import Skipped, Source, Splits

__all__ = ["Augmentation", "Skipped", "Source", "Splits", "from_arrays", "load_images"]

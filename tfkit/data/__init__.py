"""Data: image folders, texts in tables and folders, arrays and embedded sets become `Splits`."""

from tfkit.data.arrays import from_arrays
from tfkit.data.augment import Augmentation
from tfkit.data.images import load_images, read_image
from tfkit.data.markup import plain_text
from tfkit.data.splits import Skipped, Source, Splits
from tfkit.data.texts import load_texts

__all__ = [
    "Augmentation",
    "Skipped",
    "Source",
    "Splits",
    "from_arrays",
    "load_images",
    "load_texts",
    "plain_text",
    "read_image",
]

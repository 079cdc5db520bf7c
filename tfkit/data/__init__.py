"""Data: image folders, texts in tables and folders, arrays and embedded sets become `Splits`."""

from tfkit.data.augment import Augmentation
from tfkit.data.image_files import read_image
from tfkit.data.loaders import from_arrays, load_images, load_texts
from tfkit.data.splits import Skipped, Source, Splits
from tfkit.data.text_decoding import plain_text

__all__ = [
    "Augmentation", "Skipped", "Source", "Splits", "from_arrays", "load_images", "load_texts", "plain_text",
    "read_image",
]  # fmt: skip

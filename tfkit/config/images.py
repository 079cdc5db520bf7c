"""Which images, and how to train a classifier of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tfkit.config import fields
from tfkit.config.data import DataConfig
from tfkit.config.transfer import TransferConfig, WholeModelConfig
from tfkit.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ImageConfig(DataConfig):
    """Which images, and which model made for images."""

    input_range: tuple[float, float] | None = None
    """What the model expects for black and white. Left out: what is known of it, else 0 1 (TF Hub's convention)."""

    image_size: Annotated[int, fields.Range(ge=16, le=1024)] | None = None
    """Side in pixels. Left out: what the model was made for, or 96 for images smaller than that."""

    pixel_range: tuple[int, int] | None = None
    """Black and white of PNGs of 16 bits: 0 4095 for 12 bits. Left out: what the training images use; in private
    training 0 65535, since it would tell of them."""

    def __post_init__(self) -> None:
        """Check what can be checked without the data."""
        super().__post_init__()
        if self.pixel_range is not None and not 0 <= self.pixel_range[0] < self.pixel_range[1] <= 65535:
            raise ConfigError(
                f"--pixel-range is {' '.join(map(str, self.pixel_range))}; two values of 0 to 65535, the lower one"
                " first, are expected."
            )
        if self.data_dir is not None and not self.data_dir.is_dir():
            raise ConfigError(
                f"--data-dir {self.data_dir} is not a folder. Expected {self.data_dir}/<class>/<image>."
            )


@dataclass(frozen=True, kw_only=True)
class ImageTransferConfig(TransferConfig):
    """How to train a classifier of images on a pretrained backbone: first its head, then perhaps all of it."""

    fine_tune_epochs: fields.Whole | None = None
    """Of the whole model after that, at most. Left out: 5 on a GPU, and on a CPU where an epoch has at most
    20 megapixels; else 0."""

    fine_tune_learning_rate: fields.Positive = 3e-4
    """Of the whole model: the peak."""

    augment: Literal["none", "light", "standard", "randaugment"] = "none"
    """Random changes of the training images. Switches stored features off."""


@dataclass(frozen=True, kw_only=True)
class ImageModelConfig(WholeModelConfig):
    """How to train all layers of a classifier of images."""

    augment: Literal["none", "light", "standard", "randaugment"] = "none"
    """Random changes of the training images."""

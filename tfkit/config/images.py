"""Which images, and how to train a classifier of them on a pretrained backbone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tfkit.config.base import RecipeConfig
from tfkit.config.devices import ReplicaConfig
from tfkit.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ImageConfig(RecipeConfig):
    """Which images, and which model made for images."""

    data_dir: Path | None = None
    """Folder with one subfolder a class, or with train/, validation/ and test/ of such. Left out: --dataset."""

    dataset: str = "digits"
    """Where there is no --data-dir: digits or mnist5k (embedded), or tfds:NAME (tensorflow-datasets)."""

    strict: bool = False
    """Make an unreadable image an error instead of skipping it."""

    model_handle: str = "efficientnet-lite0"
    """TF Hub or Kaggle model URL, gs:// or local SavedModel folder, .tar.gz, or a bundled name
    (python -m tfkit models lists them)."""

    sha256: str | None = None
    """What the downloaded archive must hash to."""

    input_range: tuple[float, float] | None = None
    """What the model expects for black and white. Left out: what is known of it, else 0 1 (TF Hub's convention)."""

    image_size: int | None = None
    """Side in pixels. Left out: what the model was made for, or 96 for images smaller than that."""

    def __post_init__(self) -> None:
        """Check what can be checked without the data."""
        super().__post_init__()
        if self.data_dir is not None and not self.data_dir.is_dir():
            raise ConfigError(
                f"--data-dir {self.data_dir} is not a folder. Expected {self.data_dir}/<class>/<image>."
            )
        if self.image_size is not None and not 16 <= self.image_size <= 1024:
            raise ConfigError(f"--image-size is {self.image_size}; a side of 16 to 1024 pixels is expected.")


@dataclass(frozen=True, kw_only=True)
class TransferConfig(ReplicaConfig):
    """How to train a classifier on a pretrained backbone: first its head, then perhaps all of it."""

    epochs: int = 30
    """Of the head, on the frozen backbone, at most."""

    learning_rate: float = 3e-3
    """Of the head: the peak, after warm-up and before cosine decay."""

    fine_tune_epochs: int | None = None
    """Of the whole model after that, at most. Left out: 5 on a GPU, and on a CPU where an epoch has at most
    20 megapixels; else 0."""

    fine_tune_learning_rate: float = 3e-4
    """Of the whole model: the peak."""

    unfreeze: Literal["all", "staged"] = "all"
    """staged: a third of the fine-tuning epochs goes to the later half of the backbone (bundled ones)."""

    patience: int = 5
    """Epochs without a lower validation loss after which a stage stops; the best epoch's weights are kept."""

    augment: Literal["none", "light", "standard", "randaugment"] = "none"
    """Random changes of the training images. Switches stored features off."""

    features: bool = True
    """Compute the frozen backbone's features once and store them; off: run the backbone in every epoch."""

    class_weights: Literal["auto", "always", "never"] = "auto"
    """Weigh classes by rarity. auto: when the largest has over 3 times the examples of the smallest."""

    def __post_init__(self) -> None:
        """Check what can be checked without the data."""
        super().__post_init__()
        for name in ("epochs", "learning_rate", "fine_tune_learning_rate", "patience"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be above 0.")
        if self.fine_tune_epochs is not None and self.fine_tune_epochs < 0:
            raise ConfigError(f"--fine-tune-epochs is {self.fine_tune_epochs}; 0 trains the head alone.")


@dataclass(frozen=True, kw_only=True)
class WholeModelConfig(ReplicaConfig):
    """How to train all layers of a classifier."""

    epochs: int = 10
    """At most."""

    learning_rate: float = 1e-3
    """The peak, after warm-up and before cosine decay."""

    optimizer: Literal["adam", "sgd"] = "adam"
    """sgd has a momentum of 0.9."""

    patience: int = 5
    """Epochs without a lower validation loss after which training stops; the best epoch's weights are kept."""

    augment: Literal["none", "light", "standard", "randaugment"] = "none"
    """Random changes of the training images."""

    class_weights: Literal["auto", "always", "never"] = "auto"
    """Weigh classes by rarity. auto: when the largest has over 3 times the examples of the smallest."""

    def __post_init__(self) -> None:
        """Check what can be checked without the data."""
        super().__post_init__()
        for name in ("epochs", "learning_rate", "patience"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be above 0.")

"""What a recipe's settings name: the model and the images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tfkit import data, hub
from tfkit.config import ImageConfig

if TYPE_CHECKING:
    from tfkit.data import Splits
    from tfkit.hub import Backbone


def load(config: ImageConfig, *, global_batch_size: int, trainable: bool) -> tuple[Backbone, Splits]:
    """The backbone, checked, and splits of images of the size that suits it.

    Args:
      config: which.
      global_batch_size: of the splits.
      trainable: whether the backbone is to be trained too.

    Raises:
      HubError: the model is not there, or not for this.
      DataError: the images cannot serve.
    """
    backbone = hub.resolve(config.model_handle, sha256=config.sha256, input_range=config.input_range).check(
        image_size=config.image_size, trainable=trainable
    )
    splits = data.load_images(
        config.data_dir or config.dataset,
        image_size=config.image_size or (backbone.native_size if backbone.fixed_size else None),
        native_size=backbone.native_size,
        global_batch_size=global_batch_size,
        seed=config.seed,
        strict=config.strict,
    )
    return backbone, splits

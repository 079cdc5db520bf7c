"""What a recipe's settings name: the model and the data."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from tfkit import data, hub
from tfkit.config import DataConfig, ImageConfig, PrivateConfig, TextColumns
from tfkit.data.pixels import FULL_RANGE

if TYPE_CHECKING:
    from tfkit.data import Splits
    from tfkit.hub import Backbone, TextEncoder

PRIVATE_SIZE = 160
"""Small images are enlarged to this: better features than at 96, for a cost that is paid once."""

SCRATCH = "cnn"
"""The model handle that stands for a small network trained from scratch."""

SCRATCH_SIZE, EMBEDDED_SIZE = 64, 32


def load(
    config: DataConfig, *, global_batch_size: int, trainable: bool
) -> tuple[Backbone | TextEncoder, Splits]:
    """The model and the splits that a recipe's settings name, of images or of texts; arguments and errors as below."""
    if isinstance(config, TextColumns) and config.of_texts:
        return load_encoder_and_texts(config, global_batch_size=global_batch_size, trainable=trainable)
    assert isinstance(config, ImageConfig)
    return load_backbone_and_images(config, global_batch_size=global_batch_size, trainable=trainable)


def load_texts(config: TextColumns, *, global_batch_size: int) -> Splits:
    """Splits of the texts that the settings name.

    Raises:
      DataError: they cannot serve.
    """
    return data.load_texts(
        config.data_file or config.data_dir or config.dataset,
        text_column=config.text_column,
        label_column=config.label_column,
        language_column=config.language_column,
        global_batch_size=global_batch_size,
        seed=config.seed,
        strict=config.strict,
    )


def load_encoder_and_texts(
    config: TextColumns, *, global_batch_size: int, trainable: bool
) -> tuple[TextEncoder, Splits]:
    """The encoder, checked, and splits of texts.

    Args:
      config: which.
      global_batch_size: of the splits.
      trainable: whether the encoder is to be trained too.

    Raises:
      HubError: the model is not there, or not for this.
      DataError: the texts cannot serve.
    """
    encoder = hub.resolve_text(
        config.encoder_handle,
        preprocessor=config.preprocessor,
        sha256=config.sha256,
        max_length=config.max_length,
    ).check(trainable=trainable)
    return encoder, load_texts(config, global_batch_size=global_batch_size)


def load_backbone_and_images(
    config: ImageConfig, *, global_batch_size: int, trainable: bool
) -> tuple[Backbone, Splits]:
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
    find = functools.partial(
        data.load_images,
        config.data_dir or config.dataset,
        native_size=backbone.native_size,
        global_batch_size=global_batch_size,
        seed=config.seed,
        strict=config.strict,
        pixel_range=_pixel_range(config),
    )
    size = config.image_size or (backbone.native_size if backbone.fixed_size else None)
    splits = find(image_size=size)
    enlarged = min(PRIVATE_SIZE, backbone.native_size)
    on_private_features = isinstance(config, PrivateConfig) and config.features
    if size is None and on_private_features and int(splits.spec.shape[0]) < enlarged:
        splits = find(image_size=enlarged)
    return backbone, splits


def load_any(config: ImageConfig, *, global_batch_size: int) -> tuple[Backbone | None, Splits]:
    """The same for a model that is trained in all its layers: of a backbone, or None for `SCRATCH`."""
    if config.model_handle != SCRATCH:
        return load_backbone_and_images(config, global_batch_size=global_batch_size, trainable=True)
    return None, data.load_images(
        config.data_dir or config.dataset,
        image_size=config.image_size or (SCRATCH_SIZE if config.data_dir else EMBEDDED_SIZE),
        global_batch_size=global_batch_size,
        seed=config.seed,
        strict=config.strict,
        pixel_range=_pixel_range(config),
    )


def _pixel_range(config: ImageConfig) -> tuple[int, int] | None:
    """Return what was asked; in private training never what the images use, which would tell of single ones."""
    return config.pixel_range or (FULL_RANGE if isinstance(config, PrivateConfig) else None)

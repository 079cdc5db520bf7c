"""The model and the data that a recipe's settings name."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from tfkit import data, hub
from tfkit.data.splits import FULL_RANGE, Splits
from tfkit.settings.options import LIGHT, SCRATCH, DataConfig, ImageConfig, PrivateConfig, TextColumns

if TYPE_CHECKING:
    from tfkit.hub.encoders import Encoder

PRIVATE_SIZE = 160
"""Small images are enlarged to this: better features than at 96, for a cost that is paid once."""

SCRATCH_SIZE, EMBEDDED_SIZE = 64, 32


def load(
    config: DataConfig, *, global_batch_size: int, trainable: bool = False
) -> tuple[Encoder | None, Splits]:
    """Load the pretrained model, checked, and the splits, of images or of texts.

    Args:
      config: which.
      global_batch_size: of the splits.
      trainable: whether the model is to be trained too.

    Returns:
      The model, None where it is one that is trained from scratch, and splits in the form that suits it.

    Raises:
      HubError: the model is not there, or not for this.
      DataError: the examples cannot serve.
    """
    if isinstance(config, TextColumns) and config.of_texts:
        return _load_texts(config, global_batch_size=global_batch_size, trainable=trainable)
    assert isinstance(config, ImageConfig)
    # In private training never what the images use, which would tell of single ones.
    pixel_range = config.pixel_range or (FULL_RANGE if isinstance(config, PrivateConfig) else None)
    load_images = functools.partial(
        data.load_images,
        config.data_dir or config.dataset,
        global_batch_size=global_batch_size,
        seed=config.seed,
        strict=config.strict,
        pixel_range=pixel_range,
    )
    if config.model_handle == SCRATCH:
        size = config.image_size or (SCRATCH_SIZE if config.data_dir else EMBEDDED_SIZE)
        return None, load_images(image_size=size)
    backbone = hub.load_model(
        config.model_handle, modality="images", sha256=config.sha256, input_range=config.input_range
    ).check(image_size=config.image_size, trainable=trainable)
    load_images.keywords["native_size"] = backbone.native_size
    given = config.image_size or (backbone.native_size if backbone.fixed_size else None)
    splits = load_images(image_size=given)
    enlarged = min(PRIVATE_SIZE, backbone.native_size)
    on_private_features = isinstance(config, PrivateConfig) and config.features
    if given is None and on_private_features and int(splits.spec.shape[0]) < enlarged:
        splits = load_images(image_size=enlarged)
    return backbone, splits


def _load_texts(
    config: TextColumns, *, global_batch_size: int, trainable: bool
) -> tuple[Encoder | None, Splits]:
    encoder = None
    if config.model_handle != LIGHT:
        encoder = hub.load_model(
            config.encoder_handle,
            modality="texts",
            preprocessor=config.preprocessor,
            sha256=config.sha256,
            max_length=config.max_length,
        ).check(trainable=trainable)
    return encoder, data.load_texts(
        config.data_file or config.data_dir or config.dataset,
        text_column=config.text_column,
        label_column=config.label_column,
        language_column=config.language_column,
        global_batch_size=global_batch_size,
        seed=config.seed,
        strict=config.strict,
    )

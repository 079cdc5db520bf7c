"""Which layers of a flat model learn."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tfkit.stack import keras


def freeze(base: keras.Model, trainable: str) -> None:
    """Make `none`, the later half (`top`) or `all` of the layers trainable, but never batch normalisation."""
    from tfkit.stack import keras

    weighted = [layer for layer in base.layers if layer.weights]
    frozen = {"none": len(weighted), "top": len(weighted) // 2, "all": 0}[trainable]
    for place, layer in enumerate(weighted):
        # A frozen BatchNormalization runs in inference mode also during training.
        normalises = isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = place >= frozen and not normalises

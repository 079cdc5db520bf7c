"""Clones with the weights of the original, layer by layer: the original stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfkit.stack import keras

_PREFIXES = ("prune_low_magnitude_", "cluster_", "quantize_annotate_", "quant_")


def clone(model: keras.Model, change: Callable[[Any], Any] | None = None) -> keras.Model:
    """A functional or Sequential model anew, with the same weights.

    Args:
      model: flat.
      change: makes the new layer of each old one, as of `keras.models.clone_model`; it may be a wrapper.

    Returns:
      Uncompiled.
    """
    from tfkit.stack import keras

    made = keras.models.clone_model(model, clone_function=change)
    carry(model, made)
    return made


def carry(model: keras.Model, other: keras.Model) -> None:
    """Give the layers of `other`, also those inside of wrappers, the weights of the layers of `model`."""
    # A wrapper calls itself what it likes; the layer inside of it has kept its name.
    inner = {own.name: own for own in (getattr(layer, "layer", layer) for layer in other.layers)}
    for layer in model.layers:
        if layer.weights:
            inner[layer.name].set_weights(layer.get_weights())

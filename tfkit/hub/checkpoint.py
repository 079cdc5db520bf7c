"""The tensors of a published checkpoint, put where they belong in a model: all of them, or none is believed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tfkit.errors import HubError

if TYPE_CHECKING:
    from tfkit.stack import keras


class Place(NamedTuple):
    """Where a tensor of a checkpoint goes.

    Attributes:
      layer: the name of the layer; a layer that the model was built without is passed over.
      weight: the name of its weight.
      axes: the order of the tensor's axes there; None: as they are.
    """

    layer: str
    weight: str
    axes: tuple[int, ...] | None = None


def assign(
    model: keras.Model,
    tensors: Mapping[str, np.ndarray],
    places: Mapping[str, Place],
    *,
    unused: Collection[str] = (),
    title: str,
) -> None:
    """Give `model` the weights of a checkpoint.

    Args:
      model: flat.
      tensors: by the checkpoint's names.
      places: where each goes.
      unused: names that the checkpoint has and the model has no use for.
      title: what the weights are of, for an error.

    Raises:
      HubError: a tensor is missing, superfluous, of another shape, or not finite.
    """
    faults = []
    layers = {layer.name: layer for layer in model.layers}
    # In one order in every process: several workers assign together, each variable for all of them.
    for name in sorted(places.keys() & tensors.keys()):
        place, value = places[name], tensors[name]
        if place.layer not in layers:
            continue
        variable = next(
            v for v in layers[place.layer].weights if v.name.split("/")[-1] == f"{place.weight}:0"
        )
        if place.axes and value.ndim == len(place.axes):
            value = value.transpose(place.axes)
        if value.shape != tuple(variable.shape):
            faults.append(f"{name} has shape {value.shape}, not {tuple(variable.shape)}")
        elif not np.isfinite(value).all():
            faults.append(f"{name} has values that are not finite")
        else:
            variable.assign(value)
    faults += sorted(f"{name} is not known" for name in tensors.keys() - places.keys() - set(unused))
    faults += sorted(f"{name} is missing" for name in places.keys() - tensors.keys())
    if faults:
        listed = "\n  ".join(faults[:10])
        raise HubError(f"These are not the weights of {title} ({len(faults)} faults):\n  {listed}")

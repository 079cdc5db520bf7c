"""Weight files of published models: read without running anything, and given to a model as a whole or not at all."""

from __future__ import annotations

import io
import math
import pickle
import re
import struct
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tfkit.environment import stack
from tfkit.errors import HubError

_HEADER = [0x1950A86A20F9469CFC6C, 1001]
_NAMES = {
    "weight": ("kernel", "depthwise_kernel", "gamma"),
    "bias": ("bias", "beta"),
    "running_mean": ("moving_mean",),
    "running_var": ("moving_variance",),
}
"""What Keras calls the weights of a layer, by what torch calls them."""
_AXES = {("depthwise_kernel", 4): (2, 3, 0, 1), ("kernel", 4): (2, 3, 1, 0), ("kernel", 2): (1, 0)}
"""Of such a weight, by its number of axes: torch's axes in the order of Keras; those of others are in one order."""


def _rebuild_tensor(storage: Any, offset: int, shape: tuple, strides: tuple, *_: object) -> tuple:
    return storage, (offset, shape, strides)


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch", "FloatStorage"): np.dtype("<f4"),
    ("torch", "LongStorage"): np.dtype("<i8"),
}


class _Unpickler(pickle.Unpickler):
    """Resolves the names that a state dict needs; every other name ends the reading."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no weight file needs")
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> Any:
        kind, dtype, key, _, numel, view = pid
        if kind != "storage" or not isinstance(dtype, np.dtype) or view is not None:
            raise pickle.UnpicklingError("a storage of an unknown kind")
        return dtype, key, numel


def read(path: Path) -> dict[str, np.ndarray]:
    """Read every tensor of a weight file that `torch.save(model.state_dict(), path)` of torch before 1.6 wrote.

    Such a file is five pickles (magic number, protocol, byte order, state dict, storage keys) and then, for each key,
    its number of elements and its raw data. A pickle can call anything; this reader lets it build an ordered dict of
    float32 and int64 tensors and nothing else, and believes no number that the file's size contradicts.

    Args:
      path: the file.

    Returns:
      Name to array, float32 or int64, in the file's order.

    Raises:
      HubError: the file is damaged, or holds anything but tensors.
    """
    try:
        content = path.read_bytes()
        file = io.BytesIO(content)
        header, protocol, order, tensors, keys = (_Unpickler(file).load() for _ in range(5))
        if [header, protocol] != _HEADER or order.get("little_endian") is not True:
            raise ValueError(f"it starts with {header!r:.80}")
        storages = {key: (dtype, numel) for (dtype, key, numel), _ in tensors.values()}
        data = {}
        for key in keys:
            start = file.tell() + 8
            (numel,) = struct.unpack("<q", file.read(8))
            dtype, expected = storages[key]
            if numel != expected or numel < 0:
                raise ValueError(f"storage {key} says {expected} and {numel} elements")
            data[key] = np.frombuffer(content, dtype, numel, start)
            file.seek(start + data[key].nbytes)
        if file.tell() != len(content):
            raise ValueError(f"{len(content) - file.tell()} bytes follow its last storage")
        return {name: _to_array(data[key], *layout) for name, ((_, key, _), layout) in tensors.items()}
    except Exception as error:  # a damaged pickle can raise any of a dozen types
        raise HubError(
            f"{path} is not a whole torch weight file: {error}.\n"
            "  It was refused before any of it was used. Install the package that it belongs to again."
        ) from error


def _to_array(data: np.ndarray, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> np.ndarray:
    if math.prod(shape) > len(data) or min((0, *strides)) < 0:
        raise ValueError(f"a tensor of shape {shape} in a storage of {len(data)} elements")
    steps = [stride * data.itemsize for stride in strides]
    # NumPy refuses what would reach beyond the data.
    return np.ndarray(shape, data.dtype, data, offset * data.itemsize, steps).copy()


def assign(
    model: stack.keras.Model,
    tensors: Mapping[str, np.ndarray],
    layers: Mapping[str, str],
    *,
    title: str,
) -> None:
    """Give `model` the weights of a published checkpoint: all of them.

    Args:
      model: flat.
      tensors: by the checkpoint's names.
      layers: pattern of such a name to "layer/weight", or to "layer", whose weight the pattern's last group names as
        torch does; "" for what no model needs.
      title: what the weights are of, for an error.

    Raises:
      HubError: a tensor is missing or superfluous.
      ValueError: one has another shape.
    """
    variables = {
        f"{layer.name}/{variable.name.split('/')[-1].split(':')[0]}": variable
        for layer in model.layers
        for variable in layer.weights
    }
    faults = []
    # In one order in every process: several workers assign together, each variable for all of them.
    for name, value in sorted(tensors.items()):
        place = _find_place(name, layers, variables)
        if place:
            order = _AXES.get((place.rpartition("/")[2], value.ndim), tuple(range(value.ndim)))
            variables.pop(place).assign(value.transpose(order))
        elif place is None:
            faults.append(name)
    if faults or variables:
        raise HubError(
            f"These are not the weights of {title}: {faults} are not known, {[*variables]} are missing."
        )


def _find_place(name: str, layers: Mapping[str, str], variables: Mapping[str, Any]) -> str | None:
    """Return "layer/weight" of a tensor's name; "" for what no model needs, None for what is not known."""
    for pattern, layer in layers.items():
        if match := re.fullmatch(pattern, name):
            place = match.expand(layer)
            paths = [place, *(f"{place}/{part}" for part in _NAMES.get(match[match.lastindex or 0], ()))]
            return next((path for path in paths if path in variables), None) if place else ""
    return None

"""Weight files of published models: read without running anything, and given to a model as a whole or not at all."""

from __future__ import annotations

import math
import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

from tfkit.errors import HubError

if TYPE_CHECKING:
    from tfkit.environment.stack import keras

_HEADER = [0x1950A86A20F9469CFC6C, 1001]
_NORMALIZATION = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}


class _Tensor(NamedTuple):
    dtype: np.dtype[Any]
    key: str
    numel: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def of(self, data: np.ndarray) -> np.ndarray:
        last = self.offset + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))
        if min(0, self.offset, *self.shape, *self.strides) < 0 or max(last + 1, math.prod(self.shape)) > len(
            data
        ):
            raise ValueError(f"a tensor of shape {self.shape} in a storage of {len(data)} elements")
        steps = [stride * data.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(data[self.offset :], self.shape, steps).copy()


def _rebuild_tensor(storage: Any, offset: int, shape: tuple, strides: tuple, *_: object) -> _Tensor:
    dtype, key, numel = storage
    return _Tensor(dtype, str(key), int(numel), int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


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
        with path.open("rb") as file:
            return _read(file, size=path.stat().st_size)
    except Exception as error:  # a damaged pickle can raise any of a dozen types
        raise HubError(
            f"{path} is not a whole torch weight file: {error}.\n"
            "  It was refused before any of it was used. Install the package that it belongs to again."
        ) from error


def _read(file: BinaryIO, *, size: int) -> dict[str, np.ndarray]:
    header = [_Unpickler(file).load() for _ in range(3)]
    if header[:2] != _HEADER or header[2].get("little_endian") is not True:
        raise ValueError(f"it starts with {header!r:.80}")
    tensors, keys = _Unpickler(file).load(), _Unpickler(file).load()
    if not all(isinstance(tensor, _Tensor) for tensor in tensors.values()):
        raise ValueError("it holds something else than tensors")
    storages = {tensor.key: tensor for tensor in tensors.values()}
    data = {}
    for key in keys:
        (numel,) = struct.unpack("<q", file.read(8))
        count = numel * storages[key].dtype.itemsize
        if numel != storages[key].numel or not 0 <= count <= size - file.tell():
            raise ValueError(f"storage {key} says {storages[key].numel} and {numel} elements")
        data[key] = np.frombuffer(file.read(count), storages[key].dtype)
    if file.tell() != size:
        raise ValueError(f"{size - file.tell()} bytes follow its last storage")
    return {name: tensor.of(data[tensor.key]) for name, tensor in tensors.items()}


def assign(
    model: keras.Model,
    tensors: Mapping[str, np.ndarray],
    rename: Callable[[str], str | None],
    *,
    title: str,
    optional: tuple[str, ...] = (),
) -> None:
    """Give `model` the weights of a published checkpoint: all of them.

    Args:
      model: flat.
      tensors: by the checkpoint's names.
      rename: makes "layer/weight" of such a name; "" for what no model needs, None for what is not known.
      title: what the weights are of, for an error.
      optional: layers that a model may be built without.

    Raises:
      HubError: a tensor is missing, superfluous, of another shape, or not finite.
    """
    variables = {
        f"{layer.name}/{variable.name.split('/')[-1].split(':')[0]}": variable
        for layer in model.layers
        for variable in layer.weights
    }
    faults = []
    missing = set(variables)
    # In one order in every process: several workers assign together, each variable for all of them.
    for name, value in sorted(tensors.items()):
        place = rename(name)
        if place is None or (place and place not in variables and place.split("/")[0] not in optional):
            faults.append(f"{name} is not known")
        elif place in variables:
            missing.discard(place)
            value = value.transpose(_axes(place, value.ndim))
            if value.shape != tuple(variables[place].shape):
                faults.append(f"{name} has shape {value.shape}, not {tuple(variables[place].shape)}")
            elif not np.isfinite(value).all():
                faults.append(f"{name} has values that are not finite")
            else:
                variables[place].assign(value)
    faults += [f"{place} is missing" for place in sorted(missing)]
    if faults:
        listed = "\n  ".join(faults[:10])
        raise HubError(f"These are not the weights of {title} ({len(faults)} faults):\n  {listed}")


def keras_name(kind: str, layer: str) -> str:
    """Return what Keras calls a weight of a layer that torch calls `kind`.

    >>> keras_name("weight", "stem_conv"), keras_name("running_var", "stem_bn"), keras_name("bias", "inner_norm")
    ('kernel', 'moving_variance', 'beta')
    """
    if layer.endswith(("_bn", "_norm")):
        return _NORMALIZATION.get(kind, kind)
    if layer.endswith("_dwconv"):
        return "depthwise_kernel"
    return "kernel" if kind == "weight" else kind


def _axes(place: str, rank: int) -> tuple[int, ...]:
    """Return the order of a torch tensor's axes in Keras."""
    if place.endswith("/depthwise_kernel") and rank == 4:
        return (2, 3, 0, 1)
    if place.endswith("/kernel"):
        return {4: (2, 3, 1, 0), 2: (1, 0)}.get(rank, tuple(range(rank)))
    return tuple(range(rank))

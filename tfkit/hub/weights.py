"""The tensors of a published checkpoint, put where they belong in a model: all of them, or none is believed.

Reads the tensors of a weight file that torch wrote (its stream format of before 1.6), without torch.

Such a file is five pickles (magic number, protocol, byte order, state dict, storage keys) and then, for each
key, its number of elements and its raw data. A pickle can call anything; this reader lets it build an ordered
dict of float32 and int64 tensors and nothing else, and believes no number that the file's size contradicts.
"""

from __future__ import annotations

import math
import pickle
import struct
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

from tfkit.errors import HubError

if TYPE_CHECKING:
    from tfkit.environment.stack import keras

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
DTYPES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}
MAX_PICKLE_BYTES = 4 << 20


@dataclass(frozen=True)
class _Storage:
    dtype: np.dtype[Any]
    key: str
    numel: int


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def of(self, data: np.ndarray) -> np.ndarray:
        """The tensor as a contiguous copy out of its storage."""
        numbers = (self.offset, *self.shape, *self.strides)
        if len(self.shape) != len(self.strides) or min(numbers) < 0:
            raise ValueError(f"a tensor of shape {self.shape} with strides {self.strides}")
        if 0 in self.shape:
            return np.empty(self.shape, data.dtype)
        last = self.offset + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))
        if last >= data.size or math.prod(self.shape) > data.size:
            raise ValueError(f"a tensor of shape {self.shape} in a storage of {data.size} elements")
        steps = [stride * data.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(data[self.offset :], self.shape, steps).copy()


def _rebuild_tensor(storage: object, offset: int, shape: tuple, strides: tuple, *_: object) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise pickle.UnpicklingError("a tensor without a storage")
    return _Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


class _Unpickler(pickle.Unpickler):
    """Resolves the names that a state dict needs; every other name ends the reading."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch._utils" and name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no weight file needs")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, numel, view = pid
        if kind != "storage" or not isinstance(dtype, np.dtype) or view is not None:
            raise pickle.UnpicklingError("a storage of an unknown kind")
        return _Storage(dtype, str(key), int(numel))


def read(path: Path) -> dict[str, np.ndarray]:
    """Read every tensor of a weight file.

    Args:
      path: a file that `torch.save(model.state_dict(), path)` of torch before 1.6 wrote.

    Returns:
      Name to array, float32 or int64, C-contiguous, in the file's order.

    Raises:
      HubError: the file is damaged, or holds anything but tensors.
    """
    try:
        with path.open("rb") as file:
            return _read(file, size=path.stat().st_size)
    except OSError as error:
        raise HubError(f"{path} cannot be read: {error.strerror}.") from error
    except Exception as error:  # a damaged pickle can raise any of a dozen types
        raise HubError(
            f"{path} is not a whole torch weight file: {error}.\n"
            "  It was refused before any of it was used. Install the package that it belongs to again."
        ) from error


def _read(file: BinaryIO, *, size: int) -> dict[str, np.ndarray]:
    if (magic := _load(file)) != MAGIC:
        raise ValueError(f"it starts with {magic!r:.40}")
    if (protocol := _load(file)) != PROTOCOL:
        raise ValueError(f"it is of protocol {protocol!r:.40}, not {PROTOCOL}")
    if _load(file).get("little_endian") is not True:
        raise ValueError("its numbers are big-endian")
    tensors = _load(file)
    keys = _load(file)
    if not isinstance(tensors, OrderedDict) or not isinstance(keys, list):
        raise ValueError("it holds no state dict")
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, _Tensor):
            raise ValueError(f"{name!r:.80} is no tensor")
    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    if sorted(keys) != sorted(storages):
        raise ValueError("its tensors and its storages do not match")
    data = {key: _load_storage(file, storages[key], size=size) for key in keys}
    if file.tell() != size:
        raise ValueError(f"{size - file.tell()} bytes follow its last storage")
    return {name: tensor.of(data[tensor.storage.key]) for name, tensor in tensors.items()}


def _load(file: BinaryIO) -> Any:
    start = file.tell()
    value = _Unpickler(file).load()
    if file.tell() - start > MAX_PICKLE_BYTES:
        raise ValueError("its description is larger than any model's")
    return value


def _load_storage(file: BinaryIO, storage: _Storage, *, size: int) -> np.ndarray:
    (numel,) = struct.unpack("<q", file.read(8))
    wanted = numel * storage.dtype.itemsize
    if numel != storage.numel or not 0 <= wanted <= size - file.tell():
        raise ValueError(
            f"storage {storage.key} says {storage.numel} and {numel} elements; the file is too short"
        )
    return np.frombuffer(file.read(wanted), storage.dtype)


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

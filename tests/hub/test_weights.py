"""The weight reader takes tensors, and nothing that a hostile or damaged file offers in their place."""

import os
import pickle
import struct
from collections import OrderedDict

import numpy as np
import pytest

from tfkit.errors import HubError
from tfkit.hub import weights
from tfkit.hub.networks import efficientnet_lite0, lite0_layers

MAGIC = 0x1950A86A20F9469CFC6C


class Call:
    """Pickles as the call of a function of another module: `Call("os", "system", "ls")`."""

    def __init__(self, module, name, *arguments):
        self.module, self.name, self.arguments = module, name, arguments


class Storage(Call):
    """Pickles as a persistent id, as torch's storages do."""


def dumps(value):
    """Pickle by hand, protocol 2: enough of the language for a state dict."""
    if isinstance(value, Storage):
        kind = f"ctorch\n{value.name}\n".encode()
        key, numel = value.arguments
        return b"(" + dumps("storage") + kind + dumps(key) + dumps("cpu") + dumps(numel) + b"NtQ"
    if isinstance(value, Call):
        return f"c{value.module}\n{value.name}\n".encode() + dumps(value.arguments) + b"R"
    if isinstance(value, tuple):
        return b"(" + b"".join(map(dumps, value)) + b"t"
    if isinstance(value, OrderedDict):
        items = b"".join(dumps(key) + dumps(item) for key, item in value.items())
        return b"ccollections\nOrderedDict\n)R(" + items + b"u"
    return pickle.dumps(value, 2)[2:-1]


def tensor(numel=6, *, key="0", shape=(2, 3), strides=(3, 1), offset=0, dtype="FloatStorage"):
    storage = Storage("torch", dtype, key, numel)
    rebuild = ("torch._utils", "_rebuild_tensor_v2")
    return Call(*rebuild, storage, offset, shape, strides, False, OrderedDict())


def stream(tensors, storages, *, magic=MAGIC, protocol=1001, little=True):
    """A file as torch wrote it: storages maps a key to (numel as written, raw bytes)."""
    head = [magic, protocol, {"little_endian": little, "protocol_version": protocol}]
    content = (
        b"".join(pickle.dumps(value, 2) for value in head) + b"\x80\x02" + dumps(OrderedDict(tensors)) + b"."
    )
    content += pickle.dumps(list(storages), 2)
    return content + b"".join(struct.pack("<q", n) + raw for n, raw in storages.values())


def read(tmp_path, content):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    return weights.read(path)


SIX = {"0": (6, np.arange(6, dtype="<f4").tobytes())}


def test_tensors_come_out(tmp_path):
    turned = tensor(shape=(3, 2), strides=(1, 3))
    scalar = tensor(shape=(), strides=(), offset=4)
    found = read(tmp_path, stream({"a": tensor(), "b": turned, "c": scalar}, SIX))
    np.testing.assert_array_equal(found["b"], [[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(found["a"], [[0, 1, 2], [3, 4, 5]])
    assert found["c"] == 4


@pytest.mark.parametrize("name", [("os", "system"), ("builtins", "eval"), ("torch", "DoubleStorage")])
def test_every_other_name_is_refused(tmp_path, name):
    hostile = Call(*name, f"touch {tmp_path}/owned")
    with pytest.raises(HubError, match=rf"asks for {name[0]}\.{name[1]}"):
        read(tmp_path, stream({"a": hostile}, SIX))
    assert not (tmp_path / "owned").exists()


def test_a_pickled_call_does_not_run(tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    with pytest.raises(HubError, match="no weight file needs"):
        read(tmp_path, pickle.dumps(Hostile()))
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        tensor(shape=(2, 4), strides=(4, 1)),
        tensor(shape=(10**6, 10**6), strides=(0, 0)),
        tensor(strides=(3, -1), offset=2),
        tensor(offset=-1),
        tensor(offset=1),
        tensor(shape=(2,)),
        tensor(numel=7),
        tensor(numel=2**62),
        tensor(key="1"),
        "no tensor",
        1.5,
    ],
)
def test_numbers_that_contradict_the_file(tmp_path, wrong):
    with pytest.raises(HubError, match="not a whole torch weight file"):
        read(tmp_path, stream({"a": wrong}, SIX))


@pytest.mark.parametrize("numel", [-1, 7, 2**62])
def test_a_storage_longer_than_the_file(tmp_path, numel):
    with pytest.raises(HubError):
        read(tmp_path, stream({"a": tensor(numel=numel)}, {"0": (numel, SIX["0"][1])}))


@pytest.mark.parametrize("options", [{"magic": 1}, {"protocol": 1000}, {"little": False}])
def test_another_format(tmp_path, options):
    with pytest.raises(HubError, match="starts with"):
        read(tmp_path, stream({"a": tensor()}, SIX, **options))


def test_every_cut_is_noticed(tmp_path):
    whole = stream({"a": tensor()}, SIX)
    for length in range(len(whole)):
        with pytest.raises(HubError):
            read(tmp_path, whole[:length])
    with pytest.raises(HubError, match="follow"):
        read(tmp_path, whole + b"x")


def test_weights_that_do_not_fit_are_refused():
    model, known = efficientnet_lite0(image_size=32), {"_bn0.bias": np.zeros(32)}
    with pytest.raises(HubError, match=r"surplus.*stem_bn/gamma"):
        weights.assign(model, {**known, "surplus": np.zeros(3)}, lite0_layers(), title="Lite0")
    with pytest.raises(ValueError, match="shape"):
        weights.assign(model, {"_bn0.bias": np.zeros(3)}, lite0_layers(), title="Lite0")

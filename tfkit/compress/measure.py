"""What compression did to a model, measured on its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tfkit.stack import keras

_WRAPPED = ("quant_", "prune_low_magnitude_", "cluster_")


def kernels(model: keras.Model) -> dict[str, np.ndarray]:
    """The kernels of all layers by layer name, also of layers that are wrapped.

    A layer of several (a separable convolution) has them under its name and theirs.
    """
    found = {}
    for layer in model.layers:
        name = layer.name
        for prefix in _WRAPPED:
            name = name.removeprefix(prefix)
        own = {
            weight.name.split("/")[-1].split(":")[0]: weight.numpy()
            for weight in layer.weights
            if weight.name.split("/")[-1].split(":")[0].endswith("kernel")
        }
        for kind, value in own.items():
            found[name if len(own) == 1 else f"{name}/{kind}"] = value
    return found


def sparsity(values: Mapping[str, np.ndarray]) -> float:
    """Share of zeros among all weights of kernels."""
    total = sum(value.size for value in values.values())
    return float(sum(int(np.sum(value == 0)) for value in values.values()) / total) if total else 0.0


def distinct(value: np.ndarray) -> int:
    """Number of distinct weights of a kernel."""
    return len(np.unique(value))


def distinct_per_channel(value: np.ndarray) -> int:
    """The largest number of distinct weights of an output channel: int8 has a scale for each."""
    channels = value.reshape(-1, value.shape[-1]).T
    return max(len(np.unique(channel)) for channel in channels)


def changed(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> float:
    """Share of the kernels that training moved."""
    common = [name for name in before if name in after and before[name].shape == after[name].shape]
    moved = [name for name in common if not np.array_equal(before[name], after[name])]
    return len(moved) / len(common) if common else 0.0


def fake_quantization(model: keras.Model) -> int:
    """Number of nodes of a model that quantize and dequantize as an int8 model will."""
    from tfkit.stack import tf

    specs = [tf.TensorSpec([1, *tensor.shape[1:]], tensor.dtype) for tensor in model.inputs]
    given = specs[0] if len(specs) == 1 else specs
    function = tf.function(lambda inputs: model(inputs, training=False), autograph=False)
    graph = function.get_concrete_function(given).graph.as_graph_def()
    nodes = [*graph.node, *(node for one in graph.library.function for node in one.node_def)]
    return sum(node.op.startswith("FakeQuant") for node in nodes)

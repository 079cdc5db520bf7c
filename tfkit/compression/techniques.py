"""What every technique does: look at the layers, wrap them, train, unwrap, measure.

Clones with the weights of the original, layer by layer: the original stays as it is.

What compression did to a model, measured on its weights.

Which layers a technique can take: asked of the whole model at once, before any training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tfkit.environment.packages import what
from tfkit.errors import UsageError

if TYPE_CHECKING:
    from tfkit.environment.stack import keras

_PREFIXES = ("prune_low_magnitude_", "cluster_", "quantize_annotate_", "quant_")


def clone(model: keras.Model, change: Callable[[Any], Any] | None = None) -> keras.Model:
    """A functional or Sequential model anew, with the same weights.

    Args:
      model: flat.
      change: makes the new layer of each old one, as of `keras.models.clone_model`; it may be a wrapper.

    Returns:
      Uncompiled.
    """
    from tfkit.environment.stack import keras

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
    from tfkit.environment.stack import tf

    specs = [tf.TensorSpec([1, *tensor.shape[1:]], tensor.dtype) for tensor in model.inputs]
    given = specs[0] if len(specs) == 1 else specs
    function = tf.function(lambda inputs: model(inputs, training=False), autograph=False)
    graph = function.get_concrete_function(given).graph.as_graph_def()
    nodes = [*graph.node, *(node for one in graph.library.function for node in one.node_def)]
    return sum(node.op.startswith("FakeQuant") for node in nodes)


@dataclass(frozen=True, kw_only=True)
class Treatment:
    """What a technique will do to one layer.

    Attributes:
      layer: its name.
      kind: its class.
      treated: whether the technique changes it.
      how: what happens to it, or why nothing does.
    """

    layer: str
    kind: str
    treated: bool
    how: str


class Stage(Protocol):
    """A technique that needs training: `wrap` it, `fit` with its callbacks, `strip` it, `measure` what came out."""

    @property
    def name(self) -> str:
        """Short, with what was asked for: "prune0.8"."""

    def treatments(self, model: keras.Model) -> list[Treatment]:
        """What will happen to every layer, before anything is built.

        Raises:
          UsageError: the model cannot be taken apart, or nothing in it can be treated.
        """

    def wrap(self, model: keras.Model, *, steps: int) -> keras.Model:
        """A trainable clone with the technique in it, not compiled; `model` stays as it is.

        Args:
          model: functional or Sequential.
          steps: that it will be trained for.
        """

    def callbacks(self) -> list[keras.callbacks.Callback]:
        """For `fit`."""

    def strip(self, wrapped: keras.Model) -> keras.Model:
        """The trained model, ready for the next technique or for the converter."""

    def measure(self, before: keras.Model, after: keras.Model) -> dict[str, float]:
        """What training did.

        Args:
          before: the model that was wrapped.
          after: what `strip` returned.

        Raises:
          CheckError: it is not what was asked for; the message names the layers.
        """


def refuse_what_has_no_layers(model: keras.Model, *, technique: str) -> None:
    """Make sure that all of a model's layers can be seen and exchanged.

    Raises:
      UsageError: it is no model of tf_keras, has no weights or such as are no numbers, is subclassed, or holds models
        or hub layers; the message names all of them.
    """
    from tfkit.environment.stack import keras

    if not isinstance(model, keras.Model):
        raise UsageError(
            f"{technique} takes a model of tf_keras; this is {what(model)}.\n"
            "  Build it with `from tfkit.environment.stack import keras`; a Keras 3 file converts without it, as it is."
        )
    if not isinstance(model, keras.Sequential) and not getattr(model, "_is_graph_network", False):
        raise UsageError(
            f"{technique} exchanges the layers of a model, and those of {model.name} ({type(model).__name__}) are not"
            " known to Keras: it is subclassed, or was not built.\n"
            "  Build it with the functional API: keras.Model(inputs, outputs)."
        )
    if not model.built:
        raise UsageError(
            f"{technique}: {model.name} has no weights yet.\n"
            "  Begin it with keras.Input(shape), or call model.build(shape)."
        )
    broken = [
        weight.name
        for weight in model.weights
        if weight.dtype.is_floating and not np.isfinite(weight.numpy()).all()
    ]
    if broken:
        raise UsageError(
            f"{technique}: {model.name} has weights that are not finite numbers: {', '.join(broken[:5])}.\n"
            "  Its training came apart. Train it anew with a lower learning rate."
        )
    inside = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    hub_layers = [layer for layer in model.layers if type(layer).__name__ == "KerasLayer"]
    problems = [
        f"{layer.name} is a model within the model. Call its layers on the outer inputs:"
        " keras.Model(inner.input, head(inner.output)) is flat."
        for layer in inside
    ]
    problems += [
        f"{layer.name} is a hub.KerasLayer, whose layers TensorFlow Hub does not keep. A bundled backbone has them:"
        " tfkit.load_model(name).functional(image_size=...); tfkit.compression.Prune(...).prune_variables prunes any."
        for layer in hub_layers
    ]
    if problems:
        raise UsageError(f"{technique} cannot take all of {model.name}:\n  " + "\n  ".join(problems))


def treatments(
    model: keras.Model, decide: Callable[[Any], tuple[bool, str]], *, technique: str
) -> list[Treatment]:
    """One treatment a layer.

    Args:
      model: flat.
      decide: for a layer, whether it is treated, and how or why not.
      technique: as an error calls it.

    Raises:
      UsageError: no layer is treated.
    """
    refuse_what_has_no_layers(model, technique=technique)
    found = []
    for layer in model.layers:
        treated, how = decide(layer)
        found.append(Treatment(layer=layer.name, kind=type(layer).__name__, treated=treated, how=how))
    if not any(treatment.treated for treatment in found):
        listed = "\n  ".join(f"{one.layer} ({one.kind}): {one.how}" for one in found)
        raise UsageError(f"{technique} would change no layer of {model.name}:\n  {listed}")
    return found


def sentence(found: Sequence[Treatment], *, technique: str) -> str:
    """What will happen, in one line: how many layers are treated, and which others have weights and are not."""
    treated = [one for one in found if one.treated]
    kept: dict[str, list[str]] = {}
    for one in found:
        if not one.treated and one.how:
            kept.setdefault(one.how, []).append(one.layer)
    rest = "; ".join(f"{_some(layers)}: {how}" for how, layers in kept.items())
    return f"{technique}: {len(treated)} layers. " + (f"Left as they are: {rest}." if rest else "")


def _some(names: list[str]) -> str:
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")

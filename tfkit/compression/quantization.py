"""Quantization-aware training by tfmot: the model trains with the rounding that int8 will do to it.

Source: Jacob et al. 2018 (arXiv:1712.05877); tensorflow.org/model_optimization, collaborative optimization.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tfkit.compression.techniques import (
    Technique,
    Treatment,
    changed,
    check_kept_zeros,
    clone,
    copy_layer,
    kernels,
    short_name,
    sparsity,
)
from tfkit.environment import stack
from tfkit.errors import CheckError, UsageError

_RANGED = ("output", "post_activation", "quantize_layer")
_LEAST_CHANGED = 0.9


@dataclass(frozen=True, kw_only=True)
class QuantizeAware(Technique):
    """Train with fake quantization of weights (per channel) and activations, so that int8 costs little.

    Args:
      preserve_sparsity: keep zeros zero: after pruning (PQAT).
      preserve_clusters: keep the distinct weights of each kernel few: after clustering (CQAT, with zeros PCQAT).
      examples: a batch of inputs, by which the ranges of tensors begin; without them all are -6 to 6, from which
        they need thousands of steps to where they belong.
    """

    preserve_sparsity: bool = False
    preserve_clusters: bool = False
    examples: Any = field(default=None, repr=False, compare=False)

    @property
    def name(self) -> str:
        """Return a short name."""
        return "qat"

    def treatments(self, model: stack.keras.Model) -> list[Treatment]:
        """Return what will happen to every layer.

        Raises:
          UsageError: the model is not flat, or has layers that cannot be quantized, all of which are named.
        """
        treatments = super().treatments(model)
        impossible = [one for one in treatments if not one.treated and one.how]
        if impossible:
            listed = "\n  ".join(f"{one.layer} ({one.kind}): {one.how}" for one in impossible)
            raise UsageError(
                f"qat: {len(impossible)} layers would stay in float within an int8 model:\n  {listed}\n"
                "  Exchange them, put them before or behind the part that is quantized, or convert with"
                " variant='int8' after training, which needs no layers."
            )
        return treatments

    def wrap(self, model: stack.keras.Model, *, steps: int) -> stack.keras.Model:
        """Return a clone that is quantization-aware, see `Technique`."""
        self.treatments(model)
        quantization, combine = stack.tfmot.quantization.keras, stack.tfmot.experimental.combine
        configs = stack.tfmot_module("core.quantization.keras.default_8bit.default_8bit_quantize_configs")

        def annotate(layer: Any) -> Any:
            if isinstance(layer, stack.keras.layers.InputLayer):
                return copy_layer(layer)
            # Of a layer without weights, which tfmot does not know, the output alone is quantized.
            is_scaling = isinstance(layer, stack.keras.layers.Rescaling)
            config = configs.Default8BitOutputQuantizeConfig() if is_scaling else None
            return quantization.quantize_annotate_layer(copy_layer(layer), config)

        scheme = []
        if self.preserve_clusters:
            scheme = [combine.Default8BitClusterPreserveQuantizeScheme(self.preserve_sparsity)]
        elif self.preserve_sparsity:
            scheme = [combine.Default8BitPrunePreserveQuantizeScheme()]
        with quantization.quantize_scope():
            wrapped = quantization.quantize_apply(clone(model, annotate), *scheme)
        if self.examples is not None:
            _begin_ranges(wrapped, model, self.examples)
        return wrapped

    def measure(self, before: stack.keras.Model, after: stack.keras.Model) -> dict[str, float]:
        """Measure fake-quantization nodes, the share of kernels that training changed, and what was to be preserved.

        Raises:
          CheckError: there are no such nodes, kernels did not train, or zeros or clusters were lost.
        """
        old, new = kernels(before), kernels(after)
        nodes, share = fake_quantization(after), changed(old, new)
        if not nodes or share < _LEAST_CHANGED:
            raise CheckError(
                f"qat: {nodes} nodes of fake quantization, and training changed {100 * share:.0f} % of the kernels: it"
                " saw no rounding, or the others have no gradient.\n"
                "  Ranges in which all of a layer's outputs are alike do that: give QuantizeAware(examples=...)."
            )
        measured = {"fake_quant_nodes": float(nodes), "kernels_changed": share}
        if self.preserve_sparsity:
            measured["sparsity"] = sparsity(new)
            check_kept_zeros(self.name, old, new)
        if self.preserve_clusters:
            counts = {name: len(np.unique(value)) for name, value in old.items()}
            few = [name for name, count in counts.items() if count < min(old[name].size // 2, 257)]
            # Convolutions get their centroids channel by channel, as int8 gives each a scale.
            channels = [channel for name in few for channel in np.moveaxis(new[name], -1, 0)]
            measured["distinct_weights"] = float(max(len(np.unique(channel)) for channel in channels))
            most = max(counts[name] for name in few)
            if (now := measured["distinct_weights"]) > most + 1:
                raise CheckError(f"qat: kernels of {most} distinct weights have channels of {now:.0f} now.")
        return measured

    def _decide(self, layer: Any) -> tuple[bool, str]:
        if isinstance(layer, stack.keras.layers.InputLayer):
            return False, ""
        if isinstance(layer, stack.keras.layers.BatchNormalization):
            return True, "folded into the layer before it"
        if isinstance(layer, stack.keras.layers.Rescaling):
            return True, "its output gets a range"
        registry = stack.tfmot_module("core.quantization.keras.default_8bit.default_8bit_quantize_registry")
        if registry.Default8BitQuantizeRegistry().supports(layer):
            return True, "weights and outputs are rounded as int8 will round them"
        return False, f"tfmot cannot quantize a {type(layer).__name__}"


def fake_quantization(model: stack.keras.Model) -> int:
    """Return the number of nodes of a model that quantize and dequantize as an int8 model will."""
    specs = [stack.tf.TensorSpec([1, *tensor.shape[1:]], tensor.dtype) for tensor in model.inputs]
    function = stack.tf.function(lambda inputs: model(inputs, training=False), autograph=False)
    graph = function.get_concrete_function(specs[0] if len(specs) == 1 else specs).graph.as_graph_def()
    nodes = [*graph.node, *(node for one in graph.library.function for node in one.node_def)]
    return sum(node.op.startswith("FakeQuant") for node in nodes)


def _begin_ranges(wrapped: stack.keras.Model, model: stack.keras.Model, examples: Any) -> None:
    """Set the ranges of a quantization-aware model's tensors to what these are in the model it was made of.

    tfmot begins with -6 to 6 and moves by a thousandth a step. Layers without an activation go far beyond 6 in
    EfficientNet: cut there, their model gives the same for every image until some thousand steps have passed.
    """
    # Layers of their own: those of a model that was stripped may have been called in other models before.
    own = clone(model, copy_layer)
    tensors = {
        layer.name: layer.output
        for layer in own.layers
        if not isinstance(layer, stack.keras.layers.InputLayer)
    }
    values = {**stack.keras.Model(own.inputs, tensors)(examples, training=False), "quantize_layer": examples}
    for layer in wrapped.layers:
        # 0 is within, as the integers must have one that is 0.
        plain = np.asarray(values.get(layer.name.removeprefix("quant_"), 0.0))
        known = {"min": min(0.0, float(plain.min())), "max": max(0.0, float(plain.max()))}
        for variable in layer.weights if layer.name.removeprefix("quant_") in values else ():
            of, _, end = short_name(variable).rpartition("_")
            if of in _RANGED and end in known:
                variable.assign(known[end])

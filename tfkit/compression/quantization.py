"""Quantization-aware training by tfmot: the model trains with the rounding that int8 will do to it.

Source: Jacob et al. 2018 (arXiv:1712.05877); tensorflow.org/model_optimization, collaborative optimization.

The ranges with which quantization-aware training begins: those that the model has, not a guess.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tfkit.compression import techniques
from tfkit.compression.techniques import (
    Treatment,
    clone,
    distinct,
    distinct_per_channel,
    fake_quantization,
    kernels,
    sparsity,
)
from tfkit.errors import CheckError
from tfkit.settings import fields

if TYPE_CHECKING:
    from tfkit.environment.stack import keras

_OUTPUTS = ("output", "post_activation", "quantize_layer")


def begin_at(wrapped: keras.Model, model: keras.Model, examples: Any) -> None:
    """Set the ranges of a quantization-aware model's tensors to what these are in the model it was made of.

    tfmot begins with -6 to 6 and moves by a thousandth a step. Layers without an activation go far beyond 6 in
    EfficientNet: cut there, their model says the same of every image until some thousand steps have passed.

    Args:
      wrapped: as tfmot made it; its variables are changed.
      model: that it was made of, functional or Sequential.
      examples: a batch of its inputs.
    """
    from tfkit.environment.stack import keras

    # Layers of their own: those of a model that was stripped may have been called in other models before.
    own = clone(model, lambda layer: layer.__class__.from_config(layer.get_config()))
    layers = [layer for layer in own.layers if not isinstance(layer, keras.layers.InputLayer)]
    outputs = keras.Model(own.inputs, [layer.output for layer in layers])(examples, training=False)
    outputs = [outputs] if len(layers) == 1 else outputs
    found = {layer.name: _range(output) for layer, output in zip(layers, outputs, strict=True)}
    for layer in wrapped.layers:
        of_inputs = layer.name == "quantize_layer"
        known = _range(examples) if of_inputs else found.get(layer.name.removeprefix("quant_"))
        if known is None:
            continue
        for variable in layer.weights:
            name, _, end = variable.name.rpartition("/")[2].split(":")[0].rpartition("_")
            if name in _OUTPUTS and end in ("min", "max"):
                variable.assign(known[end == "max"])


def _range(values: Any) -> tuple[float, float]:
    """From the least to the greatest; 0 is within, as the integers must have one that is 0."""
    plain = np.asarray(values)
    return min(0.0, float(plain.min())), max(0.0, float(plain.max()))


_LOST = 0.01
_LEAST_CHANGED = 0.9


@dataclass(frozen=True, kw_only=True)
class QuantizeAware:
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

    def __post_init__(self) -> None:
        """Check the values."""
        fields.check(self)

    @property
    def name(self) -> str:
        """Short."""
        return "qat"

    def treatments(self, model: keras.Model) -> list[Treatment]:
        """What will happen to every layer.

        Raises:
          UsageError: the model is not flat, or has layers that cannot be quantized, all of which are named.
        """
        from tfkit.errors import UsageError

        found = techniques.treatments(model, self._decide, technique=self.name)
        impossible = [one for one in found if not one.treated and one.how]
        if impossible:
            listed = "\n  ".join(f"{one.layer} ({one.kind}): {one.how}" for one in impossible)
            raise UsageError(
                f"qat: {len(impossible)} layers would stay in float within an int8 model:\n  {listed}\n"
                "  Exchange them, put them before or behind the part that is quantized, or convert with"
                " variant='int8' after training, which needs no layers."
            )
        return found

    def wrap(self, model: keras.Model, *, steps: int) -> keras.Model:
        """A clone that is quantization-aware, see `tfkit.compression.Stage`."""
        from tfkit.environment.stack import keras, tfmot

        self.treatments(model)
        quantization = tfmot.quantization.keras
        configs = {"OutputRange": _output_range()}

        def annotate(layer: Any) -> Any:
            own = layer.__class__.from_config(layer.get_config())
            if isinstance(layer, keras.layers.InputLayer):
                return own
            config = configs["OutputRange"]() if isinstance(layer, keras.layers.Rescaling) else None
            return quantization.quantize_annotate_layer(own, config)

        with quantization.quantize_scope(configs):
            annotated = clone(model, annotate)
            wrapped = quantization.quantize_apply(annotated, **self._scheme())
        if self.examples is not None:
            begin_at(wrapped, model, self.examples)
        return wrapped

    def callbacks(self) -> list[keras.callbacks.Callback]:
        """None are needed."""
        return []

    def strip(self, wrapped: keras.Model) -> keras.Model:
        """The model itself: the converter reads its ranges."""
        return wrapped

    def measure(self, before: keras.Model, after: keras.Model) -> dict[str, float]:
        """Fake-quantization nodes, the share of kernels that training changed, and what was to be preserved.

        Raises:
          CheckError: there are no such nodes, kernels did not train, or zeros or clusters were lost.
        """
        was, found = kernels(before), kernels(after)
        nodes = fake_quantization(after)
        changed = techniques.changed(was, found)
        if not nodes:
            raise CheckError("qat: the model has no fake quantization: training did not see any rounding.")
        if changed < _LEAST_CHANGED:
            raise CheckError(
                f"qat: training changed {100 * changed:.0f} % of the kernels: the others have no gradient.\n"
                "  Ranges in which all of a layer's outputs are alike do that: give QuantizeAware(examples=...)."
            )
        result = {"fake_quant_nodes": float(nodes), "kernels_changed": changed}
        if self.preserve_sparsity:
            result["sparsity"] = sparsity(found)
            if sparsity(was) - result["sparsity"] > _LOST:
                raise CheckError(f"qat: sparsity fell from {sparsity(was):.3f} to {result['sparsity']:.3f}.")
        if self.preserve_clusters:
            few = [name for name, value in was.items() if distinct(value) < _many(value)]
            # Convolutions get their centroids channel by channel, as int8 gives each a scale.
            result["distinct_weights"] = float(max(distinct_per_channel(found[name]) for name in few))
            most = max(distinct(was[name]) for name in few)
            if result["distinct_weights"] > most + 1:
                raise CheckError(
                    f"qat: kernels of {most} distinct weights have channels of {result['distinct_weights']:.0f} now."
                )
        return result

    def _decide(self, layer: Any) -> tuple[bool, str]:
        from tfkit.environment.stack import keras, tfmot_module

        if isinstance(layer, keras.layers.InputLayer):
            return False, ""
        if isinstance(layer, keras.layers.BatchNormalization):
            return True, "folded into the layer before it"
        if isinstance(layer, keras.layers.Rescaling):
            return True, "its output gets a range"
        registry = tfmot_module(
            "core.quantization.keras.default_8bit.default_8bit_quantize_registry"
        ).Default8BitQuantizeRegistry()
        if registry.supports(layer):
            return True, "weights and outputs are rounded as int8 will round them"
        return False, f"tfmot cannot quantize a {type(layer).__name__}"

    def _scheme(self) -> dict[str, Any]:
        from tfkit.environment.stack import tfmot

        combine = tfmot.experimental.combine
        if self.preserve_clusters:
            return {"scheme": combine.Default8BitClusterPreserveQuantizeScheme(self.preserve_sparsity)}
        if self.preserve_sparsity:
            return {"scheme": combine.Default8BitPrunePreserveQuantizeScheme()}
        return {}


def _many(value: np.ndarray) -> int:
    return min(value.size // 2, 257)


def _output_range() -> type:
    """A config for layers without weights that tfmot does not know: their output alone is quantized."""
    from tfkit.environment.stack import tfmot

    quantization = tfmot.quantization.keras

    base: Any = quantization.QuantizeConfig

    class OutputRange(base):
        def get_weights_and_quantizers(self, layer: Any) -> list[Any]:
            return []

        def get_activations_and_quantizers(self, layer: Any) -> list[Any]:
            return []

        def set_quantize_weights(self, layer: Any, quantize_weights: list[Any]) -> None:
            pass

        def set_quantize_activations(self, layer: Any, quantize_activations: list[Any]) -> None:
            pass

        def get_output_quantizers(self, layer: Any) -> list[Any]:
            quantizer = quantization.quantizers.MovingAverageQuantizer
            return [quantizer(num_bits=8, per_axis=False, symmetric=False, narrow_range=False)]

        def get_config(self) -> dict[str, Any]:
            return {}

    return OutputRange

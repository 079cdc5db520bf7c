"""Quantization-aware training by tfmot: the model trains with the rounding that int8 will do to it.

Source: Jacob et al. 2018 (arXiv:1712.05877); tensorflow.org/model_optimization, collaborative optimization.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tfkit.compress import clones, measure, preflight, ranges
from tfkit.compress.stage import Treatment
from tfkit.config import fields
from tfkit.errors import CheckError

if TYPE_CHECKING:
    from tfkit.stack import keras

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

        found = preflight.treatments(model, self._decide, technique=self.name)
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
        """A clone that is quantization-aware, see `tfkit.compress.stage.Stage`."""
        from tfkit.stack import keras, tfmot

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
            annotated = clones.clone(model, annotate)
            wrapped = quantization.quantize_apply(annotated, **self._scheme())
        if self.examples is not None:
            ranges.begin_at(wrapped, model, self.examples)
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
        was, found = measure.kernels(before), measure.kernels(after)
        nodes = measure.fake_quantization(after)
        changed = measure.changed(was, found)
        if not nodes:
            raise CheckError("qat: the model has no fake quantization: training did not see any rounding.")
        if changed < _LEAST_CHANGED:
            raise CheckError(
                f"qat: training changed {100 * changed:.0f} % of the kernels: the others have no gradient.\n"
                "  Ranges in which all of a layer's outputs are alike do that: give QuantizeAware(examples=...)."
            )
        result = {"fake_quant_nodes": float(nodes), "kernels_changed": changed}
        if self.preserve_sparsity:
            result["sparsity"] = measure.sparsity(found)
            if measure.sparsity(was) - result["sparsity"] > _LOST:
                raise CheckError(
                    f"qat: sparsity fell from {measure.sparsity(was):.3f} to {result['sparsity']:.3f}."
                )
        if self.preserve_clusters:
            few = [name for name, value in was.items() if measure.distinct(value) < _many(value)]
            # Convolutions get their centroids channel by channel, as int8 gives each a scale.
            result["distinct_weights"] = float(max(measure.distinct_per_channel(found[name]) for name in few))
            most = max(measure.distinct(was[name]) for name in few)
            if result["distinct_weights"] > most + 1:
                raise CheckError(
                    f"qat: kernels of {most} distinct weights have channels of {result['distinct_weights']:.0f} now."
                )
        return result

    def _decide(self, layer: Any) -> tuple[bool, str]:
        from tfkit.stack import keras, tfmot_module

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
        from tfkit.stack import tfmot

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
    from tfkit.stack import tfmot

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

"""The ranges with which quantization-aware training begins: those that the model has, not a guess."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tfkit.compress import clones

if TYPE_CHECKING:
    from tfkit.stack import keras

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
    from tfkit.stack import keras

    # Layers of their own: those of a model that was stripped may have been called in other models before.
    own = clones.clone(model, lambda layer: layer.__class__.from_config(layer.get_config()))
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

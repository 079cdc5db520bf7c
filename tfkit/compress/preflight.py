"""Which layers a technique can take: asked of the whole model at once, before any training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tfkit.compress.stage import Treatment
from tfkit.errors import UsageError
from tfkit.packages import what

if TYPE_CHECKING:
    from tfkit.stack import keras


def refuse_what_has_no_layers(model: keras.Model, *, technique: str) -> None:
    """Make sure that all of a model's layers can be seen and exchanged.

    Raises:
      UsageError: it is no model of tf_keras, has no weights or such as are no numbers, is subclassed, or holds models
        or hub layers; the message names all of them.
    """
    from tfkit.stack import keras

    if not isinstance(model, keras.Model):
        raise UsageError(
            f"{technique} takes a model of tf_keras; this is {what(model)}.\n"
            "  Build it with `from tfkit.stack import keras`; a Keras 3 file converts without it, as it is."
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
        " tfkit.resolve(name).functional(image_size=...); tfkit.compress.Prune(...).prune_variables prunes any."
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

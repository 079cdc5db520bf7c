"""Models that can be trained privately, from ones that cannot because of their batch normalisation."""

from __future__ import annotations

from typing import Any

from tfkit.environment.foreign import compiled_metrics
from tfkit.environment.stack import keras
from tfkit.errors import PrivacyError

SMALLEST_GROUP = 16
"""Numbers that are normalised together at least, where there are no pixels: two would become +1 and -1."""


def batch_normalizations(model: keras.Model) -> list[Any]:
    """Return the layers of a model, nested ones too, that compute with all examples of a batch; frozen ones do not."""
    kinds = (keras.layers.BatchNormalization, keras.layers.experimental.SyncBatchNormalization)
    unique = {id(layer): layer for layer in model._flatten_layers()}
    return [layer for layer in unique.values() if isinstance(layer, kinds) and layer.trainable]


def make_private_safe(model: keras.Model, *, groups: int = 8) -> keras.Model:
    """Return the same model with GroupNormalization in the place of every BatchNormalization that is not frozen.

    Args:
      model: functional or sequential, and built; it stays as it is.
      groups: into which the channels are cut; where they do not divide, the next smaller number that does. Fewer
        where a layer is fed [batch, channels], since a group must have 16 numbers or so to be normalised.

    Returns:
      A new model with the names, the weights and the frozen layers of the old one, and with scale and shift of its
      normalisations; compiled, if the old one was, with its optimizer in the initial state. Its outputs are others:
      train it before they are used.

    Raises:
      PrivacyError: layers are called by code that cannot be changed from outside: a subclass, a wrapper.

    Source: Wu and He 2018 (arXiv:1803.08494); De et al. 2022 (arXiv:2204.13650) for its use in private training.
    """
    copies: dict[int, tuple[Any, Any]] = {}
    new = _clone(model, groups, copies)
    for old, copy in copies.values():
        _copy_weights(old, copy)
    left = batch_normalizations(new)
    if left:
        raise PrivacyError(
            f"{left[0].name!r} (BatchNormalization) is inside of another layer, which cannot be taken apart.\n"
            "  Use GroupNormalization in that layer, or freeze it (layer.trainable = False)."
        )
    if model.optimizer is not None:
        given = [metric for metric in compiled_metrics(model) if metric is not None]
        kind = keras.metrics.Metric  # one counts, and begins anew; names and functions have nothing to count
        metrics = [one.from_config(one.get_config()) if isinstance(one, kind) else one for one in given]
        optimizer = type(model.optimizer).from_config(model.optimizer.get_config())
        new.compile(optimizer=optimizer, loss=model.loss, metrics=metrics)
    return new


def _clone(model: keras.Model, groups: int, copies: dict[int, tuple[Any, Any]]) -> keras.Model:
    """Return a new model; copies remembers what came from what, so that a layer in two places stays one layer."""
    stock = type(model).__module__.split(".")[0] == keras.__name__
    if not stock or not (model._is_graph_network or isinstance(model, keras.Sequential)):
        raise PrivacyError(
            f"{model.name!r} is a {type(model).__name__}, a subclass, which cannot be changed from outside."
            "\n  Use GroupNormalization in it, or freeze its BatchNormalization layers (layer.trainable = False)."
        )
    if not model.built:
        raise PrivacyError(f"{model.name!r} is not built.\n  Begin it with keras.Input(shape).")

    def copy_of(layer: Any) -> Any:
        if id(layer) not in copies:
            copy = _clone(layer, groups, copies) if _is_nested(layer) else _exchanged(layer, groups)
            copies[id(layer)] = layer, copy
        return copies[id(layer)][1]

    return keras.models.clone_model(model, clone_function=copy_of)


def _is_nested(layer: Any) -> bool:
    return isinstance(layer, keras.Model) and bool(batch_normalizations(layer))


def _exchanged(layer: Any, groups: int) -> Any:
    """Return a new layer without weights: GroupNormalization for batch normalisation, and the same for all else."""
    if layer not in batch_normalizations(layer):
        return type(layer).from_config(layer.get_config())
    config = layer.get_config()
    kept = ["name", "dtype", "epsilon", "center", "scale", "beta_constraint", "gamma_constraint"]
    kept += [f"{weight}_{kind}" for weight in ("beta", "gamma") for kind in ("initializer", "regularizer")]
    axis = layer.axis[0] if isinstance(layer.axis, list | tuple) else layer.axis
    channels = layer.moving_mean.shape[0]
    if len(layer.input_spec.axes) != 1:
        raise PrivacyError(
            f"{layer.name!r} (BatchNormalization) normalises along several axes, which groups cannot.\n"
            "  Use LayerNormalization there."
        )
    if layer.input_spec.ndim == 2:
        groups = max(1, min(groups, channels // SMALLEST_GROUP))
    groups = max(count for count in range(1, min(groups, channels) + 1) if channels % count == 0)
    return keras.layers.GroupNormalization(groups=groups, axis=axis, **{name: config[name] for name in kept})


def _copy_weights(old: Any, new: Any) -> None:
    if _is_nested(old):
        new._trainable = old._trainable  # not by its setter, which changes all layers inside
    elif old in batch_normalizations(old):
        new.set_weights([weight.numpy() for weight in (old.gamma, old.beta) if weight is not None])
    else:
        new.set_weights(old.get_weights())
        for layer, copy in zip(old._flatten_layers(), new._flatten_layers(), strict=True):
            copy._trainable = layer._trainable

"""A model that can be trained privately, from one that cannot because of its batch normalisation."""

from __future__ import annotations

from typing import Any

from tfkit.errors import PrivacyError
from tfkit.stack import keras


def batch_normalizations(model: keras.Model) -> list[Any]:
    """All layers of a model, nested ones too, that normalise by the batch."""
    unique = {id(layer): layer for layer in model._flatten_layers()}
    kinds = (keras.layers.BatchNormalization, keras.layers.experimental.SyncBatchNormalization)
    return [layer for layer in unique.values() if isinstance(layer, kinds)]


def make_private_safe(model: keras.Model, *, groups: int = 8) -> keras.Model:
    """The same model with GroupNormalization in the place of every BatchNormalization.

    Args:
      model: functional or sequential; it stays as it is.
      groups: of channels that are normalised together; where they do not divide, the next smaller number that does.

    Returns:
      A new model with the weights of the old one, and scale and shift of the normalisations; compiled, if the old
      one was, with an optimizer in its initial state. Its outputs are others: fine-tune it.

    Raises:
      PrivacyError: the model is a subclass, in which nothing can be exchanged.

    Source: Wu and He 2018 (arXiv:1803.08494); De et al. 2022 (arXiv:2204.13650) for its use in private training.
    """
    if not (model._is_graph_network or isinstance(model, keras.Sequential)):
        raise PrivacyError(
            f"{model.name!r} is a subclass of keras.Model: its layers are called by code that cannot be changed from"
            " outside.\n  Use GroupNormalization in it, or freeze its BatchNormalization layers."
        )
    new = keras.models.clone_model(model, clone_function=lambda layer: _exchanged(layer, groups))
    _copy_weights(model, new)
    if model.optimizer is not None:
        new.compile(
            optimizer=type(model.optimizer).from_config(model.optimizer.get_config()),
            loss=model.loss,
            metrics=[_again(metric) for metric in (model.compiled_metrics._user_metrics or [])],
        )
    return new


def _exchanged(layer: Any, groups: int) -> Any:
    if isinstance(layer, keras.Model):
        return make_private_safe(layer, groups=groups)
    if not batch_normalizations_in(layer):
        return type(layer).from_config(layer.get_config())
    channels = layer.gamma.shape[0] if layer.scale else layer.moving_mean.shape[0]
    axis = layer.axis[0] if isinstance(layer.axis, list | tuple) else layer.axis
    return keras.layers.GroupNormalization(
        groups=max(count for count in range(1, min(groups, channels) + 1) if channels % count == 0),
        axis=axis,
        epsilon=layer.epsilon,
        center=layer.center,
        scale=layer.scale,
        name=layer.name,
    )


def batch_normalizations_in(layer: Any) -> bool:
    """Whether a single layer is one."""
    return isinstance(
        layer, keras.layers.BatchNormalization | keras.layers.experimental.SyncBatchNormalization
    )


def _copy_weights(old: keras.Model, new: keras.Model) -> None:
    for before in old.layers:
        after = new.get_layer(before.name)
        if isinstance(before, keras.Model):
            _copy_weights(before, after)
        elif batch_normalizations_in(before):
            after.set_weights(
                [weight.numpy() for weight in (before.gamma, before.beta) if weight is not None]
            )
        else:
            after.set_weights(before.get_weights())
            after.trainable = before.trainable


def _again(metric: Any) -> Any:
    return metric.from_config(metric.get_config()) if isinstance(metric, keras.metrics.Metric) else metric

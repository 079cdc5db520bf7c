"""Attributes of other libraries that are not public: all that tfkit uses, each with the version it was checked on."""

from __future__ import annotations

from typing import Any


def knows_its_layers(model: Any) -> bool:
    """Return whether a model of tf_keras is functional or Sequential: its layers can be exchanged (tf_keras 2.21)."""
    from tfkit.environment.stack import keras

    return isinstance(model, keras.Sequential) or bool(getattr(model, "_is_graph_network", False))


def prunable_weights(layer: Any) -> list[str] | None:
    """Return the names of the weights of a layer that tfmot prunes; None where it cannot (tfmot 0.8.1)."""
    from tfkit.environment.stack import tfmot_module

    registry = tfmot_module("core.sparsity.keras.prune_registry").PruneRegistry
    return list(registry._weight_names(layer)) if registry.supports(layer) else None


def clusterable_weights(layer: Any) -> list[str] | None:
    """Return the names of the weights of a layer that tfmot clusters; None where it cannot (tfmot 0.8.1)."""
    from tfkit.environment.stack import tfmot_module

    registry = tfmot_module("core.clustering.keras.clustering_registry").ClusteringRegistry
    if not registry.supports(layer):
        return None
    return list(registry._LAYERS_WEIGHTS_MAP.get(layer.__class__, []))

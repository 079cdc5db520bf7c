"""From a handle to a verified SavedModel on this machine."""

from __future__ import annotations

from pathlib import Path

from tfkit.hub import bundled, cache, saved_model
from tfkit.hub.backbone import Backbone


def resolve(
    handle: str | Path, *, sha256: str | None = None, timeout_seconds: float = 30, retries: int = 3
) -> Backbone:
    """Find, fetch and verify a model."""
    model = bundled.MODELS[str(handle)]
    version = (model.sha256, bundled.EXPORT_VERSION)
    entry = cache.get(model.name, model.export, version=version)
    interface = saved_model.read(entry.path)
    return Backbone(
        handle=model.name,
        path=entry.path,
        digest=entry.digest,
        native_size=model.native_size,
        fixed_size=False,
        input_range=(0.0, 1.0),
        feature_size=1280,
        parameters=interface.parameters,
        trainable_variables=interface.trainable_variables,
        licence=model.licence,
        interface=interface,
    )

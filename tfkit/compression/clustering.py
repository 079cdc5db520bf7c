"""Weight clustering by tfmot: each kernel has a few distinct weights, which compress well.

Source: Han et al. 2016 (arXiv:1510.00149).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from tfkit.compression.techniques import (
    Technique,
    changed,
    check_kept_zeros,
    clone,
    kernels,
    short_name,
    sparsity,
)
from tfkit.environment import foreign
from tfkit.errors import CheckError
from tfkit.settings import fields

if TYPE_CHECKING:
    from tfkit.environment.stack import keras


@dataclass(frozen=True, kw_only=True)
class Cluster(Technique):
    """Leave each kernel so many distinct weights, and train these.

    Args:
      number_of_clusters: distinct weights in a kernel.
      preserve_sparsity: keep zeros zero: after pruning.

    Raises:
      ConfigError: fewer than two clusters.
    """

    number_of_clusters: Annotated[int, fields.Range(ge=2)] = 16
    preserve_sparsity: bool = False

    def __post_init__(self) -> None:
        """Check the value."""
        fields.check(self)

    @property
    def name(self) -> str:
        """Short, with what was asked for."""
        return f"cluster{self.number_of_clusters}"

    def wrap(self, model: keras.Model, *, steps: int) -> keras.Model:
        """Return a clone whose kernels are clustered, see `Technique`."""
        from tfkit.environment.stack import keras, tfmot, tfmot_module

        wrapper = tfmot_module("core.clustering.keras.experimental.cluster").cluster_weights
        treated = self.treated(model)
        settings = {
            "number_of_clusters": self.number_of_clusters,
            "cluster_centroids_init": tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS,
            "preserve_sparsity": self.preserve_sparsity,
        }
        # The wrapper finds the first centroids among the weights of its layer, so the layer needs them before.
        return keras.models.clone_model(
            clone(model),
            clone_function=lambda layer: wrapper(layer, **settings) if layer.name in treated else layer,
        )

    def strip(self, wrapped: keras.Model) -> keras.Model:
        """Return the clustered model without centroids."""
        from tfkit.environment.stack import tfmot

        return tfmot.clustering.keras.strip_clustering(wrapped)

    def measure(self, before: keras.Model, after: keras.Model) -> dict[str, float]:
        """Measure the distinct weights of the treated kernel with most, the sparsity, and what share changed.

        Raises:
          CheckError: a kernel has more distinct weights, or zeros were lost that were to be kept.
        """
        old, new, treated = kernels(before), kernels(after), self.treated(before)
        counts = {name: len(np.unique(new[name])) for name in new if name.split("/")[0] in treated}
        allowed = self.number_of_clusters + self.preserve_sparsity  # zero is one more
        many = [f"{name} {count}" for name, count in counts.items() if count > allowed]
        if many:
            raise CheckError(
                f"{self.name}: {len(many)} kernels have more than {allowed} distinct weights: {', '.join(many[:5])}."
            )
        if self.preserve_sparsity:
            check_kept_zeros(self, old, new)
        return {
            "distinct_weights": max(counts.values()),
            "sparsity": sparsity(new),
            "kernels_changed": changed(old, new),
        }

    def _decide(self, layer: Any) -> tuple[bool, str]:
        if not layer.weights:
            return False, ""
        names = foreign.clusterable_weights(layer)
        if names is None:
            return False, f"tfmot cannot cluster a {type(layer).__name__}"
        sizes = [weight.shape.num_elements() for weight in layer.weights if short_name(weight) in names]
        if not sizes:
            return False, "small, and sensitive" if "Conv" in type(layer).__name__ else ""
        if min(sizes) <= self.number_of_clusters:
            return False, f"it has no more than {self.number_of_clusters} weights"
        return True, f"its kernel gets {self.number_of_clusters} distinct weights"

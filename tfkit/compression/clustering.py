"""Weight clustering by tfmot: each kernel has a few distinct weights, which compress well.

Source: Han et al. 2016 (arXiv:1510.00149).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from tfkit.compression import techniques
from tfkit.compression.techniques import Treatment, changed, clone, distinct, kernels, sparsity
from tfkit.errors import CheckError
from tfkit.settings import fields

if TYPE_CHECKING:
    from tfkit.environment.stack import keras


@dataclass(frozen=True, kw_only=True)
class Cluster:
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

    def treatments(self, model: keras.Model) -> list[Treatment]:
        """What will happen to every layer.

        Raises:
          UsageError: the model is not flat, or no layer can be clustered.
        """
        return techniques.treatments(model, self._decide, technique=self.name)

    def wrap(self, model: keras.Model, *, steps: int) -> keras.Model:
        """A clone whose kernels are clustered, see `tfkit.compression.Stage`."""
        from tfkit.environment.stack import keras, tfmot, tfmot_module

        cluster_weights = tfmot_module("core.clustering.keras.experimental.cluster").cluster_weights
        treated = {one.layer for one in self.treatments(model) if one.treated}
        # The wrapper finds the first centroids among the weights of its layer, so the layer needs them before.
        own = clone(model)
        settings = {
            "number_of_clusters": self.number_of_clusters,
            "cluster_centroids_init": tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS,
            "preserve_sparsity": self.preserve_sparsity,
        }

        def wrap(layer: Any) -> Any:
            if layer.name not in treated:
                return layer
            return cluster_weights(layer, **settings)

        return keras.models.clone_model(own, clone_function=wrap)

    def callbacks(self) -> list[keras.callbacks.Callback]:
        """None are needed."""
        return []

    def strip(self, wrapped: keras.Model) -> keras.Model:
        """The clustered model without centroids."""
        from tfkit.environment.stack import tfmot

        return tfmot.clustering.keras.strip_clustering(wrapped)

    def measure(self, before: keras.Model, after: keras.Model) -> dict[str, float]:
        """The largest number of distinct weights in a treated kernel, the sparsity, the share of kernels that changed.

        Raises:
          CheckError: a kernel has more distinct weights, or zeros were lost that were to be kept.
        """
        treated = {one.layer for one in self.treatments(before) if one.treated}
        was, found = kernels(before), kernels(after)
        counts = {name: distinct(value) for name, value in found.items() if name.split("/")[0] in treated}
        allowed = self.number_of_clusters + self.preserve_sparsity  # zero is one more
        many = {name: count for name, count in counts.items() if count > allowed}
        if many:
            listed = ", ".join(f"{name} {count}" for name, count in list(many.items())[:5])
            raise CheckError(
                f"{self.name}: {len(many)} kernels have more than {allowed} distinct weights: {listed}."
            )
        lost = sparsity(was) - sparsity(found)
        if self.preserve_sparsity and lost > 0.01:
            raise CheckError(
                f"{self.name}: clustering lost zeros: sparsity fell from {sparsity(was):.3f} by {lost:.3f}."
            )
        return {
            "distinct_weights": max(counts.values()),
            "sparsity": sparsity(found),
            "kernels_changed": changed(was, found),
        }

    def _decide(self, layer: Any) -> tuple[bool, str]:
        from tfkit.environment.stack import tfmot_module

        registry = tfmot_module("core.clustering.keras.clustering_registry").ClusteringRegistry
        if not layer.weights:
            return False, ""
        if not registry.supports(layer):
            return False, f"tfmot cannot cluster a {type(layer).__name__}"
        names = registry._LAYERS_WEIGHTS_MAP.get(layer.__class__, [])
        kernels = [weight for weight in layer.weights if weight.name.split("/")[-1].split(":")[0] in names]
        if not kernels:
            return False, "small, and sensitive" if "Conv" in type(layer).__name__ else ""
        smallest = min(int(weight.shape.num_elements()) for weight in kernels)
        if smallest <= self.number_of_clusters:
            return False, f"it has no more than {self.number_of_clusters} weights"
        return True, f"its kernel gets {self.number_of_clusters} distinct weights"

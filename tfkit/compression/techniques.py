"""Train for the device: what the techniques have in common, the layers, their clones, their weights; and clustering."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import numpy as np

from tfkit.compression.sources import not_finite
from tfkit.environment import foreign, stack
from tfkit.environment.packages import what
from tfkit.errors import CheckError, UsageError
from tfkit.settings import fields

LOST = 0.01
"""So much of the sparsity may be lost where zeros are to be kept."""

_PREFIXES = ("quant_", "prune_low_magnitude_", "cluster_")


class Treatment(NamedTuple):
    """Describe what a technique will do to one layer.

    Attributes:
      layer: its name.
      kind: its class.
      treated: whether the technique changes it.
      how: what happens to it, or why nothing does.
    """

    layer: str
    kind: str
    treated: bool
    how: str


class Technique:
    """A technique that needs training: `wrap` a model, `fit` with the callbacks, `strip` it, `measure` the result."""

    def __post_init__(self) -> None:
        """Check the values."""
        fields.check(self)

    @property
    def name(self) -> str:
        """Return a short name with what was asked for: "prune0.8"."""
        raise NotImplementedError

    def treatments(self, model: stack.keras.Model) -> list[Treatment]:
        """Return what will happen to every layer, before anything is built.

        Raises:
          UsageError: the model cannot be taken apart, or nothing in it can be treated.
        """
        refuse_what_has_no_layers(model, technique=self.name)
        treatments = [
            Treatment(layer.name, type(layer).__name__, *self._decide(layer)) for layer in model.layers
        ]
        if not any(one.treated for one in treatments):
            listed = "\n  ".join(f"{one.layer} ({one.kind}): {one.how}" for one in treatments)
            raise UsageError(f"{self.name} would change no layer of {model.name}:\n  {listed}")
        return treatments

    def treated(self, model: stack.keras.Model) -> set[str]:
        """Return the names of the layers that are changed; errors as of `treatments`."""
        return {one.layer for one in self.treatments(model) if one.treated}

    def wrap(self, model: stack.keras.Model, *, steps: int) -> stack.keras.Model:
        """Return a trainable clone with the technique in it, not compiled; `model` stays as it is.

        Args:
          model: functional or Sequential.
          steps: that it will be trained for.
        """
        raise NotImplementedError

    def callbacks(self) -> list[stack.keras.callbacks.Callback]:
        """Return what `fit` needs."""
        return []

    def strip(self, wrapped: stack.keras.Model) -> stack.keras.Model:
        """Return the trained model, ready for the next technique or for the converter."""
        return wrapped

    def measure(self, before: stack.keras.Model, after: stack.keras.Model) -> dict[str, float]:
        """Measure what training did.

        Args:
          before: the model that was wrapped.
          after: what `strip` returned.

        Raises:
          CheckError: it is not what was asked for; the message names the layers.
        """
        raise NotImplementedError

    def _decide(self, layer: Any) -> tuple[bool, str]:
        """Return whether a layer is treated, and how or why not; nothing of one that has no part in it."""
        raise NotImplementedError


def clone(model: stack.keras.Model, change: Callable[[Any], Any] | None = None) -> stack.keras.Model:
    """Build a functional or Sequential model anew, with the same weights.

    Args:
      model: flat.
      change: makes the new layer of each old one, as of `keras.models.clone_model`; it may be a wrapper.

    Returns:
      Uncompiled.
    """
    copy = stack.keras.models.clone_model(model, clone_function=change)
    # A wrapper calls itself what it likes; the layer inside of it has kept its name.
    inner = {own.name: own for own in (getattr(layer, "layer", layer) for layer in copy.layers)}
    for layer in model.layers:
        if layer.weights:
            inner[layer.name].set_weights(layer.get_weights())
    return copy


def copy_layer(layer: Any) -> Any:
    """Return a new layer of the same settings."""
    return layer.__class__.from_config(layer.get_config())


def short_name(weight: Any) -> str:
    """Return the name of a weight without those of its layers: "kernel"."""
    return str(weight.name.split("/")[-1].split(":")[0])


def kernels(model: stack.keras.Model) -> dict[str, np.ndarray]:
    """Return the kernels of all layers by layer name, also of layers that are wrapped.

    A layer of several (a separable convolution) has them under its name and theirs.
    """
    values = {}
    for layer in model.layers:
        name = layer.name
        for prefix in _PREFIXES:
            name = name.removeprefix(prefix)
        own = {kind: weight for weight in layer.weights if (kind := short_name(weight)).endswith("kernel")}
        for kind, weight in own.items():
            values[name if len(own) == 1 else f"{name}/{kind}"] = weight.numpy()
    return values


def sparsity(values: Mapping[str, np.ndarray]) -> float:
    """Return the share of zeros among all weights of kernels."""
    total = sum(value.size for value in values.values())
    return sum(value.size - np.count_nonzero(value) for value in values.values()) / max(total, 1)


def check_kept_zeros(name: str, before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> None:
    """Make sure that kernels have kept their zeros.

    Raises:
      CheckError: sparsity fell.
    """
    was, now = sparsity(before), sparsity(after)
    if was - now > LOST:
        raise CheckError(f"{name} lost zeros: sparsity fell from {was:.3f} to {now:.3f}.")


def changed(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> float:
    """Return the share of the kernels that training moved."""
    common = [name for name in before if name in after and before[name].shape == after[name].shape]
    moved = [name for name in common if not np.array_equal(before[name], after[name])]
    return len(moved) / len(common) if common else 0.0


def refuse_what_has_no_layers(model: stack.keras.Model, *, technique: str) -> None:
    """Make sure that all of a model's layers can be seen and exchanged.

    Raises:
      UsageError: it is no model of tf_keras, has no weights or such as are no numbers, is subclassed, or holds models
        or hub layers; the message names all of them.
    """
    if not isinstance(model, stack.keras.Model):
        raise UsageError(
            f"{technique} takes a model of tf_keras; this is {what(model)}.\n"
            "  Build it with `from tfkit.environment.stack import keras`; a Keras 3 file converts without it, as it is."
        )
    problems = []
    if not foreign.knows_its_layers(model) or not model.built:
        problems.append(
            f"its layers or their weights are not known to Keras: {type(model).__name__} is subclassed, or was not"
            " built. Begin it with keras.Input(shape), by the functional API: keras.Model(inputs, outputs)."
        )
    elif bad := not_finite(model.weights):
        problems.append(f"weights are not finite numbers: {bad}. Train it anew with a lower learning rate.")
    for layer in model.layers:
        if isinstance(layer, stack.keras.Model):
            problems.append(
                f"{layer.name} is a model within the model. Call its layers on the outer inputs:"
                " keras.Model(inner.input, head(inner.output)) is flat."
            )
        elif type(layer).__name__ == "KerasLayer":
            problems.append(
                f"{layer.name} is a hub.KerasLayer, which keeps no layers. tfkit.load_model(name).functional() of a"
                " bundled backbone has them; tfkit.compression.Prune(...).prune_variables prunes any."
            )
    if problems:
        raise UsageError(f"{technique} cannot take {model.name}:\n  " + "\n  ".join(problems))


def sentence(treatments: Sequence[Treatment], *, technique: str) -> str:
    """Say in one line how many layers are treated, and which others have weights and are not."""
    kept: dict[str, list[str]] = {}
    for one in treatments:
        if not one.treated and one.how:
            kept.setdefault(one.how, []).append(one.layer)
    rest = "; ".join(f"{how}: {', '.join(layers[:2])} ({len(layers)} layers)" for how, layers in kept.items())
    count = sum(one.treated for one in treatments)
    return f"{technique}: {count} layers." + (f" Left as they are: {rest}." if rest else "")


@dataclass(frozen=True, kw_only=True)
class Cluster(Technique):
    """Leave each kernel so many distinct weights, which compress well, and train these.

    Source: Han et al. 2016 (arXiv:1510.00149).

    Args:
      number_of_clusters: distinct weights in a kernel.
      preserve_sparsity: keep zeros zero: after pruning.

    Raises:
      ConfigError: fewer than two clusters.
    """

    number_of_clusters: Annotated[int, fields.Range(ge=2)] = 16
    preserve_sparsity: bool = False

    @property
    def name(self) -> str:
        """Return a short name with what was asked for."""
        return f"cluster{self.number_of_clusters}"

    def wrap(self, model: stack.keras.Model, *, steps: int) -> stack.keras.Model:
        """Return a clone whose kernels are clustered, see `Technique`."""
        wrapper = stack.tfmot_module("core.clustering.keras.experimental.cluster").cluster_weights
        treated = self.treated(model)
        settings = {
            "number_of_clusters": self.number_of_clusters,
            "cluster_centroids_init": stack.tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS,
            "preserve_sparsity": self.preserve_sparsity,
        }
        # The wrapper finds the first centroids among the weights of its layer, so the layer needs them before.
        return stack.keras.models.clone_model(
            clone(model),
            clone_function=lambda layer: wrapper(layer, **settings) if layer.name in treated else layer,
        )

    def strip(self, wrapped: stack.keras.Model) -> stack.keras.Model:
        """Return the clustered model without centroids."""
        return stack.tfmot.clustering.keras.strip_clustering(wrapped)

    def measure(self, before: stack.keras.Model, after: stack.keras.Model) -> dict[str, float]:
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
            check_kept_zeros(self.name, old, new)
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

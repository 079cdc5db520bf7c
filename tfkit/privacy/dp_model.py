"""TF Privacy's DPModel as the engine that clips: its layer registry, its norms, its clipped gradients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tfkit.environment.foreign import clipped_by_dp_model, modules
from tfkit.environment.stack import keras, tf, tf_privacy
from tfkit.privacy.clipping import PerExampleLoss


class _PerExample(keras.losses.Loss):
    """A loss that DPModel can take apart, whatever the model was compiled with; the sum, since Poisson samples vary."""

    def __init__(self, per_example_loss: PerExampleLoss, **settings: Any) -> None:
        super().__init__(**{"reduction": keras.losses.Reduction.SUM, **settings})
        self._per_example_loss = per_example_loss

    def call(self, labels: Any, outputs: Any) -> Any:
        """Return each example's loss: float32 [batch]."""
        return self._per_example_loss(labels, outputs)

    def get_config(self) -> dict[str, Any]:
        """Return what another reduction of it is made from."""
        return {**super().get_config(), "per_example_loss": self._per_example_loss}


class DPModelSum:
    """Computes the sum of a batch's clipped gradients as `DPModel.train_step` does, without its noise.

    By its layer registry where all layers with weights are Embedding, or Dense that is fed [batch, width]; else it
    differentiates each example by itself, vectorized. The registry takes the norm of a Dense over positions from the
    products of all their pairs: where they cancel each other, rounding makes it too small, and the gradient too long.

    Args:
      model: functional or sequential, and built; a DPModel is made of the same layers.
      per_example_loss: from labels and outputs to float32 [batch].
      l2_norm_clip: C, above 0.

    Source: tensorflow-privacy 0.9.0, keras_models.dp_keras_model; Lee and Kifer 2021 (arXiv:2009.03106).
    """

    def __init__(self, model: keras.Model, *, per_example_loss: PerExampleLoss, l2_norm_clip: float) -> None:
        layers = tf_privacy("fast_gradient_clipping.layer_registry")
        self._variables = model.trainable_variables
        self._model = tf_privacy("keras_models.dp_keras_model").DPModel(
            l2_norm_clip=l2_norm_clip,
            noise_multiplier=0.0,
            use_xla=False,
            layer_registry=None if _has_dense_over_positions(model) else layers.make_default_layer_registry(),
            inputs=model.input,
            outputs=model.output,
        )
        self._model.compile(loss=_PerExample(per_example_loss))

    def __call__(self, features: Any, labels: Any, weights: Any) -> list[tf.Tensor]:
        """Return the sums, one for each trainable variable of the model.

        Args:
          features: [batch, ...].
          labels: [batch, ...].
          weights: float32 [batch], of the losses, before anything is clipped.
        """
        gradients = clipped_by_dp_model(self._model, features, labels, weights)
        by_variable = zip(self._model.trainable_variables, gradients, strict=True)
        by_ref = {variable.ref(): tf.convert_to_tensor(gradient) for variable, gradient in by_variable}
        return [by_ref[variable.ref()] for variable in self._variables]


def _has_dense_over_positions(model: keras.Model) -> bool:
    layers = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.Dense)]
    return any(len(node.input_shapes) != 2 for layer in layers for node in layer.inbound_nodes)


def find_problems(model: keras.Model) -> Iterator[str]:
    """Yield why DPModel would not clip a model rightly, before it is tried."""
    if (replicas := model.distribute_strategy.num_replicas_in_sync) > 1:
        yield (
            f"TF Privacy's DPModel is for one replica, not for {replicas}, where its noise is n^1.5 too large."
            ' Take strategy="one_device", or engine="tfkit".'
        )
    random_layers = [
        layer for layer in modules(model) if isinstance(layer, keras.__internal__.layers.BaseRandomLayer)
    ]
    if names := [layer.name for layer in random_layers if getattr(layer, "rate", 1)]:
        yield (
            f"{names[0]!r} draws random numbers, and TF Privacy's DPModel calls the model twice, with other ones for"
            ' the norms than for the gradients. Leave dropout out, or take engine="tfkit".'
        )

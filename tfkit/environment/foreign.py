"""Attributes of other libraries that are not public: all that tfkit uses, each with the version it was checked on."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

from tfkit.environment import stack


def modules(model: Any) -> tuple[Any, ...]:
    """Return `model.submodules`: its layers and all else that may hold variables (tf_keras 2.21).

    Recurrent layers keep the masks of their dropout by graph, which TensorFlow cannot list: they are forgotten first.
    """
    for layer in model._flatten_layers():
        for kind in ("dropout", "recurrent_dropout"):
            getattr(layer, f"reset_{kind}_mask", lambda: None)()
    return tuple(model.submodules)


def random_generators(model: Any) -> dict[int, Any]:
    """Return the tf.random.Generators of layers such as Dropout by place in `modules(model)` (tf_keras 2.21)."""
    generators = {
        index: getattr(getattr(layer, "_random_generator", None), "_generator", None)
        for index, layer in enumerate(modules(model))
    }
    return {index: generator for index, generator in generators.items() if generator is not None}


@contextlib.contextmanager
def repeated_draws(model: Any) -> Iterator[None]:
    """Let layers such as Dropout draw the same numbers in this block each time, for any number of examples."""
    kind = stack.keras.__internal__.layers.BaseRandomLayer
    layers = [layer for layer in modules(model) if isinstance(layer, kind)]
    before = [layer._random_generator for layer in layers]
    try:
        for layer, generator in zip(layers, before, strict=True):
            vars(layer)["_random_generator"] = type(generator)(1, rng_type="stateless")
        yield
    finally:
        for layer, generator in zip(layers, before, strict=True):
            vars(layer)["_random_generator"] = generator


def compiled_metrics(model: Any) -> list[Any]:
    """Return the metrics that a model of tf_keras was compiled with, as they were given (tf_keras 2.21)."""
    container = model.compiled_metrics
    return list(stack.tf.nest.flatten([container._user_metrics, container._user_weighted_metrics]))


def weight_losses(layer: Any) -> list[Any]:
    """Return the losses of a layer on its weights alone, each a function of nothing (tf_keras 2.21).

    A hub.KerasLayer that stands still says 0 in place of those of what it holds: these are taken.
    """
    losses: Any = getattr(getattr(layer, "resolved_object", None), "regularization_losses", None)
    return list(losses or getattr(layer, "_callable_losses", ()))


def take_tensor_logs(callback: Any) -> None:
    """Have `fit` hand metrics to a callback as tensors, without fetching them after every step (tf_keras 2.21)."""
    callback._supports_tf_logs = True


def begin_fit_at(model: Any, state: Any) -> None:
    """Have `fit` ask `state.maybe_load_initial_counters_from_ckpt` where to begin; None: no more (tf_keras 2.21)."""
    model._training_state = state


def saved_model_converter(folder: str, signature: str) -> Any:
    """Return what TFLiteConverter.from_saved_model does, which loads the model and throws it away (TensorFlow 2.21).

    Converting loads it again, and what is wrong with it is an error then.
    """
    lite = importlib.import_module("tensorflow.lite.python.lite")
    lite.TFLiteConverterBase._set_original_model_type(lite.conversion_metadata_fb.ModelType.TF_SAVED_MODEL)
    return lite.TFLiteSavedModelConverterV2(folder, {"serve"}, [signature])


def register_custom_operations(converter: Any, operations: Any) -> None:
    """Let a converter run custom operations as it measures ranges (TensorFlow 2.21)."""
    converter.target_spec._experimental_custom_op_registerers = operations


def flatbuffer_to_mlir(path: str) -> str:
    """Return a .tflite file as MLIR; operations of tensorflow-text are custom ones (TensorFlow 2.19 to 2.21)."""
    wrapper = importlib.import_module("tensorflow.compiler.mlir.lite.python.wrap_converter")
    return str(wrapper.wrapped_flat_buffer_file_to_mlir(path, True))


def operator_details(interpreter: Any) -> list[dict[str, Any]]:
    """Return name, inputs and outputs of each operation of an interpreter (ai-edge-litert 2.3)."""
    return list(interpreter._get_ops_details())


@contextlib.contextmanager
def traced_for_saving() -> Iterator[None]:
    """Trace functions as tf.saved_model.save does, which else traces them again (TensorFlow 2.19 to 2.21)."""
    save_context = importlib.import_module("tensorflow.python.saved_model.save_context")
    with save_context.save_context(stack.tf.saved_model.SaveOptions()):
        yield


def knows_its_layers(model: Any) -> bool:
    """Return whether a model of tf_keras is functional or Sequential: its layers can be exchanged (tf_keras 2.21)."""
    return isinstance(model, stack.keras.Sequential) or bool(getattr(model, "_is_graph_network", False))


def clipped_by_dp_model(model: Any, features: Any, labels: Any, weights: Any) -> list[Any]:
    """Return the sums of clipped gradients as in DPModel.train_step, without its noise (tensorflow-privacy 0.9.0)."""
    if model._clipping_loss is None:
        model._make_clipping_loss()
    if not model._enable_fast_peg_computation:
        tf = stack.tf
        rows = tf.nest.map_structure(lambda value: value[:, tf.newaxis], (features, labels, weights))
        return [tf.reduce_sum(grad, 0) for grad in tf.vectorized_map(model._compute_per_example_grads, rows)]
    clipping = stack.tf_privacy("fast_gradient_clipping.clip_grads")
    gradients, *_ = clipping.compute_clipped_gradients_and_outputs(
        input_model=model,
        x_batch=features,
        y_batch=labels,
        weight_batch=weights,
        l2_norm_clip=model._l2_norm_clip,
        layer_registry=model._layer_registry,
        clipping_loss=model._clipping_loss,
    )
    return list(gradients)


_KERNELS = ("kernel", "recurrent_kernel")  # of recurrent layers, whose weights tfmot's tables do not list


def prunable_weights(layer: Any) -> list[str] | None:
    """Return the names of the weights of a layer that tfmot prunes; None where it cannot (tfmot 0.8.1)."""
    registry = stack.tfmot_module("core.sparsity.keras.prune_registry").PruneRegistry
    if not registry.supports(layer) or registry._is_mha_layer(layer):  # tfmot asks one that is not built
        return None
    return list(registry._LAYERS_WEIGHTS_MAP.get(layer.__class__, _KERNELS))


def clusterable_weights(layer: Any) -> list[str] | None:
    """Return the names of the weights of a layer that tfmot clusters; None where it cannot (tfmot 0.8.1)."""
    registry = stack.tfmot_module("core.clustering.keras.clustering_registry").ClusteringRegistry
    if not registry.supports(layer):
        return None
    names = registry._LAYERS_WEIGHTS_MAP.get(layer.__class__, _KERNELS)
    return list(names) if layer.trainable_weights else []

"""What is saved: the variables and the calls of a model, no Keras objects that a loader would need."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tfkit.data import Splits
from tfkit.predictions import to_probabilities

if TYPE_CHECKING:
    from tfkit.stack import keras


def module_of(model: keras.Model, call: Any, spec: Any, *, classify: Any) -> Any:
    """What tf.saved_model.save writes: the variables and the call, no Keras objects that a loader would need."""
    from tfkit.stack import tf

    module = tf.Module()
    module.variables_of_model = model.variables
    # A hub layer may hold tables and assets beside its variables; TextVectorization and StringLookup have tables.
    table = tf.saved_model.experimental.TrackableResource
    module.resources = [layer.resolved_object for layer in model.layers if hasattr(layer, "resolved_object")]
    module.tables = [one for one in tf.train.TrackableView(model).descendants() if isinstance(one, table)]
    module.__call__ = call
    module.classify = classify

    @tf.function(input_signature=[spec])
    def serve(inputs: Any) -> dict[str, Any]:
        return {"probabilities": call(inputs)}

    module.serve = serve
    return module


def feature_module(model: keras.Model, splits: Splits, *, logits: bool) -> Any:
    """What is saved of a model of rows of numbers: it takes what it was trained on."""
    from tfkit.stack import tf

    spec = tf.TensorSpec([None, *splits.spec.shape], splits.spec.dtype, name="features")

    @tf.function(input_signature=[spec])
    def call(features: Any) -> Any:
        return to_probabilities(model(features, training=False), logits=logits)

    return module_of(model, call, spec, classify=call)

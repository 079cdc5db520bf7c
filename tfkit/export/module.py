"""What is saved: the variables and the calls of a model, no Keras objects that a loader would need."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from tfkit.data import Splits
from tfkit.predictions import to_probabilities

if TYPE_CHECKING:
    from tfkit.stack import keras


def module_of(model: keras.Model, call: Any, spec: Any, *, classify: Any) -> Any:
    """Return what tf.saved_model.save writes, with all that hub.KerasLayer(trainable=True) asks for.

    Args:
      model: the trained one.
      call: a traced tf.function of raw inputs, with `training=False` as its second argument where it has one.
      spec: of a batch of inputs, as a server takes them.
      classify: a tf.function of what the model was trained on.
    """
    from tfkit.stack import tf

    module = tf.train.Checkpoint()
    module.variables = model.variables
    module.variables_of_model = module.variables
    # Those of layers that stood still too: whoever tunes it further may want them all.
    module.trainable_variables = [variable for variable in model.variables if variable.trainable]
    module.regularization_losses = list(_regularization(model))
    # A hub layer may hold tables and assets beside its variables; TextVectorization and StringLookup have tables.
    held, parts = {id(variable) for variable in model.variables}, tf.train.TrackableView(model).descendants()
    kinds = (tf.saved_model.experimental.TrackableResource, tf.Variable)
    module.resources = [layer.resolved_object for layer in model.layers if hasattr(layer, "resolved_object")]
    module.others = [part for part in parts if isinstance(part, kinds) and id(part) not in held]
    # Dropout draws from states of its own, which are no variables of the model.
    module.random_states = [
        generator.state
        for layer in model.submodules
        if (generator := getattr(getattr(layer, "_random_generator", None), "_generator", None)) is not None
    ]
    module.__call__ = call
    module.classify = classify

    @tf.function(input_signature=[spec], autograph=False)
    def serve(inputs: Any) -> dict[str, Any]:
        return {"probabilities": call(inputs)}

    module.serve = serve
    return module


def classifier(model: keras.Model, spec: Any, *, logits: bool, training: bool = False) -> Any:
    """Return a tf.function from a batch of what the model was trained on to probabilities, float32 [b, classes].

    It is traced once and called by all others: tracing a backbone takes seconds.
    """
    from tfkit.stack import tf

    @tf.function(input_signature=[spec])
    def classify(inputs: Any) -> Any:
        return to_probabilities(model(inputs, training=training), logits=logits)

    return classify


def feature_module(model: keras.Model, splits: Splits, *, logits: bool) -> Any:
    """What is saved of a model of rows of numbers: it takes what it was trained on."""
    from tfkit.stack import tf

    spec = tf.TensorSpec([None, *splits.spec.shape], splits.spec.dtype, name="features")
    call = classifier(model, spec, logits=logits)
    return module_of(model, call, spec, classify=call)


def _regularization(model: keras.Model) -> Iterator[Callable[[], Any]]:
    """Each loss on a weight alone, as a function of nothing."""
    from tfkit.stack import tf

    for layer in model.submodules:
        if hasattr(layer, "resolved_object"):
            yield from getattr(layer.resolved_object, "regularization_losses", ())
            continue
        for name in (name for name in dir(layer) if name.endswith("_regularizer")):
            weight = name.removesuffix("_regularizer")
            value = getattr(layer, weight, getattr(layer, f"{weight}_kernel", None))
            if (loss := getattr(layer, name)) is not None and isinstance(value, tf.Variable):
                yield tf.function(functools.partial(loss, value), input_signature=[])

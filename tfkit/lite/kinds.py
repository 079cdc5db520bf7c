"""The kinds of models that there are, each as a function of named tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tfkit import hub, packages, stack
from tfkit.errors import UsageError

DEFAULT_SIGNATURE = "serving_default"
"""By TensorFlow's convention the one that is served."""

Opened = tuple[Callable[[dict[str, Any]], Any], dict[str, Any], list[Any]]
"""A function of named tensors, what they are, and what must live on with it."""


def opened(model: Any, input_shape: Sequence[int | None] | None, signature: str | None) -> Opened:
    """A model of any kind; arguments and errors as of `tfkit.lite.source.saved`."""
    if isinstance(model, bytes):
        raise UsageError(
            "This is bytes, such as a .tflite file holds: it is converted already. tfkit.lite.inspect looks into it."
        )
    if isinstance(model, str | Path):
        if not Path(model).exists() or not (Path(model) / "saved_model.pb").is_file():
            return _of_handle(str(model), input_shape)
        return _of_saved_model(_load(Path(model)), str(model), signature)
    if isinstance(model, hub.Backbone):
        return _of_backbone(model, input_shape)
    if hasattr(model, "signatures"):
        return _of_saved_model(model, "The SavedModel", signature)
    if _is_keras(model):
        return _of_keras(model, input_shape)
    if callable(model):
        return _of_function(model, input_shape)
    raise UsageError(
        f"A {type(model).__name__} cannot be converted. Give a Keras model, a SavedModel's folder, a model handle,"
        " or a function together with input_shape."
    )


def _is_keras(model: Any) -> bool:
    return hasattr(model, "inputs") and hasattr(model, "outputs") and hasattr(model, "get_weights")


def _of_keras(model: Any, input_shape: Sequence[int | None] | None) -> Opened:
    """Of Keras 2 and of Keras 3 alike: no more is used of it than both have."""
    from tfkit.stack import tf

    variables = [_tf_variable(variable) for variable in model.variables]
    if not model.inputs:
        if input_shape is None:
            raise UsageError(
                f"{model.name} has not been told what it takes: call it once, build it, or give input_shape."
            )
        return (
            (lambda inputs: model(inputs["inputs"], training=False)),
            {"inputs": _float(input_shape)},
            variables,
        )
    names = [plain(getattr(one, "name", f"input_{place}")) for place, one in enumerate(model.inputs)]
    specs = {
        name: tf.TensorSpec(one.shape, one.dtype, name=name)
        for name, one in zip(names, model.inputs, strict=True)
    }

    def call(inputs: dict[str, Any]) -> Any:
        given = [inputs[name] for name in names]
        return model(given[0] if len(given) == 1 else given, training=False)

    return call, specs, variables


def _tf_variable(variable: Any) -> Any:
    """The tf.Variable behind a variable of Keras."""
    from tfkit.stack import tf

    found = variable if isinstance(variable, tf.Variable) else variable.value
    if not isinstance(found, tf.Variable):
        raise UsageError(
            f"{getattr(variable, 'name', variable)} is no TensorFlow variable: the model is of another Keras backend.\n"
            "  Start Python with KERAS_BACKEND=tensorflow, or convert from model.export(folder)."
        )
    return found


def _load(folder: Path) -> Any:
    from tfkit.stack import tf

    try:
        return with_operations(lambda: tf.saved_model.load(str(folder)))
    except Exception as err:  # whatever a broken file makes TensorFlow raise
        raise UsageError(
            f"{folder} is not a SavedModel that TensorFlow can load: {packages.first_line(err)}"
            "\n  Export it again; a model with operations of its own needs their library imported first."
        ) from err


def with_operations(load: Callable[[], Any]) -> Any:
    """What `load` gives of a SavedModel; with the operations of tensorflow-text where it lacks some."""
    from tfkit.stack import tf

    try:
        return load()
    except (RuntimeError, tf.errors.NotFoundError) as err:
        if "Op type not registered" not in str(err):
            raise
        assert stack.tf_text  # importing it brings them
        return load()


def _of_saved_model(loaded: Any, name: str, signature: str | None) -> Opened:
    there = list(loaded.signatures)
    if not there:
        raise UsageError(
            f"{name} has no serving signature: nothing says what it takes and gives.\n"
            "  Save it with tf.saved_model.save(model, folder, signatures=...). A TF Hub model:"
            " tfkit.lite.convert(tfkit.resolve(handle), input_shape=...)."
        )
    if signature is None and DEFAULT_SIGNATURE in there:
        signature = DEFAULT_SIGNATURE  # Keras's export adds others to it that do the same
    if signature is None and len(there) > 1:
        raise UsageError(
            f"{name} has several signatures: {', '.join(there)}. Say which: --signature {there[0]}"
            f' (signature="{there[0]}").'
        )
    key = there[0] if signature is None else signature
    if key not in there:
        raise UsageError(f"{name} has no signature {key!r}; it has: {', '.join(there)}.")
    function = loaded.signatures[key]
    specs = dict(function.structured_input_signature[1])
    return (lambda inputs: function(**inputs)), specs, [loaded]


def _of_handle(handle: str, input_shape: Sequence[int | None] | None) -> Opened:
    if handle.endswith(".tflite"):
        raise UsageError(
            f"{handle} is converted already: tfkit.lite.inspect(open(..., 'rb').read()) looks into it."
        )
    return _of_backbone(hub.resolve(handle), input_shape)


def _of_backbone(backbone: hub.Backbone, input_shape: Sequence[int | None] | None) -> Opened:
    if input_shape is None and backbone.native_size:
        input_shape = (1, backbone.native_size, backbone.native_size, 3)
    return _of_function(backbone.layer(), input_shape)


def _of_function(function: Callable[..., Any], input_shape: Sequence[int | None] | None) -> Opened:
    signature = getattr(function, "structured_input_signature", None)
    if signature is not None:  # a concrete function
        specs = {plain(spec.name or f"input_{place}"): spec for place, spec in enumerate(signature[0])}
        specs.update(signature[1])
        positional = len(signature[0])

        def call(inputs: dict[str, Any]) -> Any:
            given = list(inputs.items())
            return function(*(value for _, value in given[:positional]), **dict(given[positional:]))

        return call, specs, [function]
    if input_shape is None:
        name = getattr(function, "name", None) or getattr(function, "__name__", "this function")
        raise UsageError(
            f"What {name} takes is not known: give input_shape=(1, 224, 224, 3), or whatever it is (float32)."
        )
    kept = [function] if hasattr(function, "_trackable_children") else []
    return (lambda inputs: function(inputs["inputs"])), {"inputs": _float(input_shape)}, kept


def _float(shape: Sequence[int | None]) -> Any:
    from tfkit.stack import tf

    return tf.TensorSpec(list(shape), tf.float32, name="inputs")


def plain(name: str) -> str:
    """A name without what TensorFlow adds to it."""
    return name.split(":")[0].replace("/", "_")

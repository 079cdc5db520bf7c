"""The kinds of models that there are, each as a function of named tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tfkit import hub, packages, stack
from tfkit.errors import UsageError
from tfkit.lite import model_files

DEFAULT_SIGNATURE = "serving_default"
"""By TensorFlow's convention the one that is served."""

Shape = Sequence[int | None]
InputShape = Shape | Mapping[str, Shape] | Sequence[Shape] | None
"""Of one input, or of several by name, or in their order."""

Opened = tuple[Callable[[dict[str, Any]], Any], dict[str, Any], list[Any]]
"""A function of named tensors, what they are, and what must live on with it."""


def loaded(model: Any) -> Any:
    """Return the model of a Keras file; anything else as it is.

    Raises:
      DataError: a file or folder that is no model, or one that cannot be had as it is.
    """
    if not isinstance(model, str | Path):
        return model
    path = Path(model).expanduser()
    if not path.exists():
        model_files.refuse_missing(path)
        return model
    return model if (path / "saved_model.pb").is_file() else model_files.read(path) or model


def opened(model: Any, input_shape: InputShape, signature: str | None) -> Opened:
    """A model of any kind; arguments and errors as of `tfkit.lite.source.saved`."""
    if isinstance(model, bytes):
        raise UsageError(
            "This is bytes, such as a .tflite file holds: it is converted already. tfkit.lite.inspect looks into it."
        )
    if isinstance(model, str | Path):
        path = Path(model).expanduser()
        if (path / "saved_model.pb").is_file():
            return _of_saved_model(_load(path), str(model), signature)
        return _of_backbone(hub.resolve(str(model)), input_shape)
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


def _of_keras(model: Any, input_shape: InputShape) -> Opened:
    """Of Keras 2 and of Keras 3 alike: no more is used of it than both have."""
    from tfkit.stack import tf

    variables = [_tf_variable(variable) for variable in model.variables]
    if not model.inputs:
        if input_shape is None:
            raise UsageError(
                f"{model.name} has not been told what it takes: call it once, build it, or give input_shape."
            )
        specs, packed = _given_shapes(input_shape)
        return (lambda inputs: model(packed(inputs), training=False)), specs, variables
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
    if not there and hasattr(loaded, "prune"):  # of TensorFlow 1
        raise UsageError(
            f"{name} is of TensorFlow 1 and has no signature: nothing says what it takes and gives.\n"
            "  Give the function between two of its tensors: tf.saved_model.load(folder).prune('input:0', 'output:0')."
        )
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


def _of_backbone(backbone: hub.Backbone, input_shape: InputShape) -> Opened:
    if input_shape is None and backbone.native_size:
        input_shape = (1, backbone.native_size, backbone.native_size, 3)
    return _of_function(backbone.layer(), input_shape)


def _of_function(function: Any, input_shape: InputShape) -> Opened:
    from tfkit.stack import tf

    signature = getattr(function, "structured_input_signature", None)
    if signature is not None:  # a concrete function
        specs = {plain(spec.name or f"input_{place}"): spec for place, spec in enumerate(signature[0])}
        specs.update(signature[1])
        positional = len(signature[0])

        def call(inputs: dict[str, Any]) -> Any:
            given = list(inputs.items())
            return function(*(value for _, value in given[:positional]), **dict(given[positional:]))

        return call, specs, [function]
    if hasattr(function, "captured_inputs"):  # pruned out of a graph of TensorFlow 1
        count = len(function.inputs) - len(function.captured_inputs)
        fed = {plain(one.name): tf.TensorSpec(one.shape, one.dtype) for one in function.inputs[:count]}
        return (lambda inputs: function(*inputs.values())), fed, list(function.graph.variables)
    if input_shape is None:
        name = getattr(function, "name", None) or getattr(function, "__name__", "this function")
        raise UsageError(
            f"What {name} takes is not known: give input_shape=(1, 224, 224, 3), or whatever it is (float32)."
        )
    kept = [function] if hasattr(function, "_trackable_children") else []
    specs, packed = _given_shapes(input_shape)
    return (lambda inputs: function(packed(inputs))), specs, kept


def _given_shapes(input_shape: Any) -> tuple[dict[str, Any], Callable[[dict[str, Any]], Any]]:
    """Inputs of float32 as shapes say, and what makes of named tensors what is called: one, a list, or a dict."""
    from tfkit.stack import tf

    packed: Callable[[dict[str, Any]], Any] = dict
    if isinstance(input_shape, Mapping):
        shapes = dict(input_shape)
    elif is_several(input_shape):
        shapes, packed = (
            {f"input_{n}": one for n, one in enumerate(input_shape)},
            lambda given: list(given.values()),
        )
    else:
        shapes, packed = {"inputs": input_shape}, lambda given: given["inputs"]
    return {name: tf.TensorSpec(list(one), tf.float32, name=name) for name, one in shapes.items()}, packed


def is_several(input_shape: Any) -> bool:
    """Return whether these are shapes of several inputs."""
    return isinstance(input_shape, Mapping) or any(
        not isinstance(one, int | None) for one in input_shape or ()
    )


def shapes_by_name(
    input_shape: Any, names: Sequence[str], known_as: Mapping[str, str]
) -> dict[str, list[int | None]]:
    """Return the shapes that were given, by the names of the inputs.

    Raises:
      UsageError: they do not fit the inputs.
    """
    listed = ", ".join(names)
    if input_shape is None:
        return {}
    if isinstance(input_shape, Mapping):
        given = {known_as.get(name, plain(name)): list(shape) for name, shape in input_shape.items()}
        if unknown := sorted(set(given) - set(names)):
            raise UsageError(f"input_shape has {', '.join(unknown)}; the model's inputs are {listed}.")
        return given
    if is_several(input_shape):
        if len(input_shape) != len(names):
            raise UsageError(
                f"input_shape has {len(input_shape)} shapes; the model has {len(names)} inputs: {listed}."
            )
        return {name: list(shape) for name, shape in zip(names, input_shape, strict=True)}
    if len(names) > 1:
        raise UsageError(
            f"input_shape is of one input; the model has {len(names)}: {listed}. Give them by name:"
            f" input_shape={{{names[0]!r}: (1, ...), ...}}."
        )
    return {names[0]: list(input_shape)}


def aliases(model: Any) -> dict[str, str]:
    """Return the keys of a Keras model whose inputs are a dict, to the names of its inputs."""
    structure = getattr(model, "input", None) if _is_keras(model) and model.inputs else None
    if not isinstance(structure, Mapping):
        return {}
    return {key: plain(one.name) for key, one in structure.items()}


def plain(name: str) -> str:
    """A name without what TensorFlow adds to it."""
    return name.split(":")[0].replace("/", "_")

"""What can be converted: whatever it is, it becomes a SavedModel of one signature with fixed shapes.

Models as files: Keras's own are loaded by the Keras that wrote them; of any other it is said what to do with it.

The kinds of models that there are, each as a function of named tensors.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from tfkit import hub
from tfkit.compression.outputs import last_operation, loss_of
from tfkit.compression.representative import Inputs
from tfkit.environment import packages, stack
from tfkit.errors import CheckError, DataError, UsageError
from tfkit.litert.converter import is_of_text

if TYPE_CHECKING:
    from tfkit.environment.stack import tf

KERAS = (".keras", ".h5", ".hdf5")
_HDF5, _ZIP = b"\x89HDF\r\n\x1a\n", b"PK\x03\x04"
_CHECKPOINT = (
    "a checkpoint: weights without the model\n"
    "  Build the model, load them (model.load_weights, or tf.train.Checkpoint), and give the model."
)
_FROZEN = (
    "a graph without signature: it does not say what it takes and gives\n  Load it, and give the function between two"
    " tensors: graph = tf.compat.v1.GraphDef.FromString(open(...).read()); tf.compat.v1.wrap_function(lambda:"
    " tf.graph_util.import_graph_def(graph, name=''), []).prune('input:0', 'output:0')"
)
_OTHERS = {
    ".onnx": "an ONNX model\n  Make a SavedModel of it (onnx2tf -i model.onnx -o folder), and give that folder.",
    **dict.fromkeys(
        (".pt", ".pth", ".ckpt.pt", ".safetensors"),
        "of PyTorch\n  Export it there: torch.onnx.export and onnx2tf make a SavedModel, litert-torch a .tflite.",
    ),
    **dict.fromkeys((".pb", ".pbtxt"), _FROZEN),
    **dict.fromkeys((".ckpt", ".index", ".weights.h5"), _CHECKPOINT),
    ".json": "a model's architecture without weights\n  keras.models.model_from_json and load_weights make the model.",
}


def read(path: Path) -> Any:
    """Load a Keras model from its file, without running code of its own.

    Args:
      path: .keras, or .h5 of a whole model; told by its content.

    Returns:
      A model of Keras 2 or 3, as the file says; None for what is no file or folder of a known kind.

    Raises:
      DataError: it is of another kind, damaged, has weights alone, or Lambda layers or layers of its author.
    """
    if path.is_dir():
        return _refuse_folder(path)
    with path.open("rb") as file:
        start = file.read(8)
    if start[4:8] == b"TFL3":
        _refuse(path, "converted already\n  tfkit.inspect(open(..., 'rb').read()) looks into it.")
    if path.name == "saved_model.pb":
        _refuse(path, f"a part of a SavedModel\n  Give its folder: {path.parent}.")
    if start.startswith(_HDF5):
        return _loaded(path, *_of_hdf5(path))
    if start.startswith(_ZIP):
        return _loaded(path, *_of_zip(path))
    if path.suffix.lower() in KERAS:
        _refuse(
            path,
            f"no Keras model, whatever its name says: it begins with {start!r}\n  Save or copy it again.",
        )
    for ending, what in _OTHERS.items():
        if path.name.lower().endswith(ending):
            _refuse(path, what)
    if ".data-0" in path.name:
        _refuse(path, _CHECKPOINT)
    return None


def refuse_missing(path: Path) -> None:
    """Refuse what is plainly the name of a file, and no handle, where that file is not there."""
    if path.suffix.lower() in (*KERAS, ".tflite", ".pb", ".onnx", ".pt", ".pth", ".zip"):
        raise DataError(f"There is no file {path} (from {Path.cwd()}).")


def _refuse(path: Path, what: str) -> NoReturn:
    raise DataError(f"{path} is {what}")


def _refuse_folder(path: Path) -> None:
    """A folder without saved_model.pb, if it is of a kind that no handle can mean."""
    if inner := sorted(path.glob("*/saved_model.pb")):
        listed = ", ".join(str(one.parent) for one in inner[:3])
        _refuse(path, f"no SavedModel itself, and has {len(inner)} below it\n  Give one: {listed}.")
    if (path / "variables").is_dir():
        _refuse(path, "a SavedModel without its saved_model.pb: it was copied in part\n  Export it again.")
    if (path / "checkpoint").is_file() or list(path.glob("*.index")):
        _refuse(path, _CHECKPOINT)
    if models := sorted(
        one for one in path.iterdir() if one.suffix.lower() in (*KERAS, ".tflite", ".pb", ".onnx")
    ):
        _refuse(path, f"a folder and no SavedModel\n  Give the file: {models[0]}.")


def _of_hdf5(path: Path) -> tuple[str, str]:
    """Keras's version and the model's configuration, as text."""
    import h5py

    try:
        with h5py.File(path) as file:
            version, config = (file.attrs.get(name, "") for name in ("keras_version", "model_config"))
    except OSError as err:
        raise DataError(f"{path} is damaged: {packages.first_line(err)}\n  Save or copy it again.") from err
    if not config:
        _refuse(path, _CHECKPOINT)
    return tuple(one.decode() if isinstance(one, bytes) else str(one) for one in (version, config))  # type: ignore[return-value]


def _of_zip(path: Path) -> tuple[str, str]:
    try:
        with zipfile.ZipFile(path) as file:
            names = set(file.namelist())
            if {"config.json", "metadata.json"} <= names:
                return json.loads(file.read("metadata.json"))["keras_version"], file.read(
                    "config.json"
                ).decode()
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as err:
        raise DataError(f"{path} is damaged: {packages.first_line(err)}\n  Save or copy it again.") from err
    if any(name.endswith("data.pkl") for name in names):
        _refuse(path, _OTHERS[".pt"])
    inside = next(
        (name for name in sorted(names) if name.endswith(("saved_model.pb", ".h5", ".keras", ".tflite"))), ""
    )
    _refuse(path, f"an archive\n  Unpack it, and give what is in it{f': {inside}' if inside else ''}.")


def _loaded(path: Path, version: str, config: str) -> Any:
    if '"Lambda"' in config:
        raise DataError(
            f"{path} has Lambda layers: Python code, which would run here.\n"
            "  If you trust it, load it yourself, keras.models.load_model(path, safe_mode=False), and give the model."
        )
    library = (
        stack.keras_3 if version.split(".")[0].isdigit() and int(version.split(".")[0]) >= 3 else stack.keras
    )
    failure: Exception | None = None
    for compiled in (
        True,
        False,
    ):  # its loss says what its outputs are; one of its author's is not known here
        try:
            return library.models.load_model(path, compile=compiled, safe_mode=True)
        except Exception as err:  # whatever a stranger's file makes Keras raise
            failure = err
    assert failure is not None
    raise DataError(
        f"{path} (Keras {version or '2'}) does not load: {packages.first_line(failure)}\n"
        "  A model with layers of its author's needs their code: load it yourself, keras.models.load_model(path,"
        " custom_objects={...}), and give the model."
    ) from failure


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
        refuse_missing(path)
        return model
    return model if (path / "saved_model.pb").is_file() else read(path) or model


def opened(model: Any, input_shape: InputShape, signature: str | None) -> Opened:
    """A model of any kind; arguments and errors as of `tfkit.compression.sources.saved`."""
    if isinstance(model, bytes):
        raise UsageError(
            "This is bytes, such as a .tflite file holds: it is converted already. tfkit.inspect looks into it."
        )
    if isinstance(model, str | Path):
        path = Path(model).expanduser()
        if (path / "saved_model.pb").is_file():
            return _of_saved_model(_load(path), str(model), signature)
        return _of_backbone(hub.load_model(str(model), modality="images"), input_shape)
    if isinstance(model, hub.Encoder):
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
    from tfkit.environment.stack import tf

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
    from tfkit.environment.stack import tf

    found = variable if isinstance(variable, tf.Variable) else variable.value
    if not isinstance(found, tf.Variable):
        raise UsageError(
            f"{getattr(variable, 'name', variable)} is no TensorFlow variable: the model is of another Keras backend.\n"
            "  Start Python with KERAS_BACKEND=tensorflow, or convert from model.export(folder)."
        )
    return found


def _load(folder: Path) -> Any:
    from tfkit.environment.stack import tf

    try:
        return with_operations(lambda: tf.saved_model.load(str(folder)))
    except Exception as err:  # whatever a broken file makes TensorFlow raise
        raise UsageError(
            f"{folder} is not a SavedModel that TensorFlow can load: {packages.first_line(err)}"
            "\n  Export it again; a model with operations of its own needs their library imported first."
        ) from err


def with_operations(load: Callable[[], Any]) -> Any:
    """What `load` gives of a SavedModel; with the operations of tensorflow-text where it lacks some."""
    from tfkit.environment.stack import tf

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
            " tfkit.convert(tfkit.load_model(handle), input_shape=...)."
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


def _of_backbone(backbone: hub.Encoder, input_shape: InputShape) -> Opened:
    if input_shape is None and backbone.native_size:
        input_shape = (1, backbone.native_size, backbone.native_size, 3)
    return _of_function(backbone.layer(), input_shape)


def _of_function(function: Any, input_shape: InputShape) -> Opened:
    from tfkit.environment.stack import tf

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
    from tfkit.environment.stack import tf

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


SIGNATURE = "serving_default"
_FAKE_QUANT = "FakeQuant"
_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Source:
    """A SavedModel that is ready to be converted, for as long as its folder is there.

    Attributes:
      folder: holds the signature `serving_default` and nothing else.
      inputs: name to shape (batch of 1 first) and dtype ("float32", "uint8", ...), in the model's order.
      takes: the same, with what else is known of them.
      outputs: names, in the order of the signature.
      quantize_aware: whether training has put fake quantization into it.
      last_operation: the type of that which makes the output, see `tfkit.compression.outputs`.
      loss: that a Keras model was compiled with.
      loops: whether it has loops, as recurrent layers do.
      cuts_text: whether it takes strings, which operations of tensorflow-text make numbers of.
      function: takes tensors by the names of `inputs`, gives tensors by the names of `outputs`.
    """

    folder: Path
    takes: Inputs
    outputs: tuple[str, ...]
    quantize_aware: bool
    last_operation: str
    loss: Any
    loops: bool
    cuts_text: bool
    function: Callable[..., Mapping[str, tf.Tensor]]

    @property
    def inputs(self) -> Mapping[str, tuple[tuple[int, ...], str]]:
        """Name to shape and dtype."""
        return self.takes.shapes


@contextlib.contextmanager
def saved(model: Any, *, input_shape: InputShape = None, signature: str | None = None) -> Iterator[Source]:
    """A model of any kind, as a SavedModel for the converter, while the block runs.

    Args:
      model: a tf_keras model, a Keras 3 model (of the TensorFlow backend), the .keras or .h5 file of one, a
        hub.KerasLayer, a SavedModel's folder, what tf.saved_model.load made of one, a model handle as of
        `tfkit.load_model`, a tf.function or any function that TensorFlow can trace.
      input_shape: of its one input with the batch, where the model leaves it open; of several inputs by name, or a
        list in their order. A batch of None is taken for 1.
      signature: of a SavedModel, where it has several.

    Raises:
      UsageError: no model, no signature or several, strings that it does not cut itself, open shapes.
      HubError: the handle does not resolve.
      CheckError: weights that are not finite.
    """
    from tfkit.environment.stack import tf

    model = loaded(model)
    function, specs, keep = opened(model, input_shape, signature)
    specs = _settled(specs, input_shape, aliases(model))
    module = tf.Module()
    module.kept = keep
    _refuse_not_finite(keep)
    names, of_saved_model = list(specs), hasattr(keep[0] if keep else None, "signatures")

    @tf.function(input_signature=list(specs.values()), autograph=False)
    def serve(*inputs: Any) -> dict[str, Any]:
        return _named(function(dict(zip(names, inputs, strict=True))))

    module.serve = serve
    concrete = serve.get_concrete_function()
    operations = _operations(concrete)
    cuts_text = any(map(is_of_text, operations))
    if not cuts_text:
        _refuse_strings(specs)
    with tempfile.TemporaryDirectory(prefix="tfkit-") as folder:
        try:
            tf.saved_model.save(module, folder, signatures={SIGNATURE: serve})
        except AssertionError as err:  # of a variable that is not among the model's
            raise UsageError(
                f"The model changes variables that are not its weights: {packages.first_line(err)}\n"
                "  Build recurrent layers with stateful=False (the same weights fit); a counter or cache of a layer"
                " must be an attribute of it."
            ) from err
        yield Source(
            folder=Path(folder),
            takes=Inputs(
                shapes={name: (tuple(spec.shape), spec.dtype.name) for name, spec in specs.items()},
                aliases=aliases(model),
                ordered=not of_saved_model,
            ),
            outputs=tuple(concrete.structured_outputs),
            quantize_aware=any(operation.startswith(_FAKE_QUANT) for operation in operations),
            last_operation=last_operation(concrete),
            loss=loss_of(model),
            loops=any("While" in operation for operation in operations),
            cuts_text=cuts_text,
            function=lambda **inputs: serve(*(inputs[name] for name in names)),
        )


def pixel_function(classify: Callable[..., Any], *, keep: Any, softmax: bool = False) -> Any:
    """A model of images in 0..1 as one of raw pixels in 0..255: what every .tflite of images here takes.

    Args:
      classify: float32 [b, s, s, 3] in [0, 1] to float32 [b, c].
      keep: the object whose variables it uses.
      softmax: whether it gives logits.
    """
    from tfkit.environment.stack import tf

    class OfPixels(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kept = keep

        def __call__(self, pixels: Any) -> Any:
            outputs = classify(tf.cast(pixels, tf.float32) / 255.0)
            return tf.nn.softmax(outputs) if softmax else outputs

    return OfPixels()


def _settled(specs: dict[str, Any], input_shape: InputShape, known_as: Mapping[str, str]) -> dict[str, Any]:
    """The same inputs with every size known."""
    from tfkit.environment.stack import tf

    if not specs:
        raise UsageError("The model takes no input: there is nothing to convert.")
    shapes = shapes_by_name(input_shape, list(specs), known_as)
    settled = {}
    for name, spec in specs.items():
        shape = shapes.get(name, spec.shape)
        if name in shapes and not spec.shape.is_compatible_with(shape):
            raise UsageError(
                f"The input {name!r} is {_shown(spec.shape)}; input_shape {tuple(shape)} does not fit."
            )
        if isinstance(shape, tf.TensorShape) and shape.rank is None:
            raise UsageError(f"The input {name!r} has no shape. Give it: input_shape=(1, ...).")
        sizes = [1 if place == 0 and size is None else size for place, size in enumerate(shape)]
        if None in sizes:
            wanted = f"({', '.join('224' if size is None else str(size) for size in sizes)})"
            raise UsageError(
                f"The input {name!r} is {_shown(spec.shape)}: a TFLite file plans its memory for one shape.\n"
                + (
                    f"  Give it: input_shape={wanted} with the sizes that you need (--input-shape on the command line)."
                    if len(specs) == 1
                    else f"  Give it by name: input_shape={{{name!r}: {wanted}, ...}} with the sizes that you need."
                )
            )
        settled[name] = tf.TensorSpec(sizes, spec.dtype, name=plain(name))
    return settled


def _shown(shape: Any) -> str:
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"


def _named(outputs: Any) -> dict[str, Any]:
    """Whatever a model gives, by name."""
    from tfkit.environment.stack import tf

    if isinstance(outputs, Mapping):
        return dict(outputs)
    flat = tf.nest.flatten(outputs)
    return (
        {"output": flat[0]} if len(flat) == 1 else {f"output_{place}": one for place, one in enumerate(flat)}
    )


def _refuse_not_finite(kept: list[Any]) -> None:
    from tfkit.environment.stack import tf

    variables = [one for one in kept if isinstance(one, tf.Variable)]
    for one in kept:
        variables += list(getattr(one, "variables", ())) if not isinstance(one, tf.Variable) else []
    bad = [
        variable.name
        for variable in variables
        if getattr(variable.dtype, "is_floating", False) and not np.isfinite(variable.numpy()).all()
    ]
    if bad:
        more = f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        raise CheckError(
            f"The model has weights that are not finite numbers: {', '.join(bad[:_SHOWN])}{more}.\n"
            "  Its training came apart; no conversion mends that. Train it anew with a lower learning rate."
        )


def _refuse_strings(specs: dict[str, Any]) -> None:
    from tfkit.environment.stack import tf

    for name, spec in specs.items():
        if spec.dtype == tf.string:
            raise UsageError(
                f"The input {name!r} takes strings, and nothing in the model cuts them by tensorflow-text's fast"
                " tokenizers, which TFLite has.\n"
                "  Take tfkit.text.layers.on_device of a model from strings, or convert the part behind the"
                " preprocessing and prepare the texts outside of it."
            )


def _operations(concrete: Any) -> set[str]:
    graph = concrete.graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    return {node.op for node in nodes}

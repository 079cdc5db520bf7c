"""Read models of every kind: each becomes a SavedModel of one signature with fixed shapes."""

from __future__ import annotations

import contextlib
import functools
import json
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfkit import hub
from tfkit.compression.representative import Inputs
from tfkit.environment import files, packages, stack
from tfkit.errors import CheckError, DataError, UsageError
from tfkit.litert import is_of_text
from tfkit.metrics import losses
from tfkit.settings.jobs import KERAS
from tfkit.training.outputs import last_operation, op_counts, operations

SIGNATURE = "serving_default"
"""By TensorFlow's convention the one that is served."""

_HDF5 = b"\x89HDF\r\n\x1a\n"
_FORMAT_ADVICE = (
    "A .tflite file is converted already: tfkit.inspect looks into it. Weights alone (a checkpoint, .weights.h5) are"
    " loaded into the model that you build; of a frozen graph give a function, tf.compat.v1.wrap_function; of a"
    " SavedModel or an archive the folder; PyTorch and ONNX become a SavedModel by torch.onnx.export and onnx2tf."
)
"""Advice about files of other kinds."""

Shape = Sequence[int | None]
InputShape = Shape | Mapping[str, Shape] | Sequence[Shape] | None
"""Of one input, or of several by name, or in their order."""

OpenedModel = tuple[Callable[[dict[str, Any]], Any], dict[str, Any], list[Any]]
"""A function of named tensors, what they are, and what must live on with it."""


def read(path: Path) -> Any:
    """Load a Keras model from its file, without running code of its own.

    Args:
      path: .keras, or .h5 of a whole model; told by its content.

    Returns:
      A model of Keras 2 or 3, as the file says.

    Raises:
      DataError: it is of another kind, damaged, has weights alone, or Lambda layers or layers of its author.
    """
    try:
        version, config = _read_version_and_config(path)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as err:
        raise DataError(
            f"{path} is no whole model of Keras, or a damaged one: {packages.first_line(err)}\n  {_FORMAT_ADVICE}"
        ) from err
    if '"Lambda"' in config:
        raise DataError(
            f"{path} has Lambda layers: Python code, which would run here.\n"
            "  If you trust it, load it yourself, keras.models.load_model(path, safe_mode=False), and give the model."
        )
    load = (stack.keras_3 if version.startswith("3") else stack.keras).models.load_model
    try:
        with contextlib.suppress(Exception):  # of a loss of its author, say
            return load(path, safe_mode=True)  # with its loss, which says what its outputs are
        return load(path, compile=False, safe_mode=True)
    except Exception as err:  # whatever a stranger's file makes Keras raise
        raise DataError(
            f"{path} (Keras {version or '2'}) does not load: {packages.first_line(err)}\n"
            "  A model with layers of its author's needs their code: load it yourself, keras.models.load_model(path,"
            " custom_objects={...}), and give the model."
        ) from err


def _read_version_and_config(path: Path) -> tuple[str, str]:
    """Return the version of Keras that wrote a file, and the model's configuration."""
    with path.open("rb") as file:
        is_hdf5 = file.read(8) == _HDF5
    if not is_hdf5:
        with zipfile.ZipFile(path) as archive:
            version = json.loads(archive.read("metadata.json"))["keras_version"]
            return str(version), archive.read("config.json").decode()
    import h5py

    with h5py.File(path) as file:
        texts = [file.attrs.get("keras_version", ""), file.attrs["model_config"]]
    version, config = (text if isinstance(text, str) else bytes(text).decode() for text in texts)
    return version, config


def _load_model(model: Any) -> Any:
    """Return the model of a file or a SavedModel's folder, or the encoder of a handle; anything else as it is."""
    if not isinstance(model, str | Path):
        return model
    path = Path(model).expanduser()
    if (path / "saved_model.pb").is_file():
        try:
            return with_operations(lambda: stack.tf.saved_model.load(str(path)))
        except Exception as err:  # whatever a broken file makes TensorFlow raise
            raise UsageError(
                f"{path} is not a SavedModel that TensorFlow can load: {packages.first_line(err)}"
                "\n  Export it again; a model with operations of its own needs their library imported first."
            ) from err
    if path.is_file() and path.suffix not in (".tar", ".gz", ".tgz"):
        return read(path)
    if path.suffix.lower() in KERAS:
        raise DataError(f"There is no file {path} (from {Path.cwd()}).")
    if inner_folders := sorted(str(file.parent) for file in path.glob("*/saved_model.pb")):
        raise DataError(f"{path} is no SavedModel itself.\n  Give one: {', '.join(inner_folders[:3])}.")
    return hub.load_model(str(model), modality="images")


def _open_model(model: Any, input_shape: InputShape, signature: str | None) -> OpenedModel:
    if hasattr(model, "signatures"):
        return _open_saved_model(model, signature)
    if signature is not None:
        raise UsageError(f"signature={signature!r} is for SavedModels, which may have several; leave it out.")
    if _is_keras(model):
        return _open_keras(model, input_shape)
    if isinstance(model, hub.Encoder):
        if input_shape is None and model.native_size:
            input_shape = (1, model.native_size, model.native_size, 3)
        model = model.layer()
    if callable(model):
        return _open_func(model, input_shape)
    raise UsageError(
        f"A {type(model).__name__} cannot be converted (the bytes of a .tflite are converted already). Give a Keras"
        " model, a SavedModel's folder, a model handle, or a function together with input_shape."
    )


def _is_keras(model: Any) -> bool:
    return hasattr(model, "inputs") and hasattr(model, "outputs") and hasattr(model, "get_weights")


def _has_vocabulary(layer: Any) -> bool:
    """Return whether a layer is, or has within it, one of Keras's lookups or its TextVectorization."""
    return hasattr(layer, "get_vocabulary") or any(map(_has_vocabulary, getattr(layer, "layers", ())))


def _open_keras(model: Any, input_shape: InputShape) -> OpenedModel:
    """Open a model of Keras 2 or 3: no more is used of it than both have."""
    if tables := [layer.name for layer in model.layers if _has_vocabulary(layer)]:
        raise UsageError(
            f"{', '.join(tables)} looks its inputs up in a table, which TFLite lacks.\n  Convert the part behind it:"
            f" keras.Model(model.get_layer({tables[0]!r}).output, model.output)."
        )
    variables = [var if isinstance(var, stack.tf.Variable) else var.value for var in model.variables]
    if not all(isinstance(var, stack.tf.Variable) for var in variables):
        raise UsageError(
            "The model is of another Keras backend: start Python with KERAS_BACKEND=tensorflow, or convert from"
            " model.export(folder)."
        )
    if not model.inputs:  # subclassed; it knows what it was called with
        function: Any = functools.partial(model, training=False)
        call_spec = None if input_shape or not hasattr(model, "save_spec") else model.save_spec()
        if call_spec is not None:
            function = stack.tf.function(function).get_concrete_function(*call_spec[0])
        call, specs, _ = _open_func(function, input_shape, name=model.name)
        return call, specs, variables
    tensors = {to_name(getattr(value, "name", f"input_{n}")): value for n, value in enumerate(model.inputs)}
    specs = {key: stack.tf.TensorSpec(value.shape, value.dtype, name=key) for key, value in tensors.items()}

    def call_model(inputs: dict[str, Any]) -> Any:
        values = [inputs[name] for name in tensors]
        return model(values[0] if len(values) == 1 else values, training=False)

    return call_model, specs, variables


def with_operations(load: Callable[[], Any]) -> Any:
    """Return what `load` gives of a SavedModel; with the operations of tensorflow-text where it lacks some."""
    try:
        return load()
    except (RuntimeError, stack.tf.errors.NotFoundError) as err:
        if "Op type not registered" not in str(err):
            raise
        assert stack.tf_text  # importing it brings them
        return load()


def _open_saved_model(model: Any, signature: str | None) -> OpenedModel:
    names = list(model.signatures)
    if not names:
        raise UsageError(
            "The SavedModel has no serving signature: save it with signatures=...; of TensorFlow 1 give"
            " tf.saved_model.load(folder).prune('x:0', 'y:0'), of TF Hub tfkit.load_model(handle), with input_shape=..."
        )
    # Keras's export adds others to the one that is served, which do the same.
    key = signature or (names[0] if len(names) == 1 else SIGNATURE)
    if key not in names:
        raise UsageError(f"The SavedModel has no {key!r}, but {', '.join(names)}: --signature {names[0]}.")
    call, specs, _ = _open_func(model.signatures[key], None)
    return call, specs, [model]


def _open_func(function: Any, input_shape: InputShape, *, name: str = "this function") -> OpenedModel:
    nest, owner = stack.tf.nest, function
    candidates = (function, function.__call__)
    if traced := next(
        (candidate for candidate in candidates if getattr(candidate, "input_signature", None)), None
    ):  # a tf.function, or a tf.Module that is called by one
        function = traced.get_concrete_function()
    signature = getattr(function, "structured_input_signature", None)
    if signature is not None:  # a concrete function
        positional, by_key = signature
        # Flags stand beside the tensors.
        flat = nest.flatten(positional)
        tensors = [place for place, spec in enumerate(flat) if isinstance(spec, stack.tf.TensorSpec)]
        specs = {to_name(flat[place].name or f"input_{place}"): flat[place] for place in tensors} | by_key

        def call(inputs: dict[str, Any]) -> Any:
            items, values = list(inputs.items()), list(flat)
            for place, (_, value) in zip(tensors, items, strict=False):
                values[place] = value
            return function(*nest.pack_sequence_as(positional, values), **dict(items[len(tensors) :]))

        return call, specs, [function, owner]
    if hasattr(function, "captured_inputs"):  # pruned out of a graph of TensorFlow 1
        feeds = function.inputs[: len(function.inputs) - len(function.captured_inputs)]
        specs = {to_name(tensor.name): stack.tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in feeds}
        return (lambda inputs: function(*inputs.values())), specs, list(function.graph.variables)
    if input_shape is None:
        raise UsageError(
            f"What {name} takes is not known: give input_shape=(1, 224, 224, 3), say, of float32. Of other types give"
            " tf.function(f, input_signature=[tf.TensorSpec([1, 64], tf.int32)])."
        )
    has_several, is_named = _is_several(input_shape), isinstance(input_shape, Mapping)
    shapes: Any = {"inputs": input_shape}
    if has_several:
        shapes = input_shape if is_named else {f"input_{n}": shape for n, shape in enumerate(input_shape)}
    specs = {name: stack.tf.TensorSpec(list(shape), stack.tf.float32, name) for name, shape in shapes.items()}

    def call_function(inputs: dict[str, Any]) -> Any:
        values = list(inputs.values())
        return function(inputs if is_named else values if has_several else values[0])

    return call_function, specs, [function] if hasattr(function, "_trackable_children") else []


def _is_several(input_shape: Any) -> bool:
    return any(not isinstance(size, int | None) for size in input_shape)


def to_name(name: str) -> str:
    """Return a name without what TensorFlow adds to it."""
    return name.split(":")[0].replace("/", "_")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A SavedModel that is ready to be converted, for as long as its folder is there.

    Attributes:
      folder: holds the signature `serving_default` and nothing else.
      inputs: name to shape (batch of 1 first) and dtype ("float32", "uint8", ...), in the model's order.
      takes: the same, with what else is known of them.
      outputs: names, in the order of the signature.
      quantize_aware: whether training has put fake quantization into it.
      last_operation: the type of that which makes the output, see `tfkit.training.outputs`.
      loss: that a Keras model was compiled with.
      cuts_text: whether it takes strings, which operations of tensorflow-text make numbers of.
      op_counts: how often each operation of TensorFlow runs for an example.
      function: takes tensors by the names of `inputs`, gives tensors by the names of `outputs`.
      digest: of the model, where it is a folder's: what is made of it is kept in the cache; "" for others.
    """

    folder: Path
    takes: Inputs
    outputs: tuple[str, ...]
    quantize_aware: bool
    last_operation: str
    loss: Any
    cuts_text: bool
    op_counts: Mapping[str, int]
    function: Callable[..., Mapping[str, stack.tf.Tensor]]
    digest: str = ""

    @property
    def inputs(self) -> Mapping[str, tuple[tuple[int, ...], str]]:
        """Return name to shape and dtype."""
        return self.takes.shapes


@contextlib.contextmanager
def saved(
    model: Any, *, input_shape: InputShape = None, signature: str | None = None, folder: Path | None = None
) -> Iterator[Source]:
    """Save a model of any kind as a SavedModel for the converter, while the block runs.

    Args:
      model: a tf_keras model, a Keras 3 model (of the TensorFlow backend), the .keras or .h5 file of one, a
        hub.KerasLayer, a SavedModel's folder, what tf.saved_model.load made of one, a model handle as of
        `tfkit.load_model`, a tf.function or any function that TensorFlow can trace.
      input_shape: of its one input with the batch, where the model leaves it open; of several inputs by name, or a
        list in their order. A batch of None is taken for 1.
      signature: of a SavedModel, where it has several.
      folder: the SavedModel that the model was loaded from, if any.

    Raises:
      UsageError: no model, no signature or several, strings that it does not cut itself, open shapes.
      HubError: the handle does not resolve.
      CheckError: weights that are not finite.
    """
    if folder is None and isinstance(model, str | Path) and Path(model).is_dir():
        folder = Path(model)
    digest = files.digest_of(files.folder_digest(folder), input_shape, signature) if folder else ""
    model = _load_model(model)
    function, specs, keep = _open_model(model, input_shape, signature)
    inputs = getattr(model, "input", None) if _is_keras(model) and model.inputs else None
    # The keys of a Keras model whose inputs are a dict, to the names of its inputs.
    aliases = {key: to_name(spec.name) for key, spec in inputs.items()} if isinstance(inputs, Mapping) else {}
    specs = with_known_sizes(specs, input_shape, aliases)
    module = stack.tf.Module()
    module.kept = keep
    names = list(specs)

    @stack.tf.function(input_signature=list(specs.values()), autograph=False)
    def serve(*inputs: Any) -> dict[str, Any]:
        outputs = function(dict(zip(names, inputs, strict=True)))
        if isinstance(outputs, Mapping):
            return dict(outputs)
        values = stack.tf.nest.flatten(outputs)
        return {"output" if len(values) == 1 else f"output_{n}": value for n, value in enumerate(values)}

    module.serve = serve
    concrete = serve.get_concrete_function()
    used_operations = operations(concrete)
    if faults := find_nonfinite(concrete.graph.variables):
        raise CheckError(
            f"The model has weights that are not finite numbers: {faults}.\n  Train it anew with a lower learning rate."
        )
    if not any(name.startswith("Assign") for name in used_operations):
        module.read = list(
            concrete.graph.variables
        )  # of what a function refers to; saving refuses what it changes
    cuts_text = any(map(is_of_text, used_operations))
    strings = [name for name, spec in specs.items() if spec.dtype == stack.tf.string]
    if strings and not cuts_text:
        raise UsageError(
            f"The input {strings[0]!r} takes strings, and nothing in the model cuts them by a fast tokenizer of"
            " tensorflow-text.\n  Take tfkit.text.layers.on_device, or convert the part behind the preprocessing."
        )
    compiled_losses = losses(model) if _is_keras(model) else []
    with tempfile.TemporaryDirectory(prefix="tfkit-") as saved_folder:
        try:
            stack.tf.saved_model.save(module, saved_folder, signatures={SIGNATURE: serve})
        except AssertionError as err:  # of a variable that is not among the model's
            raise UsageError(
                f"The model changes variables that are not its weights: {packages.first_line(err)}\n"
                "  Build recurrent layers with stateful=False; a counter or cache must be an attribute of its layer."
            ) from err
        yield Source(
            folder=Path(saved_folder),
            takes=Inputs(
                shapes={name: (tuple(spec.shape), spec.dtype.name) for name, spec in specs.items()},
                aliases=aliases,
                ordered=not hasattr(model, "signatures"),
            ),
            outputs=tuple(concrete.structured_outputs),
            quantize_aware=any(operation.startswith("FakeQuant") for operation in used_operations),
            last_operation=last_operation(concrete),
            loss=compiled_losses[0] if len(compiled_losses) == 1 else None,
            cuts_text=cuts_text,
            op_counts=op_counts(concrete),
            function=lambda **inputs: serve(*(inputs[name] for name in names)),
            digest=digest,
        )


def pixel_function(
    classify: Callable[..., Any], *, keep: Any, probabilities: Callable[[Any], Any] = lambda outputs: outputs
) -> Any:
    """Return a model of images in 0..1 as one of raw pixels in 0..255: what every .tflite of images here takes.

    Args:
      classify: float32 [b, s, s, 3] in [0, 1] to float32 [b, c].
      keep: the object whose variables it uses.
      probabilities: makes them of what it gives.
    """

    class PixelModel(stack.tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kept = keep

        def __call__(self, pixels: Any) -> Any:
            return probabilities(classify(stack.tf.cast(pixels, stack.tf.float32) / 255.0))

    return PixelModel()


def with_known_sizes(
    specs: Mapping[str, Any], input_shape: Any, aliases: Mapping[str, str]
) -> dict[str, Any]:
    """Return the same inputs with every size known: those of `input_shape`, and a batch of 1 where it is open.

    Raises:
      UsageError: it does not fit the inputs, or leaves sizes open.
    """
    if not specs:
        raise UsageError("The model takes no input: there is nothing to convert.")
    if isinstance(input_shape, Mapping):
        shapes = {aliases.get(name, to_name(name)): shape for name, shape in input_shape.items()}
        fits = shapes.keys() <= specs.keys()
    else:
        shape_list = [] if input_shape is None else input_shape if _is_several(input_shape) else [input_shape]
        shapes, fits = dict(zip(specs, shape_list, strict=False)), len(shape_list) in (0, len(specs))
    if not fits:
        raise UsageError(f"input_shape is {input_shape}; give one by name of each input: {', '.join(specs)}.")
    sized_specs = {}
    for name, spec in specs.items():
        shape = stack.tf.TensorShape(shapes.get(name, spec.shape))
        if shape.rank and shape[0] is None:
            shape = stack.tf.TensorShape([1, *shape[1:]])
        if not shape.is_fully_defined() or not spec.shape.is_compatible_with(shape):
            reason = f"input_shape gives {shape.as_list()}" if name in shapes else "no more is known of it"
            raise UsageError(
                f"The input {name!r} is {str(spec.shape).replace('None', '?')}, and {reason}: a TFLite file plans its"
                f" memory for one shape.\n  Give one that fits: --input-shape, input_shape={{{name!r}: (1, ...), ...}}."
            )
        sized_specs[name] = stack.tf.TensorSpec(shape, spec.dtype, name=to_name(name))
    return sized_specs


def find_nonfinite(variables: Iterable[Any]) -> str:
    """Return the names of variables that hold numbers which are not finite, the first few of them; "" of none."""
    floating = [var for var in variables if getattr(getattr(var, "dtype", None), "is_floating", False)]
    names = [var.name for var in floating if not np.isfinite(var.numpy()).all()]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

"""A SavedModel's folder: what it takes and gives, read from its description alone, and whether it is whole.

hub.KerasLayer calls a SavedModel in one of three ways, and only the first can be trained:
a reusable TF2 SavedModel through its `__call__`, any other through a signature, and a module of the old
TF1 Hub format through the signature "default".
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfkit.environment import stack
from tfkit.errors import HubError
from tfkit.text.tokenizers import WORDS

TF1_HUB_FILE = "tfhub_module.pb"
FEATURE_KEYS = ("pooled_output", "default", "feature_vector", "features")
VARIABLES = "variables/variables"


@dataclass(frozen=True)
class Tensor:
    """A named tensor: NumPy's name of its type ("float32"), its shape with None for what is open."""

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None

    def __str__(self) -> str:
        """Return it such as "float32 [?, 224, 224, 3]"."""
        if self.shape is None:
            return f"{self.dtype} of any shape"
        return f"{self.dtype} [{', '.join('?' if n is None else str(n) for n in self.shape)}]"


_Tensors = tuple[Tensor, ...]


@dataclass(frozen=True, kw_only=True)
class Interface:
    """Describe how a SavedModel is called and what is in it."""

    way: str
    """"callable", "signature", "tf1" or "none"."""
    signature: str | None
    """The signature to call; None for a callable."""
    output_key: str | None
    """The output to take where there are several."""
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    parameters: int
    """Numbers in all its variables, in floating point or bytes."""
    trainable_variables: int
    """Variables that hub.KerasLayer(trainable=True) would train."""
    children: frozenset[str]
    """Names of what its root has: functions, lists of variables, tables."""

    @property
    def output(self) -> Tensor | None:
        """Return the output that a layer gives, where it is clear which."""
        matches = [tensor for tensor in self.outputs if tensor.name == self.output_key]
        return matches[0] if matches else self.outputs[0] if len(self.outputs) == 1 else None

    @property
    def row_length(self) -> int | None:
        """Return the length of the rows of ids that a preprocessor makes by itself."""
        words = next((tensor for tensor in self.outputs if tensor.name == WORDS), None)
        return words.shape[-1] if words and words.shape else None

    @property
    def takes_texts(self) -> bool:
        """Return whether it takes strings or the ids of word pieces."""
        return any(tensor.dtype == "string" or tensor.name == WORDS for tensor in self.inputs)

    @property
    def takes_strings(self) -> bool:
        """Return whether its one input is a batch of strings."""
        return [tensor.dtype for tensor in self.inputs] == ["string"] and (
            self.inputs[0].shape is None or len(self.inputs[0].shape) == 1
        )

    @property
    def takes_images(self) -> bool:
        """Return whether its one input could be float32 [batch, height, width, 3]."""
        shapes = [(3,) * 4 if t.shape is None else t.shape for t in self.inputs if t.dtype == "float32"]
        return len(self.inputs) == len(shapes) == 1 and len(shapes[0]) == 4 and shapes[0][-1] in (3, None)


def read(folder: Path) -> Interface:
    """Read how the SavedModel in `folder` is called.

    Raises:
      HubError: it has no saved_model.pb, or a damaged one.
    """
    proto = load_proto(folder)
    is_tf1 = (folder / TF1_HUB_FILE).exists()
    tags = set() if is_tf1 else {"serve"}
    tagged_graphs = [graph for graph in proto.meta_graphs if set(graph.meta_info_def.tags) == tags]
    graph = (tagged_graphs or proto.meta_graphs)[0]
    nodes = graph.object_graph_def.nodes
    children = {child.local_name: nodes[child.node_id] for child in nodes[0].children} if nodes else {}
    call = children.get("__call__")
    way, signature, inputs, outputs = "none", None, (), ()  # type: tuple[str, str | None, _Tensors, _Tensors]
    if not is_tf1 and call is not None and call.WhichOneof("kind") == "function":
        way = "callable"
        inputs, outputs = _find_most_general(graph.object_graph_def, call.function.concrete_functions)
    else:
        names = [name for name in graph.signature_def if name != "__saved_model_init_op"]
        preferred = "default" if is_tf1 else "serving_default"
        signature = preferred if preferred in names else names[0] if len(names) == 1 else None
    if signature is not None:
        way = "tf1" if is_tf1 else "signature"
        definition = graph.signature_def[signature]
        inputs, outputs = _read_signature(definition.inputs), _read_signature(definition.outputs)
    trainable = children.get("trainable_variables") if way == "callable" else None
    return Interface(
        way=way,
        signature=signature,
        output_key=_find_output_key(outputs),
        inputs=inputs,
        outputs=outputs,
        parameters=_count_parameters(folder),
        trainable_variables=len({child.node_id for child in trainable.children}) if trainable else 0,
        children=frozenset(children),
    )


def load_proto(folder: Path) -> Any:
    """Return the parsed saved_model.pb of `folder`."""
    from tfkit.environment.stack import tf  # noqa: F401, I001  the next line must not be the first to start TensorFlow
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    path = folder / "saved_model.pb"
    proto = saved_model_pb2.SavedModel()
    try:
        proto.ParseFromString(path.read_bytes())
    except (OSError, DecodeError) as error:
        raise HubError(f"{path} cannot be read, so {folder} is no SavedModel: {error}.") from error
    if not proto.meta_graphs:
        raise HubError(f"{path} is empty or damaged: it describes no graph.")
    return proto


def locate(folder: Path, *, name: str) -> Path:
    """Return the SavedModel in `folder`: itself, or the only one among its subfolders.

    Raises:
      HubError: there is none, or more than one.
    """
    if (folder / "saved_model.pb").is_file():
        return folder
    folders = sorted(path.parent for path in folder.glob("*/saved_model.pb"))
    if len(folders) == 1:
        return folders[0]
    names = ", ".join(path.name for path in folders or sorted(folder.iterdir())[:5]) or "nothing"
    raise HubError(
        f"{name} has no saved_model.pb, neither at its root nor in one folder below it (there is {names}).\n"
        "  Give the folder of one SavedModel. A part of one, or a file of another kind, cannot take its place."
    )


def verify(folder: Path, *, name: str) -> None:
    """Make sure that all that the SavedModel in `folder` needs is there, and that its weights are undamaged.

    Raises:
      HubError: a file is missing or cut short, or the checksum of a weight is wrong.
    """
    proto = load_proto(folder)
    paths = {f"assets/{asset.filename}" for graph in proto.meta_graphs for asset in graph.asset_file_def}
    if any(map(_has_variables, proto.meta_graphs)):
        paths.add(f"{VARIABLES}.index")
    if missing := sorted(path for path in paths if not (folder / path).is_file()):
        raise HubError(f"{name} is incomplete: {', '.join(missing[:5])} missing. Fetch or export it again.")
    if (folder / f"{VARIABLES}.index").is_file():
        try:
            reader = stack.tf.train.load_checkpoint(str(folder / VARIABLES))
            for variable in reader.get_variable_to_shape_map():
                reader.get_tensor(variable)  # which compares its checksum
        except (stack.tf.errors.OpError, RuntimeError, ValueError, LookupError) as error:
            raise HubError(
                f"{name}: its weights are incomplete or damaged: {str(error).splitlines()[0]} Fetch it again."
            ) from error


def _has_variables(graph: Any) -> bool:
    """Return whether there are variables to restore; a model can be all constants."""
    return any(node.WhichOneof("kind") == "variable" for node in graph.object_graph_def.nodes) or any(
        node.op in ("VarHandleOp", "VariableV2", "Variable") for node in graph.graph_def.node
    )


def input_range(folder: Path) -> tuple[float, float] | None:
    """Return the input range that a Keras SavedModel's own first scaling layer shows, or None when nothing shows it.

    Keras writes the configuration of each layer into a file of its own. A Rescaling by 1/255 or 1/127.5 expects
    0..255; any other that expects [0, 1] is the convention's.
    """
    try:
        text = (folder / "keras_metadata.pb").read_bytes().decode("utf-8", "ignore")
    except OSError:
        return None
    scales = re.findall(r'"class_name": "Rescaling", "config": {[^{}]*"scale": ([0-9.e+-]+)', text)
    return None if not scales else (0.0, 255.0) if float(scales[0]) < 0.1 else (0.0, 1.0)


def _find_most_general(graphs: Any, names: Iterable[str]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Return the first argument and the result of the traced version that leaves most dimensions open."""
    traces = []
    for name in names:
        function = graphs.concrete_functions[name]
        arguments = function.canonicalized_input_signature.tuple_value.values
        positional = arguments[0].tuple_value.values if arguments else ()
        inputs = tuple(_iterate_tensors(positional[0], "")) if positional else ()
        traces.append((inputs, tuple(_iterate_tensors(function.output_signature, ""))))
    # One that says how many dimensions it has says more of the model than one that leaves them open too.
    open_dimensions = [sum(t.shape.count(None) if t.shape else -1 for t in inputs) for inputs, _ in traces]
    return traces[int(np.argmax(open_dimensions))] if traces else ((), ())


def _iterate_tensors(value: Any, name: str) -> Iterator[Tensor]:
    """Yield the tensors inside of a StructuredValue, named by their keys."""
    kind = value.WhichOneof("kind")
    if kind in ("tensor_spec_value", "bounded_tensor_spec_value"):
        spec = getattr(value, kind)
        yield Tensor(name, stack.tf.dtypes.as_dtype(spec.dtype).name, _to_dims(spec.shape))
    elif kind == "type_spec_value":
        yield Tensor(name, value.type_spec_value.type_spec_class_name, None)
    elif kind in ("list_value", "tuple_value", "dict_value"):
        container = getattr(value, kind)
        items = sorted(container.fields.items()) if kind == "dict_value" else enumerate(container.values)
        for key, item in items:
            yield from _iterate_tensors(item, f"{name}{key}")


def _read_signature(infos: Any) -> tuple[Tensor, ...]:
    dtype = stack.tf.dtypes.as_dtype
    return tuple(Tensor(k, dtype(v.dtype).name, _to_dims(v.tensor_shape)) for k, v in sorted(infos.items()))


def _find_output_key(outputs: tuple[Tensor, ...]) -> str | None:
    """Return the name of the output to take; None where it is not clear, and where the only one has none."""
    names = [tensor.name for tensor in outputs]
    conventional = [name for name in FEATURE_KEYS if name in names][:1]
    vectors = [tensor.name for tensor in outputs if tensor.shape is not None and len(tensor.shape) == 2]
    return next((keys[0] for keys in (conventional, names, vectors) if len(keys) == 1), None) or None


def _count_parameters(folder: Path) -> int:
    """Return how many numbers the variables hold, in floating point or bytes, without those of an optimizer."""
    if not (folder / f"{VARIABLES}.index").is_file():
        return 0
    reader = stack.tf.train.load_checkpoint(str(folder / VARIABLES))
    types = reader.get_variable_to_dtype_map()
    return sum(
        math.prod(shape)
        for name, shape in reader.get_variable_to_shape_map().items()
        if (types[name].is_floating or types[name] == stack.tf.uint8) and "optimizer" not in name.lower()
    )


def _to_dims(proto: Any) -> tuple[int | None, ...] | None:
    return None if proto.unknown_rank else tuple(None if dim.size < 0 else dim.size for dim in proto.dim)

"""What can be converted: whatever it is, it becomes a SavedModel of one signature with fixed shapes."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfkit import packages
from tfkit.errors import CheckError, UsageError
from tfkit.lite.inputs import Inputs
from tfkit.lite.kinds import InputShape, aliases, loaded, opened, plain, shapes_by_name
from tfkit.lite.outputs import last_operation, loss_of
from tfkit.litert import flatbuffer

if TYPE_CHECKING:
    from tfkit.stack import tf

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
      last_operation: the type of that which makes the output, see `tfkit.lite.outputs`.
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
        `tfkit.resolve`, a tf.function or any function that TensorFlow can trace.
      input_shape: of its one input with the batch, where the model leaves it open; of several inputs by name, or a
        list in their order. A batch of None is taken for 1.
      signature: of a SavedModel, where it has several.

    Raises:
      UsageError: no model, no signature or several, strings that it does not cut itself, open shapes.
      HubError: the handle does not resolve.
      CheckError: weights that are not finite.
    """
    from tfkit.stack import tf

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
    cuts_text = any(map(flatbuffer.is_of_text, operations))
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
    from tfkit.stack import tf

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
    from tfkit.stack import tf

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
    from tfkit.stack import tf

    if isinstance(outputs, Mapping):
        return dict(outputs)
    flat = tf.nest.flatten(outputs)
    return (
        {"output": flat[0]} if len(flat) == 1 else {f"output_{place}": one for place, one in enumerate(flat)}
    )


def _refuse_not_finite(kept: list[Any]) -> None:
    from tfkit.stack import tf

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
    from tfkit.stack import tf

    for name, spec in specs.items():
        if spec.dtype == tf.string:
            raise UsageError(
                f"The input {name!r} takes strings, and nothing in the model cuts them by tensorflow-text's fast"
                " tokenizers, which TFLite has.\n"
                "  Take tfkit.text.device.on_device of a model from strings, or convert the part behind the"
                " preprocessing and prepare the texts outside of it."
            )


def _operations(concrete: Any) -> set[str]:
    graph = concrete.graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    return {node.op for node in nodes}

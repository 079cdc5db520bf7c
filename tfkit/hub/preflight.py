"""What speaks against a model as an image backbone: all reasons at once, each with its way out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tfkit.hub import bundled, known

if TYPE_CHECKING:
    from tfkit.hub.backbone import Backbone
    from tfkit.hub.saved_model import Interface


def problems(backbone: Backbone, *, image_size: int | None, trainable: bool) -> list[str]:
    """Every reason why `backbone` cannot do this job, as sentences; none when it can."""
    if backbone.interface.way == "none":
        return ["It can neither be called nor has it a signature to use. " + _ALTERNATIVE]
    return [*_input(backbone, image_size), *_output(backbone), *(_training(backbone) if trainable else ())]


_ALTERNATIVE = (
    "Take a feature-vector model: python -m tfkit models lists some, 'efficientnet-lite0' is built in."
)

_TEXTS = "For texts: recipes.transfer_text --model-handle, from Python tfkit.hub.resolve_text."


def _input(backbone: Backbone, image_size: int | None) -> Iterator[str]:
    inputs = backbone.interface.inputs
    listed = ", ".join(f"{tensor.name} {tensor}".strip() for tensor in inputs)
    if any(tensor.dtype == "string" or tensor.name == "input_word_ids" for tensor in inputs):
        yield f"It takes texts ({listed}), not images. {_TEXTS} For images: {_ALTERNATIVE}"
        return
    if len(inputs) != 1:
        yield f"It takes {len(inputs)} inputs ({listed}), not one batch of images. {_ALTERNATIVE}"
        return
    (tensor,) = inputs
    if tensor.dtype != "float32":
        yield f"It takes {tensor}, not float32 pixels: a detector, or a quantized model. {_ALTERNATIVE}"
    if tensor.shape is None:
        return
    if len(tensor.shape) != 4 or tensor.shape[-1] not in (3, None):
        yield f"It takes {tensor}, not images [batch, height, width, 3]. {_ALTERNATIVE}"
        return
    if tensor.shape[0] is not None:
        yield f"It takes batches of exactly {tensor.shape[0]}. Export it with an open first dimension."
    height, width = tensor.shape[1:3]
    if height != width:
        yield f"It takes {tensor}: images that are not square. {_ALTERNATIVE}"
    elif image_size is not None and height not in (None, image_size):
        yield f"It takes {height} x {width} pixels and nothing else: image_size={height}, not {image_size}."
    model = bundled.image_model(backbone.handle)
    if model and image_size is not None and image_size < model.minimum_size:
        yield f"image_size={image_size} is too small for it: {model.minimum_size} is the least."


def _output(backbone: Backbone) -> Iterator[str]:
    interface = backbone.interface
    if interface.output is None:
        listed = ", ".join(f"{tensor.name} {tensor}" for tensor in interface.outputs) or "nothing"
        yield f"It gives {listed}, and none of them is plainly the feature vector. {_ALTERNATIVE}"
        return
    shape = interface.output.shape
    if shape is not None and len(shape) != 2:
        kind = "feature maps" if len(shape) == 4 else "something else"
        yield f"It gives {interface.output}: {kind}, not a feature vector [batch, features]. {_ALTERNATIVE}"
    elif backbone.feature_size == 0:
        yield f"It gives {interface.output}, and a trial did not show how long its feature vectors are. {_ALTERNATIVE}"
    if vectors := known.feature_vector_of(backbone.handle):
        yield f"It gives the scores of a finished classifier, not features. Those: {vectors}"


def _training(backbone: Backbone) -> Iterator[str]:
    if reason := untrainable(backbone.interface):
        yield reason


def untrainable(interface: Interface) -> str | None:
    """Why a model has nothing that can be trained, and what to do; None where it has."""
    if interface.trainable_variables:
        return None
    if interface.way == "tf1":
        why = "it is a module of the TF1 Hub format, which can only be used frozen. Take its TF2 version"
    elif interface.way == "signature":
        why = "it can only be called through a signature, which fixes its weights"
    elif interface.parameters:
        why = (
            "it was exported without the list `trainable_variables` (a plain tf.Module), so a layer sees "
            "none of its weights"
        )
    else:
        why = "its weights are constants of the graph"
    return f"It has 0 trainable weights: {why}. Leave it frozen (trainable=False, --fine-tune-epochs 0)."

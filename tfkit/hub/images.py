"""A resolved model: where it is, what it expects, and whether it can do what a job asks of it.

What speaks against a model as an image backbone: all reasons at once, each with its way out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfkit.errors import HubError
from tfkit.hub import bundled
from tfkit.hub.catalogue import feature_vector_of
from tfkit.hub.networks import freeze
from tfkit.hub.saved_model import Interface

if TYPE_CHECKING:
    from tfkit.data.splits import Splits
    from tfkit.environment.stack import keras, tf_hub
    from tfkit.hub.saved_model import Interface

AFFORDABLE_MEGAPIXELS = 20
FINE_TUNE_EPOCHS = 5


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A verified SavedModel that turns images into feature vectors.

    Example:
      >>> backbone = resolve("efficientnet-lite0").check(image_size=96)  # doctest: +SKIP
      >>> backbone.layer()(images).shape  # doctest: +SKIP
      TensorShape([32, 1280])
    """

    handle: str
    """As it was asked for."""
    path: Path
    """A SavedModel folder, whole."""
    digest: str
    """Of the folder's content and the input range: what is stored for one model is not taken for another's."""
    native_size: int
    """Pixels a side that it was trained on; 0 for a model that takes no images."""
    fixed_size: bool
    """Whether it takes no other size."""
    input_range: tuple[float, float]
    """The values that it expects for black and for white."""
    feature_size: int
    """Numbers in a feature vector; 0 where the model gives none."""
    parameters: int
    """Numbers in all its variables."""
    trainable_variables: int
    """Variables that fine-tuning changes; 0: it can only be used as it is."""
    licence: str
    """An SPDX name, or "unknown"."""
    interface: Interface
    """How the SavedModel is called."""
    notes: tuple[str, ...] = ()
    """What was assumed, a sentence each: for the notes of a run."""

    def layer(self, *, trainable: bool = False) -> tf_hub.KerasLayer:
        """The model as a layer, loaded anew.

        Args:
          trainable: whether `fit` changes its weights.

        Returns:
          A stock hub.KerasLayer, float32 [batch, size, size, 3] in `input_range` to float32
          [batch, feature_size].

        Raises:
          HubError: it cannot be called, or trainable=True and it has nothing to train.
        """
        from tfkit.environment.stack import tf_hub

        if self.interface.way == "none" or (trainable and not self.trainable_variables):
            self.check(trainable=trainable)
        output = self.interface.output
        shown = output is not None and output.shape is not None and None not in output.shape[1:]
        # Given a path, hub tries a loader of Keras 3 first, whose import alone takes seconds.
        loaded = tf_hub.load(str(self.path))
        return tf_hub.KerasLayer(
            loaded if callable(loaded) else str(self.path),
            trainable=trainable,
            signature=self.interface.signature if self.interface.way != "tf1" else None,
            output_key=self.interface.output_key,
            output_shape=[self.feature_size] if self.feature_size and not shown else None,
        )

    def functional(self, *, image_size: int) -> keras.Model | None:
        """The same network and weights as a flat functional tf_keras model; None if it is not bundled.

        Args:
          image_size: pixels a side.

        Returns:
          float32 [batch, image_size, image_size, 3] in [0, 1] to float32 [batch, feature_size].
        """
        model = bundled.image_model(self.handle)
        return model.functional(image_size=image_size) if model else None

    def graph(self, spec: Any, *, trainable: str) -> tuple[Any, Any]:
        """What a functional model that stands on it begins with.

        Args:
          spec: tf.TensorSpec of one image, [s, s, 3] in [0, 1].
          trainable: `none`, `top` (the later half, of a bundled one) or `all`; batch normalisation is not.

        Returns:
          Its input, float32 [batch, s, s, 3], and the features, [batch, feature_size].
        """
        from tfkit.environment.stack import keras

        base = self.functional(image_size=int(spec.shape[0]))
        if base is not None:
            freeze(base, trainable)
            return base.input, base.output
        low, high = self.input_range
        inputs = keras.Input(spec.shape, name="images")
        scaled = keras.layers.Rescaling(high - low, offset=low, name="input_range")(inputs)
        return inputs, self.layer(trainable=trainable != "none")(scaled, training=False)

    @property
    def origin(self) -> dict[str, Any]:
        """Where it came from and what it is, as plain values."""
        return {
            "handle": self.handle,
            "digest": self.digest,
            "licence": self.licence,
            "parameters": self.parameters,
            "feature_size": self.feature_size,
            "native_size": self.native_size,
            "input_range": list(self.input_range),
        }

    @property
    def fine_tune_epochs(self) -> int:
        """How many are worth their time."""
        return FINE_TUNE_EPOCHS

    @property
    def stages(self) -> bool:
        """Whether its later half can be trained without its earlier one."""
        return self.handle in bundled.MODELS

    def cost_of_epoch(self, splits: Splits) -> tuple[bool, str]:
        """Whether an epoch of all its layers is a matter of a minute on a CPU, and what there is to compute."""
        megapixels = len(splits.indices["train"]) * int(splits.spec.shape[0]) ** 2 / 1e6
        return megapixels <= AFFORDABLE_MEGAPIXELS, f"{megapixels:.0f} megapixels"

    def scale(self, images: Any) -> Any:
        """Images in [0, 1] (a tensor or an array of any shape) to what the model expects."""
        low, high = self.input_range
        return images if (low, high) == (0, 1) else images * (high - low) + low

    def check(self, *, image_size: int | None = None, trainable: bool = False) -> Backbone:
        """Make sure, before any training, that the model can do the job.

        Args:
          image_size: pixels a side of the images that it will get.
          trainable: whether its weights are to be fine-tuned.

        Returns:
          Itself.

        Raises:
          HubError: it cannot; the message lists every reason.
        """

        if problems := image_model_problems(self, image_size=image_size, trainable=trainable):
            listed = "\n".join(f"  - {problem}" for problem in problems)
            raise HubError(f"{self.handle} cannot serve as an image backbone here:\n{listed}")
        return self


def image_model_problems(backbone: Backbone, *, image_size: int | None, trainable: bool) -> list[str]:
    """Every reason why `backbone` cannot do this job, as sentences; none when it can."""
    if backbone.interface.way == "none":
        return ["It can neither be called nor has it a signature to use. " + _ALTERNATIVE]
    return [*_input(backbone, image_size), *_output(backbone), *(_training(backbone) if trainable else ())]


_ALTERNATIVE = (
    "Take a feature-vector model: python -m tfkit models lists some, 'efficientnet-lite0' is built in."
)

_TEXTS = "For texts: recipes.transfer_text --model-handle, from Python tfkit.resolve_text."


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
    if vectors := feature_vector_of(backbone.handle):
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

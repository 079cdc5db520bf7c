"""Pretrained models that turn images or texts into vectors: how they are called, and whether they can do a job."""

from __future__ import annotations

import abc
import contextlib
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tfkit.data.splits import Splits
from tfkit.environment import stack
from tfkit.errors import HubError
from tfkit.hub import bundled, saved_model
from tfkit.hub.catalogue import Modality, feature_vector_of, find
from tfkit.hub.saved_model import Interface, Tensor
from tfkit.text.tokenizers import MASK, TYPES, WORDS, WordPiece

_CHARACTERS = 4  # in a token of English, about
_UNKNOWN_LENGTH = 128
_SPARE = 0.9  # an embedding may have some rows more than there are pieces, for a round number
# Rows of the embedding -> the preprocessor that makes so many ids.
_PREPROCESSORS = {
    21_128: "https://tfhub.dev/tensorflow/bert_zh_preprocess/3",
    28_996: "https://tfhub.dev/tensorflow/bert_en_cased_preprocess/3",
    30_000: "https://tfhub.dev/tensorflow/albert_en_preprocess/3",
    30_522: "https://tfhub.dev/tensorflow/bert_en_uncased_preprocess/3",
    119_547: "https://tfhub.dev/tensorflow/bert_multi_cased_preprocess/3",
    501_153: "https://tfhub.dev/google/universal-sentence-encoder-cmlm/multilingual-preprocess/2",
}


@dataclass(frozen=True, kw_only=True)
class Part:
    """A verified SavedModel, and how it is called."""

    handle: str
    """As the user wrote it."""
    path: Path
    """A SavedModel folder, whole."""
    digest: str
    """Of its content, and of all else that its vectors depend on."""
    interface: Interface
    """What it is called with, and what it gives."""

    def keras_layer(
        self, *, trainable: bool = False, size: int = 0, **options: Any
    ) -> stack.tf_hub.KerasLayer:
        """Return it as a stock hub.KerasLayer, loaded anew; `size` is that of its vectors, where it is known."""
        interface, output = self.interface, self.interface.output
        if size and (output is None or output.shape is None or None in output.shape[1:]):
            options["output_shape"] = [size]
        loaded = self.load()
        return stack.tf_hub.KerasLayer(
            loaded if callable(loaded) else str(self.path),
            trainable=trainable,
            signature=interface.signature if interface.way != "tf1" else None,
            **{"output_key": interface.output_key, **options},
        )

    def load(self) -> Any:
        """Return the SavedModel as TensorFlow loads it."""
        if self.interface.takes_texts:
            _ = stack.tf_text  # a tokenizer's operations must be there before its model
        # Given a path, hub.KerasLayer tries a loader of Keras 3 first, whose import alone takes seconds.
        return stack.tf_hub.load(str(self.path))


@dataclass(frozen=True, kw_only=True)
class Encoder(Part, abc.ABC):
    """A verified pretrained model that turns images or texts into vectors.

    Example:
      >>> encoder = load_model("efficientnet-lite0").check(image_size=96)  # doctest: +SKIP
      >>> encoder.layer()(images).shape  # doctest: +SKIP
      TensorShape([32, 1280])
    """

    feature_size: int
    """Numbers in a vector; 0 where the model gives none."""
    licence: str
    """An SPDX name, or "unknown"."""
    notes: tuple[str, ...] = ()
    """What was assumed, a sentence each: for the notes of a run."""
    native_size: int = 0
    """Of images: pixels a side that it was trained on."""
    fixed_size: bool = False
    """Of images: whether it takes no other size."""
    input_range: tuple[float, float] = (0.0, 1.0)
    """Of images: the values that it expects for black and for white."""
    preprocessor: Part | None = None
    """Of texts: what makes ids of strings; None where the encoder takes strings itself, or where it is not known."""
    max_length: int | None = None
    """Of texts: ids at most, the two at the ends among them; what is longer is cut. None: the model decides."""

    modality: ClassVar[Modality]
    fine_tune_epochs: ClassVar[int]
    """How many are worth their time."""
    _alternative: ClassVar[str]

    def __repr__(self) -> str:
        """What it is, in a line."""
        does = f"{self.modality} to {self.feature_size} features"
        return f"Encoder({self.handle!r}: {does}, {self.parameters:,} parameters)"

    @property
    def parameters(self) -> int:
        """Numbers in all its variables."""
        return self.interface.parameters

    @property
    def trainable_variables(self) -> int:
        """Variables that fine-tuning changes; 0: it can only be used as it is."""
        return self.interface.trainable_variables

    @property
    def stages(self) -> bool:
        """Whether its later half can be trained without its earlier one."""
        return self.handle in bundled.MODELS

    @functools.cached_property
    def tokenizer(self) -> WordPiece | None:
        """What makes a bundled encoder's ids of texts; None for any other."""
        model = bundled.MODELS.get(self.handle)
        if isinstance(model, bundled.TextModel):
            return model.tokenizer(max_length=self.max_length or model.max_length)
        return None

    @property
    def origin(self) -> dict[str, Any]:
        """Where it came from and what it is, as plain values."""
        names = ("handle", "digest", "licence", "parameters", "feature_size")
        return {name: getattr(self, name) for name in names}

    def layer(self, *, trainable: bool = False) -> stack.tf_hub.KerasLayer:
        """Return the model as a layer, loaded anew.

        Args:
          trainable: whether `fit` changes its weights.

        Returns:
          A stock hub.KerasLayer: images float32 [batch, size, size, 3] in `input_range`, or strings [batch], to
          float32 [batch, feature_size].

        Raises:
          HubError: it cannot be called, or trainable=True and it has nothing to train.
        """
        if self.interface.way == "none" or (trainable and not self.trainable_variables):
            self.check(trainable=trainable)
        return self.keras_layer(trainable=trainable, size=self.feature_size)

    def functional(self, **options: Any) -> stack.keras.Model | None:
        """Return the network and its weights as a flat functional tf_keras model; None if it is not bundled.

        Args:
          options: image_size, in pixels a side, of a model of images.

        Returns:
          Images float32 [batch, image_size, image_size, 3] in [0, 1], or {"input_word_ids", "input_mask"} int32
          [batch, n], to float32 [batch, feature_size].
        """
        model = bundled.MODELS.get(self.handle)
        return model.functional(**options) if model else None

    @abc.abstractmethod
    def graph(self, spec: Any, *, trainable: str = "none") -> tuple[Any, Any]:
        """Return what a functional model that stands on it begins with.

        Args:
          spec: tf.TensorSpec of one example: an image [s, s, 3] in [0, 1], or a scalar string.
          trainable: `none`, `top` (the later half, of a bundled one) or `all`; batch normalisation is not.

        Returns:
          The Keras input, [batch, ...], and the features, float32 [batch, feature_size].
        """

    @abc.abstractmethod
    def cost_of_epoch(self, splits: Splits) -> tuple[bool, str]:
        """Return whether an epoch of all its layers takes about a minute on a CPU, and what there is to compute."""

    def with_feature_size(self) -> Encoder:
        """Return the encoder with the size of its vectors: as its output states it, or from a trial; 0 if both fail."""
        output = self.interface.output
        if output is None or self.interface.way == "none":
            return self
        size = output.shape[-1] if output.shape and len(output.shape) == 2 else None
        if size is None and (output.shape is None or len(output.shape) == 2):
            with contextlib.suppress(
                stack.tf.errors.OpError, ValueError, TypeError, AttributeError, KeyError
            ):
                _, size = self._trial().shape
        return replace(self, feature_size=size or 0)

    @abc.abstractmethod
    def _trial(self) -> Any:
        """Return the features of an example."""

    def check(self, *, trainable: bool = False, image_size: int | None = None) -> Encoder:
        """Make sure, before any training, that the model can do the job.

        Args:
          trainable: whether its weights are to be fine-tuned.
          image_size: pixels a side of the images that it will get.

        Returns:
          Itself.

        Raises:
          HubError: it cannot; the message lists every reason.
        """
        problems = ["It can neither be called nor has it a signature to use. " + self._alternative]
        if self.interface.way != "none":
            problems = [*self._input_problems(image_size), *self._output_problems()]
            if trainable and not self.trainable_variables:
                problems.append(
                    "It has 0 trainable weights: a module of the TF1 Hub format, one that is called through a signature"
                    " or was exported without `trainable_variables`, and constants can only be used frozen"
                    " (trainable=False, --fine-tune-epochs 0)."
                )
        if problems:
            listed = "\n".join(f"  - {problem}" for problem in problems)
            raise HubError(f"{self.handle} cannot serve as an encoder of {self.modality} here:\n{listed}")
        return self

    @abc.abstractmethod
    def _input_problems(self, image_size: int | None) -> Iterator[str]: ...

    def _output_problems(self) -> Iterator[str]:
        output = self.interface.output
        if output is None:
            listed = _listed(self.interface.outputs) or "nothing"
            yield f"It gives {listed}, and none of them is plainly the feature vector. {self._alternative}"
        elif self.feature_size == 0 or not output.dtype.startswith("float"):
            yield (
                f"It gives {output}, not a feature vector, float32 [batch, features], of a length that it states or"
                f" that a trial shows. {self._alternative}"
            )
        if vectors := feature_vector_of(self.handle):
            yield f"It gives the scores of a finished classifier, not features. Those: {vectors}"


@dataclass(frozen=True, kw_only=True, repr=False)
class ImageEncoder(Encoder):
    """An encoder of images."""

    modality = "images"
    fine_tune_epochs = 5
    _alternative = (
        "Take a feature-vector model: python -m tfkit models lists some, 'efficientnet-lite0' is built in."
    )

    def graph(self, spec: Any, *, trainable: str = "none") -> tuple[Any, Any]:
        """See `Encoder`: [batch, s, s, 3] in [0, 1]."""
        base = self.functional(image_size=int(spec.shape[0]))
        if base is not None:
            freeze(base, trainable)
            return base.input, base.output
        low, high = self.input_range
        inputs = stack.keras.Input(spec.shape, name="images")
        scaled = stack.keras.layers.Rescaling(high - low, offset=low, name="input_range")(inputs)
        return inputs, self.layer(trainable=trainable != "none")(scaled, training=False)

    @property
    def origin(self) -> dict[str, Any]:
        """See `Encoder`."""
        return {**super().origin, "native_size": self.native_size, "input_range": list(self.input_range)}

    def cost_of_epoch(self, splits: Splits) -> tuple[bool, str]:
        """See `Encoder`: megapixels, of which 20 are affordable."""
        megapixels = len(splits.indices["train"]) * int(splits.spec.shape[0]) ** 2 / 1e6
        return megapixels <= 20, f"{megapixels:.0f} megapixels"

    def scale(self, images: Any) -> Any:
        """Return images in [0, 1] (a tensor or an array of any shape) as the model expects them."""
        low, high = self.input_range
        return images if (low, high) == (0, 1) else images * (high - low) + low

    def _trial(self) -> Any:
        if not self.interface.takes_images:
            raise ValueError("it takes no images")
        return self.layer()(stack.tf.zeros((1, self.native_size, self.native_size, 3)))

    def _input_problems(self, image_size: int | None) -> Iterator[str]:
        tensor, *others = inputs = self.interface.inputs or (Tensor("", "nothing", None),)
        shape = (None, None, None, 3) if tensor.shape is None else tensor.shape
        if self.interface.takes_texts:
            yield (
                f"It takes texts ({_listed(inputs)}), not images. For texts: recipes.transfer_text --model-handle,"
                f' from Python modality="texts". For images: {self._alternative}'
            )
        elif (
            others
            or (tensor.dtype, len(shape)) != ("float32", 4)
            or shape[-1] not in (3, None)
            or shape[1] != shape[2]
        ):
            yield (
                f"It takes {_listed(inputs)}, not one batch of square images, float32 [batch, size, size, 3]."
                f" {self._alternative}"
            )
        else:
            if shape[0] is not None:
                yield f"It takes batches of exactly {shape[0]}. Export it with an open first dimension."
            if image_size is not None and shape[1] not in (None, image_size):
                yield f"It takes {shape[1]} x {shape[1]} pixels alone: image_size={shape[1]}, not {image_size}."
            least = getattr(bundled.MODELS.get(self.handle), "minimum_size", 0)
            if image_size is not None and image_size < least:
                yield f"image_size={image_size} is too small for it: {least} is the least."


@dataclass(frozen=True, kw_only=True, repr=False)
class TextEncoder(Encoder):
    """An encoder of texts: a SavedModel, and the one that makes its inputs of strings if it needs that."""

    modality = "texts"
    fine_tune_epochs = 3
    _alternative = "Take an encoder of texts: python -m tfkit models lists some, 'minilm-l6-v2' is built in."

    def layer(self, *, trainable: bool = False) -> stack.tf_hub.KerasLayer:
        """See `Encoder`; the parts must fit each other."""
        return self.check(trainable=trainable).keras_layer(trainable=trainable, size=self.feature_size)

    def graph(self, spec: Any, *, trainable: str = "none") -> tuple[Any, Any]:
        """See `Encoder`: strings [batch].

        For a bundled encoder the layers between are a `text.layers.Tokens` and the flat ones of `functional`, both
        without the pieces that no text is cut into.
        """
        if spec.dtype != stack.tf.string or spec.shape.rank != 0:
            raise HubError(
                f"{self.handle} encodes texts; the examples are {spec.dtype.name} of shape {tuple(spec.shape)}.\n"
                "  Texts are read by tfkit.load_texts."
            )
        texts = stack.keras.Input((), dtype=stack.tf.string, name="texts")
        model, tokenizer = bundled.MODELS.get(self.handle), self.tokenizer
        if tokenizer is None or not isinstance(model, bundled.TextModel):
            return texts, self.layer(trainable=trainable != "none")(texts)
        from tfkit.hub.networks import minilm
        from tfkit.text.layers import Tokens

        tokenizer, rows = model.reachable(tokenizer)
        tokens = Tokens(tokenizer)(texts)
        _, features = minilm(tokens[WORDS], tokens[MASK], longest=tokenizer.max_length, pieces=len(rows))
        freeze(model.weighted(stack.keras.Model(texts, features), rows=rows), trainable)
        return texts, features

    @property
    def origin(self) -> dict[str, Any]:
        """See `Encoder`."""
        handle = self.preprocessor and self.preprocessor.handle
        return {**super().origin, "preprocessor": handle, "max_length": self.max_length}

    def cost_of_epoch(self, splits: Splits) -> tuple[bool, str]:
        """See `Encoder`: tokens, of which two cores train 20,000 of MiniLM in half a minute."""
        lengths = np.asarray(splits.source.lengths)[splits.indices["train"]]  # type: ignore[attr-defined]
        longest = (self.max_length or _UNKNOWN_LENGTH) * _CHARACTERS
        tokens = int(np.minimum(lengths, longest).sum() / _CHARACTERS)
        return tokens * self.parameters <= 20_000 * 22_565_376, f"{tokens:,} tokens"

    def _trial(self) -> Any:
        return self.keras_layer()(stack.tf.constant(["a text"]))

    def keras_layer(
        self, *, trainable: bool = False, size: int = 0, **options: Any
    ) -> stack.tf_hub.KerasLayer:
        """See `Part`; strings [b], by the preprocessor where there is one."""
        layer = super().keras_layer(trainable=trainable, size=size, name="encoder", **options)
        if self.preprocessor is None:
            return layer
        texts = stack.keras.Input((), dtype=stack.tf.string, name="texts")
        vectors = layer(self._preprocessed(self.preprocessor, texts))
        return stack.tf_hub.KerasLayer(
            stack.keras.Model(texts, vectors, name="text_encoder"), trainable=trainable
        )

    def _preprocessed(self, part: Part, texts: Any) -> Any:
        """Return the inputs of the encoder, in rows of `max_length`."""
        if self.max_length in (None, native_length(part.interface)):
            inputs = part.keras_layer(
                output_key=None,
                signature_outputs_as_dict=bool(part.interface.signature) or None,
                name="preprocessor",
            )(texts)
        else:
            loaded = part.load()
            tokens = stack.tf_hub.KerasLayer(loaded.tokenize, name="tokenize")(texts)
            arguments = {"seq_length": self.max_length}
            inputs = stack.tf_hub.KerasLayer(loaded.bert_pack_inputs, arguments=arguments, name="pack")(
                [tokens]
            )
        return {tensor.name: inputs[tensor.name] for tensor in self.interface.inputs}

    def _input_problems(self, image_size: int | None) -> Iterator[str]:
        inputs, part = self.interface.inputs, self.preprocessor
        if self.interface.takes_images:
            yield f"It takes images ({inputs[0]}): recipes.transfer_image is for those. {self._alternative}"
        elif self.interface.takes_strings:
            if part is not None:
                yield f"It takes strings itself, and would get the ids of {part.handle}. Leave out preprocessor=."
            elif self.max_length is not None:
                yield f"It takes strings itself, and no max_length={self.max_length}. Leave it out."
        elif WORDS not in {tensor.name for tensor in inputs}:
            yield f"It takes {_listed(inputs)}: neither one batch of strings nor `{WORDS}`. {self._alternative}"
        elif part is None:
            named = _PREPROCESSORS.get(embedding_rows(self) or 0, "...")
            yield (
                f"It takes {_listed(inputs)} and needs a preprocessor that makes them of strings:"
                f" preprocessor={named!r}. Its page names it; python -m tfkit models shows those of the well-known."
            )
        else:
            yield from self._preprocessor_problems(part)

    def _preprocessor_problems(self, part: Part) -> Iterator[str]:
        row = find(self.handle)
        other = f"Take the one that belongs to it: {row.preprocessor if row else 'its page names it'}."
        outputs = {tensor.name for tensor in part.interface.outputs}
        if part.interface.way == "none" or not part.interface.takes_strings:
            takes = _listed(part.interface.inputs) or "nothing that it can be called with"
            yield f"The preprocessor {part.handle} takes {takes}, not one batch of strings. {other}"
        elif lacking := sorted({tensor.name for tensor in self.interface.inputs} - outputs):
            gives = _listed(part.interface.outputs)
            yield f"The preprocessor {part.handle} gives {gives}; the encoder also needs {', '.join(lacking)}. {other}"
        elif self.handle not in bundled.MODELS:
            pieces, rows = _pieces_of(part.path), embedding_rows(self)
            if pieces and rows and not _SPARE * rows <= pieces <= rows:
                yield (
                    f"{part.handle} has {pieces:,} pieces, the encoder's embedding {rows:,} rows: they do not belong"
                    f" together. {_PREPROCESSORS.get(rows, other)}"
                )
        native = native_length(part.interface)
        if self.max_length != native and not {"tokenize", "bert_pack_inputs"} <= saved_model.children(
            part.path
        ):
            yield (
                f"max_length={self.max_length}: {part.handle} makes rows of {native}, and has no `tokenize` and"
                " `bert_pack_inputs` by which others are made. Leave it out."
            )


def native_length(preprocessor: Interface) -> int | None:
    """Return the length of the rows that a preprocessor makes by itself."""
    words = next((tensor for tensor in preprocessor.outputs if tensor.name == WORDS), None)
    return words.shape[-1] if words and words.shape else None


def freeze(base: stack.keras.Model, trainable: str) -> None:
    """Make `none`, the later half (`top`) or `all` of the layers trainable, but never batch normalisation."""
    weighted = [layer for layer in base.layers if layer.weights]
    frozen = {"none": len(weighted), "top": len(weighted) // 2, "all": 0}[trainable]
    for place, layer in enumerate(weighted):
        # A frozen BatchNormalization runs in inference mode also during training.
        normalises = isinstance(layer, stack.keras.layers.BatchNormalization)
        layer.trainable = place >= frozen and not normalises


@functools.lru_cache(maxsize=8)
def embedding_rows(encoder: TextEncoder) -> int | None:
    """Return how many ids the encoder knows; None where a trial does not show it.

    An embedding says so itself when it is given an id that it cannot have.
    """
    beyond = stack.tf.constant([[0, 2**31 - 1]])
    ids = {WORDS: beyond, MASK: stack.tf.ones_like(beyond), TYPES: stack.tf.zeros_like(beyond)}
    try:
        inputs = {tensor.name: ids[tensor.name] for tensor in encoder.interface.inputs}
        layer = replace(encoder, preprocessor=None).keras_layer()
        with stack.tf.device("CPU:0"):  # a GPU gives zeros
            layer(inputs)
    except (stack.tf.errors.OpError, ValueError, TypeError, KeyError) as error:
        match = re.search(r"= 2147483647 is not in \[0, (\d+)\)", str(error))
        return int(match[1]) if match else None
    return None


def _pieces_of(preprocessor: Path) -> int | None:
    """Return how many ids a preprocessor makes, by the vocabulary among its assets; None where it shows none."""
    for path in sorted((preprocessor / "assets").glob("*")):
        content = path.read_bytes()
        if path.suffix == ".txt" and b"[SEP]" in content:
            return len(content.decode("utf-8", "replace").rstrip("\n").split("\n"))
        if path.suffix in (".model", ".spm"):
            try:
                return int(stack.tf_text.SentencepieceTokenizer(model=content).vocab_size())
            except stack.tf.errors.OpError:
                return None
    return None


def _listed(tensors: tuple[Tensor, ...]) -> str:
    return ", ".join(f"{tensor.name} {tensor}".strip() for tensor in tensors)

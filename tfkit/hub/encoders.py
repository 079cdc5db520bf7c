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

from tfkit.environment import files, stack
from tfkit.environment.timeline import stage
from tfkit.errors import HubError
from tfkit.hub import bundled, saved_model
from tfkit.hub.catalogue import Modality, Row, find, parse
from tfkit.hub.fetch import Download, bundled_model, fetch
from tfkit.hub.saved_model import Interface, Tensor
from tfkit.text.tokenizers import MASK, TYPES, WORDS, Tokenizer

_LEAST_SHARE = 0.9  # an embedding may have some rows more than there are pieces, for a round number
_DEFAULT_SIZE = 224
_ALTERNATIVE = "python -m tfkit models lists encoders; 'efficientnet-lite0' and 'minilm-l6-v2' are built in."


@stage("model", "Loading the pretrained model")
def load_model(
    handle: str | Path,
    *,
    modality: Modality | None = None,
    preprocessor: str | Path | None = None,
    max_length: int | None = None,
    input_range: tuple[float, float] | None = None,
    sha256: str | None = None,
    download: Download = Download(),  # noqa: B008
) -> Encoder:
    """Find, fetch and verify a pretrained model of images or of texts.

    What is fetched goes into the cache (`$TFKIT_CACHE/hub`) when it is whole; from then on the handle needs no network.

    Args:
      handle: a bundled name ("efficientnet-lite0", "minilm-l6-v2", "multilingual"), a known name (python -m tfkit
        models), an http(s) URL such as https://tfhub.dev/google/universal-sentence-encoder/4, a kaggle.com model URL, a
        gs:// location, a SavedModel folder, or a .tar.gz of one.
      modality: "images" or "texts", where the model's inputs do not show it.
      preprocessor: handle of the model that makes ids of strings, where the model takes ids and is not one that
        `python -m tfkit models` lists with its preprocessor.
      max_length: ids of a text at most, the two at its ends among them; None takes the preprocessor's own length, 128
        for most. Twice as many take twice as long, or longer.
      input_range: the values that a model of images expects for black and for white, where it is known better than
        from the handle: (0, 255) for most that Keras exported.
      sha256: what the archive must have, in hex; for handles that come as an archive.
      download: how long to wait for a server, and how often to try again.

    Returns:
      An `Encoder`. `.check()` says whether it can do a job, `.layer()` makes it a Keras layer.

    Raises:
      HubError: it was not found, did not come, or is not whole; or max_length is out of a bundled model's range.
    """
    parsed = parse(handle)
    path, digest = fetch(parsed, sha256=sha256, download=download)
    interface = saved_model.read(path)
    row = find(parsed.text) or find(parsed.location)
    licence = row.licence if row else "unknown"
    common: dict[str, Any] = {"handle": parsed.text, "path": path, "interface": interface, "licence": licence}
    kind = modality or (row.modality if row else "texts" if interface.takes_texts else "images")
    if kind not in ("images", "texts"):
        raise HubError(f"modality={kind!r}: expected 'images' or 'texts'.")
    of_texts = {"preprocessor": preprocessor, "max_length": max_length}
    other, options = ("texts", of_texts) if kind == "images" else ("images", {"input_range": input_range})
    if ignored := [f"{name}=" for name, value in options.items() if value is not None]:
        raise HubError(
            f"{parsed.text} is taken for a model of {kind}, which has no {' and no '.join(ignored)}."
            f"\n  If it is one of {other}: modality={other!r}."
        )
    if parsed.kind == "bundled" and tuple(input_range or (0, 1)) != (0, 1):
        raise HubError(f"{parsed.text} takes pixels in [0, 1], and no others: leave input_range= out.")
    if kind == "images":
        fixed = next((t.shape[1] for t in interface.inputs if t.shape and len(t.shape) == 4), None)
        default_size = row.image_size if row else _DEFAULT_SIZE if interface.takes_images else 0
        known_range = input_range or ((0.0, 1.0) if row else saved_model.input_range(path))
        low, high = map(float, known_range or (0.0, 1.0))
        note = f"{parsed.text} is taken to expect pixels in [0, 1]. If not: load_model(handle, input_range=(0, 255))."
        encoder: Encoder = ImageEncoder(
            **common,
            digest=digest if (low, high) == (0, 1) else files.digest_of(digest, (low, high)),
            native_size=fixed or default_size or 0,
            fixed_size=fixed is not None,
            input_range=(low, high),
            notes=() if known_range or not interface.takes_images else (note,),
        )
    else:
        part = _load_preprocessor(parsed.location, preprocessor, row, max_length)
        length = max_length or (part.interface.row_length if part else None)
        if row and row.output in {tensor.name for tensor in interface.outputs}:
            common["interface"] = replace(interface, output_key=row.output)
        # Of one folder a name may take another output than its path does.
        output_key = common["interface"].output_key
        digest = files.digest_of(digest, part.digest if part else None, length, output_key)
        note = getattr(bundled.MODELS.get(parsed.location), "note", "")
        notes = (note,) if note else ()
        encoder = TextEncoder(**common, digest=digest, preprocessor=part, max_length=length, notes=notes)
    if interface.children >= {"classify", "variables_of_model"}:
        note = f"{parsed.text} is the model of a finished run: what it says of its classes is taken for features."
        encoder = replace(
            encoder, notes=(*encoder.notes, f"{note} To go on from the run: --continue-from RUN.")
        )
    return encoder.with_feature_size()


def _load_preprocessor(
    location: str, preprocessor: str | Path | None, row: Row | None, max_length: int | None
) -> Part | None:
    model = bundled.MODELS.get(location)
    if isinstance(model, bundled.TextModel):
        if preprocessor is not None:
            raise HubError(f"{model.name} makes ids of strings without a preprocessor=: leave it out.")
        length = model.max_length if max_length is None else max_length
        if not 3 <= length <= model.positions:
            raise HubError(
                f"max_length={length}: {model.name} takes 3 to {model.positions} ids, two at a text's ends among them."
            )
        handle, path = model.name, bundled_model(model.name, max_length=length)
        # Not that of the files: see `Bundled.digest`.
        digest = files.digest_of(model.vocabulary_sha256, length, bundled.EXPORT_VERSION)
    else:
        preprocessor = preprocessor or (row.preprocessor if row else None)
        if preprocessor is None:
            return None
        parsed = parse(preprocessor)
        handle, (path, digest) = parsed.text, fetch(parsed)
    return Part(handle=handle, path=path, digest=digest, interface=saved_model.read(path))


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
    """Inputs and outputs."""
    feature_size: int = 0
    """Numbers in a vector; 0 where the model gives none."""

    def keras_layer(self, *, trainable: bool = False, **options: Any) -> stack.tf_hub.KerasLayer:
        """Return it as a stock hub.KerasLayer, loaded anew."""
        interface, output, size = self.interface, self.interface.output, self.feature_size
        if size and (output is None or output.shape is None or None in output.shape[1:]):
            options["output_shape"] = [size]
        model = self.load()
        return stack.tf_hub.KerasLayer(
            model if callable(model) else str(self.path),
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

    Attributes:
      handle: as the user wrote it.
      path: a SavedModel folder, whole.
      digest: of its content, and of all else that its vectors depend on.
      interface: how it is called.
      feature_size: numbers in a vector; 0 where the model gives none.

    Example:
      >>> encoder = load_model("efficientnet-lite0").check(image_size=96)  # doctest: +SKIP
      >>> encoder.layer()(images).shape  # doctest: +SKIP
      TensorShape([32, 1280])
    """

    licence: str
    """An SPDX name, or "unknown"."""
    notes: tuple[str, ...] = ()
    """Assumptions, a sentence each, for the notes of a run."""
    native_size: int = 0
    """Of images: pixels a side that it was trained on."""
    fixed_size: bool = False
    """Of images: whether it takes no other size."""
    input_range: tuple[float, float] = (0.0, 1.0)
    """Of images: the values that it expects for black and for white."""
    preprocessor: Part | None = None
    """Of texts: what makes ids of strings; None where the encoder takes strings itself, or where it is not known."""
    windows: bool = False
    """Of texts: whether all of a text is read, in windows of `max_length`; see `TextEncoder.with_windows`."""
    max_length: int | None = None
    """Of texts: ids at most, the two at the ends among them; what is longer is cut. None: the model decides."""

    modality: ClassVar[Modality]

    def __repr__(self) -> str:
        """Return what it is, in a line."""
        mapping = f"{self.modality} to {self.feature_size} features"
        return f"Encoder({self.handle!r}: {mapping}, {self.parameters:,} parameters)"

    @property
    def parameters(self) -> int:
        """Return how many numbers are in all its variables."""
        return self.interface.parameters

    @property
    def trainable_variables(self) -> int:
        """Return how many variables fine-tuning changes; 0: it can only be used as it is."""
        return self.interface.trainable_variables

    @property
    def stages(self) -> bool:
        """Return whether its later half can be trained without its earlier one."""
        return self.handle in bundled.MODELS

    @property
    def scatters(self) -> bool:
        """Return whether it is the scattering transform, whose features are brought to one scale by themselves."""
        return isinstance(bundled.MODELS.get(self.handle), bundled.ScatteringModel)

    @functools.cached_property
    def tokenizer(self) -> Tokenizer | None:
        """Return what makes a bundled encoder's ids of texts; None for any other."""
        model = bundled.MODELS.get(self.handle)
        if isinstance(model, bundled.TextModel):
            return model.tokenizer(max_length=self.max_length or model.max_length)
        return None

    @property
    def origin(self) -> dict[str, Any]:
        """Return where it came from and what it is, as plain values."""
        names = ("handle", "digest", "licence", "parameters", "feature_size")
        return {name: getattr(self, name) for name in names}

    def for_images(self, image_size: int) -> Encoder:
        """Return the encoder as it is for images of so many pixels a side: some make more features of larger ones."""
        model = bundled.MODELS.get(self.handle)
        if not isinstance(model, bundled.ScatteringModel):
            return self
        return replace(self, feature_size=model.feature_size(image_size))

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
        return self.keras_layer(trainable=trainable)

    def functional(self, **options: Any) -> stack.keras.Model | None:
        """Return the network and its weights as a flat functional tf_keras model; None if it is not bundled.

        Args:
          options: image_size, in pixels a side, of a model of images.

        Returns:
          Images float32 [batch, image_size, image_size, 3] in [0, 1], or {"input_word_ids", "input_mask"} int32
          [batch, n], to float32 [batch, feature_size].
        """
        model = bundled.MODELS.get(self.handle)
        if model is None:
            return None
        self.check(**options)
        return model.functional(**options)

    @abc.abstractmethod
    def graph(self, spec: Any, *, trainable: str = "none", base: Any = None) -> tuple[Any, Any]:
        """Return what a functional model that stands on it begins with.

        Args:
          spec: tf.TensorSpec of one example: an image [s, s, 3] in [0, 1], or a scalar string.
          trainable: `none`, `top` (the later half, of a bundled one) or `all`; batch normalisation is not.
          base: of images: what `functional` returned for that size, to stand on; None: it is built anew.

        Returns:
          The Keras input, [batch, ...], and the features, float32 [batch, feature_size].
        """

    def with_feature_size(self) -> Encoder:
        """Return the encoder with the size of its vectors: as its output states it, or from a trial; 0 if both fail."""
        output = self.interface.output
        if output is None or (output.shape is not None and len(output.shape) != 2):
            return self
        size = output.shape[-1] if output.shape else None
        errors = (stack.tf.errors.OpError, ValueError, TypeError, AttributeError, KeyError)
        example = stack.tf.constant(["a text"])
        if self.modality == "images":
            example = stack.tf.zeros((1, self.native_size, self.native_size, 3))
        with contextlib.suppress(*errors):
            size = size or self.keras_layer()(example).shape[-1]
        return replace(self, feature_size=size or 0)

    @stage("model", "Trying the pretrained model")
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
        if problems := list(self._find_problems(trainable, image_size)):
            lines = "\n".join(f"  - {problem}" for problem in problems)
            raise HubError(f"{self.handle} cannot serve as an encoder of {self.modality} here:\n{lines}")
        return self

    def _find_problems(self, trainable: bool, image_size: int | None) -> Iterator[str]:
        output = self.interface.output
        if self.interface.way == "none":
            yield f"It can neither be called nor has it a signature to use. {_ALTERNATIVE}"
            return
        yield from self._find_input_problems(image_size)
        if output is None or self.feature_size == 0 or not output.dtype.startswith("float"):
            yield (
                f"It gives {_format(self.interface.outputs) or 'nothing'}: not plainly a feature vector, float32"
                f" [batch, features], of a length that it states or that a trial shows. {_ALTERNATIVE}"
            )
        vectors = self.handle.replace("/classification/", "/feature_vector/")
        vectors = re.sub("-classification(?=/|$)", "-feature-vector", vectors)  # so Kaggle has it
        if vectors != self.handle:
            yield f"It gives the scores of a finished classifier, not features. Those: {vectors}"
        if trainable and not self.trainable_variables:
            yield (
                "It has 0 trainable weights: of the TF1 Hub format, called through a signature, or exported without"
                " `trainable_variables`. It can only be used frozen: trainable=False, --fine-tune-epochs 0."
            )

    @abc.abstractmethod
    def _find_input_problems(self, image_size: int | None) -> Iterator[str]: ...


@dataclass(frozen=True, kw_only=True, repr=False)
class ImageEncoder(Encoder):
    """An encoder of images."""

    modality = "images"

    def graph(self, spec: Any, *, trainable: str = "none", base: Any = None) -> tuple[Any, Any]:
        """See `Encoder`: [batch, s, s, 3] in [0, 1]."""
        base = base or self.functional(image_size=int(spec.shape[0]))
        if base is not None:
            freeze(base, trainable)
            return base.input, base.output
        low, high = self.input_range
        inputs = stack.keras.Input(spec.shape, name="images")
        pixels = stack.keras.layers.Rescaling(high - low, offset=low, name="input_range")(inputs)
        return inputs, self.layer(trainable=trainable != "none")(pixels, training=False)

    @property
    def origin(self) -> dict[str, Any]:
        """See `Encoder`."""
        return {**super().origin, "native_size": self.native_size, "input_range": list(self.input_range)}

    def scale(self, images: Any) -> Any:
        """Return images in [0, 1] (a tensor or an array of any shape) as the model expects them."""
        low, high = self.input_range
        return images if (low, high) == (0, 1) else images * (high - low) + low

    def _find_input_problems(self, image_size: int | None) -> Iterator[str]:
        inputs: Any = self.interface.inputs
        shape = self.interface.takes_images and (inputs[0].shape or (None,) * 4)
        if not shape or shape[1] != shape[2]:
            yield (
                f"It takes {_format(inputs) or 'nothing'}, not one batch of square images, float32 [batch, size, size,"
                f" 3]. For texts: recipes.transfer_text, from Python modality='texts'. {_ALTERNATIVE}"
            )
            return
        batch, side = shape[:2]
        if batch is not None:
            yield f"It takes batches of exactly {batch}. Export it with an open first dimension."
        if image_size is not None and side not in (None, image_size):
            yield f"It takes {side} x {side} pixels alone: image_size={side}, not {image_size}."
        minimum = getattr(bundled.MODELS.get(self.handle), "minimum_size", 0)
        if image_size is not None and image_size < minimum:
            yield f"image_size={image_size} is too small for it: {minimum} is the least."


@dataclass(frozen=True, kw_only=True, repr=False)
class TextEncoder(Encoder):
    """An encoder of texts: a SavedModel, and the one that makes its inputs of strings if it needs that."""

    modality = "texts"

    def layer(self, *, trainable: bool = False) -> stack.tf_hub.KerasLayer:
        """See `Encoder`; the parts must fit each other."""
        if self.windows:
            return stack.tf_hub.KerasLayer(stack.keras.Model(*self.graph(None)))
        return self.check(trainable=trainable).keras_layer(trainable=trainable)

    def graph(self, spec: Any, *, trainable: str = "none", base: Any = None) -> tuple[Any, Any]:
        """See `Encoder`: strings [batch].

        For a bundled encoder the layers between are a `text.layers.Tokens` and the flat ones of `functional`; of
        MiniLM both without the pieces that no text is cut into.
        """
        from tfkit.text.layers import Windows

        texts = stack.keras.Input((), dtype=stack.tf.string, name="texts")
        model, tokenizer = bundled.MODELS.get(self.handle), self.tokenizer
        if tokenizer is None or not isinstance(model, bundled.TextModel):
            return texts, self.layer(trainable=trainable != "none")(texts)
        if self.windows:
            return texts, Windows(tokenizer, self.functional())(texts)
        base = model.in_graph(texts, tokenizer)
        freeze(base, trainable)
        return texts, base.output

    def with_windows(self) -> TextEncoder:
        """Return the encoder of whole documents, which stays frozen: mean and maximum of the vectors of their windows.

        Raises:
          HubError: its tokenizer is inside of a SavedModel, and cannot cut a document.
        """
        if self.tokenizer is None:
            raise HubError(
                f"{self.handle} has its tokenizer in a SavedModel, and cannot cut a document into windows.\n"
                "  Take a bundled encoder (minilm-l6-v2, multilingual), or --windows first."
            )
        digest = files.digest_of(self.digest, "windows")
        return replace(self, windows=True, feature_size=2 * self.feature_size, digest=digest)

    @property
    def origin(self) -> dict[str, Any]:
        """See `Encoder`."""
        handle = self.preprocessor and self.preprocessor.handle
        pooling = {"pooling": "mean and maximum of windows"} if self.windows else {}
        return {**super().origin, "preprocessor": handle, "max_length": self.max_length, **pooling}

    def keras_layer(self, *, trainable: bool = False, **options: Any) -> stack.tf_hub.KerasLayer:
        """See `Part`; strings [b], by the preprocessor where there is one."""
        layer = super().keras_layer(trainable=trainable, name="encoder", **options)
        if self.preprocessor is None:
            return layer
        texts = stack.keras.Input((), dtype=stack.tf.string, name="texts")
        vectors = layer(self._preprocess(self.preprocessor, texts))
        return stack.tf_hub.KerasLayer(
            stack.keras.Model(texts, vectors, name="text_encoder"), trainable=trainable
        )

    def row_lengths(self) -> stack.keras.Model | None:
        """Return a model from strings [b] to how many ids the preprocessor makes of each, int32 [b], those at the ends
        among them; None where it does not show that.
        """
        if self.preprocessor is None or self.max_length is None:
            return None
        texts = stack.keras.Input((), dtype=stack.tf.string, name="texts")
        inputs = self._preprocess(self.preprocessor, texts)
        return stack.keras.Model(texts, stack.tf.reduce_sum(inputs[MASK], axis=1)) if MASK in inputs else None

    def _preprocess(self, part: Part, texts: Any) -> Any:
        """Return the inputs of the encoder, in rows of `max_length`."""
        if self.max_length in (None, part.interface.row_length):
            inputs = part.keras_layer(
                output_key=None,
                signature_outputs_as_dict=bool(part.interface.signature) or None,
                name="preprocessor",
            )(texts)
        else:
            model = part.load()
            tokens = stack.tf_hub.KerasLayer(model.tokenize, name="tokenize")(texts)
            arguments = {"seq_length": self.max_length}
            inputs = stack.tf_hub.KerasLayer(model.bert_pack_inputs, arguments=arguments, name="pack")(
                [tokens]
            )
        return {tensor.name: inputs[tensor.name] for tensor in self.interface.inputs}

    def _find_input_problems(self, image_size: int | None) -> Iterator[str]:
        names, part = {tensor.name for tensor in self.interface.inputs}, self.preprocessor
        if self.interface.takes_strings:
            if part is not None or self.max_length is not None:
                yield "It takes strings itself. Leave out preprocessor= and max_length=."
        elif WORDS not in names:
            yield (
                f"It takes {_format(self.interface.inputs)}: neither one batch of strings nor `{WORDS}`. For images:"
                f" recipes.transfer_image. {_ALTERNATIVE}"
            )
        elif part is None:
            yield (
                f"It takes {_format(self.interface.inputs)}, made of strings by a preprocessor='...'. Its page"
                " names it; python -m tfkit models shows those of the well-known."
            )
        else:
            yield from self._find_preprocessor_problems(part, names)

    def _find_preprocessor_problems(self, part: Part, names: set[str]) -> Iterator[str]:
        row, spec = find(self.handle), part.interface
        hint = row.preprocessor or "leave preprocessor= out" if row else "its page names it"
        fix = f"Take the one that belongs to it: {hint}."
        lacking = sorted(names - {tensor.name for tensor in spec.outputs})
        if lacking or not spec.takes_strings:
            yield (
                f"The preprocessor {part.handle} takes {_format(spec.inputs)} and gives {_format(spec.outputs)}, not"
                f" one batch of strings to {', '.join(sorted(names))}. {fix}"
            )
        elif self.handle not in bundled.MODELS:
            pieces, rows = _count_pieces(part.path), _count_embedding_rows(self)
            if pieces and rows and not _LEAST_SHARE * rows <= pieces <= rows:
                yield (
                    f"{part.handle} has {pieces:,} pieces, the encoder's embedding {rows:,} rows: they do not belong"
                    f" together. {fix}"
                )
        if self.max_length != spec.row_length and not {"tokenize", "bert_pack_inputs"} <= spec.children:
            yield (
                f"max_length={self.max_length}: {part.handle} makes rows of {spec.row_length}, and has no `tokenize`"
                " and `bert_pack_inputs` by which others are made. Leave it out."
            )


def freeze(base: stack.keras.Model, trainable: str) -> None:
    """Make `none`, the later half (`top`) or `all` of the layers trainable, but never batch normalisation."""
    layers = [layer for layer in base.layers if layer.weights]
    frozen_count = {"none": len(layers), "top": len(layers) // 2, "all": 0}[trainable]
    for place, layer in enumerate(layers):
        # A frozen BatchNormalization runs in inference mode also during training.
        is_normalization = isinstance(layer, stack.keras.layers.BatchNormalization)
        layer.trainable = place >= frozen_count and not is_normalization


def _count_embedding_rows(encoder: TextEncoder) -> int | None:
    """Return how many ids the encoder knows; None where a trial does not show it.

    An embedding says so itself when it is given an id that it cannot have.
    """
    invalid_ids = stack.tf.constant([[0, 2**31 - 1]])
    ids = {WORDS: invalid_ids, MASK: stack.tf.ones_like(invalid_ids), TYPES: stack.tf.zeros_like(invalid_ids)}
    try:
        inputs = {tensor.name: ids[tensor.name] for tensor in encoder.interface.inputs}
        layer = replace(encoder, preprocessor=None).keras_layer()
        with stack.tf.device("CPU:0"):  # a GPU gives zeros
            layer(inputs)
    except (stack.tf.errors.OpError, ValueError, TypeError, KeyError) as error:
        match = re.search(r"= 2147483647 is not in \[0, (\d+)\)", str(error))
        return int(match[1]) if match else None
    return None


def _count_pieces(preprocessor: Path) -> int | None:
    """Return how many ids a preprocessor makes, by the vocabulary among its assets; None where it shows none."""
    for path in sorted((preprocessor / "assets").glob("*")):
        content = path.read_bytes()
        if path.suffix == ".txt" and b"[SEP]" in content:
            return len(content.decode("utf-8", "replace").rstrip("\n").split("\n"))
        if path.suffix in (".model", ".spm"):
            with contextlib.suppress(stack.tf.errors.OpError):
                return int(stack.tf_text.SentencepieceTokenizer(model=content).vocab_size())
    return None


def _format(tensors: tuple[Tensor, ...]) -> str:
    return ", ".join(f"{tensor.name} {tensor}".strip() for tensor in tensors)

"""A resolved encoder of text: where its parts are, how they are called, and whether they can do a job.

One SavedModel of an encoder of text, and what such models call their inputs.

The parts of an encoder of text as stock layers, and what a trial of them shows.

What speaks against a model as an encoder of text: all reasons at once, each with its way out.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfkit.errors import HubError
from tfkit.hub import bundled, saved_model
from tfkit.hub.catalogue import find_text_model
from tfkit.hub.images import untrainable
from tfkit.hub.networks import encode, freeze
from tfkit.hub.saved_model import Interface, Tensor

if TYPE_CHECKING:
    from tfkit.data.splits import Splits
    from tfkit.environment.stack import keras, tf
    from tfkit.text.tokenizers import WordPiece

WORDS, MASK, TYPES = "input_word_ids", "input_mask", "input_type_ids"
"""What a preprocessor of TF Hub's convention gives, int32 [b, n]."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A verified SavedModel, and how it is called."""

    handle: str
    path: Path
    digest: str
    interface: Interface


AFFORDABLE = 20_000 * 22_565_376
"""Tokens times parameters that two cores train on in half a minute: MiniLM's 22.6 million take 1.2 ms a token."""
FINE_TUNE_EPOCHS = 3
_CHARACTERS = 4  # in a token of English, about
_UNKNOWN_LENGTH = 128


@dataclass(frozen=True, kw_only=True)
class TextEncoder:
    """Verified SavedModels that turn strings into vectors: an encoder, and what makes its inputs if it needs that.

    Example:
      >>> encoder = resolve_text("minilm-l6-v2").check()  # doctest: +SKIP
      >>> encoder.layer()(tf.constant(["How do I cancel?"])).shape  # doctest: +SKIP
      TensorShape([1, 384])
    """

    handle: str
    """As it was asked for."""
    path: Path
    """The encoder's SavedModel folder, whole."""
    digest: str
    """Of the content of both parts and of `max_length`: what is stored for one is not taken for another's."""
    preprocessor: Part | None
    """What makes ids of strings; None where the encoder takes strings itself, or where it is not known."""
    interface: Interface
    """How the encoder's SavedModel is called."""
    output_key: str | None
    """The output that is the vector of a text; None where there is but one."""
    feature_size: int
    """Numbers in a vector; 0 where that is not known."""
    max_length: int | None
    """Ids of a text at most, the two at its ends among them; what is longer is cut. None: the model decides."""
    parameters: int
    """Numbers in all its variables."""
    trainable_variables: int
    """Variables that fine-tuning changes; 0: it can only be used as it is."""
    licence: str
    """An SPDX name, or "unknown"."""
    notes: tuple[str, ...] = ()
    """What was assumed, a sentence each: for the notes of a run."""

    @functools.cached_property
    def tokenizer(self) -> WordPiece | None:
        """What makes a bundled encoder's ids; None for any other."""
        model = bundled.text_model(self.handle)
        return model.tokenizer(max_length=self.max_length or model.max_length) if model else None

    def layer(self, *, trainable: bool = False) -> keras.Model:
        """Strings to vectors as a layer: stock hub.KerasLayers, one after the other, loaded anew.

        Args:
          trainable: whether `fit` changes the encoder's weights.

        Returns:
          A functional tf_keras model, strings [b] to float32 [b, feature_size].

        Raises:
          HubError: the parts do not fit, or trainable=True and there is nothing to train.
        """

        return chained(self.check(trainable=trainable), trainable=trainable)

    def functional(self) -> keras.Model | None:
        """The encoder as a flat functional tf_keras model; None if it is not bundled.

        Returns:
          {"input_word_ids", "input_mask"} int32 [b, n] to float32 [b, feature_size].
        """
        model = bundled.text_model(self.handle)
        return model.functional() if model else None

    def graph(self, spec: tf.TensorSpec, *, trainable: str = "none") -> tuple[Any, Any]:
        """The beginning of a functional model of strings.

        Args:
          spec: of one text, such as `splits.spec`: a scalar string.
          trainable: `none`, `top` (the later half of a bundled encoder) or `all`; for an encoder that is not
            bundled `top` is `all`.

        Returns:
          A Keras input "texts", strings [b], and the vectors made of it, float32 [b, feature_size]. For a bundled
          encoder the layers between are a `text.layers.Tokens` and the flat ones of `functional`, both without the
          pieces that no text is cut into.

        Raises:
          HubError: as `layer`; or the examples are no strings.
        """
        from tfkit.environment import stack
        from tfkit.environment.stack import keras

        if spec.dtype != stack.tf.string or spec.shape.rank != 0:
            raise HubError(
                f"{self.handle} encodes texts; the examples are {spec.dtype.name} of shape {tuple(spec.shape)}.\n"
                "  Texts are read by tfkit.load_texts."
            )
        texts = keras.Input((), dtype=stack.tf.string, name="texts")
        model, tokenizer = bundled.text_model(self.handle), self.tokenizer
        if model is None or tokenizer is None:
            return texts, self.layer(trainable=trainable != "none")(texts)

        from tfkit.text.layers import Tokens

        tokenizer, rows = model.reachable(tokenizer)
        tokens = Tokens(tokenizer)(texts)
        _, features = encode(tokens[WORDS], tokens[MASK], longest=tokenizer.max_length, vocabulary=len(rows))
        freeze(model.weighted(keras.Model(texts, features), rows=rows), trainable)
        return texts, features

    @property
    def fine_tune_epochs(self) -> int:
        """How many are worth their time."""
        return FINE_TUNE_EPOCHS

    @property
    def stages(self) -> bool:
        """Whether its later half can be trained without its earlier one."""
        return bundled.text_model(self.handle) is not None

    def cost_of_epoch(self, splits: Splits) -> tuple[bool, str]:
        """Whether an epoch of all its layers is a matter of half a minute on a CPU, and what there is to compute."""
        lengths = np.asarray(splits.source.lengths)[splits.indices["train"]]  # type: ignore[attr-defined]
        longest = (self.max_length or _UNKNOWN_LENGTH) * _CHARACTERS
        tokens = int(np.minimum(lengths, longest).sum() / _CHARACTERS)
        return tokens * self.parameters <= AFFORDABLE, f"{tokens:,} tokens"

    @property
    def origin(self) -> dict[str, Any]:
        """Where it came from and what it is, as plain values."""
        return {
            "handle": self.handle,
            "preprocessor": self.preprocessor.handle if self.preprocessor else None,
            "digest": self.digest,
            "licence": self.licence,
            "parameters": self.parameters,
            "feature_size": self.feature_size,
            "max_length": self.max_length,
        }

    def check(self, *, trainable: bool = False) -> TextEncoder:
        """Make sure, before any training, that the parts fit each other and can do the job.

        Args:
          trainable: whether the encoder's weights are to be fine-tuned.

        Returns:
          Itself.

        Raises:
          HubError: they cannot; the message lists every reason.
        """

        if problems := text_model_problems(self, trainable=trainable):
            listed = "\n".join(f"  - {problem}" for problem in problems)
            raise HubError(f"{self.handle} cannot serve as an encoder of text here:\n{listed}")
        return self


PIECES = ("tokenize", "bert_pack_inputs")
"""What a preprocessor of TF Hub has besides its call, so that rows of another length can be made."""


def chained(encoder: TextEncoder, *, trainable: bool) -> keras.Model:
    """Strings [b] to float32 [b, feature_size], by the SavedModels of an encoder that was checked."""
    from tfkit.environment import stack
    from tfkit.environment.stack import keras, tf_hub

    texts = keras.Input((), dtype=stack.tf.string, name="texts")
    x = texts
    if encoder.preprocessor is not None:
        x = _preprocessed(x, encoder)
    output = encoder.interface.output
    shown = encoder.output_key is not None or (output is not None and output.shape and output.shape[-1])
    layer = tf_hub.KerasLayer(
        load(encoder.path),
        trainable=trainable,
        signature=encoder.interface.signature if encoder.interface.way != "tf1" else None,
        output_key=encoder.output_key,
        output_shape=[encoder.feature_size] if encoder.feature_size and not shown else None,
        name="encoder",
    )
    return keras.Model(texts, layer(x), name="text_encoder")


def load(path: Path) -> Any:
    """A SavedModel of a part; of one that cannot be called its path, which hub.KerasLayer takes."""
    from tfkit.environment.stack import (
        tf_hub,
        tf_text,  # noqa: F401  a tokenizer's operations must be there before its model
    )

    loaded = tf_hub.load(str(path))
    return loaded if callable(loaded) else str(path)


@functools.lru_cache(maxsize=8)
def embedding_rows(path: Path, digest: str, *, interface: Interface) -> int | None:
    """How many ids the encoder at this path knows; None where a trial does not show it.

    An embedding says so itself when it is asked for an id that it cannot have.

    Args:
      path: its SavedModel.
      digest: of its content, so that another model at the same path is asked anew.
      interface: how it is called.
    """
    from tfkit.environment import stack
    from tfkit.environment.stack import tf_hub

    beyond = stack.tf.constant([[0, 2**31 - 1]])
    inputs = {WORDS: beyond, MASK: stack.tf.ones_like(beyond), TYPES: stack.tf.zeros_like(beyond)}
    asked = {tensor.name: inputs[tensor.name] for tensor in interface.inputs}
    try:
        with stack.tf.device("CPU:0"):  # a GPU gives zeros
            signature = interface.signature if interface.way == "signature" else None
            tf_hub.KerasLayer(
                load(path), signature=signature, signature_outputs_as_dict=bool(signature) or None
            )(asked)
    except (stack.tf.errors.OpError, ValueError, TypeError) as error:
        found = re.search(r"= 2147483647 is not in \[0, (\d+)\)", str(error))
        return int(found[1]) if found else None
    return None


def pieces_of(preprocessor: Path) -> int | None:
    """How many ids a preprocessor makes, by the vocabulary among its assets; None where it shows none."""
    for path in sorted((preprocessor / "assets").glob("*")):
        content = path.read_bytes()
        if path.suffix == ".txt" and b"[SEP]" in content:
            return len(content.decode("utf-8", "replace").rstrip("\n").split("\n"))
        if path.suffix in (".model", ".spm"):
            return _sentence_pieces(content)
    return None


def _sentence_pieces(content: bytes) -> int | None:
    from tfkit.environment import stack
    from tfkit.environment.stack import tf_text

    try:
        return int(tf_text.SentencepieceTokenizer(model=content).vocab_size())
    except stack.tf.errors.OpError:
        return None


def _preprocessed(texts: Any, encoder: TextEncoder) -> Any:
    """The inputs of the encoder, in rows of the length that was asked for."""
    from tfkit.environment.stack import tf_hub

    part = encoder.preprocessor
    assert part is not None
    loaded = load(part.path)
    if encoder.max_length in (None, native_length(part.interface)):
        signature = part.interface.signature
        made = tf_hub.KerasLayer(
            loaded,
            signature=signature,
            signature_outputs_as_dict=True if signature else None,
            name="preprocessor",
        )(texts)
    else:
        tokens = tf_hub.KerasLayer(loaded.tokenize, name="tokenize")(texts)
        arguments = {"seq_length": encoder.max_length}
        made = tf_hub.KerasLayer(loaded.bert_pack_inputs, arguments=arguments, name="pack")([tokens])
    return {tensor.name: made[tensor.name] for tensor in encoder.interface.inputs}


def native_length(preprocessor: Interface) -> int | None:
    """The length of the rows that a preprocessor makes by itself."""
    words = next((tensor for tensor in preprocessor.outputs if tensor.name == WORDS), None)
    return words.shape[-1] if words and words.shape else None


_ALTERNATIVE = "Take an encoder of text: python -m tfkit models lists some, 'minilm-l6-v2' is built in."
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


def text_model_problems(encoder: TextEncoder, *, trainable: bool) -> list[str]:
    """Every reason why `encoder` cannot do this job, as sentences; none when it can."""
    if encoder.interface.way == "none":
        return ["It can neither be called nor has it a signature to use. " + _ALTERNATIVE]
    if encoder.interface.takes_images:
        shape = encoder.interface.inputs[0]
        return [
            f"It takes images ({shape}). recipes.transfer_image and tfkit.resolve are for those. {_ALTERNATIVE}"
        ]
    found = [*_input(encoder), *_output(encoder)]
    if not found:
        found += _vocabulary(encoder)
    found += _length(encoder)
    if trainable and (reason := untrainable(encoder.interface)):
        found.append(reason)
    return found


def _input(encoder: TextEncoder) -> Iterator[str]:
    inputs, part = encoder.interface.inputs, encoder.preprocessor
    if takes_strings(inputs):
        if part is not None:
            yield f"It takes strings itself, and would get the ids of {part.handle}. Leave out preprocessor=."
        return
    if WORDS not in {tensor.name for tensor in inputs}:
        yield f"It takes {_listed(inputs)}: neither one batch of strings nor `{WORDS}`. {_ALTERNATIVE}"
    elif part is None:
        rows = embedding_rows(encoder.path, encoder.digest, interface=encoder.interface)
        named = _PREPROCESSORS.get(rows or 0)
        which = (
            f"Its embedding has {rows:,} rows, as many as that one makes ids: preprocessor={named!r}"
            if named
            else "Its page names it; python -m tfkit models shows those of the well-known: preprocessor='...'"
        )
        yield f"It takes {_listed(inputs)} and needs a preprocessor that makes them of strings. {which}"
    else:
        yield from _preprocessor(encoder, part)


def _preprocessor(encoder: TextEncoder, part: Part) -> Iterator[str]:
    way, made = part.interface.way, {tensor.name for tensor in part.interface.outputs}
    if way == "none" or not takes_strings(part.interface.inputs):
        takes = _listed(part.interface.inputs) or "nothing that it can be called with"
        yield f"The preprocessor {part.handle} takes {takes}, not one batch of strings. {_other(encoder)}"
    elif lacking := sorted({tensor.name for tensor in encoder.interface.inputs} - made):
        gives = ", ".join(sorted(made)) if made - {""} else _listed(part.interface.outputs)
        yield (
            f"The preprocessor {part.handle} gives {gives}; the encoder also needs {', '.join(lacking)}."
            f" {_other(encoder)}"
        )


def _other(encoder: TextEncoder) -> str:
    row = find_text_model(encoder.handle)
    return f"The one that belongs to it: {row.preprocessor}" if row else "Take the one that its page names."


def _output(encoder: TextEncoder) -> Iterator[str]:
    interface = encoder.interface
    outputs = {tensor.name: tensor for tensor in interface.outputs}
    output = outputs.get(encoder.output_key) if encoder.output_key else interface.output
    if output is None:
        yield (
            f"It gives {_listed(interface.outputs) or 'nothing'}: neither `pooled_output` nor one other vector of"
            f" the text. {_ALTERNATIVE}"
        )
    elif (output.shape is not None and len(output.shape) != 2) or not output.dtype.startswith("float"):
        yield f"It gives {output}, not a vector of each text, float32 [batch, features]. {_ALTERNATIVE}"
    elif encoder.feature_size == 0:
        yield f"It gives {output}, and a trial did not show how long its vectors are. {_ALTERNATIVE}"


def _vocabulary(encoder: TextEncoder) -> Iterator[str]:
    part = encoder.preprocessor
    if part is None or bundled.text_model(encoder.handle):
        return
    pieces = pieces_of(part.path)
    rows = embedding_rows(encoder.path, encoder.digest, interface=encoder.interface)
    if pieces is None or rows is None or _SPARE * rows <= pieces <= rows:
        return
    fits = _PREPROCESSORS.get(rows)
    yield (
        f"The vocabulary of {part.handle} has {pieces:,} pieces, the encoder's embedding {rows:,} rows: they do"
        f" not belong together. {f'Rows as these has {fits}' if fits else _other(encoder)}"
    )


def _length(encoder: TextEncoder) -> Iterator[str]:
    length, part = encoder.max_length, encoder.preprocessor
    if length is None:
        return
    if part is None:
        if takes_strings(encoder.interface.inputs):
            yield f"max_length={length} cannot be told to a model that takes strings itself. Leave it out."
    elif length != (native := native_length(part.interface)):
        present = saved_model.children(part.path)
        if not set(PIECES) <= present:
            yield (
                f"max_length={length}: {part.handle} makes rows of {native}, and has no `tokenize` and"
                " `bert_pack_inputs` by which others are made. Leave it out."
            )


def takes_strings(inputs: tuple[Tensor, ...]) -> bool:
    """Whether these are one batch of strings."""
    return (
        len(inputs) == 1
        and inputs[0].dtype == "string"
        and (inputs[0].shape is None or len(inputs[0].shape) == 1)
    )


def _listed(tensors: tuple[Tensor, ...]) -> str:
    return ", ".join(f"{tensor.name} {tensor}".strip() for tensor in tensors)

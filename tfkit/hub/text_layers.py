"""The parts of an encoder of text as stock layers, and what a trial of them shows."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfkit.hub.saved_model import Interface
from tfkit.hub.text_part import MASK, TYPES, WORDS

if TYPE_CHECKING:
    from tfkit.hub.text_encoder import TextEncoder
    from tfkit.stack import keras

PIECES = ("tokenize", "bert_pack_inputs")
"""What a preprocessor of TF Hub has besides its call, so that rows of another length can be made."""


def chained(encoder: TextEncoder, *, trainable: bool) -> keras.Model:
    """Strings [b] to float32 [b, feature_size], by the SavedModels of an encoder that was checked."""
    from tfkit.stack import keras, tf, tf_hub

    texts = keras.Input((), dtype=tf.string, name="texts")
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
    from tfkit.stack import tf_hub, tf_text  # noqa: F401  a tokenizer's operations must be there before its model

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
    from tfkit.stack import tf, tf_hub

    beyond = tf.constant([[0, 2**31 - 1]])
    inputs = {WORDS: beyond, MASK: tf.ones_like(beyond), TYPES: tf.zeros_like(beyond)}
    asked = {tensor.name: inputs[tensor.name] for tensor in interface.inputs}
    try:
        with tf.device("CPU:0"):  # a GPU gives zeros
            signature = interface.signature if interface.way == "signature" else None
            tf_hub.KerasLayer(
                load(path), signature=signature, signature_outputs_as_dict=bool(signature) or None
            )(asked)
    except (tf.errors.OpError, ValueError, TypeError) as error:
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
    from tfkit.stack import tf, tf_text

    try:
        return int(tf_text.SentencepieceTokenizer(model=content).vocab_size())
    except tf.errors.OpError:
        return None


def _preprocessed(texts: Any, encoder: TextEncoder) -> Any:
    """The inputs of the encoder, in rows of the length that was asked for."""
    from tfkit.stack import tf_hub

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

"""An exported model of texts: strings to probabilities, with the tokenizer inside."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfkit import files
from tfkit.export.module import classifier, module_of
from tfkit.predictions import to_probabilities

if TYPE_CHECKING:
    from tfkit.stack import keras

VOCABULARY = "vocab.txt"


def text_module(model: keras.Model, *, scratch: Path, logits: bool) -> Any:
    """What is saved of a classifier of texts.

    It takes UTF-8 strings, [] or [batch], and gives float32 [classes] or [batch, classes]; `serving_default` takes
    [batch] as `texts`. Where the tokenizer is tfkit's own, its vocabulary is in assets/vocab.txt, and the signature
    `device` takes one string [1] by operations that TFLite has, those of tensorflow-text among them; `device_ids` takes
    the ids of one, for runtimes that lack those.

    Args:
      model: from strings [batch] to logits or probabilities.
      scratch: a folder that exists until the module is saved.
      logits: whether the model gives logits.
    """
    from tfkit.stack import tf
    from tfkit.text.device import on_device, on_ids
    from tfkit.text.layer import TOKENS, Tokens

    probabilities = functools.partial(to_probabilities, logits=logits)
    spec = tf.TensorSpec([None], tf.string, name="texts")
    ways = {training: classifier(model, spec, logits=logits, training=training) for training in (False, True)}

    @tf.function(autograph=False)
    def call(texts: Any, training: bool = False) -> Any:
        classify = ways[training]
        return classify(texts[tf.newaxis])[0] if texts.shape.rank == 0 else classify(texts)

    for shape, training in (([None], False), ([], False), ([None], True)):
        call.get_concrete_function(tf.TensorSpec(shape, tf.string, name="texts"), training=training)
    module = module_of(model, call, spec, classify=ways[False])
    tokens = next((layer for layer in model.layers if layer.name == TOKENS), None)
    if isinstance(tokens, Tokens):
        module.device = on_device(model, probabilities=probabilities)
        length = tokens.length or tokens.tokenizer.max_length
        module.device_ids = on_ids(model, length=length, probabilities=probabilities)
        path = scratch / VOCABULARY
        files.write_text(path, "".join(f"{piece}\n" for piece in tokens.tokenizer.vocabulary))
        module.vocabulary = tf.saved_model.Asset(str(path))
    return module

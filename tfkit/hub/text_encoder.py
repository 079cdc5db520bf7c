"""A resolved encoder of text: where its parts are, how they are called, and whether they can do a job."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfkit.errors import HubError
from tfkit.hub import bundled, minilm
from tfkit.hub.freezing import freeze
from tfkit.hub.saved_model import Interface
from tfkit.hub.text_part import MASK, WORDS, Part

if TYPE_CHECKING:
    import tensorflow as tf

    from tfkit.data import Splits
    from tfkit.stack import keras
    from tfkit.text import WordPiece

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
        from tfkit.hub import text_layers

        return text_layers.chained(self.check(trainable=trainable), trainable=trainable)

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
          encoder the layers between are a `tfkit.text.layer.Tokens` and the flat ones of `functional`, both without the
          pieces that no text is cut into.

        Raises:
          HubError: as `layer`; or the examples are no strings.
        """
        from tfkit.stack import keras, tf

        if spec.dtype != tf.string or spec.shape.rank != 0:
            raise HubError(
                f"{self.handle} encodes texts; the examples are {spec.dtype.name} of shape {tuple(spec.shape)}.\n"
                "  Texts are read by tfkit.data.load_texts."
            )
        texts = keras.Input((), dtype=tf.string, name="texts")
        model, tokenizer = bundled.text_model(self.handle), self.tokenizer
        if model is None or tokenizer is None:
            return texts, self.layer(trainable=trainable != "none")(texts)

        from tfkit.text.layer import Tokens

        tokenizer, rows = model.reachable(tokenizer)
        tokens = Tokens(tokenizer)(texts)
        _, features = minilm.encode(
            tokens[WORDS], tokens[MASK], longest=tokenizer.max_length, vocabulary=len(rows)
        )
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
        from tfkit.hub import text_preflight

        if problems := text_preflight.problems(self, trainable=trainable):
            listed = "\n".join(f"  - {problem}" for problem in problems)
            raise HubError(f"{self.handle} cannot serve as an encoder of text here:\n{listed}")
        return self

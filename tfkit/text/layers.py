"""The tokenizer as a layer at the edge of a model that takes strings, and such a model as a device runs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tfkit.environment.stack import keras, tf
from tfkit.errors import UsageError
from tfkit.text.tokenizers import MASK, TYPES, WORDS, Tokenizer

TOKENS = "tokens"
"""The layer's name: what stands after it takes ids."""

WINDOWS = "windows"
"""The layer's name: what stands after it takes the features of whole documents."""

MIX = "mix"
"""The layer's name: its inputs are the logits of an encoder and those of counted pieces."""

PAIRS = 2**17
"""Numbers that pairs of neighbouring pieces are hashed to."""

MOST_COUNTED = 4096
"""Pieces of a text that are counted, from its beginning."""

AT_A_TIME = 32
"""Windows that are computed together, so that memory does not grow with a document."""


class Tokens(keras.layers.Layer):
    """Strings to the inputs of an encoder; it has no weights.

    Call: UTF-8 [b] to `input_word_ids`, `input_mask` and `input_type_ids`, int32 [b, longest of the batch], or
    [b, length] where that is given.
    """

    def __init__(self, tokenizer: Tokenizer, *, length: int | None = None) -> None:
        super().__init__(name=TOKENS, trainable=False, dtype="int32")
        self.tokenizer = tokenizer
        self.length = length

    def call(self, strings: Any) -> dict[str, Any]:
        """Return the ids, dense."""
        ids = self.tokenizer.dense(strings, length=self.length)
        # Ragged rows forget how many they are, which private training asks for.
        return {name: tf.ensure_shape(rows, [strings.shape[0], self.length]) for name, rows in ids.items()}

    def get_config(self) -> dict[str, Any]:
        """Return what TensorBoard's graph shows; the tokenizer itself is in the SavedModel alone."""
        pieces, longest = self.tokenizer.size, self.tokenizer.max_length
        return {**super().get_config(), "pieces": pieces, "longest": longest, "length": self.length}


def window_sizes(lengths: Any, *, room: int) -> tuple[Any, Any]:
    """Return how many windows a document is cut into, and how many pieces each has; the last has what is left.

    Args:
      lengths: of documents in pieces, whole numbers of any shape.
      room: pieces of a window at most.

    Returns:
      As many of each as `lengths`: counts, 1 or more, and sizes, `room` at most and nearly equal.

    Example:
      >>> [tuple(map(int, window_sizes(length, room=126))) for length in (0, 126, 127, 1000)]
      [(1, 0), (1, 126), (2, 64), (8, 125)]
    """
    counts = tf.maximum(-(-lengths // room), 1)
    return counts, -(-lengths // counts)


class Windows(keras.layers.Layer):
    """Whole documents to features: of windows that an encoder reads whole, mean and maximum of their vectors.

    Call: UTF-8 [b] to float32 [b, 2 d].

    Args:
      tokenizer: cuts the texts; a window holds its `max_length`, the two at the edges among them.
      network: from `input_word_ids` and `input_mask`, int32 [windows, n], to vectors float32 [windows, d]; it stays as
        it is.
    """

    def __init__(self, tokenizer: Tokenizer, network: keras.Model) -> None:
        network.trainable = False
        super().__init__(name=WINDOWS, trainable=False)
        self.tokenizer, self.network = tokenizer, network

    def call(self, texts: Any) -> Any:
        """Return the features, some windows at a time."""
        pieces, room = self.tokenizer.tokenize(texts), self.tokenizer.max_length - 2
        counts, sizes = window_sizes(pieces.row_lengths(), room=room)
        document = tf.repeat(tf.range(pieces.nrows()), counts)
        size, place = tf.gather(sizes, document), tf.ragged.range(counts).flat_values
        lengths = tf.minimum(size, tf.gather(pieces.row_lengths(), document) - place * size)
        windows = tf.RaggedTensor.from_row_lengths(pieces.flat_values, lengths)
        steps = tf.maximum(-(-tf.size(lengths) // AT_A_TIME), 1)

        def step(number: Any, vectors: Any) -> Any:
            part = windows[number * AT_A_TIME : (number + 1) * AT_A_TIME]
            return number + 1, vectors.write(number, self._embed(part.to_tensor(), part.row_lengths()))

        width = self.network.output.shape[-1]
        array = tf.TensorArray(tf.float32, steps, infer_shape=False, element_shape=[None, width])
        _, array = tf.while_loop(lambda number, _: number < steps, step, (0, array), parallel_iterations=1)
        vectors = array.concat()
        features = [tf.math.segment_mean(vectors, document), tf.math.segment_max(vectors, document)]
        return tf.ensure_shape(tf.concat(features, axis=1), [texts.shape[0], 2 * width])

    def of_text(self, pieces: Any) -> Any:
        """Return the features of one text, float32 [1, 2 d], by its pieces, int32 [n], and operations of TFLite."""
        length = tf.size(pieces)
        counts, size = window_sizes(length, room=self.tokenizer.max_length - 2)
        rows = tf.reshape(tf.pad(pieces, [[0, counts * size - length]]), [counts, size])
        vectors = self._embed(rows, tf.minimum(size, length - size * tf.range(counts)))
        return tf.concat([tf.reduce_mean(vectors, 0, True), tf.reduce_max(vectors, 0, True)], axis=1)

    def _embed(self, pieces: Any, lengths: Any) -> Any:
        """Return float32 [windows, d] of rows of pieces, int32 [windows, n], each with what fills it up behind it."""
        edges, lengths = self.tokenizer.edges, tf.expand_dims(tf.cast(lengths, tf.int32), 1)
        places = tf.expand_dims(tf.range(tf.shape(pieces)[1] + 2), 0)  # TFLite has no slice that adds an axis
        row = tf.pad(pieces, [[0, 0], [1, 1]], constant_values=edges.start)
        row = tf.where(places < lengths + 1, row, tf.where(places == lengths + 1, edges.end, edges.pad))
        return self.network({WORDS: row, MASK: tf.cast(places < lengths + 2, tf.int32)}, training=False)

    def get_config(self) -> dict[str, Any]:
        """Return what TensorBoard's graph shows."""
        return {**super().get_config(), "longest": self.tokenizer.max_length}


def pair_numbers(pieces: Any) -> Any:
    """Return the numbers of the pairs in a row of n pieces, int32 [n - 1] in [0, `PAIRS`): with NumPy as in a graph."""
    return (pieces[:-1] * 7919 + pieces[1:] * 6007) % PAIRS


class CountedPieces(keras.layers.Layer):
    """Texts to the logits of a linear model of how often each piece, and each pair of neighbours, is in them.

    Counts are sublinear, weighted by inverse document frequency, and of length one: TF-IDF as scikit-learn has it. It
    has no Keras weights: scikit-learn fits it, and no step changes it.

    Call: UTF-8 [b] to float32 [b, classes].

    Args:
      tokenizer: cuts the texts.
      idf: float32 [terms], of the tokenizer's pieces, and of `PAIRS` pairs behind them.
      kernel: float32 [terms, classes].
      bias: float32 [classes].
      pairs: whether there are pairs.
    """

    def __init__(self, tokenizer: Tokenizer, *, idf: Any, kernel: Any, bias: Any, pairs: bool) -> None:
        super().__init__(name="counted_pieces", trainable=False)
        with tf.init_scope():
            self.idf, self.kernel, self.bias = (
                tf.constant(value, tf.float32) for value in (idf, kernel, bias)
            )
        self.tokenizer, self.pairs = tokenizer, pairs

    def call(self, texts: Any) -> Any:
        """Return the logits, one text at a time: a row of all terms takes memory."""
        pieces = self.tokenizer.tokenize(texts)[:, :MOST_COUNTED]
        return tf.map_fn(
            lambda row: self.of_text(row, tf.ones_like(row))[0], pieces,
            fn_output_signature=tf.TensorSpec(self.bias.shape, tf.float32),
        )  # fmt: skip

    def of_text(self, pieces: Any, mask: Any) -> Any:
        """Return float32 [1, classes] of pieces, int32 [n], of which those count whose `mask`, int32 [n], is 1."""
        terms, mask = pieces[:MOST_COUNTED], mask[:MOST_COUNTED]
        if self.pairs:
            terms = tf.concat([terms, self.idf.shape[0] - PAIRS + pair_numbers(terms)], axis=0)
            mask = tf.concat([mask, mask[1:]], axis=0)
        counts = tf.scatter_nd(tf.expand_dims(terms, 1), tf.cast(mask, tf.float32), self.idf.shape)
        values = self.idf * tf.where(counts > 0, 1 + tf.math.log(tf.maximum(counts, 1)), 0.0)
        values *= tf.math.rsqrt(tf.maximum(tf.reduce_sum(values * values), 1e-12))
        return tf.matmul(tf.expand_dims(values, 0), self.kernel) + self.bias

    def get_config(self) -> dict[str, Any]:
        """Return what TensorBoard's graph shows."""
        return {**super().get_config(), "terms": self.idf.shape[0]}


class Mix(keras.layers.Layer):
    """Logits of several models to those of their product, each to a power.

    Call: a list of float32 [b, classes] to float32 [b, classes].
    """

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__(name=MIX, trainable=False)
        self.shares = tuple(map(float, weights))

    def call(self, logits: Any) -> Any:
        """Return the weighted sum."""
        return tf.add_n([share * value for share, value in zip(self.shares, logits, strict=True)])

    def get_config(self) -> dict[str, Any]:
        """Return what makes another one."""
        return {**super().get_config(), "weights": self.shares}


class MaskedMean(keras.layers.Layer):
    """The mean of the vectors of a text's ids, without its padding.

    Call: float32 [b, t, d] and the mask, int32 [b, t], at least one of a row being 1; to float32 [b, d].
    """

    def call(self, vectors: Any, mask: Any) -> Any:
        """Return the mean."""
        weights = tf.expand_dims(tf.cast(mask, vectors.dtype), 2)
        return tf.reduce_sum(vectors * weights, axis=1) / tf.reduce_sum(weights, axis=1)


def on_device(model: keras.Model, *, probabilities: Callable[[Any], Any] = tf.nn.softmax) -> Any:
    """Return the same model for one string, with neither ragged tensors nor any other operation that TFLite lacks.

    What cuts the string are custom operations of TFLite that come with tensorflow-text; all others are TFLite's own.

    Args:
      model: functional, from strings [b] over a `tfkit.text.layers.Tokens` named "tokens" to [b, classes].
      probabilities: makes [b, classes] of what the model gives: of logits, unless it is said.

    Returns:
      A tf.function from `texts`, string [1], to `probabilities`, float32 [1, classes]: a signature for a SavedModel
      that keeps the model's variables.

    Raises:
      UsageError: the model has no such layer.
    """
    model, mix = _split_mix(model)
    windows = next((layer for layer in model.layers if layer.name == WINDOWS), None)
    tokens = windows or _find_tokens(model)
    body = keras.Model(windows.output, model.output) if windows else behind_tokens(model)
    tokenizer = tokens.tokenizer

    @tf.function(input_signature=[tf.TensorSpec([1], tf.string, name="texts")], autograph=False)
    def device(texts: Any) -> dict[str, Any]:
        # One string has one row: its values alone say it, where a ragged tensor has operations that TFLite lacks.
        pieces = tokenizer.tokenize(texts).flat_values
        if windows:
            inputs = windows.of_text(pieces)
        else:
            window = pieces[: tokenizer.max_length - 2]
            row = tf.concat([[tokenizer.edges.start], window, [tokenizer.edges.end]], axis=0)
            ids = {WORDS: row, MASK: tf.ones_like(row), TYPES: tf.zeros_like(row)}
            inputs = {
                name: _pad_row(ids[name], tokens.length, tokenizer, name)[tf.newaxis] for name in body.input
            }
        return {
            "probabilities": probabilities(mix(body(inputs, training=False), pieces, tf.ones_like(pieces)))
        }

    return device


def on_ids(model: keras.Model, *, length: int, probabilities: Callable[[Any], Any] = tf.nn.softmax) -> Any:
    """Return the part behind the tokenizer alone, for runtimes without custom operations, which cut the string.

    Args:
      model: as of `on_device`.
      length: of the row of ids.
      probabilities: makes [b, classes] of what the model gives: of logits, unless it is said.

    Returns:
      A tf.function from the inputs of the part, `input_word_ids` and `input_mask` as a rule, int32 [1, length], to
      `probabilities`, float32 [1, classes].
    """
    model, mix = _split_mix(model)
    body = behind_tokens(model)
    specs = [tf.TensorSpec([1, length], tf.int32, name=name) for name in body.input]

    @tf.function(input_signature=specs, autograph=False)
    def device(*ids: Any) -> dict[str, Any]:
        inputs = dict(zip(body.input, ids, strict=True))
        # Behind a piece there is another, or the one at the end; behind that one there is nothing.
        pieces, mask = (inputs[WORDS][0, 1:-1], inputs[MASK][0, 2:])
        return {"probabilities": probabilities(mix(body(inputs, training=False), pieces, mask))}

    return device


def behind_tokens(model: keras.Model) -> keras.Model:
    """Return what stands behind the tokenizer: from its used outputs, by name, to the model's output."""
    outputs = _find_tokens(model).output
    nodes = [node for layer in model.layers for node in layer.inbound_nodes]
    ids = {id(tensor) for node in nodes for tensor in node.keras_inputs}
    return keras.Model({name: output for name, output in outputs.items() if id(output) in ids}, model.output)


def _split_mix(model: keras.Model) -> tuple[keras.Model, Callable[[Any, Any, Any], Any]]:
    """Return the part of a model that is no counting, and what makes its logits those of the whole, with the pieces."""
    mix = next((layer for layer in model.layers if layer.name == MIX), None)
    if mix is None:
        return model, lambda logits, pieces, mask: logits
    counted_pieces = model.get_layer("counted_pieces")
    encoder = keras.Model(model.input, mix.input[0])
    return encoder, lambda logits, pieces, mask: mix([logits, counted_pieces.of_text(pieces, mask)])


def _find_tokens(model: keras.Model) -> Tokens:
    tokens = [layer for layer in model.layers if layer.name == TOKENS and isinstance(layer, Tokens)]
    if not tokens:
        raise UsageError(
            f"{model.name!r} has no tokenizer: a functional model from strings has a tfkit.text.layers.Tokens named"
            f" {TOKENS!r} behind its input; there is {', '.join(layer.name for layer in model.layers[:5])}, ..."
        )
    return tokens[0]


def _pad_row(row: Any, length: int | None, tokenizer: Any, name: str) -> Any:
    """Return a row as long as the layer makes it."""
    if length is None:
        return row
    padding = tokenizer.edges.pad if name == WORDS else 0
    # Not tf.ensure_shape, which TFLite lacks.
    return tf.reshape(tf.pad(row, [[0, length - tf.size(row)]], constant_values=padding), [length])

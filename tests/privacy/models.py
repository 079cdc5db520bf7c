"""Models whose examples' gradients are hard to tell apart: layers within layers, ties, masks, loops, wrappers."""

from __future__ import annotations

import numpy as np

from tfkit.environment.stack import keras, tf

BATCH = 6  # some layers are made for it

L = keras.layers


class Scale(L.Layer):
    """A user's own layer: no rule knows it."""

    def build(self, shape):
        self.factor = self.add_weight(name="factor", shape=[shape[-1]], initializer="ones")

    def call(self, inputs):
        if tf.reduce_max(inputs) > 1e9:  # needs autograph in a graph
            return inputs
        return tf.tanh(inputs * self.factor)


class Block(L.Layer):
    """Calls a layer and has a weight of its own."""

    def __init__(self):
        super().__init__()
        self.dense = L.Dense(4)

    def build(self, shape):
        self.gate = self.add_weight(name="gate", shape=[4], initializer="ones")

    def call(self, inputs):
        return self.dense(inputs) * self.gate


class Random(Scale):
    """Draws random numbers that nobody told of."""

    def call(self, inputs):
        return tf.nn.dropout(inputs * self.factor, 0.5)


class Centred(Scale):
    """Computes with all examples."""

    def call(self, inputs):
        return inputs * self.factor - tf.reduce_mean(inputs * self.factor, 0)


class Tied(L.Layer):
    """Uses another layer's weight by itself."""

    def __init__(self, embedding):
        super().__init__()
        self.embedding = embedding

    def call(self, inputs):
        return tf.matmul(inputs, self.embedding.embeddings, transpose_b=True)


class Masked(L.Layer):
    """Has a weight, and calls a layer that looks for a mask on its input."""

    def __init__(self):
        super().__init__()
        self.attention = L.MultiHeadAttention(2, 3)

    def build(self, shape):
        self.gate = self.add_weight(name="gate", shape=[shape[-1]], initializer="ones")

    def call(self, inputs):
        return self.attention(inputs, inputs) * self.gate


class Mixed(L.Layer):
    """Its argument `matrix` is no batch, though it may be as long as one."""

    def build(self, shape):
        self.gate = self.add_weight(name="gate", shape=[4], initializer="ones")

    def call(self, inputs, matrix):
        return tf.matmul(matrix, inputs) * self.gate


def functional(shape, *layers):
    inputs = keras.Input(shape)
    value = inputs
    for layer in layers:
        value = layer(value)
    return keras.Model(inputs, L.Dense(3)(L.Flatten()(value)))


def attention(shape):
    inputs = keras.Input(shape)
    value = L.MultiHeadAttention(2, 3)(inputs, inputs)
    return keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling1D()(value)))


def shared(layer, shape):
    inputs = keras.Input(shape)
    return keras.Model(inputs, L.Dense(3)(L.Flatten()(layer(tf.keras.activations.tanh(layer(inputs))))))


def transformer():
    inputs = keras.Input([7], dtype="int64")
    value = L.Embedding(11, 8)(inputs)
    value = L.LayerNormalization()(value + L.MultiHeadAttention(2, 4)(value, value))
    value = L.LayerNormalization()(value + L.Dense(8, activation="gelu")(value))
    return keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling1D()(value)))


def words(*layers):
    inputs = keras.Input([7], dtype="int64")
    value = L.Embedding(11, 8, mask_zero=True)(inputs)
    for layer in layers:
        value = layer(value)
    return keras.Model(inputs, L.Dense(3)(L.Flatten()(value)))


def tied():
    inputs, embedding = keras.Input([7], dtype="int64"), L.Embedding(11, 8)
    value = L.GlobalAveragePooling1D()(embedding(inputs))
    return keras.Model(inputs, L.Dense(3)(Tied(embedding)(value)))


def tied_by_an_operation():
    inputs, embedding = keras.Input([7], dtype="int64"), L.Embedding(11, 8)
    value = L.GlobalAveragePooling1D()(embedding(inputs))
    return keras.Model(inputs, tf.matmul(value, embedding.embeddings, transpose_b=True))


def mixed():
    inputs = keras.Input([BATCH, 4])
    matrix = tf.constant(np.random.default_rng(0).normal(size=[BATCH, BATCH]), tf.float32)
    return keras.Model(inputs, L.Dense(3)(L.Flatten()(Mixed()(inputs, matrix))))


def once_more_inside_a_wrapper():
    inputs, dense = keras.Input([4, 5]), L.Dense(5)
    return keras.Model(inputs, L.Dense(3)(dense(L.TimeDistributed(dense)(inputs)[:, 0])))


def cnn():
    return functional(
        (12, 12, 2),
        L.Conv2D(8, 3, strides=2, padding="same", use_bias=False),
        L.GroupNormalization(4),
        L.ReLU(),
        L.Conv2D(6, 3, activation="relu"),
        L.MaxPool2D(2),
    )


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.body = keras.Sequential([L.Dense(7, activation="relu"), L.Dropout(0.0)])
        self.last = L.Dense(3)

    def call(self, inputs, training=False):
        return self.last(self.body(inputs, training=training))


class Owning(keras.Model):
    """Has a weight of its own, beside its layers."""

    def __init__(self):
        super().__init__()
        self.last = L.Dense(3)
        self.gate = self.add_weight(name="gate", shape=[5], initializer="ones")

    def call(self, inputs, training=False):
        return self.last(inputs * self.gate)


class Wrapped(keras.Model):
    """Calls a layer inside of a function of its own."""

    def __init__(self):
        super().__init__()
        self.first, self.last = L.Dense(4), L.Dense(3)
        self.apply = tf.function(lambda values: self.first(values))

    def call(self, inputs, training=False):
        return self.last(self.apply(inputs))


def subclassed(kind=Subclassed):
    model = kind()
    model(tf.zeros([1, 5]))
    return model


MODELS = {
    "dense": lambda: functional((5,), L.Dense(4, activation="tanh")),
    "dense over time": lambda: functional((40, 3), L.Dense(2, use_bias=False)),
    "conv1d": lambda: functional((9, 3), L.Conv1D(4, 3, dilation_rate=2, padding="causal"), L.ReLU()),
    "conv1d strides": lambda: functional((9, 3), L.Conv1D(4, 2, strides=2, padding="same")),
    "conv2d": lambda: functional(
        (8, 7, 3), L.Conv2D(4, (3, 2), strides=2, padding="same", activation="relu")
    ),
    "conv2d dilated": lambda: functional((8, 8, 2), L.Conv2D(3, 3, dilation_rate=2)),
    "conv2d groups": lambda: functional((6, 6, 4), L.Conv2D(4, 3, groups=2)),
    "depthwise": lambda: functional((8, 8, 3), L.DepthwiseConv2D(3, depth_multiplier=2, padding="same")),
    "separable": lambda: functional(
        (8, 8, 3), L.SeparableConv2D(5, 3, depth_multiplier=2, activation="relu")
    ),
    "layer norm": lambda: functional((5, 4), L.LayerNormalization()),
    "layer norm axes": lambda: functional((5, 4), L.LayerNormalization(axis=(1, 2))),
    "group norm": lambda: functional((5, 5, 6), L.GroupNormalization(3)),
    "einsum": lambda: functional((5, 4), L.EinsumDense("abc,cd->abd", output_shape=(None, 3), bias_axes="d")),
    "einsum dots": lambda: functional((5, 4), L.EinsumDense("...c,cd->...d", output_shape=3, bias_axes="d")),
    "einsum turned": lambda: functional(
        (5, 4), L.EinsumDense("abc,dc->adb", output_shape=(3, 5), bias_axes="db")
    ),
    "attention": lambda: attention((5, 4)),
    "lstm": lambda: functional((5, 3), L.LSTM(4)),
    "bidirectional": lambda: functional((4, 3), L.Bidirectional(L.GRU(3, return_sequences=True))),
    "time distributed": lambda: functional((4, 3), L.TimeDistributed(L.Dense(2))),
    "conv3d": lambda: functional((4, 4, 4, 2), L.Conv3D(3, 2)),
    "own layer": lambda: functional((5,), Scale()),
    "own block": lambda: functional((5,), Block()),
    "shared dense": lambda: shared(L.Dense(5), (5,)),
    "shared dense over time": lambda: shared(L.Dense(5), (4, 5)),
    "shared conv": lambda: shared(L.Conv2D(2, 3, padding="same"), (5, 5, 2)),
    "shared norm": lambda: shared(L.LayerNormalization(), (5,)),
    "model cnn": cnn,
    "model transformer": transformer,
    "activation with weights": lambda: functional((5,), L.Dense(4, activation=L.PReLU())),
    "masked lstm": lambda: words(L.LSTM(4)),
    "long lstm": lambda: functional((140, 2), L.LSTM(2)),
    "mask inside": lambda: words(Masked()),
    "tied weights": tied,
    "tied weights, by an operation": tied_by_an_operation,
    "argument as long as the batch": mixed,
    "shared with a wrapper": once_more_inside_a_wrapper,
    "model subclassed": subclassed,
    "model with a weight": lambda: subclassed(Owning),
    "model with a function": lambda: subclassed(Wrapped),
}

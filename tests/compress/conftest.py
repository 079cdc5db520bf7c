"""A small convolutional net of the backbone's layer kinds, trained on real digits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from tfkit.stack import keras

BATCH, EPOCHS = 32, 3


@dataclass(frozen=True)
class Digits:
    model: keras.Model
    images: np.ndarray
    labels: np.ndarray

    @property
    def steps(self) -> int:
        return EPOCHS * -(-len(self.images) // BATCH)

    def compile(self, model, learning_rate=3e-3):
        model.compile(
            keras.optimizers.Adam(learning_rate),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        return model

    def train(self, stage, model=None):
        """(what was wrapped, what came out, the losses of the epochs)."""
        before = model if model is not None else self.model
        wrapped = self.compile(stage.wrap(before, steps=self.steps))
        history = wrapped.fit(
            self.images, self.labels, epochs=EPOCHS, batch_size=BATCH, verbose=0, callbacks=stage.callbacks()
        )
        return before, stage.strip(wrapped), history.history["loss"]


def network():
    layers = keras.layers
    inputs = keras.Input([8, 8, 1])
    x = layers.Rescaling(2.0, offset=-1.0, name="rescaling")(inputs)
    x = layers.Conv2D(16, 3, use_bias=False, padding="same", name="first")(x)
    x = y = layers.ReLU(6.0, name="first_relu")(layers.BatchNormalization(name="first_bn")(x))
    y = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(y)
    y = layers.ReLU(6.0, name="depthwise_relu")(layers.BatchNormalization(name="depthwise_bn")(y))
    x = layers.Conv2D(32, 3, activation="relu", name="second")(layers.Add(name="add")([x, y]))
    x = layers.Dropout(0.1, name="dropout")(layers.GlobalAveragePooling2D(name="features")(x))
    return keras.Model(inputs, layers.Dense(10, name="classifier")(x))


@pytest.fixture(scope="session")
def digits():
    from sklearn.datasets import load_digits

    found = load_digits()
    keras.utils.set_random_seed(0)
    images = (found.images[:960, ..., None] / 16).astype(np.float32)
    made = Digits(model=network(), images=images, labels=found.target[:960])
    made.compile(made.model, 1e-2).fit(images, made.labels, epochs=8, batch_size=BATCH, verbose=0)
    for name in ("first_bn", "depthwise_bn"):
        made.model.get_layer(name).trainable = False
    return made

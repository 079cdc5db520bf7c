"""A small net trained on real digits, a real classifier as .tflite, a Python with what infer.py needs."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tfkit.environment.stack import keras

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


SIZE, IMAGES, SOME = 96, 60, 1200


@dataclass(frozen=True)
class Classifier:
    """EfficientNet-Lite0 under a head of ten digits; raw pixels to probabilities."""

    files: dict[str, bytes]  # float32 takes float32 pixels, int8 takes uint8 and gives uint8
    images: np.ndarray  # uint8 [60, 96, 96, 3] of the test split
    probabilities: np.ndarray  # float32 [60, 10], by Keras
    labels: tuple[str, ...]


@pytest.fixture(scope="session")
def classifier():
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    from tfkit import data, hub
    from tfkit.compression import representative
    from tfkit.compression.convert import ConversionRequest, run_conversions
    from tfkit.compression.sources import saved
    from tfkit.environment.stack import keras, tf
    from tfkit.transfer import models

    # MNIST and not the 8 x 8 digits: these, enlarged, are so far from what the backbone knows that int8 itself gives
    # another class for 5 to 7 % of the test split, whatever reads it. Here it does for 2 %.
    all_of_them = data.load_images("mnist5k", image_size=28).source
    some = np.sort(np.random.default_rng(0).permutation(len(all_of_them.labels))[:SOME])
    splits = data.from_arrays(all_of_them.read(some), all_of_them.labels[some], image_size=SIZE)
    backbone = hub.load_model("efficientnet-lite0")
    train = np.asarray(splits.indices["train"])
    features = hub.extract(backbone, splits).splits.source.read(train)
    # Solved and not trained step by step: the same head in every process, without a seed.
    with threadpool_limits(1):  # several would wait for each other, at full load
        solved = LogisticRegression(C=0.01, max_iter=2000).fit(features, splits.source.labels[train])
    head = models.head(features.shape[1], 10, models.plain_top())
    head.layers[-1].set_weights([solved.coef_.T.astype(np.float32), solved.intercept_.astype(np.float32)])

    pixels = keras.Input([SIZE, SIZE, 3])
    scaled = keras.layers.Rescaling(1 / 255)(pixels)
    logits = head(backbone.functional(image_size=SIZE)(scaled, training=False))
    model = keras.Model(pixels, keras.layers.Softmax()(logits))

    types = {"inference_input_type": "uint8", "inference_output_type": "uint8"}
    requests = [
        ConversionRequest(name="float32", variant="float32"),
        ConversionRequest(name="int8", variant="int8", **types),
    ]
    with saved(model) as source:
        examples = {name: representative.from_splits(splits) for name in source.inputs}
        files, failed = run_conversions(source, requests, examples=examples)
    assert not failed
    images = splits.source.read(np.asarray(splits.indices["test"][:IMAGES]))
    return Classifier(
        files=files,
        images=images,
        probabilities=model(tf.cast(images, tf.float32), training=False).numpy(),
        labels=tuple(f"Ziffer {number} — 数字" for number in range(10)),
    )


@pytest.fixture(scope="session")
def with_labels(classifier):
    """Its files with metadata, by the name of the variant."""
    from tfkit.compression import with_metadata

    told = {"name": "digits", "description": "Handwritten digits.", "labels": classifier.labels}
    return {
        "float32": with_metadata(classifier.files["float32"], **told, mean=0.0, std=1.0),
        "int8": with_metadata(classifier.files["int8"], **told),
    }


NEEDED = ("ai_edge_litert", "numpy", "numpy.libs", "PIL", "pillow.libs")
"""Folders of site-packages: the three packages and the libraries that their wheels bring."""


@pytest.fixture(scope="session")
def bare(tmp_path_factory):
    """A place to import from that holds the three packages and nothing else."""
    folder = tmp_path_factory.mktemp("bare")
    installed = Path(importlib.util.find_spec("numpy").origin).parents[1]
    for name in NEEDED:
        if (installed / name).exists():
            (folder / name).symlink_to(installed / name)
    return folder


@pytest.fixture
def python(bare):
    """Runs Python with nothing but the standard library and `bare`."""

    def run(*arguments, **options):
        kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
        return subprocess.run(
            [sys.executable, "-S", *map(str, arguments)],
            env={**kept, "PYTHONPATH": str(bare), "PYTHONIOENCODING": "utf-8"},
            capture_output=True,
            encoding="utf-8",
            check=False,
            timeout=600,
            **{"cwd": bare, **options},
        )

    return run


def answers(done):
    """Class to probability, as printed."""
    assert done.returncode == 0, done.stderr
    pairs = [line.split("  ", 1) for line in done.stdout.splitlines()]
    return {label: float(score) for score, label in pairs}

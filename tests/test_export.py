"""The exported model: the trained one, built for raw input, or not kept."""

from __future__ import annotations

import numpy as np
import pytest

from tfkit import data, export, predictions
from tfkit.errors import CheckError
from tfkit.evaluation import Evaluation
from tfkit.run import Run
from tfkit.stack import keras, tf


@pytest.fixture(scope="module")
def splits():
    return data.load_images("digits", image_size=24)


@pytest.fixture(scope="module")
def model(splits):
    model = keras.Sequential([keras.layers.Flatten(input_shape=(24, 24, 3)), keras.layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    model.fit(splits.train, epochs=3, verbose=0)
    return model


def test_it_agrees_with_what_was_trained(model, splits, tmp_path):
    run = Run.create(tmp_path, config={})
    measured = predictions.evaluate(model, splits)
    numbers = export.save(model, run, splits, evaluation=measured)
    assert numbers["export/agreement"] == 1.0
    assert numbers["export/max_difference"] < 0.01
    written = [path for path in (tmp_path / "saved_model").rglob("*") if path.is_file()]
    assert numbers["export/size_bytes"] == sum(path.stat().st_size for path in written)
    assert run.labels == list(splits.class_names)
    loaded = run.model
    assert set(loaded.signatures) == {"serving_default"}
    served = loaded.signatures["serving_default"](images=tf.zeros([1, 5, 7, 3], tf.uint8))["probabilities"]
    assert served.numpy().sum() == pytest.approx(1, abs=1e-5)


def test_one_that_differs_is_an_error_and_is_not_kept(model, splits, tmp_path):
    run = Run.create(tmp_path, config={})
    measured = predictions.evaluate(model, splits)
    other = Evaluation(
        labels=measured.labels,
        probabilities=np.roll(measured.probabilities, 1, axis=1),
        names=measured.names,
        class_names=measured.class_names,
    )
    with pytest.raises(CheckError, match="agrees with the trained one on 0"):
        export.save(model, run, splits, evaluation=other)
    assert [path.name for path in tmp_path.iterdir() if "saved_model" in path.name] == []


def test_floats_are_read_by_the_largest_value_of_each_image():
    dark, bright = np.full((2, 2, 3), 0.5, np.float32), np.full((2, 2, 3), 200.0, np.float32)
    found = export.to_bytes_range(tf.constant(np.stack([dark, bright]))).numpy()
    np.testing.assert_allclose(found[0], 127.5)
    np.testing.assert_allclose(found[1], 200.0)
    pixels = tf.constant(np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3))
    np.testing.assert_array_equal(export.to_bytes_range(pixels), pixels.numpy().astype(np.float32))


def test_features_and_probabilities_go_as_they_are(tmp_path):
    """A model of vectors that ends in a softmax is exported without anything around it."""
    rng = np.random.default_rng(0)
    images = data.from_arrays(rng.integers(0, 256, (60, 8, 8), np.uint8), np.arange(60) % 2, image_size=8)

    class Means:
        labels, names, shape, fingerprint = images.source.labels, images.source.names, (3,), "means"

        def read(self, indices):
            return images.source.read(indices).mean((1, 2)).astype(np.float32)

        def raw(self, index):
            return images.source.raw(index)

    splits = images.replace(source=Means())
    model = keras.Sequential([keras.layers.Dense(2, activation="softmax", input_shape=(3,))])
    model.compile("sgd", "sparse_categorical_crossentropy")
    run = Run.create(tmp_path, config={})
    measured = predictions.evaluate(model, splits)
    assert export.save(model, run, splits, evaluation=measured)["export/max_difference"] < 1e-6

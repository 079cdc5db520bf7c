"""Stored features are TensorFlow's, belong to their contents, and are whole or computed again."""

import dataclasses
import shutil

import numpy as np
import pytest

from tests.hub.conftest import export
from tfkit import data, hub
from tfkit.environment import files, pieces
from tfkit.environment.stack import tf
from tfkit.errors import CheckError, DataError, HubError, UsageError
from tfkit.hub import extract
from tfkit.hub import features as hub_features

SIZE = 64


@pytest.fixture(scope="module")
def backbone():
    return hub.load_model("efficientnet-lite0")


@pytest.fixture(scope="module")
def images():
    """45 real photographs: pieces of two, with labels of their own."""
    from sklearn.datasets import load_sample_image

    photos = [load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
    corners = [(row, column) for row in range(0, 427 - 80, 60) for column in range(0, 640 - 80, 70)]
    return np.stack([photos[i % 2][r : r + 80, c : c + 80] for i, (r, c) in enumerate(corners)][:45])


def splits_of(images, *, image_size=SIZE):
    labels = np.arange(len(images)) % 3
    return data.from_arrays(images, labels, image_size=image_size, global_batch_size=8)


@pytest.fixture(scope="module")
def splits(images):
    return splits_of(images)


@pytest.fixture(scope="module")
def expected(backbone, splits):
    """The features of all images by an independent way: the functional model in stock tf_keras."""
    pixels = splits.source.read(np.arange(len(splits.source.labels)))
    return backbone.functional(image_size=SIZE).predict(pixels / np.float32(255), verbose=0)


def relative_differences(found, expected):
    return np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)


def read_all(extraction):
    source = extraction.splits.source
    return source.read(np.arange(len(source.labels)))


@pytest.fixture(scope="module")
def small_model(tmp_path_factory):
    """Export `call(images)` as a SavedModel and resolve it."""

    def make(name, call):
        weight = tf.Variable(tf.ones(()), name="weight")

        def weighted(image, training=False):
            return call(image * weight)

        folder = tmp_path_factory.mktemp("models") / name
        return hub.load_model(export(folder, weighted, variables=[weight]))

    return make


@pytest.fixture
def empty_cache(small, tmp_path, monkeypatch):
    """A cache of the test's own; the models are resolved already."""
    monkeypatch.setenv("TFKIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def small(small_model):
    """A model that is converted and loaded in no time: the mean of each channel's square."""
    return small_model("small", lambda x: tf.reduce_mean(x**2, axis=(1, 2)))


@pytest.mark.parametrize(("asked", "engine"), [("auto", "litert"), ("tensorflow", "tensorflow")])
def test_every_feature_is_tensorflows(backbone, splits, expected, asked, engine):
    extraction = extract(backbone, splits, engine=asked, batch_size=7)
    assert extraction.engine == engine
    assert extraction.max_relative_difference < 1e-4
    assert relative_differences(read_all(extraction), expected).max() < 1e-4
    features = extraction.splits
    assert features.spec == tf.TensorSpec([1280], tf.float32)
    assert features.source.names == splits.source.names
    np.testing.assert_array_equal(features.source.labels, splits.source.labels)
    np.testing.assert_array_equal(features.source.raw(3), splits.source.raw(3))


@pytest.mark.usefixtures("empty_cache")
def test_reused_by_the_next_run(small, images):
    first = extract(small, splits_of(images))
    second = extract(small, splits_of(images.copy()), batch_size=5)
    assert (first.reused, second.reused) == (False, True)
    assert (second.engine, second.reason) == (first.engine, first.reason)
    assert second.max_relative_difference == first.max_relative_difference
    assert "stored already" in second.summary
    np.testing.assert_array_equal(read_all(second), read_all(first))


@pytest.mark.usefixtures("empty_cache")
def test_another_pixel_is_another_feature(small, images):
    changed = images.copy()
    changed[7, 40, 40] ^= 255
    before, after = extract(small, splits_of(images)), extract(small, splits_of(changed))
    assert not after.reused
    assert np.flatnonzero((read_all(before) != read_all(after)).any(axis=1)).tolist() == [7]


@pytest.mark.usefixtures("empty_cache")
def test_another_size_or_model_is_another_feature(small, small_model, splits, images):
    other = small_model("other", lambda x: tf.reduce_mean(x**3, axis=(1, 2)))
    extract(small, splits)
    assert not extract(small, splits_of(images, image_size=72)).reused
    assert not extract(other, splits).reused
    assert extract(small, splits).reused


@pytest.mark.usefixtures("empty_cache")
def test_damaged_features_are_computed_again(small, splits):
    first = read_all(extract(small, splits))
    (path,) = files.cache_dir("features").glob("*/features.npy")
    content = bytearray(path.read_bytes())
    content[-101] ^= 64
    path.write_bytes(content)
    again = extract(small, splits)
    assert not again.reused
    np.testing.assert_array_equal(read_all(again), first)


@pytest.mark.usefixtures("empty_cache")
def test_interrupted_it_leaves_nothing(small, images, monkeypatch):
    splits = splits_of(images)
    read = splits.source.read

    def interrupted(indices):
        if 24 in indices:
            raise KeyboardInterrupt
        return read(indices)

    monkeypatch.setattr(splits.source, "read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        extract(small, splits, batch_size=8)
    assert not [path for path in files.cache_dir("features").iterdir() if path.is_dir()]
    monkeypatch.undo()
    assert not extract(small, splits).reused


@pytest.mark.usefixtures("empty_cache")
def test_a_restarted_job_finds_the_finished_pieces(small, images, monkeypatch):
    monkeypatch.setattr(pieces, "ALONE", len(images) - 1)
    splits, computed = splits_of(images), []
    expected = read_all(extract(small, splits, batch_size=len(images)))
    shutil.rmtree(files.cache_dir("features"))
    read = splits.source.read

    def interrupted(indices):
        computed.append(len(indices))
        if 24 in indices and sum(computed) < 40:
            raise KeyboardInterrupt
        return read(indices)

    monkeypatch.setattr(splits.source, "read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        extract(small, splits, batch_size=8)
    assert computed == [4, 8, 8, 8, 8]  # those by which the engines are compared, and four of six pieces
    assert len([path for path in files.cache_dir("pieces").iterdir() if path.is_dir()]) == 3
    again = extract(small, splits, batch_size=8)
    assert computed[5:] == [4, 8, 8, 5]
    np.testing.assert_array_equal(read_all(again), expected)
    assert not any(files.cache_dir("pieces").iterdir())
    assert extract(small, splits).reused


def test_tensorflow_computes_what_tflite_lacks(small_model, splits):
    backbone = small_model("svd", lambda x: tf.linalg.svd(tf.reduce_mean(x, axis=1), compute_uv=False))
    extraction = extract(backbone, splits)
    assert extraction.engine == "tensorflow"
    assert "lacks Svd" in extraction.reason
    assert "Svd" in extraction.summary
    pixels = splits.source.read(np.array([5])) / np.float32(255)
    singular = np.linalg.svd(pixels.mean(axis=1), compute_uv=False)
    np.testing.assert_allclose(extraction.splits.source.read(np.array([5])), singular, rtol=1e-4)
    assert extract(backbone, splits).engine == "tensorflow"
    with pytest.raises(CheckError, match="lacks Svd"):
        extract(backbone, splits, engine="litert")


def test_tensorflow_computes_where_litert_differs(small_model, splits):
    """A model that adds noise converts, and gives other features each time."""
    tf.random.set_seed(None)  # with a seed, as training sets it, both engines draw the same numbers
    backbone = small_model(
        "noise", lambda x: tf.reduce_mean(x, axis=(1, 2)) + 0.1 * tf.random.normal([tf.shape(x)[0], 3])
    )
    extraction = extract(backbone, splits)
    assert extraction.engine == "tensorflow"
    assert "differ" in extraction.reason
    with pytest.raises(CheckError, match="differ from TensorFlow's by"):
        extract(backbone, splits, engine="litert")


@pytest.mark.parametrize("engine", ["auto", "tensorflow"])
def test_a_feature_that_is_not_finite_names_its_image(small_model, images, engine):
    backbone = small_model("log", lambda x: tf.math.log(tf.reduce_mean(x, axis=(1, 2))))
    images = images.copy()
    images[30] = 0
    with pytest.raises(CheckError, match=r"arrays/30 are not finite"):
        extract(backbone, splits_of(images), engine=engine, batch_size=8)


def test_what_does_not_fit_in_memory_is_read_from_the_file(backbone, splits, monkeypatch):
    extraction = extract(backbone, splits)
    path = files.cache_dir("features") / extraction.splits.source.fingerprint / "features.npy"
    monkeypatch.setattr(hub_features, "IN_MEMORY", 0)
    from_file = hub_features.FeatureSource(path, splits.source, fingerprint="")
    for indices in ([3], [44, 0, 17, 17], []):
        indices = np.array(indices, np.int64)
        np.testing.assert_array_equal(from_file.read(indices), extraction.splits.source.read(indices))


def test_input_range_of_the_model_is_kept(small_model, splits):
    """A model that expects [-1, 1] gets it, from LiteRT as from TensorFlow."""
    backbone = small_model("mean", lambda x: tf.reduce_mean(x, axis=(1, 2)))
    backbone = dataclasses.replace(backbone, input_range=(-1.0, 1.0), digest="other")
    pixels = splits.source.read(np.arange(45)).mean(axis=(1, 2)) / 127.5 - 1
    for engine in ("litert", "tensorflow"):
        np.testing.assert_allclose(read_all(extract(backbone, splits, engine=engine)), pixels, atol=1e-4)


def test_what_is_no_vector_is_refused(small_model, splits):
    """Its features were stored as none."""
    with pytest.raises(HubError, match="not plainly a feature vector"):
        extract(small_model("maps", lambda x: x[:, ::2, ::2]), splits)


def test_what_cannot_be_computed_is_refused(backbone, splits):
    with pytest.raises(DataError, match=r"shape \(1280,\).*\n.*load_images"):
        extract(backbone, extract(backbone, splits).splits)
    with pytest.raises(UsageError, match="onnx"):
        extract(backbone, splits, engine="onnx")

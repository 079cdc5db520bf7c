"""The exported model: the trained one, built for raw input, or not kept."""

from __future__ import annotations

import dataclasses
import functools
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageOps

import tfkit
from tests.data.pictures import KINDS, picture
from tfkit import data
from tfkit.data.image_files import decode_image
from tfkit.data.pixels import resize
from tfkit.environment.foreign import weight_losses
from tfkit.environment.stack import keras, tf, tf_hub
from tfkit.errors import CheckError
from tfkit.metrics import evaluate
from tfkit.run import Run
from tfkit.tasks import CLASSES, Order
from tfkit.text.tokenizers import WordPiece, build_vocabulary
from tfkit.training.export import Frozen, compare, over_white, save, to_bytes
from tfkit.transfer import models
from tfkit.transfer.words import mix_words


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
    measured = evaluate(model, splits)
    numbers = save(model, run, splits, evaluation=measured)
    assert numbers["export/agreement"] == 1.0
    assert numbers["export/max_difference"] < 1e-5  # enlarged from 8 to 24 pixels, in either graph alike
    written = [path for path in (tmp_path / "saved_model").rglob("*") if path.is_file()]
    assert numbers["export/size_bytes"] == sum(path.stat().st_size for path in written)
    assert run.labels == list(splits.class_names)
    loaded = run.model
    assert run.model is loaded is not Run.open(tmp_path).model  # whoever calls it in a loop loads it once
    assert set(loaded.signatures) == {"serving_default"}
    served = loaded.signatures["serving_default"](images=tf.zeros([1, 5, 7, 3], tf.uint8))["probabilities"]
    assert served.numpy().sum() == pytest.approx(1, abs=1e-5)


def test_one_that_differs_is_an_error_and_is_not_kept(model, splits, tmp_path):
    run = Run.create(tmp_path, config={})
    measured = evaluate(model, splits)
    other = dataclasses.replace(measured, probabilities=np.roll(measured.probabilities, 1, axis=1))
    with pytest.raises(CheckError, match="agrees with the trained one on 0"):
        save(model, run, splits, evaluation=other)
    twice = dataclasses.replace(measured, probabilities=tf.nn.softmax(measured.probabilities).numpy())
    with pytest.raises(CheckError, match=r"agrees with the trained one on 1.000(?s:.*)differ by 0\.[1-9]"):
        save(model, run, splits, evaluation=twice)
    assert [path.name for path in tmp_path.iterdir() if "saved_model" in path.name] == []


@pytest.fixture(scope="module")
def exported(model, splits, tmp_path_factory):
    run = Run.create(tmp_path_factory.mktemp("run"), config={})
    save(model, run, splits, evaluation=evaluate(model, splits))
    return run


def of_prepared(model, image):
    """What the trained model says of an image as training prepares it."""
    square = resize(image, 24)[None].astype(np.float32) / 255
    return tf.nn.softmax(model(square, training=False)).numpy()[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_gives_what_training_would_have_made_of_it(kind, model, exported, tmp_path):
    """By tfkit.read_image, and by README's program without tfkit wherever Pillow can read the file whole."""
    picture(kind, tmp_path / "a")
    expected = of_prepared(model, decode_image(tmp_path / "a"))
    found = exported.model(tfkit.read_image(tmp_path / "a")).numpy()
    np.testing.assert_allclose(found, expected, atol=0.02)
    eight_bits = ("16 with transparency", "16 RGB", "16 RGBA")  # Pillow keeps 8 bits, or no transparency
    if kind not in eight_bits:
        image = ImageOps.exif_transpose(Image.open(tmp_path / "a"))
        image = image if image.mode.startswith("I;16") else image.convert("RGBA")
        np.testing.assert_allclose(exported.model(np.asarray(image)).numpy(), found, atol=1e-3)


def test_numbers_of_large_jpegs_may_differ_as_their_pixels_do(tmp_path):
    """Training decodes such files at a reduced size, and a model of numbers was not kept for that."""
    rng, rows = np.random.default_rng(0), ["file,level"]
    for place in range(40):
        level = rng.uniform(60, 190)
        pixels = level + np.linspace(-50, 50, 160)[:, None] * rng.normal() + rng.normal(0, 12, (160, 160))
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(tmp_path / f"{place}.jpg", quality=90)
        rows.append(f"{place}.jpg,{level:.3f}")
    (tmp_path / "levels.csv").write_text("\n".join(rows))
    columns = {"image_column": "file", "label_column": "level", "task": "value"}
    splits = data.load_images(tmp_path / "levels.csv", image_size=32, **columns)
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.Flatten(), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input([32, 32, 3]), *layers])
    model.compile("adam", "mse")
    with Run.create(tmp_path / "run", config={}) as run:
        numbers = save(model, run, splits, evaluation=evaluate(model, splits))
    assert numbers["export/agreement"] == 1.0
    assert any("decodes a large JPEG" in note for note in run.notes)


def test_white_below_is_rounded_as_pillow_does():
    """All colours by all alphas: the composition of the exported graph is training's, value for value."""
    grey, alpha = np.meshgrid(np.arange(256), np.arange(256))
    images = np.stack([grey, grey, grey, alpha], axis=-1).astype(np.uint8)
    white = Image.new("RGBA", (256, 256), "white")
    expected = np.asarray(Image.alpha_composite(white, Image.fromarray(images)).convert("RGB"))
    np.testing.assert_array_equal(over_white(to_bytes(tf.constant(images[None])))[0], expected)


def test_ranks_channels_and_types_agree(exported):
    grey = np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)
    opaque = np.full_like(grey, 255)
    ways = [
        np.stack(channels, -1) for channels in ([grey], [grey] * 3, [grey] * 3 + [opaque], [grey, opaque])
    ]
    ways += [grey, grey.astype(np.uint16) * 257, (grey / 255).astype(np.float32)]
    restored = tf.saved_model.load(str(exported.path / "saved_model"))
    first = exported.model(grey).numpy()
    assert first.shape == (10,)
    for images in ways:
        np.testing.assert_allclose(restored(images).numpy(), first, atol=1e-5)
        if images.ndim == 3:
            np.testing.assert_allclose(restored(images[None]).numpy(), first[None], atol=1e-5)


def test_a_batch_of_floats_has_one_scale():
    """A nearly black image among others of 0..255 is nearly black, also where it reaches 2 alone."""
    dark, bright = np.full((2, 2, 3), 1.0, np.float32), np.full((2, 2, 3), 200.0, np.float32)
    np.testing.assert_array_equal(to_bytes(tf.constant([dark, bright])), [dark, bright])
    np.testing.assert_array_equal(to_bytes(tf.constant([dark * 2])), [dark * 2])
    np.testing.assert_array_equal(to_bytes(tf.constant([dark * 0.3])), [np.full((2, 2, 3), 77.0)])


@pytest.mark.parametrize("value", [65535.0, -1.0, float("nan")])
def test_floats_of_no_known_scale_are_refused(exported, value):
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[0, 255\].*uint8"):
        exported.model(np.full((9, 9, 3), value, np.float32))


def test_channels_first_are_refused(exported):
    with pytest.raises(tf.errors.InvalidArgumentError, match="channels"):
        exported.model(np.zeros((3, 9, 9), np.uint8))


def test_it_is_not_traced_for_every_size(exported):
    """Neither by Run.model nor in the way that the closing lines teach: TensorFlow would trace it for each."""
    loaded = Run.open(exported.path).model
    restored = tf.saved_model.load(str(exported.path / "saved_model"))
    stock = tf.function(restored, reduce_retracing=True)
    for side in range(8, 20):
        image = np.full((side, 30 - side, 3), side, np.uint8)
        np.testing.assert_allclose(loaded(image), stock(image), atol=1e-6)
    assert loaded.__call__.__wrapped__.experimental_get_tracing_count() == 1
    assert stock.experimental_get_tracing_count() == 2
    stock = tf.saved_model.load(str(exported.path / "saved_model"))
    for side in range(30, 33):
        stock(np.zeros((side, side, 3), np.uint8))
    assert stock.__call__.experimental_get_tracing_count() == 3


def test_hub_trains_it_further(exported, splits, tmp_path):
    """A reusable SavedModel: weights change in training, and batch normalisation learns its statistics."""
    layers = keras.layers
    first = layers.Conv2D(4, 3, strides=4, input_shape=(24, 24, 3), kernel_regularizer="l2")
    last = layers.Dense(10, activation="softmax")
    model = keras.Sequential([first, layers.BatchNormalization(), layers.Flatten(), last])
    model.compile("sgd", "sparse_categorical_crossentropy")
    run = Run.create(tmp_path, config={})
    save(model, run, splits, evaluation=evaluate(model, splits))
    layer = tf_hub.KerasLayer(str(tmp_path / "saved_model"), trainable=True)
    assert len(layer.trainable_weights) == 6
    assert len(layer.non_trainable_weights) == 2
    assert [float(loss) for loss in layer.losses] == [pytest.approx(float(model.losses[0]))]
    tuned = keras.Sequential([keras.Input((None, None, 3)), layer])
    assert tuned.output_shape == (None, 10)
    before = [weight.numpy() for weight in layer.weights]
    tuned.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    images, labels = next(iter(splits.train))
    tuned.fit(images, labels, epochs=1, verbose=0)
    assert all((weight.numpy() != old).any() for weight, old in zip(layer.weights, before, strict=True))
    backbone = tfkit.load_model(tmp_path / "saved_model").check(image_size=24, trainable=True)
    assert (backbone.feature_size, backbone.trainable_variables) == (10, 6)
    still = tf_hub.KerasLayer(str(tmp_path / "saved_model"))  # whoever trains it later may want them
    assert [float(loss()) for loss in weight_losses(still)] == [pytest.approx(float(model.losses[0]))]


def test_a_model_of_texts_is_traced_once_and_trained_further(tmp_path):
    (tmp_path / "texts.csv").write_text(
        "text,label\n" + "".join(f"w{i} w{i % 7},{'ab'[i % 2]}\n" for i in range(60))
    )
    splits = tfkit.load_texts(tmp_path / "texts.csv")
    layers = keras.layers
    texts = keras.Input((), dtype=tf.string)
    numbers = layers.Hashing(64)(texts)
    outputs = layers.Dense(2, activation="softmax")(layers.Dropout(0.5)(layers.Embedding(64, 8)(numbers)))
    model = keras.Model(texts, outputs)
    model.compile("sgd", "sparse_categorical_crossentropy")
    run = Run.create(tmp_path / "run", config={})
    save(model, run, splits, evaluation=evaluate(model, splits))
    loaded = run.model
    for count in range(1, 9):
        assert loaded(["a text"] * count).shape == (count, 2)
    assert loaded.__call__.__wrapped__.experimental_get_tracing_count() == 1
    assert loaded("one text").shape == (2,)
    layer = tf_hub.KerasLayer(str(tmp_path / "run" / "saved_model"), trainable=True)
    before = [weight.numpy() for weight in layer.trainable_weights]
    tuned = keras.Sequential([keras.Input((), dtype=tf.string), layer])
    tuned.compile(keras.optimizers.SGD(1.0), "sparse_categorical_crossentropy")
    tuned.fit(splits.train, epochs=1, verbose=0)
    assert len(before) == 3
    assert all((new.numpy() != old).any() for new, old in zip(layer.trainable_weights, before, strict=True))


def test_features_and_probabilities_go_as_they_are(tmp_path):
    """A model of vectors that ends in a softmax is exported without anything around it."""
    rng = np.random.default_rng(0)
    images = data.from_arrays(rng.integers(0, 256, (60, 8, 8), np.uint8), np.arange(60) % 2, image_size=8)

    def read(indices):
        return images.source.read(indices).mean((1, 2)).astype(np.float32)

    labels = {"labels": images.source.labels, "names": images.source.names}
    splits = images.replace(source=SimpleNamespace(**labels, shape=(3,), fingerprint="means", read=read))
    model = keras.Sequential([keras.layers.Dense(2, activation="softmax", input_shape=(3,))])
    model.compile("sgd", "sparse_categorical_crossentropy")
    run = Run.create(tmp_path, config={})
    measured = evaluate(model, splits)
    assert save(model, run, splits, evaluation=measured)["export/max_difference"] < 1e-6


@pytest.fixture(scope="module")
def on_features(splits, tmp_path_factory):
    """A head with dropout on what a frozen layer gives: the model, its exported form, and what was frozen."""
    layers = keras.layers
    images = keras.Input((24, 24, 3))
    flat = layers.Flatten()(layers.AveragePooling2D(3)(images))
    features = layers.Dense(48, activation="relu", trainable=False, name="features")(flat)
    outputs = layers.Dense(10)(layers.Dropout(0.5)(features))
    model, below = keras.Model(images, outputs), keras.Model(images, features)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    model.fit(splits.train, epochs=3, verbose=0)
    frozen = Frozen(features, below.predict(splits.test, verbose=0))
    run, measured = Run.create(tmp_path_factory.mktemp("parts"), config={}), evaluate(model, splits)
    numbers = save(model, run, splits, evaluation=measured, frozen=frozen)
    return model, run, measured, frozen, numbers


def test_a_frozen_part_is_compared_on_its_own(on_features, splits):
    """What each part of the export gives is what the whole gives; the head alone has dropout in training."""
    _, run, measured, frozen, numbers = on_features
    assert 0 < numbers["export/whole_examples"] < 60 < len(measured.labels)
    assert (numbers["export/agreement"], numbers["export/max_difference"] < 1e-4) == (1.0, True)
    loaded, raw = tf.saved_model.load(str(run.path / "saved_model")), splits.source.raw(0)
    vectors = loaded.features(loaded.pixels(raw[np.newaxis]))
    np.testing.assert_allclose(loaded.head(vectors)[0], loaded(raw), atol=1e-6)
    np.testing.assert_allclose(loaded.head(frozen.of_test), measured.probabilities, atol=1e-5)
    white = tf.ones([1, 24, 24, 3])
    draws = [loaded(white, training=True).numpy() for _ in range(3)]
    assert np.ptp(draws, axis=0).max() > 1e-3
    np.testing.assert_array_equal(loaded(white), loaded(white))


def test_parts_that_do_not_fit_are_found_by_the_whole(on_features, splits):
    model, run, measured, frozen, _ = on_features
    every = len(measured.labels)
    assert compare(run.model, model, splits, measured, frozen)[1] < every

    def differing(exported, frozen=frozen, splits=splits):
        found, whole = compare(exported, model, splits, measured, frozen)
        return whole, np.abs(found - measured.probabilities).max()

    # Features of other examples, which the head alone could not tell from its own.
    assert differing(run.model, Frozen(frozen.output, frozen.of_test[::-1]))[1] > 0.1
    # Pixels that the training had and the export does not make, two of 255 apart: nobody but the whole can say.
    brighter = SimpleNamespace(
        shape=splits.source.shape,
        raw=splits.source.raw,
        read=lambda indices: np.minimum(splits.source.read(indices), 253) + np.uint8(2),
    )
    assert differing(run.model, splits=splits.replace(source=brighter))[0] == every
    # Weights of the frozen part that are another model's: all examples, and all of them are wrong.
    other = run.model
    kernel = other.variables_of_model[0]
    kernel.assign(kernel[::-1])
    whole, difference = differing(other)
    assert whole == every
    assert difference > 0.1


@pytest.mark.parametrize(("words", "task"), [("no", CLASSES), ("yes", Order())])
def test_a_classifier_of_texts_is_compared_in_its_parts(tmp_path, words, task):
    """All texts are cut, and classified by their stored features; few go through the whole: the longest among them."""
    splits = data.load_texts("sentiment").replace(task=task)
    splits = splits.replace(indices={split: rows[::5] for split, rows in splits.indices.items()})
    pieces = build_vocabulary(splits.source.read(splits.indices["train"][:500]))
    model, other = (
        models.light(
            WordPiece(vocabulary=vocabulary, max_length=24), 3, models.plain_top(1e-2, 100, task=task)
        )
        for vocabulary in (pieces, (*pieces[:5], *reversed(pieces[5:])))
    )
    model.fit(splits.train, epochs=1, verbose=0)
    features = model.get_layer("mean").output
    frozen = Frozen(features, keras.Model(model.input, features).predict(splits.test, verbose=0))
    run = Run.create(tmp_path, config={})
    validate = functools.partial(evaluate, model, splits, split="validation")
    trained = models.Classifier(model, evaluate(model, splits), frozen.of_test, validate, frozen)
    trained = mix_words(run, trained, splits, when=words)
    numbers = save(trained.model, run, splits, evaluation=trained.evaluation, frozen=trained.frozen)
    every = len(splits.indices["test"])
    assert 0 < numbers["export/whole_examples"] < 40 < every
    assert (numbers["export/agreement"], numbers["export/max_difference"] < 1e-4) == (1.0, True)

    def whole(of):
        return compare(run.model, of, splits, trained.evaluation, trained.frozen)[1]

    assert whole(trained.model) < every
    other.set_weights(model.get_weights())
    assert whole(other) == every  # texts that are cut otherwise
    model.get_layer("embedding").embeddings.assign_add(tf.fill([len(pieces), models.DIMENSION], 1e-6))
    assert whole(trained.model) == every  # weights of another model

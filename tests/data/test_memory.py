"""Examples in memory: what was given is what is trained on, and the same again is the same file."""

import re
import shutil

import numpy as np
import pandas as pd
import pyarrow
import pytest
from PIL import Image

import tfkit
from tests.data.pictures import KINDS, picture
from tfkit.data import load_images, load_texts
from tfkit.data.image_files import read_image
from tfkit.data.memory import cache_examples
from tfkit.environment.files import cache_dir
from tfkit.environment.stack import keras, tf
from tfkit.errors import ConfigError, DataError
from tfkit.inference.inputs import Options, open_data
from tfkit.settings.options import TextSource

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (48, 20, 20, 3), np.uint8)
IMAGES[0] = IMAGES[0] > 127  # all but black
NUMBERS = np.arange(48) % 12
OF_TWO_NAMES = tf.data.Dataset.from_tensor_slices((IMAGES, NUMBERS))
OF_TWO_NAMES.class_names = ["a", "b"]


def loaded(data, **asked):
    settings = cache_examples(data, **asked)
    return load_images(settings.pop("data_file"), image_size=20, **settings)


def raw(splits):
    return [splits.source.raw(place) for place in range(len(splits.source.names))]


@pytest.mark.parametrize("kind", ["uint8", "0 to 1", "0 to 255", "a list", "PIL", "tensors", "grey"])
def test_pixels_and_classes_are_those_that_were_given(kind):
    images = {
        "0 to 1": IMAGES / 255,
        "0 to 255": IMAGES.astype(np.float32),
        "a list": [*IMAGES],
        "PIL": [*map(Image.fromarray, IMAGES)],
        "tensors": tf.constant(IMAGES),
        "grey": IMAGES[..., 0],
    }.get(kind, IMAGES)
    splits = loaded((images, NUMBERS[:, np.newaxis]))
    expected = np.repeat(IMAGES[..., :1], 3, axis=-1) if kind == "grey" else IMAGES
    np.testing.assert_array_equal(raw(splits), expected)
    assert splits.class_names == tuple(map(str, range(12)))
    np.testing.assert_array_equal(splits.source.labels, NUMBERS)


def test_a_dataset_is_the_same_in_whatever_order_it_comes():
    data = tf.data.Dataset.from_tensor_slices((IMAGES.astype(np.float32), NUMBERS)).shuffle(48).batch(5)
    data.class_names = [f"class {'abcdefghijkl'[number]}" for number in range(12)]
    assert cache_examples(data) == cache_examples(data)
    splits = loaded(data)
    assert splits.class_names == tuple(data.class_names)
    label_of = {image.tobytes(): label for image, label in zip(IMAGES, NUMBERS, strict=True)}
    assert [label_of[image.tobytes()] for image in raw(splits)] == splits.source.labels.tolist()


def test_copies_in_a_dataset_are_examples_of_their_own():
    """As of arrays: with another label, a note says so."""
    data = tf.data.Dataset.from_tensor_slices(
        (np.concatenate([IMAGES, IMAGES[:12]]), np.r_[NUMBERS, NUMBERS[1:12], NUMBERS[11]])
    ).shuffle(60)
    assert cache_examples(data) == cache_examples(data)
    splits = loaded(data)
    assert len(splits.source.names) == 60
    assert any("in two classes: 22." in note for note in splits.notes)


def test_grey_images_without_an_axis_of_channels_come_out_of_their_batches():
    data = tf.data.Dataset.from_tensor_slices((IMAGES[..., 0], NUMBERS))
    assert cache_examples(data.batch(5)) == cache_examples(data)


@pytest.mark.parametrize("kind", sorted({*KINDS} - {"16 RGB", "16 RGBA", "16 with transparency"}))
def test_an_image_of_pillow_is_what_its_file_is(tmp_path, kind):
    """Upright, too: a photograph of a phone lies on its side."""
    picture(kind, tmp_path / "a.png")
    (path,) = cache_examples(([Image.open(tmp_path / "a.png")], ["a"]))["data_file"].parent.glob("*.png")
    np.testing.assert_array_equal(read_image(path), read_image(tmp_path / "a.png"))


def test_pictures_of_16_bits_that_differ_are_not_taken_for_each_other():
    dark = IMAGES[..., 0].astype(np.uint16) + 256  # what PIL shows of both in 8 bits is white
    found = [loaded(([*map(Image.fromarray, one)], NUMBERS), task="classes") for one in (dark, dark + 300)]
    assert found[0].origin != found[1].origin
    assert (found[0].source.raw(3) != found[1].source.raw(3)).any()


def test_several_labels_and_numbers():
    several = np.stack([NUMBERS > 5, NUMBERS % 2], axis=1)
    splits = loaded((IMAGES, several), task="labels")
    np.testing.assert_array_equal(splits.source.labels, several)
    several = pd.DataFrame(several, columns=["high", "odd"])
    splits = loaded((IMAGES, several), task="labels")
    assert splits.class_names == ("high", "odd")
    np.testing.assert_array_equal(splits.source.labels, several)
    splits = loaded((IMAGES, pd.DataFrame({"number": NUMBERS})))
    np.testing.assert_array_equal(splits.source.labels, NUMBERS)
    splits = loaded((IMAGES, NUMBERS / 8), task="value")
    np.testing.assert_allclose(splits.source.labels, NUMBERS / 8)


def test_files_that_are_named_are_copied(tmp_path, monkeypatch):
    for place, image in enumerate(IMAGES):
        Image.fromarray(image).save(tmp_path / f"{place}.png")
    monkeypatch.chdir(tmp_path)
    frame = pd.DataFrame({"file": [f"{place}.png" for place in range(48)], "kind": NUMBERS})
    table = cache_examples(frame, image_column="file")["data_file"]
    splits = load_images(frame, image_column="file", label_column="kind", image_size=20)
    np.testing.assert_array_equal(raw(splits), IMAGES)
    np.testing.assert_array_equal(raw(load_images((IMAGES, NUMBERS), image_size=20)), IMAGES)
    with pytest.raises(DataError, match=r"image_column[\s\S]*file"):
        load_images(frame, label_column="kind")
    splits = load_images(table, image_column="file", label_column="kind", image_size=20)
    np.testing.assert_array_equal(raw(splits), IMAGES)
    assert list(frame["file"][:2]) == ["0.png", "1.png"]
    paths = [*tmp_path.glob("*.png")]
    splits = loaded((paths, [int(path.stem) % 3 for path in paths]))
    assert splits.source.names[5] == f"000005 {paths[5].name}"
    with pytest.raises(DataError, match=r"99\.png"):
        cache_examples(frame.assign(file="99.png"), image_column="file")


def test_texts():
    words, names = [f"text {place} of {place % 2}" for place in range(40)], ["good", "bad"] * 20
    frame = pd.DataFrame({"words": words, "kind": names, 3: 0})
    expected = load_texts(cache_examples(frame)["data_file"], text_column="words", label_column="kind")
    data = tf.data.Dataset.from_tensor_slices((words, names))
    for given in ((words, names), data, data.batch(7)):
        settings = cache_examples(given)
        splits = load_texts(settings.pop("data_file"), **settings)
        assert splits.class_names == expected.class_names == ("bad", "good")
        texts = [text.decode() for text in splits.source.read(np.arange(40))]
        assert sorted(texts) == sorted(words)
    assert load_texts(frame, text_column="words", label_column="kind").origin == expected.origin
    assert load_texts((words, names)).class_names == ("bad", "good")
    mixed = frame.assign(kind=[1, "bad"] * 20, more=[True, "no"] * 20)  # as Excel has them
    assert load_texts(mixed, text_column="words", label_column="kind").class_names == ("1", "bad")
    arrow = pyarrow.Table.from_pandas(frame.drop(columns=3))
    assert load_texts(arrow, text_column="words", label_column="kind").class_names == ("bad", "good")
    found = open_data(arrow, shape=[], options=Options(["a"], text_column="words")).examples
    assert [example.value for example in found] == words
    with pytest.raises(DataError, match="not a list"):
        load_texts(words)


def test_examples_that_were_deleted_come_back_under_their_name(monkeypatch, tmp_path):
    monkeypatch.setenv("TFKIT_CACHE", str(tmp_path))
    given = ["one", "two"] * 4, ["a", "b"] * 4
    table = cache_examples(given)["data_file"]
    shutil.rmtree(cache_dir("examples"))
    with pytest.raises(ConfigError, match=r"is gone[\s\S]*tfkit\.train"):
        TextSource(data_file=table)
    assert cache_examples(given)["data_file"] == table
    assert table.is_file()


def test_datasets_are_predicted_example_by_example():
    data = tf.data.Dataset.from_tensor_slices(IMAGES.astype(np.float32))
    asked = Options(["a", "b"])
    for given in (data, data.batch(5), tf.data.Dataset.zip((data, data)).batch(5)):
        found = open_data(given, shape=[20, 20, 3], options=asked).examples
        np.testing.assert_array_equal([example.value for example in found], IMAGES)
    found = open_data(tf.data.Dataset.from_tensor_slices(["a b", "c"]).batch(2), shape=[], options=asked)
    assert [example.value for example in found.examples] == ["a b", "c"]


@pytest.mark.parametrize(
    ("data", "culprit_and_fix"),
    [
        (IMAGES, r"pair[\s\S]*ndarray"),
        ((IMAGES, NUMBERS[:-1]), "48 examples and 47 labels"),
        ((IMAGES, np.eye(12)[NUMBERS]), r"\[48, 12\][\s\S]*argmax"),
        ((IMAGES, NUMBERS / 7), r"float64[\s\S]*task='value'"),
        ((IMAGES.astype(np.int64), NUMBERS), "int64"),
        ((IMAGES * 2.0, NUMBERS), "510"),
        (tf.data.Dataset.from_tensor_slices((IMAGES, NUMBERS)).repeat(), "take"),
        (
            tf.data.Dataset.from_tensor_slices((IMAGES, NUMBERS)).map(
                lambda image, number: (
                    image + tf.cast(tf.random.uniform([], 0, 99, tf.int32), tf.uint8),
                    number,
                )
            ),
            r"each time[\s\S]*augment",
        ),
        (tf.data.Dataset.from_tensor_slices(IMAGES), r"pairs[\s\S]*dataset of"),
        (pd.DataFrame({"text": ["a"], "more": [1j]}), r"more[\s\S]*used alone"),
        (OF_TWO_NAMES, "0 to 11: 2 class_names"),
        ((IMAGES.astype(np.uint16), NUMBERS), r"uint16 \[20, 20, 3\]"),
        ((["a", "b", "c"], [["x"], ["x", "y"], []]), "several lengths(?s:.*)MultiLabelBinarizer"),
        (tf.data.Dataset.from_tensor_slices(([tf.io.encode_png(IMAGES[0])], [0])), "decode_image"),
        (tf.data.Dataset.from_tensor_slices(({"image": IMAGES}, NUMBERS)), r"\.map"),
    ],
)
def test_what_is_refused_is_named_and_leaves_nothing(data, culprit_and_fix):
    before = {*cache_dir("examples").iterdir()}
    with pytest.raises(DataError, match=culprit_and_fix):
        cache_examples(data)
    assert {path for path in {*cache_dir("examples").iterdir()} - before if path.is_dir()} == set()


def test_the_file_that_breaks_a_dataset_is_named(photos, tmp_path):
    folder = shutil.copytree(photos, tmp_path / "photos")
    empty = folder / "digit 1" / "empty.png"
    empty.write_bytes(b"")
    data = keras.utils.image_dataset_from_directory(folder, image_size=(20, 20))
    with pytest.raises(DataError, match=rf"{re.escape(str(empty))} cannot be decoded(.|\n)*give the folder"):
        cache_examples(data)


def test_rows_of_pixels_are_no_images():
    """As scikit-learn has digits: taken for images of one column, they were learnt, and badly."""
    flat = IMAGES.reshape(48, -1)
    for data in ((flat, NUMBERS), tf.data.Dataset.from_tensor_slices((flat, NUMBERS))):
        with pytest.raises(DataError, match=r"1200[\s\S]*reshape"):
            cache_examples(data)
    with pytest.raises(DataError, match=r"1200[\s\S]*reshape"):
        tfkit.train(flat, NUMBERS)
    with pytest.raises(ConfigError, match="label_column"):
        tfkit.train("photos", NUMBERS)


def test_images_of_few_grey_levels_are_said_to_be_nearly_black():
    """As scikit-learn's digits, of 0 to 16, are."""
    for dark in (IMAGES[..., 0] // 16, (IMAGES[..., 0] // 16).astype(np.float32)):
        assert any("nearly black" in note for note in loaded((dark, NUMBERS)).notes)
    assert not any("nearly black" in note for note in loaded((IMAGES, NUMBERS)).notes)

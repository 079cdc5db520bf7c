"""Metadata: written once, read by strangers, and in nobody's way."""

import io
import zipfile

import numpy as np
import pytest

from tfkit.compression import read_metadata, with_metadata
from tfkit.compression.metadata import decode, encode
from tfkit.environment.stack import tf
from tfkit.errors import DataError, UsageError
from tfkit.litert import to_tflite


def classify(images):
    """A small model of images: [1, 8, 8, 3] to 4 classes."""
    weights = np.linspace(-1, 1, 8 * 8 * 3 * 4, dtype=np.float32).reshape(-1, 4)
    return tf.nn.softmax(tf.reshape(images, [-1, 8 * 8 * 3]) @ weights)


@pytest.fixture(scope="module")
def small():
    return to_tflite(classify, input_shape=[1, 8, 8, 3])


TOLD = {"name": "small", "description": "Four kinds.", "mean": 127.5, "std": 127.5}
FOUR = ["a", "b", "c", "d"]


def test_what_is_written_is_read(small):
    found = read_metadata(with_metadata(small, labels=FOUR, **TOLD))
    assert (found["name"], found["description"], found["labels"]) == ("small", "Four kinds.", FOUR)
    assert found["min_parser_version"] == "1.0.0"
    (graph,) = found["subgraph_metadata"]
    (image,), (scores,) = graph["input_tensor_metadata"], graph["output_tensor_metadata"]
    assert image["content"] == {"content_properties": {"ImageProperties": {"color_space": "RGB"}}}
    assert image["process_units"] == [
        {"options": {"NormalizationOptions": {"mean": [127.5], "std": [127.5]}}}
    ]
    assert image["stats"] == {"min": [-1.0], "max": [1.0]}
    assert scores["name"] == "probability"
    assert scores["content"] == {"content_properties": {"FeatureProperties": {}}}
    assert [(file["name"], file["type"]) for file in scores["associated_files"]] == [
        ("labels.txt", "TENSOR_AXIS_LABELS")
    ]
    assert read_metadata(small) == {}


def test_metadata_are_replaced_and_not_piled_up(small):
    first = with_metadata(small, labels=["w", "x", "y", "z"], **{**TOLD, "name": "first"})
    second = with_metadata(first, labels=FOUR, **TOLD)
    assert read_metadata(second)["labels"] == FOUR
    assert second == with_metadata(second, labels=FOUR, **TOLD)
    assert len(second) <= len(first)
    assert b"first" not in second


def test_any_label_survives():
    """A label with a line break must not shift the labels behind it."""
    labels = ["two\nlines", "dos\r\nlines", "x\u2028y", "数字", "", "  spaced  ", *map(str, range(994))]
    wide = to_tflite(
        lambda images: tf.tile(tf.reduce_mean(images, [1, 2, 3])[:, None], [1, 1000]),
        input_shape=[1, 8, 8, 3],
    )
    model = with_metadata(wide, labels=labels, **TOLD)
    read = read_metadata(model)["labels"]
    assert read == ["two lines", "dos lines", "x y", *labels[3:]]
    with zipfile.ZipFile(io.BytesIO(model)) as archive:
        (file,) = archive.infolist()
        assert (file.filename, file.compress_type) == ("labels.txt", zipfile.ZIP_STORED)
        assert archive.testzip() is None


def test_grey_images_say_so():
    grey = to_tflite(lambda images: tf.reduce_mean(images, [1, 2]), input_shape=[1, 8, 8, 1])
    (graph,) = read_metadata(with_metadata(grey, labels=["all"], **TOLD))["subgraph_metadata"]
    content = graph["input_tensor_metadata"][0]["content"]
    assert content == {"content_properties": {"ImageProperties": {"color_space": "GRAYSCALE"}}}


@pytest.mark.parametrize("labels", [["a", "b"], [*FOUR, "e"], []])
def test_labels_that_belong_to_no_output(small, labels):
    with pytest.raises(UsageError, match=f"tells 4 classes apart, and {len(labels)} labels"):
        with_metadata(small, labels=labels, **TOLD)


def test_a_real_input_without_its_scaling(small):
    with pytest.raises(UsageError, match=r"takes float32, and mean is None.*\n.*mean=0, std=1"):
        with_metadata(small, name="x", description="x", labels=FOUR)
    with pytest.raises(UsageError, match=r"mean is 0\.0, std 0\.0"):
        with_metadata(small, name="x", description="x", labels=FOUR, mean=0.0, std=0.0)


def test_models_that_classify_no_images():
    vector = to_tflite(tf.nn.softmax, input_shape=[1, 4])
    with pytest.raises(UsageError, match=r"takes float32 \[1, 4\] and not one image"):
        with_metadata(vector, labels=FOUR, **TOLD)
    painter = to_tflite(tf.nn.relu, input_shape=[1, 8, 8, 3])
    with pytest.raises(UsageError, match=r"gives float32 \[1, 8, 8, 3\] and not the scores"):
        with_metadata(painter, labels=["r", "g", "b"], **TOLD)


def test_damaged_files(small):
    model = with_metadata(small, labels=FOUR, **TOLD)
    for broken in (b"", b"PK", bytes(1000), model[: len(small) // 2]):
        with pytest.raises(DataError):
            with_metadata(broken, labels=FOUR, **TOLD)
        with pytest.raises(DataError):
            read_metadata(broken)
    with pytest.raises(DataError, match=r"labels\.txt, which is not in it"):
        read_metadata(model[:-30])
    with pytest.raises(DataError, match=r"metadata of this \.tflite file is not readable"):
        read_metadata(model.replace(b"M001", b"M999"))


def test_damaged_tables_are_told_from_whole_ones():
    """Whatever byte is wrong: values or one kind of error, no other."""
    whole = encode(
        {"name": "n", "subgraph_metadata": [{"input_tensor_metadata": [{"stats": {"min": [0.0]}}]}]}
    )
    broken = 0
    for place in range(len(whole)):
        for value in (0, 127, 255):
            try:
                decode(whole[:place] + bytes([value]) + whole[place + 1 :])
            except ValueError:
                broken += 1
    assert broken > len(whole)

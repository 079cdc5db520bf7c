"""Metadata: written once, read by strangers, and in nobody's way."""

import importlib.util
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tfkit.compression import inspect, read_metadata, with_metadata
from tfkit.compression.convert import weights_only
from tfkit.environment.stack import litert_schema, tf
from tfkit.errors import DataError, UsageError
from tfkit.litert import ParallelInterpreter, to_tflite


def classify(images):
    """A small model of images: [1, 8, 8, 3] to 4 classes."""
    weights = np.linspace(-1, 1, 8 * 8 * 3 * 4, dtype=np.float32).reshape(-1, 4)
    return tf.nn.softmax(tf.reshape(images, [-1, 8 * 8 * 3]) @ weights)


@pytest.fixture(scope="module")
def small():
    return to_tflite(classify, input_shape=[1, 8, 8, 3])


TOLD = {"name": "small", "description": "Four kinds.", "mean": 127.5, "std": 127.5}
FOUR = ["a", "b", "c", "d"]


def tensors(model):
    """Input and output, as MediaPipe's own schema reads them."""
    path = (
        Path(importlib.util.find_spec("mediapipe").origin).parent
        / "tasks/metadata/metadata_schema_py_generated.py"
    )
    spec = importlib.util.spec_from_file_location("metadata_schema", path)
    schema = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(schema)
    tables = litert_schema.ModelT.InitFromPackedBuf(model)
    (entry,) = [one for one in tables.metadata if one.name == b"TFLITE_METADATA"]
    (graph,) = schema.ModelMetadataT.InitFromPackedBuf(
        bytes(tables.buffers[entry.buffer].data)
    ).subgraphMetadata
    return *graph.inputTensorMetadata, *graph.outputTensorMetadata


def test_what_is_written_is_read(small):
    model = with_metadata(small, labels=FOUR, **TOLD)
    image, scores = tensors(model)
    assert (image.content.contentPropertiesType, image.content.contentProperties.colorSpace) == (2, 1)  # RGB
    scaling = image.processUnits[0].options
    assert (scaling.mean.tolist(), scaling.std.tolist()) == ([127.5], [127.5])
    assert (scores.name, scores.content.contentPropertiesType) == (b"probability", 1)
    assert [(file.name, file.type) for file in scores.associatedFiles] == [(b"labels.txt", 2)]
    found = read_metadata(model)
    assert (found["name"], found["description"], found["labels"]) == ("small", "Four kinds.", FOUR)
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
    image, _ = tensors(with_metadata(grey, labels=["all"], **TOLD))
    assert image.content.contentProperties.colorSpace == 2


@pytest.mark.parametrize("labels", [["a", "b"], [*FOUR, "e"], []])
def test_labels_that_belong_to_no_output(small, labels):
    with pytest.raises(UsageError, match=f"tells 4 classes apart, and {len(labels)} labels"):
        with_metadata(small, labels=labels, **TOLD)


@pytest.mark.parametrize(
    ("function", "shape", "scaling", "culprit"),
    [
        (
            classify,
            [1, 8, 8, 3],
            {"mean": None, "std": None},
            r"takes float32, and mean is None.*\n.*mean=0, std=1",
        ),
        (classify, [1, 8, 8, 3], {"mean": 0.0, "std": 0.0}, r"mean is 0\.0, std 0\.0"),
        (tf.nn.softmax, [1, 4], {}, r"float32 \[1, 4\], float32 \[1, 4\], and not one image"),
        (tf.nn.relu, [1, 8, 8, 3], {}, r"float32 \[1, 8, 8, 3\], and not"),
    ],
)
def test_what_a_client_could_not_use(function, shape, scaling, culprit):
    with pytest.raises(UsageError, match=culprit):
        with_metadata(to_tflite(function, input_shape=shape), labels=FOUR, **{**TOLD, **scaling})


def test_weights_behind_the_tables():
    """ai-edge-quantizer writes 256 kB of weights and more so: they were not counted, and no metadata were written."""
    weights = np.random.default_rng(0).normal(size=(192, 1400)).astype(np.float32)
    weights[:96] = 0
    float32 = to_tflite(lambda x: tf.nn.softmax(tf.reshape(x, [-1, 192]) @ weights), input_shape=[1, 8, 8, 3])
    quantized = weights_only(float32, bits=8)
    assert any(one.offset > 1 for one in litert_schema.ModelT.InitFromPackedBuf(quantized).buffers)
    model = with_metadata(quantized, labels=[*map(str, range(1400))], **TOLD)
    pixels = np.random.default_rng(1).random((2, 8, 8, 3), np.float32)
    with ParallelInterpreter(quantized) as before, ParallelInterpreter(model) as after:
        np.testing.assert_array_equal(before(pixels), after(pixels))
    for one in (quantized, model):
        inventory = inspect(one)
        assert (inventory.weights["int8"], inventory.distinct_weights > 100) == (weights.size, True)
        assert 0.5 <= inventory.sparsity < 0.6


def test_damaged_files(small):
    model = with_metadata(small, labels=FOUR, **TOLD)
    for broken in (b"", b"PK", bytes(1000), model[: len(small) // 2]):
        with pytest.raises(DataError):
            with_metadata(broken, labels=FOUR, **TOLD)
        with pytest.raises(DataError):
            read_metadata(broken)
    for broken in (model[:-30], model.replace(b"M001", b"M999")):  # without its labels, of another schema
        with pytest.raises(DataError, match=r"metadata of this \.tflite file"):
            read_metadata(broken)

"""A model in MLIR has the operations that the file has; the table shows what conversion made of the original's."""

import re

import numpy as np
import pytest

import tfkit
from tfkit import __main__ as command_line
from tfkit.compression import convert, inspect
from tfkit.compression.mlir import stablehlo_module, tflite_module
from tfkit.environment.stack import keras, tf
from tfkit.errors import CheckError, DataError
from tfkit.run import REPORT, VARIANTS, Run


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    layers = keras.layers
    return keras.Sequential([
        keras.Input([8, 8, 3]), layers.Conv2D(4, 3, use_bias=False), layers.BatchNormalization(),
        layers.DepthwiseConv2D(3), layers.Flatten(), layers.Dense(5, activation="softmax"),
    ])  # fmt: skip


@pytest.fixture(scope="module")
def compressed(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mlir")
    np.save(folder / "images.npy", np.random.default_rng(0).random([40, 8, 8, 3], np.float32))
    run = tfkit.compress(
        model, representative_data=folder / "images.npy", run_dir=folder / "run", variants=("float32", "int8")
    )
    return run.path


def test_the_table_shows_what_became_of_each_operation(compressed, capsys):
    table = Run.open(compressed).read(VARIANTS)["operations"]
    assert table["columns"] == ["original", "float32", "int8"]
    assert table["rows"]["batch normalization"] == [1, 0, 0]
    assert table["rows"]["CONV_2D"] == [1, 1, 1]
    assert table["rows"]["DEPTHWISE_CONV_2D"] == [1, 1, 1]
    assert table["rows"]["FULLY_CONNECTED"] == [1, 1, 1]
    assert command_line.main(["inspect", str(compressed)]) == 0
    assert re.search(r"batch normalization +1 +0 +0\n", capsys.readouterr().out)
    assert "Operations before and after conversion" in (compressed / REPORT).read_text()


def test_a_file_in_mlir_has_its_operations(compressed, capsys):
    path = compressed / "tflite" / "int8.tflite"
    assert command_line.main(["inspect", str(path), "--mlir"]) == 0
    assert str(path.with_suffix(".mlir")) in capsys.readouterr().out
    text = path.with_suffix(".mlir").read_text()
    counts = inspect(path.read_bytes()).op_counts
    assert {
        name: text.count(f'"tfl.{name.lower()}"') or text.count(f"tfl.{name.lower()}(") for name in counts
    } == counts


def test_a_broken_file_does_not_bring_the_process_down(model, tmp_path, capsys):
    content, refused = convert(model), 0
    for place in np.random.default_rng(0).integers(8, len(content), 12):
        broken = tmp_path / f"{place}.tflite"
        broken.write_bytes(content[:place] + b"\xff" * 16 + content[place + 16 :])
        try:
            assert "module" in tflite_module(broken)
        except DataError:
            refused += 1
    assert refused
    (tmp_path / "text.tflite").write_text("no model at all")
    with pytest.raises(DataError, match=r"text\.tflite|is no \.tflite file"):
        tflite_module(tmp_path / "text.tflite")
    assert command_line.main(["inspect", str(tmp_path / "text.tflite")]) == 2
    assert "no .tflite file" in capsys.readouterr().err


def test_an_exported_model_in_stablehlo(model, tmp_path):
    module = tf.Module()
    module.model = model
    module.classify = tf.function(model, input_signature=[tf.TensorSpec([None, 8, 8, 3])])
    tf.saved_model.save(module, str(tmp_path / "saved"))
    text = stablehlo_module(tf.saved_model.load(str(tmp_path / "saved")))
    assert text.count("stablehlo.convolution") == 2
    assert "tensor<1x8x8x3xf32>" in text
    module.classify = tf.function(tf.strings.length, input_signature=[tf.TensorSpec([None], tf.string)])
    tf.saved_model.save(module, str(tmp_path / "texts"))
    with pytest.raises(CheckError, match="strings"):
        stablehlo_module(tf.saved_model.load(str(tmp_path / "texts")))


def test_what_there_is_to_inspect_is_named(tmp_path, capsys):
    assert command_line.main(["inspect", str(tmp_path / "absent")]) != 0
    assert "absent" in capsys.readouterr().err

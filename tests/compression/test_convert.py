"""Models of every kind convert, or say in one clear error why they do not."""

import os
import re
import shutil
import signal
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from tfkit.compression import convert, inspect, representative
from tfkit.compression.compare import compare_all, under_test
from tfkit.compression.convert import ConversionRequest, _get_executor, end_converters, run_conversions
from tfkit.compression.sources import saved
from tfkit.environment.files import Cache
from tfkit.environment.stack import keras, keras_3, tf
from tfkit.errors import CheckError, DataError, UsageError
from tfkit.litert import ParallelInterpreter, opened, to_tflite

IMAGES = np.random.default_rng(0).random((64, 8, 8, 3), np.float32)


def network(library):
    layers = library.layers
    ending = [layers.GlobalAveragePooling2D(), layers.Dense(2, activation="softmax")]
    beginning = [library.Input((8, 8, 3)), layers.Conv2D(4, 3, activation="relu"), layers.Dropout(0.2)]
    return library.Sequential([*beginning, *ending])


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return network(keras)


def run(content, images):
    with ParallelInterpreter(content) as interpreter:
        return interpreter(images)


@pytest.mark.slow
@pytest.mark.parametrize("library", ["keras", "keras_3"])
def test_keras_2_and_keras_3(library):
    made = network({"keras": keras, "keras_3": keras_3}[library])
    expected = np.asarray(made(IMAGES[:8], training=False))
    np.testing.assert_allclose(run(convert(made), IMAGES[:8]), expected, atol=1e-5)
    int8 = convert(made, variant="int8", representative_dataset=IMAGES)
    assert inspect(int8).macs == {"int8": 1.0}
    np.testing.assert_allclose(run(int8, IMAGES[:8]), expected, atol=0.05)


@pytest.mark.slow
def test_a_strangers_saved_model_agrees_with_its_files():
    folder = Path(
        next(iter(find_spec("basic_pitch").submodule_search_locations)), "saved_models/icassp_2022/nmp"
    )
    chance = np.random.default_rng(0)
    sound = np.sin(np.linspace(0, 4000, 43844))[None, :, None] * chance.uniform(0.1, 1, (4, 1, 1))
    sound = sound.astype(np.float32)
    content = {variant: convert(folder, variant=variant) for variant in ("float32", "dynamic")}
    with saved(folder) as source:
        expected = source.function(**{name: tf.constant(sound[:1]) for name in source.inputs})
    interpreter = opened(content["float32"], threads=2)
    found = interpreter.get_signature_runner("serving_default")(**{next(iter(source.inputs)): sound[:1]})
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=2e-3)
    assert len(content["dynamic"]) < 0.7 * len(content["float32"])
    with pytest.raises(CheckError, match=r"(?s)no int8 model.*NEG"):  # it has no int8 form
        convert(folder, variant="int8", representative_dataset=sound)


@pytest.mark.slow
def test_a_handle_of_a_model():
    content = convert("efficientnet-lite0", input_shape=(1, 32, 32, 3))
    assert inspect(content).outputs[0].shape == (1, 1280)


@pytest.mark.slow
def test_variants_are_what_they_are_called(model):
    with saved(model) as source:
        requests = [ConversionRequest(name=one, variant=one) for one in ("float16", "dynamic", "int16x8")]
        types = {"inference_input_type": "uint8", "inference_output_type": "int8"}
        requests.append(ConversionRequest(name="bytes", variant="int8", **types))
        examples = representative.collect_representative(IMAGES, source.takes)
        made, failed = run_conversions(source, requests, examples=examples)
    assert not failed
    assert "float16" in inspect(made["float16"]).weights
    assert inspect(made["int16x8"]).macs == {"int16x8": 1.0}
    bytes_ = inspect(made["bytes"])
    assert (bytes_.inputs[0].dtype, bytes_.outputs[0].dtype) == ("uint8", "int8")


def process():
    return _get_executor()[0].submit(os.getpid).result()


def test_a_converter_that_dies_is_an_error_and_the_others_are_made(model):
    with saved(model) as source:
        requests = [ConversionRequest(name=name, variant="float32") for name in ("first", "second")]
        number = process()
        os.kill(number, signal.SIGSTOP)  # it cannot be through before it is killed
        threading.Timer(0.5, os.kill, (number, signal.SIGKILL)).start()
        made, failed = run_conversions(source, requests)
    assert isinstance(failed["first"], CheckError)
    assert re.search(r"SIGKILL at first \(float32\)[\s\S]*variant='dynamic'", str(failed["first"]))
    assert made.keys() == {"second"}


def test_the_next_conversion_is_done_by_the_same_process_and_an_ended_or_idle_one_is_replaced(
    monkeypatch, model
):
    """Each of them imports TensorFlow: the one that replaces the ended one is the one that ends by itself."""
    number, first = process(), convert(model)
    assert process() == number
    end_converters()
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["tfkit.compression.convert"], "IDLE_SECONDS", 1.0)
        number = process()
    assert convert(model) == first
    with pytest.raises(ProcessLookupError):
        for _ in range(100):
            os.kill(number, 0)
            time.sleep(0.1)
    assert process() != number
    assert convert(model) == first
    end_converters()  # its executor's processes are as impatient


def test_a_folder_is_converted_once_for_each_way(tmp_path, model):
    """Whoever tries other limits waits for the measuring alone; other weights, examples or types are another file."""
    path, made = tmp_path / "model", []
    model.export(str(path))
    kept = Cache("tflite").folder
    asked = {"variant": "int8", "representative_dataset": IMAGES}
    for settings in (asked, asked, {**asked, "representative_dataset": IMAGES / 2}, {"variant": "float32"}):
        before = {*kept.glob("*/model.tflite")}
        made.append((convert(path, **settings), len({*kept.glob("*/model.tflite")} - before)))
    assert made[0] == (made[1][0], 1)
    assert [new for _, new in made] == [1, 0, 1, 1]
    other = keras.models.clone_model(model)
    other.set_weights([2 * weight for weight in model.get_weights()])
    shutil.rmtree(path)
    other.export(str(path))
    np.testing.assert_allclose(run(convert(path), IMAGES[:8]), other(IMAGES[:8]), atol=1e-5)


def test_int8_without_examples_is_refused_and_not_made_in_float(model):
    with pytest.raises(UsageError, match=r"(?s)int8 needs a representative dataset.*variant='dynamic'"):
        convert(model, variant="int8")


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (np.empty((0, 8, 8, 3), np.float32), "holds 0 examples"),
        (lambda: iter(()), "holds 0 examples"),
        (np.zeros((4, 9, 9, 3), np.float32), r"shape \[4, 9, 9, 3\].*\[n, 8, 8, 3\]"),
        (np.full((4, 8, 8, 3), np.nan, np.float32), "not finite"),
        ({"other": IMAGES}, r"lack input_\d+; there is other"),
        (7, "A int is no representative dataset"),
    ],
)
def test_representative_data_that_cannot_serve(model, dataset, message):
    with pytest.raises(DataError, match=message):
        convert(model, variant="int8", representative_dataset=dataset)


class OfFunctions(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
    def numbers(self, x):
        return {"y": x + 1.0}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
    def words(self, text):
        return {"y": tf.strings.length(text)}

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32, name="images")])
    def images(self, images):
        return {"y": tf.reduce_mean(images, [1, 2])}

    @tf.function(input_signature=[tf.TensorSpec([1, 4], tf.float32, name="x")])
    def lacking(self, x):
        return {"y": tf.linalg.inv(tf.reshape(x, [2, 2]))}


def stored(tmp_path, **signatures):
    module = OfFunctions()
    made = {name: getattr(module, function) for name, function in signatures.items()}
    tf.saved_model.save(module, str(tmp_path / "model"), signatures=made or None)
    return tmp_path / "model"


def test_saved_models_that_do_not_say_what_they_take(tmp_path):
    with pytest.raises(UsageError, match="no serving signature"):
        convert(stored(tmp_path / "none"))
    several = stored(tmp_path / "several", numbers="numbers", images="images")
    for name in (None, "other"):
        with pytest.raises(UsageError, match="--signature numbers"):
            convert(several, signature=name)
    with pytest.raises(UsageError, match=r"\?, \?, \?, 3.*one shape"):
        convert(several, signature="images")
    with pytest.raises(UsageError, match=r"input_shape gives \[1, 8, 8, 4\]"):
        convert(several, signature="images", input_shape=(1, 8, 8, 4))
    served = stored(tmp_path / "served", serving_default="numbers", images="images")
    assert inspect(convert(served)).inputs[0].shape == (1, 4)
    with pytest.raises(UsageError, match="'text' takes strings, and nothing in the model cuts them"):
        convert(stored(tmp_path / "words", serving_default="words"))


def test_operations_that_tflite_lacks_are_named_with_the_way_to_keep_them(tmp_path):
    folder = stored(tmp_path, serving_default="lacking")
    with pytest.raises(CheckError, match=r"lacks MatrixInverse\.") as caught:
        convert(folder)
    assert "--select-tf-ops" in str(caught.value)
    content = convert(folder, select_tf_ops=True)
    assert inspect(content).flex_ops == ("FlexMatrixInverse",)
    with saved(folder) as source:
        tested = under_test(source, np.eye(2, dtype=np.float32).reshape(1, 4), labels=None, output="values")
    comparisons, broken = compare_all(tested, {"float32": content})
    assert not comparisons
    assert "Flex" in str(broken["float32"])


def test_what_cannot_be_a_model(tmp_path, model):
    (tmp_path / "saved_model.pb").write_bytes(b"no protocol buffer")
    for given, options, culprit in (
        (tmp_path, {}, "not a SavedModel that TensorFlow can load"),
        (b"....TFL3", {}, "converted already"),
        (3, {}, "A int cannot be converted"),
        (lambda x: x, {}, "give input_shape"),
        (model, {"signature": "serving_default"}, "'serving_default' is for SavedModels"),
        (model, {"variant": "int4"}, "no TFLite variant 'int4'"),
        (model, {"variant": "float16", "inference_input_type": "uint8"}, "float16 can have float32"),
    ):
        with pytest.raises(UsageError, match=culprit):
            convert(given, **options)


def test_weights_that_are_not_finite_are_named():
    broken = network(keras)
    broken.layers[0].kernel.assign(np.full(broken.layers[0].kernel.shape, np.nan))
    with pytest.raises(CheckError, match=r"not finite numbers: .*kernel"):
        convert(broken)


def test_a_table_that_tflite_lacks_is_named():
    table = keras.layers.IntegerLookup(vocabulary=[10, 20], name="codes")
    codes = keras.Input([1], dtype="int64")
    model = keras.Model(codes, keras.layers.Embedding(3, 2)(table(codes)))
    with pytest.raises(UsageError, match=r"codes looks .* table[^.]*TFLite"):
        convert(model)
    words = keras.layers.TextVectorization(output_mode="count", max_tokens=9, vocabulary=["a", "b"])
    counted = keras.Sequential([keras.Input([1], dtype="string"), words], name="counted")
    with pytest.raises(UsageError, match=r"counted looks .* table"):
        convert(keras.Sequential([keras.Input([1], dtype="string"), counted, keras.layers.Dense(2)]))


def test_numbers_that_float16_cannot_hold_are_said():
    """A price: of the bias of 300,000 there are 65,504 left."""
    price = keras.Sequential(
        [keras.Input([4]), keras.layers.Dense(1, bias_initializer=lambda *_, **__: [3e5])]
    )
    with pytest.warns(UserWarning, match=r"BiasAdd.*float16 ends at 65,504"):
        content = convert(price, variant="float16")
    assert run(content, np.zeros((1, 4), np.float32)) < 7e4
    assert "prices" in inspect(content).notes[0]
    assert inspect(convert(price)).notes == ()


@pytest.mark.parametrize(("bits", "smaller", "error"), [(8, 0.35, 0.02), (4, 0.25, 0.4)])
def test_integer_weights_alone(bits, smaller, error):
    keras.utils.set_random_seed(0)
    dense = keras.Sequential([keras.Input([64]), keras.layers.Dense(256, "relu"), keras.layers.Dense(8)])
    float32, content = to_tflite(dense, input_shape=[1, 64]), convert(dense, variant=f"weights{bits}")
    assert len(content) < smaller * len(float32)
    assert f"int{bits}" in inspect(content).weights
    examples = np.random.default_rng(0).random((20, 64), np.float32)
    np.testing.assert_allclose(run(content, examples), run(float32, examples), atol=error)

"""What is converted computes what TensorFlow computes; whatever reads a mutant of it says DataError."""

import io
import os
import random
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest

from tfkit.compression import inspect, read_metadata, with_metadata
from tfkit.environment.stack import keras, litert_schema, tf
from tfkit.errors import CheckError, DataError
from tfkit.litert import ParallelInterpreter, to_tflite
from tfkit.litert import read as read_tables

COUNT = 400
OPENED = """
import pathlib, sys
from tfkit.errors import CheckError, DataError
from tfkit.litert import opened
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    try:
        opened(path.read_bytes(), threads=1)
        print("whole")
    except (DataError, CheckError) as error:
        print(type(error).__name__)
"""


@pytest.fixture(scope="module")
def model():
    """A convolutional net whose batch normalization has statistics of its own."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    beginning = [layers.Conv2D(8, 3, use_bias=False), layers.BatchNormalization(), layers.ReLU(6.0)]
    ending = [layers.Dropout(0.5), layers.GlobalAveragePooling2D(), layers.Dense(5)]
    model = keras.Sequential([keras.Input((16, 16, 3)), *beginning, *ending])
    normalization = model.layers[1]
    rng = np.random.default_rng(0)
    normalization.set_weights([rng.uniform(0.5, 2, weight.shape) for weight in normalization.get_weights()])
    return model


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).random((4, 16, 16, 3), dtype=np.float32)


def run(content, images):
    with ParallelInterpreter(content) as interpreter:
        return interpreter(images)


def test_keras_model(model, images):
    found = run(to_tflite(model, input_shape=[1, 16, 16, 3]), images)
    np.testing.assert_allclose(found, model.predict(images, verbose=0), rtol=1e-4, atol=1e-5)


def test_weights_are_folded_and_stored_once(model):
    """4 bytes a parameter and no more: batch normalization is in the convolution, dropout is gone."""
    content = to_tflite(model, input_shape=[None, 16, 16, 3])
    assert len(content) < 4 * model.count_params() + 4000


def test_operations_that_tflite_lacks_are_named(capfd):
    def model(inputs):
        return tf.math.betainc(inputs, inputs, inputs) + tf.linalg.svd(inputs[:, None], compute_uv=False)

    with pytest.raises(CheckError, match=r"lacks Betainc, Svd\.") as caught:
        to_tflite(model, input_shape=[1, 4])
    assert "TensorFlow itself runs" in str(caught.value)


def test_conversion_is_silent(model, capfd):
    to_tflite(model, input_shape=[1, 16, 16, 3])
    assert "".join(capfd.readouterr()) == ""


@pytest.fixture(scope="module")
def whole():
    """A convolution, a mean and a dense layer, with labels inside."""
    chance = np.random.default_rng(0)
    kernel, weights = (chance.normal(size=shape).astype(np.float32) for shape in ((3, 3, 3, 8), (8, 5)))

    def classify(images):
        hidden = tf.nn.relu(tf.nn.conv2d(images, kernel, 2, "SAME"))
        return tf.nn.softmax(tf.reduce_mean(hidden, [1, 2]) @ weights)

    model = to_tflite(classify, input_shape=[1, 8, 8, 3])
    return with_metadata(model, name="five", description="of noise", labels=list("abcde"), mean=0.0, std=1.0)


def mutants(model, count, *, seed):
    """Flipped bits, cut ends, overwritten offsets and counts, and a damaged head."""
    chance = random.Random(seed)
    for number in range(count):
        mutant = bytearray(model)
        if number % 4 == 0:
            for _ in range(chance.choice([1, 2, 8, 32])):
                mutant[chance.randrange(8, len(mutant))] ^= 1 << chance.randrange(8)
        elif number % 4 == 1:
            del mutant[chance.randrange(len(mutant)) :]
        elif number % 4 == 2:
            place = chance.randrange(8, len(mutant) - 4)
            words = [b"\xff" * 4, b"\0" * 4, b"\xff\xff\xff\x7f", chance.randbytes(4)]
            mutant[place : place + 4] = chance.choice(words)
        else:
            for _ in range(chance.choice([1, 4])):
                mutant[chance.randrange(8, 256)] = chance.randrange(256)
        yield bytes(mutant)


@pytest.mark.parametrize("read", [inspect, read_metadata])
def test_mutants_are_read_or_refused_by_name(whole, read):
    refused = 0
    for mutant in mutants(whole, COUNT, seed=1):
        began = time.process_time()
        try:
            read(mutant)
        except DataError:
            refused += 1
        assert time.process_time() - began < 5
    assert COUNT / 4 < refused < COUNT  # bits of weights make another model, not a damaged one


def test_no_mutant_ends_the_process_by_the_interpreter(whole, tmp_path):
    """Without `flatbuffer.read` before it, about one in 10,000 does, and others take gigabytes."""
    for number, mutant in enumerate(mutants(whole, COUNT, seed=2)):
        (tmp_path / f"{number:04d}").write_bytes(mutant)
    done = subprocess.run(
        [sys.executable, "-c", OPENED, tmp_path], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = done.stdout.split()
    assert len(said) == COUNT
    assert set(said) == {"whole", "DataError", "CheckError"}


def test_counts_without_end_are_refused_at_once(whole):
    """The list of buffers claims 2^30 entries in a large file of zeros."""
    root = litert_schema.Model.GetRootAs(whole, 0)
    place = root._tab.Vector(root._tab.Offset(12)) - 4
    mutant = bytearray(whole) + bytes(8 << 20)
    mutant[place : place + 4] = (1 << 30).to_bytes(4, "little")
    began = time.process_time()
    with pytest.raises(DataError, match="damaged"):
        read_tables(bytes(mutant))
    assert time.process_time() - began < 5


def test_labels_that_unpack_without_end_are_refused(whole):
    content = io.BytesIO(whole[: whole.rindex(b"PK\x03\x04")])
    content.seek(0, 2)
    with zipfile.ZipFile(content, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labels.txt", b"a\n" * (20 << 20))
    with pytest.raises(DataError, match=r"labels\.txt"):
        read_metadata(content.getvalue())


def sums(images):
    """A number that tells an example from all others."""
    return tf.reduce_sum(images, axis=(1, 2))


@pytest.fixture(scope="module", params=[1, 4])
def summing(request):
    return to_tflite(sums, input_shape=[request.param, 3, 2, 5])


@pytest.mark.parametrize("n", [0, 1, 3, 4, 57])
def test_any_number_of_examples_in_order(summing, n):
    examples = np.arange(n * 30, dtype=np.float32).reshape(n, 3, 2, 5)
    with ParallelInterpreter(summing, cores=3) as interpreter:
        np.testing.assert_array_equal(interpreter(examples), examples.sum(axis=(1, 2)))
        np.testing.assert_array_equal(interpreter(examples[::-1]), examples[::-1].sum(axis=(1, 2)))


def test_examples_are_prepared_by_the_workers(summing):
    examples = np.random.default_rng(0).integers(0, 256, (9, 3, 2, 5), np.uint8)
    with ParallelInterpreter(summing) as interpreter:
        found = interpreter(examples, prepare=lambda some: some.astype(np.float32) * 2)
    np.testing.assert_array_equal(found, examples.sum(axis=(1, 2)) * 2)


def test_what_goes_wrong_in_a_worker_is_raised_and_the_next_call_works(summing):
    examples = np.ones((9, 3, 2, 5), np.float32)
    with ParallelInterpreter(summing) as interpreter:
        with pytest.raises(ZeroDivisionError):
            interpreter(examples, prepare=lambda some: some * (1 // 0))
        with pytest.raises(RuntimeError, match="resize dimension"):
            interpreter(np.ones((9, 3, 2, 4), np.float32))
        np.testing.assert_array_equal(interpreter(examples), np.full((9, 5), 6))


def test_as_many_workers_as_this_process_may_use(summing):
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        with ParallelInterpreter(summing) as interpreter:
            assert interpreter.workers == 1
    finally:
        os.sched_setaffinity(0, allowed)
    with ParallelInterpreter(summing) as interpreter:
        assert interpreter.workers <= len(allowed)

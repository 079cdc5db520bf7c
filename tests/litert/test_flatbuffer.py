"""Mutants of a real .tflite file: whatever reads them says DataError, and nothing ends the process."""

import random
import subprocess
import sys
import time

import numpy as np
import pytest

from tfkit.compression import inspect, read_metadata, with_metadata
from tfkit.errors import DataError
from tfkit.litert import to_tflite
from tfkit.litert.converter import read

COUNT = 400
OPENED = """
import pathlib, sys
from tfkit.errors import CheckError, DataError
from tfkit.litert.interpreter import opened
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    try:
        opened(path.read_bytes(), threads=1)
        print("whole")
    except (DataError, CheckError) as error:
        print(type(error).__name__)
"""


@pytest.fixture(scope="module")
def whole():
    """A convolution, a mean and a dense layer, with labels inside."""
    from tfkit.environment.stack import tf

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
        began = time.perf_counter()
        try:
            read(mutant)
        except DataError:
            refused += 1
        assert time.perf_counter() - began < 5
    assert COUNT / 4 < refused < COUNT  # bits of weights make another model, not a damaged one


def test_no_mutant_ends_the_process_by_the_interpreter(whole, tmp_path):
    """Without `flatbuffer.read` before it, about one in 10,000 does, and others take gigabytes."""
    for number, mutant in enumerate(mutants(whole, COUNT, seed=2)):
        (tmp_path / f"{number:04d}").write_bytes(mutant)
    done = subprocess.run(
        [sys.executable, "-c", OPENED, tmp_path], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = done.stdout.split()
    assert len(said) == COUNT
    assert set(said) == {"whole", "DataError", "CheckError"}


def test_counts_without_end_are_refused_at_once(whole):
    """The list of buffers claims 2^30 entries in a large file of zeros."""
    from tfkit.environment.stack import litert_schema

    root = litert_schema.Model.GetRootAs(whole, 0)
    place = root._tab.Vector(root._tab.Offset(12)) - 4
    mutant = bytearray(whole) + bytes(8 << 20)
    mutant[place : place + 4] = (1 << 30).to_bytes(4, "little")
    began = time.perf_counter()
    with pytest.raises(DataError, match="damaged"):
        read(bytes(mutant))
    assert time.perf_counter() - began < 5


def test_labels_that_unpack_without_end_are_refused(whole):
    import io
    import zipfile

    content = io.BytesIO(whole[: whole.rindex(b"PK\x03\x04")])
    content.seek(0, 2)
    with zipfile.ZipFile(content, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labels.txt", b"a\n" * (20 << 20))
    with pytest.raises(DataError, match=r"labels\.txt"):
        read_metadata(content.getvalue())

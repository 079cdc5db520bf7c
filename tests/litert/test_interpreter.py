"""All cores work, and every example keeps its place."""

import os

import numpy as np
import pytest

from tfkit.environment.stack import tf
from tfkit.litert import ParallelInterpreter, to_tflite


def sums(images):
    """A number that tells an example from all others."""
    return tf.reduce_sum(images, axis=(1, 2))


@pytest.fixture(scope="module", params=[1, 4])
def model(request):
    return to_tflite(sums, input_shape=[request.param, 3, 2, 5])


@pytest.mark.parametrize("n", [0, 1, 3, 4, 57])
def test_any_number_of_examples_in_order(model, n):
    examples = np.arange(n * 30, dtype=np.float32).reshape(n, 3, 2, 5)
    with ParallelInterpreter(model, cores=3) as interpreter:
        np.testing.assert_array_equal(interpreter(examples), examples.sum(axis=(1, 2)))
        np.testing.assert_array_equal(interpreter(examples[::-1]), examples[::-1].sum(axis=(1, 2)))


def test_examples_are_prepared_by_the_workers(model):
    examples = np.random.default_rng(0).integers(0, 256, (9, 3, 2, 5), np.uint8)
    with ParallelInterpreter(model) as interpreter:
        found = interpreter(examples, prepare=lambda some: some.astype(np.float32) * 2)
    np.testing.assert_array_equal(found, examples.sum(axis=(1, 2)) * 2)


def test_what_goes_wrong_in_a_worker_is_raised_and_the_next_call_works(model):
    examples = np.ones((9, 3, 2, 5), np.float32)
    with ParallelInterpreter(model) as interpreter:
        with pytest.raises(ZeroDivisionError):
            interpreter(examples, prepare=lambda some: some * (1 // 0))
        with pytest.raises(ValueError, match="Dimension mismatch"):
            interpreter(np.ones((9, 3, 2, 4), np.float32))
        np.testing.assert_array_equal(interpreter(examples), np.full((9, 5), 6))


def test_as_many_workers_as_this_process_may_use(model):
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        with ParallelInterpreter(model) as interpreter:
            assert interpreter.workers == 1
    finally:
        os.sched_setaffinity(0, allowed)
    with ParallelInterpreter(model) as interpreter:
        assert interpreter.workers <= len(allowed)

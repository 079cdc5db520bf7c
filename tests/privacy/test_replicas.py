"""Whatever the replicas, the update carries the noise that is accounted, and the signal of one machine."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from tests.distribution import processes

PROGRAM = Path(__file__).with_name("replicas_program.py")


@pytest.fixture(scope="module")
def mirrored():
    started = {count: processes.start(sys.executable, str(PROGRAM), count) for count in ("1", "2", "4")}
    return {count: processes.answer(process) for count, process in started.items()}


@pytest.fixture(scope="module")
def workers():
    return processes.answer(processes.start_workers(PROGRAM, "workers", ports=(21871, 21872)))


@pytest.mark.slow
@pytest.mark.parametrize("replicas", ["1", "2", "4"])
def test_noise_is_what_the_accountant_assumes(mirrored, replicas):
    """With no gradients the update is noise alone: its spread must be z * C / B whatever the replicas."""
    noise = mirrored[replicas]["noise"]
    assert noise["ratio"] == pytest.approx(1.0, rel=0.03)
    assert abs(noise["correlation"]) < 0.1  # each step draws anew


@pytest.mark.slow
@pytest.mark.parametrize("replicas", ["2", "4"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_signal_is_that_of_one_replica(mirrored, replicas, optimizer):
    expected = np.array(mirrored["1"]["signal"][optimizer])
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(mirrored[replicas]["signal"][optimizer], expected, atol=1e-5)


@pytest.mark.slow
def test_shuffled_epochs_and_empty_local_batches(mirrored, workers):
    """Each example is once in an epoch, whoever trains: with a slow rate the update is the sum of all gradients."""
    expected = np.array(mirrored["1"]["shuffled"])
    assert all(found["sparse_is_finite"] for found in mirrored.values())
    for found in (mirrored["2"], mirrored["4"], workers):
        np.testing.assert_allclose(found["shuffled"], expected, atol=1e-3 * np.abs(expected).max())


@pytest.mark.slow
def test_the_engine_of_tf_privacy_is_for_one_replica(mirrored):
    assert mirrored["1"]["engine"] == []
    for replicas in ("2", "4"):
        assert f"not for {replicas}" in mirrored[replicas]["engine"][0]


@pytest.mark.slow
def test_two_worker_processes_with_one_secret(mirrored, workers):
    """The noise of workers that start from the same secret is not the same noise: it would be sqrt(2) too large."""
    assert workers["noise"]["ratio"] == pytest.approx(1.0, rel=0.03)
    for optimizer, expected in mirrored["1"]["signal"].items():
        np.testing.assert_allclose(workers["signal"][optimizer], expected, atol=1e-5)
    assert workers["sparse_is_finite"]

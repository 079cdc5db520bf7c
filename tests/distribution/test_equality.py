"""However the examples are dealt to replicas and workers, weights and metrics are those of one process."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from tests.distribution import equality_program as program
from tests.distribution import processes

PROGRAM = Path(__file__).with_name("equality_program.py")

CASES = [
    (where, case) for where in ("2", "4", "8", "workers") for case in program.FEWER.get(where, program.CASES)
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    file = tmp_path_factory.mktemp("digits") / "digits.npz"
    np.savez(file, **program.digits(examples=180))
    words = (sys.executable, str(PROGRAM), str(file))
    started = {count: processes.start(*words, count) for count in ("1", "2")}
    found = {count: processes.answer(process) for count, process in started.items()}
    started = {count: processes.start(*words, count) for count in ("4", "8")}
    found |= {count: processes.answer(process) for count, process in started.items()}
    workers = processes.start_workers(PROGRAM, str(file), "workers", ports=(21881, 21882))
    return {**found, "workers": processes.answer(workers)}


@pytest.mark.slow
@pytest.mark.parametrize(("where", "case"), CASES)
def test_weights_and_metrics_are_those_of_one_process(trained, where, case):
    expected, found = trained["1"][case], trained[where][case]
    for ours, theirs in zip(found["weights"], expected["weights"], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    ours, theirs = np.array(found["metrics"]), np.array(expected["metrics"])
    np.testing.assert_allclose(ours[:, [0, 2]], theirs[:, [0, 2]], atol=1e-5)
    np.testing.assert_array_equal(ours[:, [1, 3]], theirs[:, [1, 3]])  # each example counted once


@pytest.mark.slow
def test_the_cases_are_what_they_say(trained):
    last = {case: trained["1"][case]["last_batch"] for case in program.CASES}
    assert 0 < last["adam, augmented, tiny last batch"] < 8
    assert last["momentum, class weights, uneven, in pieces"] % 2 == 1
    assert "8 replicas" in trained["8"]["strategy"]
    assert "2 workers" in trained["workers"]["strategy"]

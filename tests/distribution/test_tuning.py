"""A step of several workers talks once, and what an epoch reports is what Keras would have reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.distribution import processes
from tfkit.distribution.worker_process import threads_environment


@pytest.fixture(scope="module")
def workers():
    """What both workers print."""
    program = Path(__file__).with_name("tuning_program.py")
    ports = (21881, 21882)
    started = processes.start_workers(program, ports=ports, other="/dev/stdout", **threads_environment(1))
    return processes.answers(started)


@pytest.mark.slow
def test_a_step_talks_once(workers):
    """The gradients, and nothing else."""
    assert len(workers) == 2
    for worker in workers:
        assert worker["tuned"]["collectives"] == 1 < worker["stock"]["collectives"]


@pytest.mark.slow
def test_what_is_reported_is_of_all_workers(workers):
    """Were it of one worker, the two would differ from one another and from Keras."""
    for worker in workers:
        for what in ("history", "evaluated"):
            assert worker["tuned"][what].keys() == worker["stock"][what].keys()
            for name, value in worker["stock"][what].items():
                assert worker["tuned"][what][name] == pytest.approx(value, rel=1e-5)
        assert worker["tuned"]["weights"] == pytest.approx(worker["stock"]["weights"], rel=1e-5)
    assert workers[0]["tuned"] == workers[1]["tuned"]

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
def test_a_step_talks_once_and_what_is_reported_is_of_all_workers(workers):
    """The gradients, and nothing else; were the numbers of one worker, the two would differ."""
    assert [worker["collectives"] for worker in workers] == [1, 1]
    assert workers[0] == workers[1]
    for name, value in workers[0]["evaluated"].items():
        assert workers[0]["history"][f"val_{name}"][-1] == pytest.approx(value, rel=1e-5)

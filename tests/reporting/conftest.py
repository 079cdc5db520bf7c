"""A real classifier of the digits, and event files read as the dashboards read them."""

import contextlib
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer

from tests.reporting.finished_runs import classified
from tfkit.metrics import Evaluation

NAMES = ("zero", "a/b", "<b>two</b>", "$\\frac{3}$", "4\t\n4", "five", "six", "seven", "中文", "nine")


@pytest.fixture(scope="session")
def evaluation() -> Evaluation:
    return classified(NAMES, last=800)[0]


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    """The images of `evaluation`: uint8 [500, 8, 8, 3]."""
    return classified(NAMES, last=800)[1]


@pytest.fixture(scope="session")
def read():
    """Load a folder of logs with TensorBoard's own reader."""

    def load(logdir: Path) -> EventMultiplexer:
        multiplexer = EventMultiplexer().AddRunsFromDirectory(str(logdir))
        multiplexer.Reload()
        return multiplexer

    return load


@pytest.fixture(scope="session")
def serving():
    """`with serving(logdir) as address`: a TensorBoard server on loopback."""

    @contextlib.contextmanager
    def serve(logdir: Path):
        words = ["--logdir", logdir, "--host", "127.0.0.1", "--port", "0"]
        server = subprocess.Popen(
            [sys.executable, "-m", "tensorboard.main", *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            found = (re.search(r"http://127\.0\.0\.1:\d+/", line) for line in server.stderr)
            address = next(filter(None, found))[0]
            threading.Thread(target=server.stderr.read, daemon=True).start()
            yield address
        finally:
            server.terminate()
            server.wait(timeout=600)

    return serve

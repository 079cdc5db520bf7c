"""A real classifier of the digits, and event files read as the dashboards read them."""

import contextlib
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer

from tfkit.metrics import Evaluation

NAMES = ("zero", "a/b", "<b>two</b>", "$\\frac{3}$", "4\t\n4", "five", "six", "seven", "中文", "nine")


@pytest.fixture(scope="session")
def evaluation() -> Evaluation:
    images, labels = load_digits(return_X_y=True)
    model = LogisticRegression(max_iter=300).fit(images[:300], labels[:300])
    return Evaluation(
        labels=labels[300:800],
        probabilities=model.predict_proba(images[300:800]),
        names=[f"digits/{index}" for index in range(300, 800)],
        class_names=NAMES,
    )


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    """The images of `evaluation`: uint8 [500, 8, 8, 3]."""
    grey = (load_digits().images[300:800] * 255 / 16).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


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
            server.wait(timeout=30)

    return serve

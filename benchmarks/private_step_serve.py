"""Sizes, data and the reply that the contestants of benchmarks/private_step.py share, in whichever venv they run.

Only numpy is imported here: one of the contestants has no TensorFlow.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

BATCH = 256
L2_NORM_CLIP = 1.0
NOISE_MULTIPLIER = 1.1
LEARNING_RATE = 0.1
# Shape of one example and number of classes.
MODELS: dict[str, tuple[tuple[int, ...], int]] = {
    "head": ((1280,), 100),
    "mlp": ((784,), 10),
    "cnn": ((28, 28, 1), 10),
}


def batch(model: str) -> tuple[Any, Any]:
    """Float32 features of a standard normal distribution, int64 labels: the time does not depend on them."""
    shape, classes = MODELS[model]
    generator = np.random.default_rng(0)
    features = generator.standard_normal((BATCH, *shape), np.float32)
    return features, generator.integers(0, classes, BATCH)


def peak_mb() -> float:
    """The most memory this process ever had in RAM, in MiB; it is KiB that Linux gives."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def serve(build: Callable[[], Callable[[], None]]) -> None:
    """Build a step, take the first one, then answer each number of steps on stdin by a line about them on stdout.

    Args:
      build: gives a function that takes one training step and returns when it is done.
    """
    imported_mb = peak_mb()
    step = build()
    step()
    reply: dict[str, float] = {"first": 1}
    while True:
        print(json.dumps({**reply, "peak_mb": peak_mb(), "imported_mb": imported_mb}), flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        start, cpu = time.perf_counter(), time.process_time()
        for _ in range(int(line)):
            step()
        reply = {"wall": time.perf_counter() - start, "cpu": time.process_time() - cpu, "steps": int(line)}

"""Time before the work: the import of TensorFlow for a conversion, and the tracing of a training step.

    uv run python benchmarks/overhead.py --rounds 5

Both sides in turn, medians of the rounds, seconds of the clock and of the processor (with its child processes'):

- a small model to int8 by the process that waits for conversions, against a process for each conversion;
- the first step of EfficientNet-Lite0's fine-tuning, 64 pixels, as `tfkit` prepares the model, against tf_keras alone.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from tfkit import hub
from tfkit.compression import convert
from tfkit.compression.convert import _executors, end_converters
from tfkit.data import load_images
from tfkit.environment.stack import keras, tf
from tfkit.training.fit import _build_metrics
from tfkit.transfer import models


def seconds_of_children() -> float:
    """Of the processor, by the process that converts, if it runs."""
    return sum(executor.submit(time.process_time).result() for executor, _ in _executors)


def timed(work: Callable[[], object], *, children: float) -> tuple[float, float]:
    clock, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - cpu + seconds_of_children() - children


def conversion(*, anew: bool) -> tuple[float, float]:
    model = keras.Sequential([keras.Input([8, 8, 3]), keras.layers.Conv2D(4, 3), keras.layers.Flatten()])
    examples = np.random.default_rng(0).random((100, 8, 8, 3), np.float32)
    if anew:
        end_converters()
    children = seconds_of_children()
    return timed(lambda: convert(model, variant="int8", representative_dataset=examples), children=children)


def first_step(*, prepared: bool) -> tuple[float, float]:
    model = models.whole_model(
        hub.load_model("efficientnet-lite0"),
        classes=10,
        spec=tf.TensorSpec([64, 64, 3]),
        top=models.plain_top(1e-3),
        trainable="all",
    )
    splits = load_images("digits", image_size=64)
    images, labels = np.zeros([8, 64, 64, 3], np.float32), np.zeros([8], np.int64)
    model.optimizer.build(model.trainable_variables)

    def work() -> None:
        if prepared:
            _build_metrics(model, splits)
        model.fit(images, labels, batch_size=8, epochs=1, verbose=0)

    return timed(work, children=seconds_of_children())


def compare(
    title: str, subject: Callable[[], tuple[float, float]], baseline: Callable[[], tuple[float, float]]
) -> None:
    for side in (subject, baseline):  # what is done once in a process is no part of it
        side()
    rounds = [(subject(), baseline()) for _ in range(settings.rounds)]
    clocks, processors = (
        [statistics.median(pair[side][kind] for pair in rounds) for side in (0, 1)] for kind in (0, 1)
    )
    print(
        f"{title}: {clocks[0]:.2f} s against {clocks[1]:.2f} s ({clocks[0] / clocks[1]:.2f}),"
        f" processor {processors[0]:.2f} s against {processors[1]:.2f} s ({processors[0] / processors[1]:.2f})",
        flush=True,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    settings = parser.parse_args()
    compare("A conversion", lambda: conversion(anew=False), lambda: conversion(anew=True))
    compare("A first step", lambda: first_step(prepared=True), lambda: first_step(prepared=False))

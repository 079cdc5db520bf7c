"""One worker of benchmarks/scaling.py: python benchmarks/scaling_worker.py JOB, where JOB is JSON.

It calls `fit` once, on a dataset that does not end, and stops before a step until it is told on stdin how many to take;
then says on stdout when each of them ended, and what CPU time they took. So tracing and teardown are never measured,
and the contestants can take turns. Everything else is what a user's program does: pixels of 8 bits that are shuffled
and batched by tf.data, a small convolutional net, loss and accuracy, SGD with momentum.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

CLASSES = 10
EXAMPLES = 2048
FOREVER = 10**9
ENDLESS = 10_000  # steps


def pixels(image_size: int) -> tuple[Any, Any]:
    """Noise: the time does not depend on what is in the images."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (EXAMPLES, image_size, image_size, 3), dtype=np.uint8)
    return images, generator.integers(0, CLASSES, EXAMPLES)


def net(keras: Any, image_size: int) -> Any:
    """Three convolutions and two dense layers, 0.1 million weights."""
    layers = keras.layers
    model = keras.Sequential([keras.Input((image_size, image_size, 3)), layers.Rescaling(1 / 255)])
    for filters in (32, 64, 128):
        model.add(layers.Conv2D(filters, 3, padding="same", activation="relu"))
        model.add(layers.MaxPool2D())
    model.add(layers.GlobalAveragePooling2D())
    model.add(layers.Dense(128, activation="relu"))
    model.add(layers.Dense(CLASSES))
    return model


def batches(tf: Any, examples: Any, size: int) -> Any:
    """Endless: a finite dataset costs one more all-reduce a step, by which workers agree that there is a batch."""
    dataset = tf.data.Dataset.from_tensor_slices(examples).shuffle(EXAMPLES).repeat()
    dataset = dataset.batch(size, drop_remainder=True)
    return dataset.map(lambda images, labels: (tf.cast(images, tf.float32), labels)).prefetch(2)


def stock(tf: Any, keras: Any, job: dict[str, Any]) -> tuple[Any, Any]:
    """By the book: the tutorial of MultiWorkerMirroredStrategy, which shards the dataset of the global batch."""
    distributed = "TF_CONFIG" in os.environ
    strategy = tf.distribute.MultiWorkerMirroredStrategy() if distributed else tf.distribute.get_strategy()
    with strategy.scope():
        model = compiled(keras, job)
    global_batch_size = job["batch"] * strategy.num_replicas_in_sync
    return model, batches(tf, pixels(job["image_size"]), global_batch_size)


def train(tf: Any, keras: Any, job: dict[str, Any]) -> None:
    """As a user of tfkit trains: its data, its callbacks, its backups; one epoch that does not end."""
    from tfkit.data import from_arrays
    from tfkit.distribution import strategies
    from tfkit.run import Run
    from tfkit.training import fit
    from tfkit.training.stage import Stage

    if job.get("metrics_every_step"):
        strategies.sum_metrics_once_an_epoch = lambda model: None
    workers = len(json.loads(os.environ.get("TF_CONFIG", "{}")).get("cluster", {}).get("worker", [0]))
    size = job["image_size"]
    data = from_arrays(*pixels(size), image_size=size, global_batch_size=workers * job["batch"])
    endless = np.tile(data.indices["train"], ENDLESS * data.global_batch_size // len(data.indices["train"]))
    length = len(endless) // data.global_batch_size * data.global_batch_size
    data = data.replace(indices={**data.indices, "train": endless[:length]})
    with tempfile.TemporaryDirectory() as folder:
        run = Run.create(Path(folder) / "run", config={})
        fit.train(
            lambda: compiled(keras, job),
            data,
            Stage(epochs=1, verbose=0),
            run=run,
            callbacks=[turnstile(keras)],
        )


def compiled(keras: Any, job: dict[str, Any]) -> Any:
    model = net(keras, job["image_size"])
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def turnstile(keras: Any) -> Any:
    """The callback that lets so many steps through as the other end of the pipe asks for."""

    class Turnstile(keras.callbacks.Callback):
        _supports_tf_logs = True  # the logs stay where they are: what is measured is the step

        def __init__(self) -> None:
            super().__init__()
            self.remaining, self.report = 0, {}

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            if not self.remaining:
                self.report = self.report or {"parameters": self.model.count_params()}
                print(json.dumps(self.report), flush=True)
                line = sys.stdin.readline()
                if not line:
                    os._exit(0)  # the other workers leave by the same door, and nobody waits for a teardown
                self.remaining, self.times, self.start_usage = int(line), [time.monotonic()], usage()

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.remaining -= 1
            self.times.append(time.monotonic())
            if not self.remaining:
                spent = {name: value - self.start_usage[name] for name, value in usage().items()}
                self.report = {"times": self.times, **spent}

    return Turnstile()


def usage() -> dict[str, float]:
    """CPU seconds of all threads of this process, and how often one of them went to sleep."""
    now = resource.getrusage(resource.RUSAGE_SELF)
    return {"user": now.ru_utime, "system": now.ru_stime, "sleeps": now.ru_nvcsw}


def main() -> None:
    job = json.loads(sys.argv[1])
    os.sched_setaffinity(0, {job["core"]})  # before TensorFlow counts the cores
    if job["stock"]:
        os.environ["TF_USE_LEGACY_KERAS"] = "1"
        import tensorflow as tf
        import tf_keras as keras
    else:
        from tfkit.environment import stack

        keras, tf = stack.keras, stack.tf
    keras.utils.set_random_seed(0)
    if job["stock"]:
        model, dataset = stock(tf, keras, job)
        model.fit(dataset, steps_per_epoch=FOREVER, verbose=0, callbacks=[turnstile(keras)])
    else:
        train(tf, keras, job)


if __name__ == "__main__":
    main()

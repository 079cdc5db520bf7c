"""A process of test_equality.py: trains under a strategy and prints weights and metrics as one line of JSON.

Arguments: a file of digits, which scikit-learn would take half a second to import for; and the number of logical CPU
devices, or "workers", for the worker that TF_CONFIG describes.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from tfkit.data import Augmentation, from_arrays
from tfkit.distribution import strategies
from tfkit.distribution.strategies import describe, logical_cpus
from tfkit.environment import cluster
from tfkit.environment.stack import keras
from tfkit.run import Run
from tfkit.training.fit import train
from tfkit.training.stage import Stage

CLASSES = 4


def digits(*, examples):
    """Real digits of 8 x 8 pixels, of the first four classes."""
    from sklearn.datasets import load_digits

    found = load_digits()
    chosen = np.flatnonzero(found.target < CLASSES)[:examples]
    return {
        "images": np.rint(found.images[chosen] * (255 / 16)).astype(np.uint8),
        "labels": found.target[chosen],
    }


def build_model(optimizer, *, normalised=False):
    """A convolution, a weight decay, and if asked a batch normalisation over all replicas."""
    layers = keras.layers
    normalisation = [layers.BatchNormalization(synchronized=True)] if normalised else []
    body = [layers.Conv2D(6, 3, use_bias=not normalised), *normalisation, layers.ReLU(), layers.Flatten()]
    head = layers.Dense(CLASSES, kernel_regularizer=keras.regularizers.L2(1e-3))
    model = keras.Sequential([keras.Input([8, 8, 3]), *body, head])
    rates = {"sgd": (0.1, 0.0), "momentum": (0.05, 0.9)}
    adam = optimizer == "adam"
    chosen = keras.optimizers.Adam(3e-3) if adam else keras.optimizers.SGD(*rates[optimizer])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(chosen, loss, metrics=["accuracy"])
    return model


# Of 125 training examples: the last batches have 29, 17, 5 and 35 examples.
CASES = {
    "sgd, uneven last batch": {"optimizer": "sgd", "batch": 32},
    "momentum, class weights, uneven, in pieces": {
        "optimizer": "momentum",
        "batch": 27,
        "weighted": True,
        "piece": 4,
    },
    "adam, augmented, tiny last batch": {"optimizer": "adam", "batch": 40, "augment": True},
    "adam, batch normalisation over replicas, uneven": {"optimizer": "adam", "batch": 45, "normalised": True},
}

# More replicas take longer to trace: they do the cases in which they differ most from others.
FEWER = {"4": list(CASES)[1:2], "8": list(CASES)[2:3]}


def measured(strategy, case, file, folder):
    settings = CASES[case]
    with np.load(file) as digits:
        data = from_arrays(
            digits["images"], digits["labels"], image_size=8, global_batch_size=settings["batch"]
        )
    run = Run.create(folder / case.replace(" ", "-"), config={})
    weights = {label: 0.5 + label for label in range(CLASSES)} if settings.get("weighted") else None
    augment = Augmentation.preset("light") if settings.get("augment") else None
    piece = settings.get("piece") if strategy.num_replicas_in_sync > 1 else None  # one process: whole batches
    stage = Stage(
        epochs=2,
        seed=5,
        keep="last",
        class_weight=weights,
        augment=augment,
        verbose=0,
        physical_batch_size=piece,
    )

    def model():
        return build_model(settings["optimizer"], normalised=settings.get("normalised", False))

    trained = train(model, data, stage, run=run, strategy=strategy)
    run.close()
    names = ("loss", "accuracy", "val_loss", "val_accuracy")
    return {
        "weights": [value.ravel().tolist() for value in trained.model.get_weights()],
        "metrics": [[row[name] for name in names] for row in trained.rows],
        "last_batch": len(data.indices["train"]) % settings["batch"],
    }


def main(file, kind):
    if kind != "workers":
        logical_cpus(int(kind))
    name = "auto" if kind == "workers" else "mirrored" if int(kind) > 1 else "one_device"
    strategy = strategies.strategy(name)
    with tempfile.TemporaryDirectory() as folder:
        found = {case: measured(strategy, case, file, Path(folder)) for case in FEWER.get(kind, CASES)}
    said = {"strategy": describe(strategy), "worker": cluster.current().index}
    print(json.dumps({**found, **said}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

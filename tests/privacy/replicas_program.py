"""A process of test_replicas.py: measures updates under a strategy and prints them as one line of JSON.

Argument: the number of logical CPU devices; or "workers", for the worker that TF_CONFIG describes.
"""

from __future__ import annotations

import json
import secrets
import sys

import numpy as np

from tfkit.data import from_arrays
from tfkit.distribution import strategies
from tfkit.distribution.strategies import logical_cpus
from tfkit.environment.stack import keras, tf
from tfkit.privacy import DPSGD, problems, step

WIDTH, CLASSES, STEPS = 192, 8, 20
NOISE, CLIP, SLOW = 2.0, 0.5, 1e-4
SECRET = bytes(range(32))


def linear(strategy, *, rate=1.0, optimizer="sgd"):
    with strategy.scope():
        inputs = keras.Input([8, 8, 3])
        dense = keras.layers.Dense(CLASSES, kernel_initializer="zeros", use_bias=False)
        model = keras.Model(inputs, dense(keras.layers.Flatten()(inputs)))
        optimizers = {"sgd": keras.optimizers.SGD(rate), "adam": keras.optimizers.Adam(rate)}
        model.compile(optimizers[optimizer], keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def splits(*, blank=False, examples=90, batch=24):
    chance = np.random.default_rng(0)
    images = chance.integers(0, 1 if blank else 256, [examples, 8, 8, 3], np.uint8)
    return from_arrays(images, np.arange(examples) % CLASSES, image_size=8, global_batch_size=batch)


def fit(strategy, data, *, epochs=1, optimizer="sgd", rate=1.0, secret=SECRET, keep=None, **asked):
    """Weights after training, float32 [WIDTH, CLASSES]."""
    plan = DPSGD(l2_norm_clip=CLIP, delta=1e-3, **asked).plan(
        examples=len(data.indices["train"]), expected_batch_size=data.global_batch_size, epochs=epochs
    )
    model = linear(strategy, optimizer=optimizer, rate=rate)
    with strategy.scope():
        step.attach(model, plan)
    batches = step.sampled_batches(
        data, plan, strategy=strategy, epochs=(0, epochs), secret=secret, weights=WIDTH * CLASSES
    )
    seen = []
    watch = keras.callbacks.LambdaCallback(on_batch_end=lambda *_, **__: seen.append(model.get_weights()[0]))
    model.fit(batches, epochs=epochs, steps_per_epoch=plan.steps_per_epoch, callbacks=[watch], verbose=0)
    return np.diff(np.stack([np.zeros([WIDTH, CLASSES]), *seen]), axis=0), plan


def noise_ratio(strategy):
    """Measured standard deviation of an update of nothing but noise, over z C / B; and of what remains of the mean."""
    # Zero images have no gradient: the update is noise alone.
    data = splits(blank=True)
    steps_per_epoch = round(len(data.indices["train"]) / data.global_batch_size)
    updates, plan = fit(strategy, data, epochs=-(-STEPS // steps_per_epoch), noise_multiplier=NOISE)
    expected = NOISE * CLIP / plan.expected_batch_size
    again = np.corrcoef(updates[0].ravel(), updates[1].ravel())[0, 1]
    return {"ratio": float(updates[:STEPS].std() / expected), "correlation": float(again)}


def total(*given, **asked):
    return fit(*given, **asked)[0].sum(0).ravel()[:400].tolist()


def measured(strategy):
    everything = splits(batch=len(splits().indices["train"]))
    small = splits(examples=24, batch=2)
    exact = {"noise_multiplier": 0.0, "epochs": 3}
    return {
        "noise": noise_ratio(strategy),
        "signal": {
            name: total(strategy, everything, optimizer=name, rate=rate, **exact)
            for name, rate in (("sgd", 1.0), ("adam", 0.01))
        },
        # Two expected examples for up to four replicas: most local batches are empty.
        "sparse_is_finite": bool(np.isfinite(fit(strategy, small, noise_multiplier=1.0)[0]).all()),
        "engine": problems(linear(strategy), engine="tensorflow_privacy"),
        # With next to no learning rate an epoch is the sum of all gradients, in whatever order; each process has a
        # secret of its own, as in a training.
        "shuffled": total(
            strategy, splits(), sampler="shuffled", rate=SLOW, secret=secrets.token_bytes(32), **exact
        ),
    }


def main(kind):
    if kind == "workers":
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    else:
        logical_cpus(int(kind))
        strategy = strategies.strategy("mirrored" if int(kind) > 1 else "one_device")
    print(json.dumps(measured(strategy)))


if __name__ == "__main__":
    main(sys.argv[1])

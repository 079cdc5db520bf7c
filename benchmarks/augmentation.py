"""Measure what each augmentation is worth: test accuracy of a small network that has few digits to learn from.

1,500 of the digits of mnist5k train, 3,000 test; without flips, since a digit has a right side. A difference is of the
same seed, which is also that of the split.

    python -m benchmarks.augmentation
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path

import numpy as np

import tfkit
from tfkit.data import Augmentation
from tfkit.data.augment import PRESETS
from tfkit.transfer.models import plain_top, small_cnn

EPOCHS = 20


def accuracy(name, *, seed, folder):
    splits = tfkit.load_images(
        "mnist5k", image_size=28, seed=seed, validation_fraction=0.1, test_fraction=0.6
    )
    augment = Augmentation.preset(name)
    if augment is not None:
        augment = dataclasses.replace(augment, flip=False)
    steps = EPOCHS * splits.steps_per_epoch

    def build():
        return small_cnn(classes=10, spec=splits.spec, top=plain_top(3e-3, steps))

    run = tfkit.fit(
        build, splits, run_dir=folder / f"{name}-{seed}", epochs=EPOCHS, augment=augment, seed=seed, verbose=0
    )
    return run.metrics["test/accuracy"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--presets", nargs="+", default=list(PRESETS))
    options = parser.parse_args()
    accuracies = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            for name in options.presets:
                accuracies.setdefault(name, []).append(accuracy(name, seed=seed, folder=Path(folder)))
                print(f"seed {seed} {name:<18} {accuracies[name][-1]:.4f}", flush=True)
    print(f"\n{'augmentation':<18} accuracy, mean of {options.seeds} seeds   gain (smallest to largest)")
    for name, values in accuracies.items():
        gains = np.subtract(values, accuracies[options.presets[0]])
        print(
            f"{name:<18} {np.mean(values):.4f}   {gains.mean():+.4f} ({gains.min():+.4f} to {gains.max():+.4f})"
        )


if __name__ == "__main__":
    main()

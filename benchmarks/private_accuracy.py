"""What privacy costs in accuracy: the recipe, and a linear model on raw pixels, on the embedded sets.

    python benchmarks/private_accuracy.py --output results.json

The recipe's defaults were chosen on mnist5k's validation split. The settings of the pixels' model are fixed below.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import tempfile
from pathlib import Path

import numpy as np

import tfkit
from recipes import train_private
from tfkit.environment.stack import keras

SIDES = {"digits": 8, "mnist5k": 28}
DELTA = 1e-5
EPOCHS, CLIP, RATE = 80, 0.3, 4.0


def by_recipe(dataset: str, epsilon: float, seed: int, folder: Path) -> float:
    asked = (
        {"target_epsilon": epsilon}
        if math.isfinite(epsilon)
        else {"noise_multiplier": 0.0, "l2_norm_clip": 100.0, "learning_rate": 16.0, "epochs": 300}
    )
    config = train_private.Config(
        dataset=dataset, image_size=96, seed=seed, delta=DELTA, run_dir=folder, **asked
    )
    return train_private.run(config).metrics["test/accuracy"]


def by_pixels(dataset: str, epsilon: float, seed: int, folder: Path) -> float:
    """Multinomial regression on pixels of length one, full batches."""
    splits = tfkit.load_images(dataset, image_size=SIDES[dataset], seed=seed)
    splits = splits.replace(global_batch_size=len(splits.indices["train"]))

    def build_model() -> keras.Model:
        inputs = keras.Input(splits.spec.shape)
        scaled = keras.layers.UnitNormalization()(keras.layers.Flatten()(inputs))
        outputs = keras.layers.Dense(10, kernel_initializer="zeros", use_bias=False)(scaled)
        model = keras.Model(inputs, outputs)
        optimizer = keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(RATE, EPOCHS), momentum=0.9)
        model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return model

    privacy = (
        tfkit.privacy.DPSGD(target_epsilon=epsilon, delta=DELTA, l2_norm_clip=CLIP)
        if math.isfinite(epsilon)
        else tfkit.privacy.DPSGD(noise_multiplier=0.0, l2_norm_clip=100.0, delta=DELTA)
    )
    run = tfkit.fit(build_model, splits, run_dir=folder, epochs=EPOCHS, seed=seed, privacy=privacy, verbose=0)
    return run.metrics["test/accuracy"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--datasets", nargs="+", default=["digits", "mnist5k"], choices=SIDES)
    parser.add_argument("--epsilons", nargs="+", type=float, default=[1, 3, 8, math.inf])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    results = []
    print(f"| data | model | {' | '.join(f'epsilon {epsilon:g}' for epsilon in options.epsilons)} |")
    print("| --- | --- |" + " --- |" * len(options.epsilons))
    for dataset in options.datasets:
        for name, measure in (("private transfer", by_recipe), ("linear on pixels", by_pixels)):
            cells = []
            for epsilon in options.epsilons:
                found = []
                for seed in range(options.seeds):
                    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
                        found.append(measure(dataset, epsilon, seed, Path(folder) / "run"))
                results.append({"data": dataset, "model": name, "epsilon": str(epsilon), "accuracy": found})
                cells.append(f"{np.mean(found):.3f} ({min(found):.3f} to {max(found):.3f})")
            print(f"| {dataset} | {name} | {' | '.join(cells)} |", flush=True)
    if options.output:
        options.output.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()

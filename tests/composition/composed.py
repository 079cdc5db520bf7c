"""Trains what the matrix of compositions consists of: one case after the other, in one process.

    python tests/composition/composed.py mirrored FOLDER

The strategy is one_device, mirrored (over two logical CPUs) or multi_worker (of what TF_CONFIG describes). Each case
becomes a run FOLDER/STRATEGY/MEDIUM-REGIME.
"""

from __future__ import annotations

import csv
import itertools
import sys
from pathlib import Path
from typing import Any

from recipes import train_distributed, train_private, transfer_text
from tfkit.distribution.strategies import logical_cpus
from tfkit.run import Run

MEDIA, REGIMES = ("image", "text", "labels"), ("plain", "private")
STRATEGIES = ("one_device", "mirrored", "multi_worker")
CASES = tuple(itertools.product(MEDIA, REGIMES))
EACH, SIDE, EPOCHS = 40, 32, 2
SAID = {
    "billing": "The invoice for {} is wrong: please refund the {} that I paid twice.",
    "delivery": "My parcel with the {} has not arrived; where is the {} now?",
    "praise": "What a lovely {}! The {} works better than I had hoped, thank you.",
}
THINGS = ("lamp", "kettle", "chair", "camera", "carpet", "bicycle", "radio", "blanket", "mirror", "clock")


def write_images(folder: Path, *, first: int = 0) -> Path:
    """Real handwritten digits of three classes, from the `first` of each on."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for label in range(3):
        (folder / f"digit {label}").mkdir(parents=True)
        for number in np.flatnonzero(digits.target == label)[first : first + EACH]:
            pixels = np.round(digits.images[number] * (255 / 16)).astype(np.uint8)
            Image.fromarray(pixels).resize((SIDE, SIDE)).save(folder / f"digit {label}" / f"{number}.png")
    return folder


def write_table(folder: Path) -> Path:
    """A table of these images, each with any of two labels."""
    rows = [["file", "labels"]]
    for path in sorted(folder.glob("*/*.png")):
        digit = int(path.parent.name[-1])
        said = [name for name, yes in (("even", digit % 2 == 0), ("loop", digit == 0)) if yes]
        rows.append([str(path.relative_to(folder)), "|".join(said)])
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder


def write_texts(path: Path) -> Path:
    """Messages of three kinds."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        for number, (label, said) in itertools.product(range(EACH), SAID.items()):
            first, second = THINGS[number % 10], THINGS[(number * 7 + 3) % 10]
            rows.writerow([said.format(f"{first} {number}", second), label])
    return path


def write_backbone(folder: Path) -> Path:
    """A small model of images whose features serve: convolutions with random kernels, as a SavedModel."""
    from tfkit.environment.stack import tf

    class Convolutions(tf.Module):
        """Two convolutions and a mean, [b, SIDE, SIDE, 3] in 0..1 to [b, 32]."""

        def __init__(self) -> None:
            super().__init__()
            draw = tf.random.Generator.from_seed(0)
            shapes = ((5, 5, 3, 16), (3, 3, 16, 32))
            self.kernels = [tf.Variable(draw.normal(shape, stddev=0.2)) for shape in shapes]

        @tf.function(input_signature=[tf.TensorSpec([None, SIDE, SIDE, 3], tf.float32)])
        def __call__(self, pixels: Any) -> Any:
            for kernel in self.kernels:
                pixels = tf.nn.relu(tf.nn.conv2d(pixels, kernel, 2, "SAME"))
            return tf.reduce_mean(pixels, [1, 2])

    module = Convolutions()
    tf.saved_model.save(module, str(folder), signatures=module.__call__)
    return folder


def train(medium: str, regime: str, *, strategy: str, folder: Path) -> Run:
    """One case, by the recipe that a user would call; the data stand beside the runs."""
    made = folder / strategy / f"{medium}-{regime}"
    where = {"run_dir": made, "strategy": "auto" if strategy == "multi_worker" else strategy}
    private = {"target_epsilon": 8.0, "delta": 1e-3, "epochs": EPOCHS}
    images = {"data_dir": folder / "images", "image_size": SIDE}
    table = {
        "data_file": folder / "images/labels.csv",
        "image_column": "file",
        "image_size": SIDE,
        "task": "labels",
    }
    texts = {"data_file": folder / "texts.csv", "model_handle": "light"}
    if regime == "private":
        more: Any = {"image": images, "labels": table, "text": {**texts, "max_length": 16}}[medium]
        if medium != "text":
            more = {**more, "model_handle": str(folder / "backbone")}  # scattering has no int8 form
        return train_private.run(train_private.Config(**where, **private, **more))
    if medium != "text":
        data = images if medium == "image" else table
        return train_distributed.run(train_distributed.Config(**where, **data, epochs=EPOCHS))
    return transfer_text.run(transfer_text.Config(**where, **texts, epochs=EPOCHS, max_length=16))


def train_all(strategy: str, folder: Path) -> None:
    """All cases under one strategy."""
    if strategy == "mirrored":
        logical_cpus(2)
    for medium, regime in CASES:
        train(medium, regime, strategy=strategy, folder=folder)


if __name__ == "__main__":
    train_all(sys.argv[1], Path(sys.argv[2]))

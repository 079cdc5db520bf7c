"""Train, for test_checkpoint.py, on a disk that is full for a while. Argument: a folder on a disk of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from tfkit import data
from tfkit.environment.stack import keras
from tfkit.run import Run
from tfkit.training import fit
from tfkit.training.stage import Cadence, Stage


def build_model():
    layers = keras.layers
    model = keras.Sequential(
        [layers.Flatten(input_shape=(16, 16, 3)), layers.Dense(64), layers.Dropout(0.2), layers.Dense(10)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    return model


class FullFrom(keras.callbacks.Callback):
    """Fills the disk at the beginning of one epoch, and makes room again at that of another."""

    def __init__(self, folder, first, last):
        super().__init__()
        self.file, self.first, self.last = folder / "filler", first, last

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.first:
            try:
                with self.file.open("wb", buffering=0) as file:
                    while True:
                        file.write(bytes(4096))
            except OSError:
                pass
        if epoch == self.last:
            self.file.unlink()


def train(run_dir, callbacks=()):
    splits = data.load_images("digits", image_size=16, global_batch_size=64)
    run = Run.create(run_dir, config={})
    try:
        return fit.train(
            build_model,
            splits,
            Stage(epochs=5, cadence=Cadence(epoch_seconds=0.0, steps=7), verbose=0),
            run=run,
            callbacks=callbacks,
        )
    finally:
        run.close()


def main(disk, elsewhere):
    undisturbed = train(elsewhere / "run")
    disturbed = train(disk / "run", [FullFrom(disk, 1, 3)])
    states = sorted((disk / "run" / "backup" / "train").glob("[0-9]*"))
    differences = [
        float(np.abs(ours - theirs).max())
        for ours, theirs in zip(disturbed.model.get_weights(), undisturbed.model.get_weights(), strict=True)
    ]
    halves = [path.name for path in (disk / "run" / "backup" / "train").glob(".*")]
    print(json.dumps({"difference": max(differences), "states": len(states), "halves": halves}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

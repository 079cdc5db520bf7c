"""A task of a Slurm step: trains two epochs with the others, or ends in one of the ways in which a worker can."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from tfkit.distribution import slurm

RANK, STEP = os.environ["SLURM_PROCID"], os.environ["SLURM_STEP_ID"]


def train() -> None:
    os.environ["TF_CONFIG"] = slurm.tf_config()
    from sklearn.datasets import load_digits

    from tfkit.environment.stack import keras, tf

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    digits = load_digits()
    with strategy.scope():
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.layers.Input((64,)), keras.layers.Dense(10)])
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    data = tf.data.Dataset.from_tensor_slices(((digits.data / 16).astype("float32"), digits.target)).batch(64)
    losses = model.fit(data, epochs=2, verbose=0).history["loss"]
    weights = float(sum(abs(weight).sum() for weight in model.get_weights()))
    found = {"node": os.environ["SLURMD_NODENAME"], "replicas": strategy.num_replicas_in_sync}
    found |= {"losses": losses, "weights": weights, **json.loads(os.environ["TF_CONFIG"])}
    print(json.dumps(found))


def end(how: str, folder: Path) -> None:
    """Workers that leave a trace of each start, and of a save after SIGTERM."""

    def save(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(0.2 if RANK == "1" else 1.5)  # whoever leads takes longer
        (folder / f"saved-{RANK}").touch()
        sys.exit(3)

    signal.signal(signal.SIGTERM, save)
    starts = len(list(folder.glob(f"start-{RANK}-*")))
    (folder / f"start-{RANK}-{starts}").touch()
    if how in ("preempted", "killed") and starts:
        sys.exit(0)
    if RANK == "1" and how != "preempted":
        time.sleep(0.5)
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        sys.exit(2)
    time.sleep(60)


if __name__ == "__main__":
    if sys.argv[1] == "train":
        train()
    else:
        end(sys.argv[1], Path(sys.argv[sys.argv.index("--run-dir") + 1]))

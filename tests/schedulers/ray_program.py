"""Stock TensorFlow that trains with its peers, as TF_CONFIG says: what a user would bring to `--engine ray`."""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from tfkit.stack import keras, tf

EPOCHS, EXAMPLES, RATE = 8, 64, 0.1


def data():
    features = np.random.default_rng(0).normal(size=(EXAMPLES, 3)).astype("float32")
    return features, features @ np.array([[1.0], [-2.0], [0.5]], "float32")


class Slowly(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        print(f"epoch {epoch + 1} of {EPOCHS}", flush=True)
        time.sleep(0.4)


def main(run_dir):
    index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
    print(f"index {index} pid {os.getpid()} parent {os.getppid()}", flush=True)
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    dataset = tf.data.Dataset.from_tensor_slices(data()).batch(EXAMPLES).with_options(options)
    with strategy.scope():
        model = keras.Sequential([keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")])
        model.build((None, 3))
        model.compile(keras.optimizers.SGD(RATE), "mse")
    backup = keras.callbacks.BackupAndRestore(str(run_dir / "backup"))
    model.fit(dataset, epochs=EPOCHS, verbose=0, callbacks=[backup, Slowly()])
    weights = model.get_weights()[0].ravel().tolist()
    if index == 0:
        model.save(run_dir / "saved_model", save_format="tf")
        numbers = {f"weight/{place}": weight for place, weight in enumerate(weights)}
        (run_dir / "metrics.json").write_text(json.dumps(numbers))
    else:
        model.save(run_dir / "not_the_chief", save_format="tf")  # every worker takes part


if __name__ == "__main__":
    main(Path(sys.argv[sys.argv.index("--run-dir") + 1]))

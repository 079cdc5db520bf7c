"""Transfer learning as TensorFlow's tutorial "Transfer learning with TensorFlow Hub" does it: the side to beat.

Needs nothing of tfkit. Arguments: a folder with train/, validation/ and test/, a SavedModel, the epochs.
Prints one line of JSON.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import tensorflow as tf
import tensorflow_hub as hub
import tf_keras

folder, model_handle, epochs = sys.argv[1], sys.argv[2], int(sys.argv[3])


def images(split: str, *, shuffle: bool) -> tf.data.Dataset:
    dataset = tf_keras.utils.image_dataset_from_directory(
        f"{folder}/{split}", image_size=(224, 224), batch_size=32, shuffle=shuffle, seed=0
    )
    scaled = dataset.map(lambda image, label: (image / 255.0, label))
    return scaled.cache().prefetch(tf.data.AUTOTUNE)


train, validation, test = (
    images("train", shuffle=True),
    images("validation", shuffle=False),
    images("test", shuffle=False),
)
classes = len(list(Path(folder, "train").iterdir()))
model = tf_keras.Sequential(
    [hub.KerasLayer(model_handle, input_shape=(224, 224, 3), trainable=False), tf_keras.layers.Dense(classes)]
)
model.compile(
    optimizer="adam",
    loss=tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
with tempfile.TemporaryDirectory() as logs:
    began = time.monotonic()
    model.fit(
        train,
        validation_data=validation,
        epochs=epochs,
        callbacks=[tf_keras.callbacks.TensorBoard(logs)],
        verbose=2,
    )
    seconds = time.monotonic() - began
    accuracy = model.evaluate(test, verbose=0)[1]
    model.save(f"{logs}/saved_model")
print(json.dumps({"train_seconds": seconds, "accuracy": accuracy}))

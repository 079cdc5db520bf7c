"""Splits are stock datasets whose order depends on the seed and the epoch alone."""

import subprocess
import sys

import numpy as np
import pytest

from tfkit.data import Augmentation, from_arrays
from tfkit.environment.stack import tf


@pytest.fixture(scope="module")
def splits():
    """Every image is filled with its own number."""
    images = np.arange(100, dtype=np.uint8)[:, None, None] * np.ones((6, 6), np.uint8)
    return from_arrays(images, np.arange(100) % 4, image_size=8, global_batch_size=16)


def numbers(dataset):
    return [np.rint(features[:, 0, 0, 0] * 255).astype(int) for features, _ in dataset.as_numpy_iterator()]


def test_datasets_are_batched_float_images_with_their_labels(splits):
    assert splits.train.element_spec == (
        tf.TensorSpec([None, 8, 8, 3], tf.float32),
        tf.TensorSpec([None], tf.int64),
    )
    assert splits.spec == tf.TensorSpec([8, 8, 3], tf.float32)
    for split in ("train", "validation", "test"):
        found = numbers(getattr(splits, split))
        labels = np.concatenate([labels for _, labels in getattr(splits, split).as_numpy_iterator()])
        assert [len(batch) for batch in found[:-1]] == [16] * (len(found) - 1)
        assert sorted(np.concatenate(found)) == sorted(splits.indices[split])
        assert (labels == np.concatenate(found) % 4).all()
    assert (np.concatenate(numbers(splits.test)) == splits.indices["test"]).all()
    train = splits.counts["train"]
    assert train == {str(c): sum(i % 4 == c for i in splits.indices["train"]) for c in range(4)}


def test_a_resumed_run_sees_what_an_uninterrupted_one_would(splits):
    whole = numbers(splits.epochs(0, 4))
    resumed = numbers(splits.epochs(2, 4))
    assert len(whole) == 4 * splits.steps_per_epoch
    for one, other in zip(whole[2 * splits.steps_per_epoch :], resumed, strict=True):
        np.testing.assert_array_equal(one, other)


def test_each_epoch_has_every_example_once_in_an_order_of_its_own(splits):
    steps = splits.steps_per_epoch
    epochs = [np.concatenate(numbers(splits.epochs(e, e + 1))) for e in range(5)]
    for epoch in epochs:
        assert sorted(epoch) == sorted(splits.indices["train"])
    assert len({tuple(epoch) for epoch in epochs}) == 5
    assert tuple(np.concatenate(numbers(splits.replace(seed=1).epochs(0, 1)))) != tuple(epochs[0])
    assert len(numbers(splits.train)) == steps


def test_features_go_through_as_they_are(splits):
    class Features:
        labels = splits.source.labels
        names = splits.source.names
        shape = (5,)
        fingerprint = "features"

        def read(self, indices):
            return np.repeat(indices[:, None], 5, axis=1).astype(np.float32)

        def raw(self, index):
            return splits.source.raw(index)

    features, labels = next(iter(splits.replace(source=Features()).test))
    assert features.shape == (len(splits.indices["test"]), 5)
    assert (features[:, 0] == splits.indices["test"]).numpy().all()
    assert (labels == splits.indices["test"] % 4).numpy().all()


MIRRORED = """
import numpy as np
from tfkit.data import load_images
from tfkit.environment.stack import keras, tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
splits = load_images("digits", image_size=8, global_batch_size=64)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

seen = []
for images, labels in strategy.experimental_distribute_dataset(splits.epochs(0, 1)):
    shares = [len(share) for share in strategy.experimental_local_results(labels)]
    assert shares in ([32, 32], [20, 19]), shares
    seen += [label for share in strategy.experimental_local_results(labels) for label in share.numpy()]
alone = np.concatenate([labels for _, labels in splits.epochs(0, 1).as_numpy_iterator()])
assert np.array_equal(seen, alone)

with strategy.scope():
    model = keras.Sequential([keras.layers.Flatten(input_shape=(8, 8, 3)), keras.layers.Dense(10)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
model.fit(splits.epochs(0, 2), steps_per_epoch=splits.steps_per_epoch, epochs=2, verbose=0)
assert model.optimizer.iterations.numpy() == 2 * splits.steps_per_epoch
print("accuracy", model.evaluate(splits.test, verbose=0)[1])
"""


@pytest.mark.slow
def test_mirrored_replicas_share_each_batch():
    """In a process of its own: the devices are set up before TensorFlow starts."""
    done = subprocess.run([sys.executable, "-c", MIRRORED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("accuracy")


def test_augmented_epochs_repeat_bit_for_bit(splits):
    augment = Augmentation.preset("standard")
    steps = splits.steps_per_epoch
    whole = [x for x, _ in splits.epochs(0, 2, augment=augment).as_numpy_iterator()]
    again = [x for x, _ in splits.epochs(1, 2, augment=augment).as_numpy_iterator()]
    for one, other in zip(whole[steps:], again, strict=True):
        np.testing.assert_array_equal(one, other)
    plain = [x for x, _ in splits.epochs(0, 1).as_numpy_iterator()]
    assert not np.array_equal(plain[0], whole[0])

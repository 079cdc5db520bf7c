"""A pretrained model that costs next to nothing, for what is not about the features of a real one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hub.conftest import export
from tfkit.environment.stack import tf

KERNEL = [3, 3, 3, 8]


@pytest.fixture(scope="session")
def edges(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SavedModel of one convolution, whose kernel can be trained: images to 8 features."""
    kernel = tf.Variable(tf.random.stateless_normal(KERNEL, seed=[1, 2]))

    def features(images, training=False):
        return tf.reduce_mean(tf.nn.relu(tf.nn.conv2d(images, kernel, 1, "SAME")), [1, 2])

    return export(tmp_path_factory.mktemp("models") / "edges", features, variables=[kernel])

"""Pixels are the same in training and in an exported graph, and 16 bits become 8 by one range for a whole set."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from tfkit.data.pixels import choose_range, choose_size, resize, to_square, used_range
from tfkit.environment.stack import tf

SIZES = [
    (427, 640, 224), (8, 8, 96), (1, 1, 32), (3, 500, 96), (501, 2, 33), (37, 53, 224), (223, 225, 224), (900, 1300, 7),
    (300, 200, 224), (1000, 100, 64), (28, 28, 28), (28, 40, 28), (640, 480, 96),
]  # fmt: skip


@pytest.mark.parametrize(("height", "width", "size"), SIZES)
def test_pillow_and_tensorflow_make_the_same_pixels(height, width, size):
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    photo = np.asarray(Image.fromarray(load_sample_images().images[0]).resize((width, height)))
    for image in (noise, photo):
        ours, exported = resize(Image.fromarray(image), size), to_square(image, size).numpy()
        assert ours.shape == exported.shape == (size, size, 3)
        np.testing.assert_array_equal(ours, exported)
        # Pillow rounds after each axis: with both in one call the values would depend on which it takes first.
        whole = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))
        assert np.abs(ours.astype(int) - whole).max() <= 1


def test_one_graph_takes_every_size_and_type():
    for dtype in (tf.uint8, tf.float32):
        graph = tf.function(
            lambda x: to_square(x, 16), input_signature=[tf.TensorSpec([None, None, 3], dtype)]
        )
        for shape in ((5, 9, 3), (64, 17, 3)):
            image = np.random.default_rng(1).integers(0, 256, shape).astype(dtype.as_numpy_dtype)
            squared = graph(image).numpy()
            assert squared.shape == (16, 16, 3)
            assert squared.dtype == np.float32
            assert (squared == np.round(squared)).all()


@pytest.mark.parametrize(
    ("sides", "asked", "native", "size"),
    [
        ([20, 96, 4000], None, 224, 96), ([20, 97, 4000], None, 224, 224), ([17], None, 224, 96),
        ([16], None, 224, 64), ([20], None, 64, 64), ([20], 160, 64, 160),
    ],
)  # fmt: skip
def test_the_size_follows_the_median_image(sides, asked, native, size):
    assert choose_size(np.asarray(sides), image_size=asked, native_size=native) == size


def test_hot_pixels_and_broken_images_do_not_decide():
    rng = np.random.default_rng(0)
    images = [rng.integers(500, 1500, (200, 200, 1)).astype(np.uint16) for _ in range(120)]
    for image in images:
        image[0, :3], image[0, 3:6] = 65535, 0
    images[7][:] = 65535
    measured = [used_range(image) for image in images]
    found = choose_range(measured, images=120)
    assert 500 <= found.low < 505
    assert 1495 < found.high < 1500
    assert choose_range(measured[::-1], images=120) == found

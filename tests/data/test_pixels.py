"""Training and the exported model see the same pixels."""

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from tfkit.data.splits import choose_size, resize, to_square
from tfkit.environment.stack import tf

SIZES = [
    (427, 640, 224),
    (8, 8, 96),
    (1, 1, 32),
    (3, 500, 96),
    (501, 2, 33),
    (37, 53, 224),
    (223, 225, 224),
    (900, 1300, 7),
]


@pytest.mark.parametrize(("height", "width", "size"), SIZES)
def test_pillow_and_tensorflow_agree_within_one_level(height, width, size):
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    photo = np.asarray(Image.fromarray(load_sample_images().images[0]).resize((width, height)))
    for image in (noise, photo):
        ours, exported = resize(Image.fromarray(image), size), to_square(image, size).numpy()
        assert ours.shape == exported.shape == (size, size, 3)
        assert np.abs(ours - exported).max() <= 1
        # Where two source pixels make 33, many values lie on the rounding's edge; else under 2 % differ.
        assert np.mean(ours != exported) < (0.15 if min(height, width, size) < 10 else 0.02)


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


def test_the_size_follows_the_median_image():
    assert choose_size(np.asarray([20, 96, 4000]), image_size=None, native_size=224) == 96
    assert choose_size(np.asarray([20, 97, 4000]), image_size=None, native_size=224) == 224
    assert choose_size(np.asarray([17]), image_size=None, native_size=224) == 96
    assert choose_size(np.asarray([16]), image_size=None, native_size=224) == 64
    assert choose_size(np.asarray([20]), image_size=None, native_size=64) == 64
    assert choose_size(np.asarray([20]), image_size=160, native_size=64) == 160

"""Augmentation changes what it says, by no more than it says, and repeats."""

import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from tfkit.data import Augmentation
from tfkit.data.augment import PRESETS
from tfkit.environment.stack import tf
from tfkit.errors import ConfigError

PHOTO = (tf.image.resize(load_sample_images().images[1], [48, 48]) / 255.0).numpy().astype(np.float32)


def augmented(augment, *, count=64, seed=0, epoch=0, first=0, image=PHOTO):
    positions = tf.range(first, first + count, dtype=tf.int64)
    images = tf.repeat(image[np.newaxis], count, axis=0)
    epochs = tf.fill([count], tf.constant(epoch, tf.int64))
    return augment.function(seed=seed)(images, epochs, positions).numpy()


def test_flip_gives_the_image_or_its_mirror_each_about_half_the_time():
    out = augmented(Augmentation(flip=True))
    same = np.abs(out - PHOTO).max(axis=(1, 2, 3)) < 1e-4
    mirrored = np.abs(out - PHOTO[:, ::-1]).max(axis=(1, 2, 3)) < 1e-4
    assert (same ^ mirrored).all()
    assert 16 < same.sum() < 48


def test_rotation_turns_about_the_middle():
    image = np.zeros((49, 49, 3), np.float32)
    image[23:26, 23:26] = 1
    image[23:26, 40:43] = 1
    out = augmented(Augmentation(rotation_degrees=45), image=image)
    assert (out[:, 24, 24] > 0.9).all()
    rows, columns = np.meshgrid(np.arange(49) - 24, np.arange(49) - 24, indexing="ij")
    ring = np.hypot(rows, columns) > 10
    weight = out[..., 0] * ring
    angles = np.degrees(np.arctan2((weight * rows).sum((1, 2)), (weight * columns).sum((1, 2))))
    assert np.abs(angles).max() <= 46
    assert angles.max() > 30
    assert angles.min() < -30


def test_zoom_is_as_large_as_it_says():
    image = np.zeros((64, 64, 3), np.float32)
    image[16:48, 16:48] = 1
    sides = np.sqrt(augmented(Augmentation(zoom=0.25), image=image)[..., 0].sum((1, 2))) / 32
    assert sides.min() == pytest.approx(0.75, abs=0.05)
    assert sides.max() == pytest.approx(1.25, abs=0.05)


def test_brightness_contrast_and_saturation():
    grey = np.full((8, 8, 3), 0.5, np.float32)
    bright = augmented(Augmentation(brightness=0.2), image=grey).mean((1, 2, 3)) - grey.mean()
    assert -0.2001 <= bright.min() < -0.15 < 0.15 < bright.max() <= 0.2001
    soft = PHOTO / 2 + 0.25
    ratio = augmented(Augmentation(contrast=0.3), image=soft).std((1, 2, 3)) / soft.std()
    assert 1.0 < ratio.max() < 1.31
    red = np.broadcast_to(np.float32([0.6, 0.4, 0.4]), (8, 8, 3))
    spread = np.ptp(augmented(Augmentation(saturation=0.5), image=red), axis=-1).mean((1, 2)) / 0.2
    assert 0.49 < spread.min() < 0.7
    assert 1.3 < spread.max() < 1.51


@pytest.mark.parametrize("name", ["light", "standard", "randaugment"])
def test_the_same_seed_epoch_and_position_give_the_same_pixels(name):
    augment = Augmentation.preset(name)
    whole = augmented(augment, count=12)
    assert whole.dtype == np.float32
    assert whole.shape == (12, 48, 48, 3)
    assert whole.min() >= 0
    assert whole.max() <= 1
    assert len({image.tobytes() for image in whole}) > 6
    np.testing.assert_array_equal(whole, augmented(augment, count=12))
    # In another batch at the same positions: but for the rounding of another vectorisation.
    tolerance = 1e-4 if name != "randaugment" else 0
    np.testing.assert_allclose(whole[5:], augmented(augment, count=7, first=5), atol=tolerance)
    assert not np.array_equal(whole, augmented(augment, count=12, epoch=1))
    assert not np.array_equal(whole, augmented(augment, count=12, seed=1))


def test_presets():
    assert Augmentation.preset("none") is None
    assert all(Augmentation.preset(name) is not None for name in PRESETS[1:])
    with pytest.raises(ConfigError, match="'heavy'; there are none, light, standard, randaugment"):
        Augmentation.preset("heavy")
    with pytest.raises(ConfigError, match=r"zoom is 1\.5"):
        Augmentation(zoom=1.5)
    with pytest.raises(ConfigError, match="rotation_degrees is -1"):
        Augmentation(rotation_degrees=-1)

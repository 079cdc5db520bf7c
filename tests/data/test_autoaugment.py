"""The policies are the published ones, and each operation does what Pillow's of that name does."""

import collections
import itertools

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from sklearn.datasets import load_sample_images

from tfkit.data import Augmentation
from tfkit.data.autoaugment import POLICIES, apply, policy
from tfkit.environment.stack import tf

PHOTO = np.asarray(Image.fromarray(load_sample_images().images[1]).resize((64, 64)))
LEVEL = 5.0


def factor(sign):
    return 1 + sign * 0.9 * LEVEL / 9


def moved(*matrix):
    """Pillow maps the middles of pixels; our matrices map their numbers."""
    a, b, c, d, e, f = matrix
    offsets = c + 0.5 * (1 - a - b), f + 0.5 * (1 - d - e)
    return lambda image, sign: image.transform(
        image.size, Image.Transform.AFFINE, (a, b, offsets[0], d, e, offsets[1]),
        resample=Image.Resampling.BILINEAR, fillcolor=(128, 128, 128),
    )  # fmt: skip


PILLOW = {
    "Invert": lambda image, sign: ImageOps.invert(image),
    "Solarize": lambda image, sign: ImageOps.solarize(image, 255 * (1 - LEVEL / 9)),
    "Posterize": lambda image, sign: ImageOps.posterize(image, 8 - round(LEVEL / 9 * 4)),
    "AutoContrast": lambda image, sign: ImageOps.autocontrast(image),
    "Equalize": lambda image, sign: ImageOps.equalize(image),
    "Brightness": lambda image, sign: ImageEnhance.Brightness(image).enhance(factor(sign)),
    "Color": lambda image, sign: ImageEnhance.Color(image).enhance(factor(sign)),
    "Contrast": lambda image, sign: ImageEnhance.Contrast(image).enhance(factor(sign)),
    "Sharpness": lambda image, sign: ImageEnhance.Sharpness(image).enhance(factor(sign)),
    "ShearX": lambda image, sign: moved(1, sign * LEVEL / 30, 0, 0, 1, 0)(image, sign),
    "ShearY": lambda image, sign: moved(1, 0, 0, sign * LEVEL / 30, 1, 0)(image, sign),
    "TranslateX": lambda image, sign: moved(1, 0, sign * 64 * 150 / 331 * LEVEL / 9, 0, 1, 0)(image, sign),
    "TranslateY": lambda image, sign: moved(1, 0, 0, 0, 1, sign * 64 * 150 / 331 * LEVEL / 9)(image, sign),
    "Rotate": lambda image, sign: image.rotate(
        sign * 30 * LEVEL / 9, resample=Image.Resampling.BILINEAR, fillcolor=(128, 128, 128)
    ),
}  # fmt: skip


def test_the_policies_are_those_of_the_paper():
    """Counted in the tables of arXiv:1805.09501: sub-policies, operations, and the sums of both numbers."""
    counted = {
        name: collections.Counter(operation for pair in policy(name) for operation, _, _ in pair)
        for name in POLICIES
    }
    sums = {
        name: (
            round(sum(share for pair in policy(name) for _, share, _ in pair), 6),
            sum(level for pair in policy(name) for _, _, level in pair),
        )
        for name in POLICIES
    }
    assert [len(policy(name)) for name in POLICIES] == [25, 25]
    assert counted["imagenet"] == {
        "Equalize": 17, "Solarize": 7, "Rotate": 6, "Color": 6, "Posterize": 5, "Invert": 3, "AutoContrast": 2,
        "Contrast": 2, "Sharpness": 1, "ShearX": 1,
    }  # fmt: skip
    assert counted["cifar"] == {
        "Equalize": 9, "AutoContrast": 7, "Color": 5, "Sharpness": 5, "TranslateY": 5, "Brightness": 4,
        "Solarize": 4, "Invert": 3, "Contrast": 2, "ShearY": 2, "TranslateX": 2, "Posterize": 1, "Rotate": 1,
    }  # fmt: skip
    assert policy("imagenet")[17] == [("Sharpness", 0.4, 7), ("Invert", 0.6, 0)]
    assert policy("cifar")[12] == [("TranslateY", 0.4, 3), ("Sharpness", 0.2, 6)]
    assert sums == {"imagenet": (31.0, 159), "cifar": (26.5, 187)}


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("operation", sorted(PILLOW))
def test_an_operation_is_pillows(operation, sign):
    ours = apply(operation, Image.fromarray(PHOTO), LEVEL, sign)
    theirs = np.asarray(PILLOW[operation](Image.fromarray(PHOTO), sign), np.float32)
    difference = np.abs(np.asarray(ours, np.float32) - theirs)
    # On a border Pillow takes the nearest pixel whole where bilinear interpolation mixes it with the grey around.
    moves = operation.startswith(("Shear", "Translate", "Rotate"))
    assert np.quantile(difference, 0.95 if moves else 1.0) <= 1.5
    assert np.abs(theirs - PHOTO).mean() > 1


def test_the_policy_of_an_image_does_not_go_with_its_flip(monkeypatch):
    """Both were drawn by one number: what was mirrored had the latter half of the policies, and nothing else had."""
    monkeypatch.setitem(POLICIES, "cifar", "Invert 1 0 Invert 0 0; Invert 0 0 Invert 0 0")
    ramp = np.repeat(np.linspace(0, 0.4, 8, dtype=np.float32)[None, :, None], 3, axis=-1).repeat(8, axis=0)
    images, epochs = tf.repeat(ramp[np.newaxis], 64, axis=0), tf.zeros([64], tf.int64)
    change = Augmentation(flip=True, autoaugment="cifar").function(seed=0)
    found = change(images, epochs, tf.range(64, dtype=tf.int64)).numpy()[..., 0]
    inverted = found.mean((1, 2)) > 0.5
    mirrored = (found[:, 0, 0] > found[:, 0, -1]) != inverted
    counts = collections.Counter(zip(mirrored.tolist(), inverted.tolist(), strict=True))
    assert min(counts[pair] for pair in itertools.product([False, True], repeat=2)) >= 6


@pytest.mark.parametrize("name", ["autoaugment", "autoaugment-cifar"])
def test_images_are_changed_each_in_its_own_way_and_the_same_when_repeated(name):
    augment = Augmentation.preset(name).function(seed=0)
    images = tf.repeat(PHOTO[np.newaxis].astype(np.float32) / 255, 48, axis=0)
    epochs = [tf.fill([48], tf.constant(epoch, tf.int64)) for epoch in (0, 0, 1)]
    first, again, other = (augment(images, epoch, tf.range(48, dtype=tf.int64)).numpy() for epoch in epochs)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any(axis=(1, 2, 3)).mean() > 0.8
    assert len({image.tobytes() for image in first}) > 15
    assert first.min() >= 0
    assert first.max() <= 1

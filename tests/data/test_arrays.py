"""Arrays of every usual shape, and what is said about the others."""

import json
import re

import numpy as np
import pytest

from tfkit.data import from_arrays
from tfkit.errors import ConfigError, DataError

RNG = np.random.default_rng(0)
LABELS = np.arange(40) % 2


@pytest.mark.parametrize("shape", [(9, 7), (9, 7, 1), (9, 7, 3), (9, 7, 4)])
@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_shapes_and_types(shape, kind):
    images = RNG.integers(0, 256, (40, *shape), dtype=np.uint8)
    given = images if kind == "uint8" else images.astype(np.float32) / 255
    splits = from_arrays(given, LABELS, image_size=16)
    raw = splits.source.raw(3).astype(float)
    assert raw.shape == (9, 7, 3)
    pixels = images[3].astype(float).reshape(9, 7, -1)
    if shape[-1] == 4:
        alpha = pixels[..., 3:] / 255
        pixels = pixels[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(raw - pixels).max() <= 0.51
    assert splits.source.read(np.asarray([5, 1])).shape == (2, 16, 16, 3)
    assert splits.class_names == ("0", "1")


def images(**changes):
    return {"images": np.zeros((40, 5, 5), np.uint8), "labels": LABELS} | changes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (images(images=np.zeros((40, 5), np.uint8)), r"shape \(40, 5\)"),
        (images(images=np.zeros((40, 5, 5, 2), np.uint8)), r"1\|3\|4"),
        (images(images=np.zeros((0, 5, 5), np.uint8), labels=LABELS[:0]), r"shape \(0, 5, 5\)"),
        (images(images=np.full((40, 5, 5), 255.0)), r"floats must be in \[0, 1\]"),
        (images(images=np.full((40, 5, 5), np.nan)), r"floats must be in \[0, 1\]"),
        (images(images=np.zeros((40, 5, 5), np.int64)), "type int64"),
        (images(labels=LABELS[:39]), r"expected integers \[40\]"),
        (images(labels=np.eye(2)[LABELS]), r"argmax\(1\)"),
        (images(labels=np.ones((40, 3), int)), "task='labels'"),
        (images(labels=np.full((40, 2), 0.5)), "probabilities"),
        (images(labels=[[0], [0, 1]] * 20), "task='labels'"),
        (images(labels=LABELS / 1.0), r"labels\.astype\(int\)"),
        (images(labels=LABELS + 0.25), "task='value'"),
        (images(labels=np.arange(40) * 10**12), r"return_inverse=True"),
        (images(labels=[f"{n % 2}" for n in range(40)]), r"return_inverse=True"),
        (images(labels=LABELS - 1), "count from 0"),
        (images(labels=LABELS * 0), "two or more"),
        (images(class_names=["a"]), "there are 1 class_names"),
        (images(class_names=["a", "a"]), "more than once"),
        (images(class_names=["a", "b", "c"]), r"'c' \(0\)"),
        (images(task="label"), "task is 'label'"),
        (images(task="value", labels=LABELS * 0.0), "not all the same"),
        (images(task="value", labels=np.where(LABELS, np.nan, 1)), "finite"),
        (images(task="value", labels=np.ones((40, 2))), r"finite numbers, not all the same, \[40\]"),
        (images(task="value", class_names=["a", "b"]), "2 class_names"),
        (images(task="labels"), r"0 and 1, \[40, labels\]"),
        (images(task="labels", labels=np.eye(3)[LABELS] * 2), "0 and 1"),
        (images(task="labels", labels=np.eye(3)[LABELS]), r"'2' \(0\)"),
    ],
)
def test_what_cannot_be_used_is_refused(arguments, message):
    with pytest.raises((DataError, ConfigError), match=message):
        from_arrays(**arguments)


def test_what_is_doubtful_of_arrays_is_said():
    """A rare class that was drawn several times before the cut is tested on what it was trained on."""
    images = RNG.integers(0, 256, (60, 9, 9), dtype=np.uint8)
    plain = from_arrays(images, np.arange(60) % 2, image_size=16)
    assert (plain.duplicates, plain.notes) == (0, ())
    labels = np.r_[np.zeros(60, int), np.ones(60, int)]
    several = np.concatenate([images, np.repeat(images[:6], 10, axis=0)])
    splits = from_arrays(several, labels, image_size=16)
    trained = {several[index].tobytes() for index in splits.indices["train"]}
    assert (
        splits.duplicates >= sum(several[index].tobytes() in trained for index in splits.indices["test"]) > 5
    )
    assert splits.provenance["duplicates"] == splits.duplicates
    leaked, contradicting = splits.notes
    assert f"earlier split: {splits.duplicates}." in leaked
    assert contradicting.startswith("Identical images in two classes: 66.")
    (dark,) = from_arrays(images // 16, np.arange(60) % 2, image_size=16).notes
    assert re.search(r"nearly black: none of 60 has a value above 1\d of 255", dark)


def test_class_names_of_numpy_are_texts():
    """As the message on numbers with gaps advises."""
    names, labels = np.unique(LABELS * 10 + 5, return_inverse=True)
    splits = from_arrays(
        RNG.integers(0, 256, (40, 9, 9), dtype=np.uint8), labels, class_names=names, image_size=16
    )
    assert splits.class_names == ("5", "15")
    assert {*map(type, splits.class_names)} == {str}
    assert json.dumps(splits.provenance)


def test_the_fingerprint_follows_contents_and_size():
    one = RNG.integers(0, 256, (40, 9, 9), dtype=np.uint8)
    other = one.copy()
    other[7, 3, 3] ^= 1
    given = ((one, 16), (one.copy(), 16), (other, 16), (one, 17))
    prints = [from_arrays(images, LABELS, image_size=size).source.fingerprint for images, size in given]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3

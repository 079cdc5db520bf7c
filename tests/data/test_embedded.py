"""The image sets that need no download."""

from pathlib import Path

import numpy as np
from PIL import Image

from tfkit.data import load_images


def test_digits_are_upright_dark_and_light_digits_with_their_labels():
    splits = load_images("digits", image_size=32)
    assert sum(map(len, splits.indices.values())) == 1797
    assert splits.class_names == tuple("0123456789")
    assert splits.origin.startswith("digits (scikit-learn ")
    zero, one = (int(np.flatnonzero(splits.source.labels == digit)[0]) for digit in (0, 1))
    assert splits.source.raw(zero).shape == (8, 8, 3)
    assert splits.source.raw(zero)[3:5, 3:5].mean() < 40 < 200 < splits.source.raw(one)[3:5, 3:5].mean()
    assert splits.source.names[zero] == "digits/0"


def test_mnist5k_has_five_hundred_of_each():
    splits = load_images("mnist5k", image_size=28)
    assert np.bincount(splits.source.labels).tolist() == [500] * 10
    assert splits.source.raw(0).shape == (28, 28, 3)
    assert splits.source.raw(0).max() > 250


def test_small_images_are_trained_at_64_or_96_pixels_unless_asked_otherwise():
    assert load_images("digits").source.shape == (64, 64, 3)
    assert load_images("mnist5k").source.shape == (96, 96, 3)
    assert load_images("digits", native_size=32).source.shape == (32, 32, 3)
    assert load_images("digits", image_size=128, native_size=64).source.shape == (128, 128, 3)


def test_a_path_names_a_set_unless_there_is_such_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_images(Path("digits"), image_size=8).origin.startswith("digits (")
    for name in ("a", "b"):
        (tmp_path / "digits" / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / "digits" / name / f"{number}.png")
    assert load_images(Path("digits"), image_size=8).origin == "digits/"
    assert load_images("digits", image_size=8).origin.startswith("digits (")

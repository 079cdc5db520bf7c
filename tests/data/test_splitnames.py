"""Folders named nearly like splits are read as such, or refused; they are never taken for classes without a word."""

import re
import subprocess

import pytest
from PIL import Image

from tfkit.data import load_images, load_texts
from tfkit.data.folders import IMAGES, TEXTS, scan
from tfkit.errors import DataError


def put(root, *places, each=4, kind=IMAGES):
    """Write a few files into each place: images of their own colours, or texts."""
    for number, place in enumerate(places):
        (root / place).mkdir(parents=True)
        for count in range(each):
            file = root / place / f"{count}{'.png' if kind is IMAGES else '.txt'}"
            if kind is IMAGES:
                Image.new("RGB", (8, 8), (number, 9 * count, 99)).save(file)
            else:
                file.write_text(f"text {count} of place {number}")
    return root


def crossed(outer, inner):
    return [f"{one}/{two}" for one in outer for two in inner]


@pytest.mark.parametrize(
    "names",
    [
        ("Training", "Testing"),
        ("TRAIN", "VAL", "TEST"),
        ("train", "test1"),
        ("x_train", "x_test"),
        ("TrainingSet", "ValSet", "TestSet"),
        ("train_images", "test_images"),
        ("20news-bydate-train", "20news-bydate-test"),
        ("fruits-360_Training", "fruits-360_Testing"),
        ("train", "dev"),
        ("training", "eval", "holdout"),
        ("Trainingsdaten", "Validierungsdaten", "Testdaten"),
        ("Entraînement", "Validation", "Essai"),
        ("trainset", "hold_out"),
        ("train2017", "val2017"),
        ("train", "validate"),
    ],
    ids="+".join,
)
def test_names_that_are_nearly_those_of_splits(tmp_path, names):
    found = scan(put(tmp_path, *crossed(names, ("cat", "dog"))))
    assert found.class_names == ("cat", "dog")
    splits = {file.name.split("/")[0]: file.split for file in found.files}
    assert splits[names[0]] == "train"
    assert len(set(splits.values())) == len(names)
    near = [name for name in names if name.lower() not in ("train", "val", "test", "validation")]
    assert all(f"'{name}' as the {splits[name]} split" in "".join(found.notes) for name in near)
    assert bool(near) == bool(found.notes)


def test_it_is_said_of_images_and_texts(tmp_path):
    put(tmp_path / "photos", *crossed(("Training", "Testing"), ("cat", "dog")))
    put(tmp_path / "mails", *crossed(("Training", "Testing"), ("spam", "ham")), kind=TEXTS)
    for splits in (load_images(tmp_path / "photos", image_size=8), load_texts(tmp_path / "mails")):
        assert sum(splits.counts["test"].values()) == 8
        assert any("'Testing' as the test split" in note for note in splits.notes)


@pytest.mark.parametrize(
    "names",
    [
        ("Training", "Resting"),
        ("Training", "Testing", "Resting"),
        ("test1", "test2"),
        ("test_positive", "test_negative"),
        ("trainer", "tester"),
        ("evaluate", "valley"),
        ("mask", "no mask"),
        ("train", "bus", "car"),
    ],
    ids="+".join,
)
def test_classes_of_such_names_are_classes(tmp_path, names):
    found = scan(put(tmp_path, *names))
    assert found.class_names == tuple(sorted(names))
    assert found.notes == []


def refusal(root, kind=IMAGES):
    with pytest.raises(DataError) as caught:
        scan(root, kind)
    return str(caught.value)


@pytest.mark.parametrize("kind", [IMAGES, TEXTS])
@pytest.mark.parametrize(
    ("places", "culprit", "remedy"),
    [
        (["Training", "Testing"], "Training/ holds 4", "rename them"),
        (["train", "test"], "nothing says which class", "mkdir -p"),
        (["train/cat", "train/dog", "test"], "test/ holds 4", "-unlabelled"),
        (["x_train/cat", "x_train/dog", "x_test"], "x_test/ holds 4", "-unlabelled"),
        (crossed(("test", "val"), ("cat", "dog")), "none to train on", "train/<class>/"),
        (["testing/cat", "testing/dog"], "none to train on", "train/<class>/"),
        (crossed(("Train", "train1", "test"), ("cat", "dog")), "two folders for one split", "train1"),
        (crossed(("Training", "Testing", "extra"), ("cat", "dog")), "beside them extra/", "Move these"),
        (crossed(("cat", "dog"), ("train", "test")), "inside the classes (cat/test/", "cp -r"),
        (crossed(("cat", "dog", "owl"), ("Training", "x_test")), "inside the classes (cat/", "cp -r"),
        (["photos/photos/cat", "photos/photos/dog"], "one class folder ('photos')", "photos/photos/ holds"),
        (
            crossed(("photos/train", "photos/test"), ("cat", "dog")),
            "('photos')",
            "photos/ holds the folders test",
        ),
        (crossed(("train/train", "test/test"), ("cat", "dog")), "('train')", "up into"),
        (["images", "masks"], "images/ and masks/", "classifiers"),
        (crossed(("train", "valid"), ("images", "labels")), "images/ and labels/", "classifiers"),
        (["JPEGImages", "Annotations", "ImageSets"], "JPEGImages/ and Annotations/", "classifiers"),
    ],
)
def test_folders_that_are_no_classes_are_refused(tmp_path, kind, places, culprit, remedy):
    text = refusal(put(tmp_path, *places, kind=kind), kind)
    assert culprit in text
    assert remedy in text


def test_folders_that_may_be_splits_in_another_language_are_doubted(tmp_path):
    (doubt,) = scan(put(tmp_path, *crossed(("scuola", "prova"), ("cane", "gatto")))).notes
    assert "prova, scuola" in doubt
    assert "cane, gatto" in doubt
    assert scan(put(tmp_path / "plain", *crossed(("cat", "dog"), ("2019",)))).notes == []


def test_the_commands_that_are_printed_sort_the_files(tmp_path):
    put(tmp_path / "inside", *crossed(("cat", "dog"), ("train", "test")))
    command = re.search(r"cd .*done", refusal(tmp_path / "inside"))
    subprocess.run(command[0], shell=True, check=True)
    found = scan(tmp_path / "sorted")
    assert found.class_names == ("cat", "dog")
    assert {file.split for file in found.files} == {"train", "test"}

    put(tmp_path / "flat", "train", each=0)
    for number in range(4):
        Image.new("RGB", (8, 8)).save(tmp_path / f"flat/train/{'cat.' if number % 2 else 'dog_'}{number}.png")
    command = re.search(r"cd .*done", refusal(tmp_path / "flat"))
    subprocess.run(command[0], shell=True, check=True)
    assert {file.name.split("/")[1] for file in scan(tmp_path / "flat").files} == {"cat", "dog"}


@pytest.mark.parametrize("names", [("Cat", "cat"), ("big dog", "big_dog"), ("Caf\u00e9", "Cafe\u0301")])
def test_classes_of_nearly_one_name_are_said(tmp_path, names):
    put(tmp_path / "photos", *names, "owl")
    put(tmp_path / "mails", *names, "owl", kind=TEXTS)
    for splits in (load_images(tmp_path / "photos", image_size=8), load_texts(tmp_path / "mails")):
        assert any("all but the same name" in note and repr(names[0]) in note for note in splits.notes)


def test_numbers_that_are_not_in_order_are_said(tmp_path):
    (note,) = scan(put(tmp_path / "many", *map(str, range(11)), each=1)).notes
    assert "label 2 is '10'" in note
    assert scan(put(tmp_path / "few", "0", "1", "2", each=1)).notes == []

"""What is wrong with a folder is refused before anything expensive; splits are never taken for classes."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from PIL import Image

from tfkit.data import load_images, load_texts
from tfkit.data.folders import IMAGES, TEXTS, scan
from tfkit.errors import DataError


def put(root, *names, content=None):
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is not None:
            path.write_bytes(content)
        else:
            Image.new("RGB", (4, 4), (number, len(name), sum(map(ord, name)) % 256)).save(path, "PNG")


@pytest.fixture
def photos(tmp_path):
    root = tmp_path / "photos"
    put(root, *(f"{kind}/{number}.png" for kind in ("cats", "dogs") for number in range(4)))
    return root


def test_nested_folders_and_upper_case_endings_belong_to_their_class(photos):
    put(photos, "cats/old/2019/IMG.JPG", "cats/a.JPeG", "dogs/b.webp", "dogs/b.Bmp", "dogs/b.gif")
    found = scan(photos)
    assert found.class_names == ("cats", "dogs")
    assert [file.name for file in found.files if file.label == 0][-1] == "cats/old/2019/IMG.JPG"
    assert len(found.files) == 13
    assert not found.skipped
    assert found.other_counts.total() == 0


def test_hidden_files_and_others_are_counted_and_passed_over(photos):
    hidden = (".DS_Store", "cats/.hidden.png", ".git/x.png", "__MACOSX/cats/._0.png")
    put(photos, *hidden, "cats/x.txt", "y", content=b"x")
    found = scan(photos)
    assert len(found.files) == 8
    assert found.other_counts == {"hidden": 4, ".txt": 1, "no ending": 1}


def test_empty_files_and_images_outside_a_class_are_listed(photos):
    put(photos, "cats/empty.png", content=b"")
    put(photos, "banner.png")
    assert sorted(scan(photos).skipped) == [
        ("banner.png", "outside a class folder"),
        ("cats/empty.png", "empty file"),
    ]


def problem(root, kind=IMAGES):
    with pytest.raises(DataError) as caught:
        scan(root, kind)
    return str(caught.value)


def test_one_class_only(photos):
    shutil.rmtree(photos / "dogs")
    (photos / "old").mkdir()
    put(photos, "a.png", "b.png", "c.png")
    text = problem(photos)
    for fact in ("'cats' (4)", f"{photos}/<class>/<image>", "'old'", "(3): a.png, b.png, c.png"):
        assert fact in text


@pytest.mark.parametrize(
    ("names", "root", "facts"),
    [
        (
            ["cats/1.png", "dogs/1.png", "birds/a.heic", "birds/b.HEIC"],
            "",
            ["1 without", "'birds'", ".heic 2"],
        ),
        (["a.png", "b.png"], "", ["0 class folders with images", "outside a class folder (2)"]),
        (["photos/cats/1.png"], "photo", ["Did you mean", "photos?"]),
        (["cats/1.png"], "cats/1.png", ["is a file"]),
        ([], "", ["0 class folders with images"]),
        (
            ["train/a/1.png", "train/b/1.png", "test/a/2.png", "test/c/2.png"],
            "",
            ["not the same class", "b, c"],
        ),
    ],
)
def test_what_is_no_folder_of_classes_is_refused(tmp_path, names, root, facts):
    put(tmp_path, *names)
    text = problem(tmp_path / root)
    assert str(tmp_path) in text
    for fact in facts:
        assert fact in text


def test_a_link_in_a_circle(photos):
    (photos / "cats/again").symlink_to(photos / "cats")
    assert "cats/again is a link to a folder that it lies in" in problem(photos)


def test_links_that_lead_nowhere(photos):
    (photos / "cats/nowhere.png").symlink_to(photos / "gone.png")
    (photos / "cats/self.png").symlink_to("self.png")
    found = scan(photos)
    assert len(found.files) == 8
    assert [path for path, _ in found.skipped] == ["cats/nowhere.png", "cats/self.png"]


def test_links_to_a_file_that_is_there_already_are_told_by_their_content(photos):
    (photos / "dogs/cat.png").symlink_to(photos / "cats/1.png")
    assert any("Identical image files in two classes: 2" in note for note in load_images(photos).notes)


def test_something_that_is_no_file_is_not_waited_for(photos):
    os.mkfifo(photos / "cats/pipe.png")
    assert scan(photos).skipped == [("cats/pipe.png", "not a regular file")]


def test_names_that_cannot_be_written_down(photos):
    put(photos, "cats/line\nbreak.png")
    put(photos, os.fsdecode(b"cats/latin\xe9.png"))
    assert [reason for _, reason in scan(photos).skipped] == ["its name cannot be printed"] * 2
    (photos / "cats").rename(photos / "ca\nts")
    assert "'ca\\nts'" in problem(photos)


@pytest.fixture
def somebody():
    """Not root, to whom nothing is forbidden."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)


def test_permission_denied(tmp_path_factory, request):
    root = tmp_path_factory.getbasetemp() / "closed"
    put(root, "cats/a.png", "dogs/a.png", "dogs/b.png")
    for folder in (root, *root.parents):
        if folder == Path(tempfile.gettempdir()):
            break
        folder.chmod(0o755)
    (root / "cats").chmod(0)
    request.getfixturevalue("somebody")
    text = problem(root)
    assert "cats cannot be read: Permission denied" in text
    assert "chmod -R u+rX" in text


def fill(root, *places, each=4, kind=IMAGES):
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
        "Training Testing", "TRAIN VAL TEST", "train test1", "x_train x_test", "TrainingSet ValSet TestSet",
        "train_images test_images", "20news-bydate-train 20news-bydate-test", "train dev", "train validate",
        "fruits-360_Training fruits-360_Testing", "training eval holdout", "trainset hold_out", "train2017 val2017",
        "Trainingsdaten Validierungsdaten Testdaten", "train validation test", "train valid",
    ],
)  # fmt: skip
def test_names_that_are_nearly_those_of_splits(tmp_path, names):
    names = names.split()
    found = scan(fill(tmp_path, *crossed(names, ("cat", "dog"))))
    assert found.class_names == ("cat", "dog")
    splits = {file.name.split("/")[0]: file.split for file in found.files}
    assert splits[names[0]] == "train"
    assert len(set(splits.values())) == len(names)
    near = [name for name in names if name.lower() not in ("train", "val", "valid", "test", "validation")]
    assert all(f"'{name}' as the {splits[name]} split" in "".join(found.notes) for name in near)
    assert bool(near) == bool(found.notes)


@pytest.mark.parametrize(
    "names",
    [
        "Training Resting", "Training Testing Resting", "test1 test2", "test_positive test_negative", "trainer tester",
        "evaluate valley", "mask no_mask", "train bus car",
    ],
)  # fmt: skip
def test_classes_of_such_names_are_classes(tmp_path, names):
    names = names.split()
    found = scan(fill(tmp_path, *names))
    assert found.class_names == tuple(sorted(names))
    assert found.notes == []


@pytest.mark.parametrize("kind", [IMAGES, TEXTS])
@pytest.mark.parametrize(
    ("places", "culprit", "remedy"),
    [
        (["Training", "Testing"], "Training/ as train without folders", "Rename folders"),
        (["train", "test"], "train/ as train without folders", "train/<class>/"),
        (["train/cat", "train/dog", "test"], "/test/ as test without", "move out"),
        (["x_train/cat", "x_train/dog", "x_test"], "x_test/ as test without", "move out"),
        (crossed(("test", "val"), ("cat", "dog")), "val/ as validation", "train/<class>/"),
        (["testing/cat", "testing/dog"], "testing/ as test", "train/<class>/"),
        (crossed(("Train", "train1", "test"), ("cat", "dog")), "train1/ as train", "one of each"),
        (crossed(("Training", "Testing", "extra"), ("cat", "dog")), "extra/ as none", "move out"),
        (crossed(("cat", "dog"), ("train", "test")), "inside the classes (cat/test/", "test/cat/"),
        (crossed(("cat", "dog", "owl"), ("Training", "x_test")), "inside the classes (cat/", "Training/cat/"),
        (["photos/photos/cat", "photos/photos/dog"], "'photos' (8)", "photos/photos/"),
        (crossed(("photos/train", "photos/test"), ("cat", "dog")), "'photos' (16)", "photos/test/"),
        (crossed(("train/train", "test/test"), ("cat", "dog")), "'train' (8)", "train/train/"),
        (["images", "masks"], "images/ and masks/", "classifiers"),
        (crossed(("train", "valid"), ("images", "labels")), "images/ and labels/", "classifiers"),
        (["JPEGImages", "Annotations", "ImageSets"], "JPEGImages/ and Annotations/", "classifiers"),
    ],
)
def test_folders_that_are_no_classes_are_refused(tmp_path, kind, places, culprit, remedy):
    text = problem(fill(tmp_path, *places, kind=kind), kind)
    assert culprit in text
    assert remedy in text


def test_folders_that_may_be_splits_in_another_language_are_doubted(tmp_path):
    (doubt,) = scan(fill(tmp_path, *crossed(("scuola", "prova"), ("cane", "gatto")))).notes
    assert "prova, scuola" in doubt
    assert "cane, gatto" in doubt
    assert scan(fill(tmp_path / "plain", *crossed(("cat", "dog"), ("2019",)))).notes == []


@pytest.mark.parametrize("names", [("Cat", "cat"), ("big dog", "big_dog"), ("Caf\u00e9", "Cafe\u0301")])
def test_classes_of_nearly_one_name_are_said(tmp_path, names):
    fill(tmp_path / "photos", *names, "owl")
    fill(tmp_path / "mails", *names, "owl", kind=TEXTS)
    for splits in (load_images(tmp_path / "photos", image_size=8), load_texts(tmp_path / "mails")):
        assert any("all but the same name" in note and repr(names[0]) in note for note in splits.notes)


def test_numbers_that_are_not_in_order_are_said(tmp_path):
    (note,) = scan(fill(tmp_path / "many", *map(str, range(11)), each=1)).notes
    assert "in the order of their names: 0, 1, 10" in note
    assert scan(fill(tmp_path / "few", "0", "1", "2", each=1)).notes == []

"""What is wrong with a folder is said before anything expensive."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from PIL import Image

from tfkit.data.folders import scan
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
    assert found.others.total() == 0


def test_hidden_files_and_others_are_counted_and_passed_over(photos):
    put(
        photos,
        ".DS_Store",
        "cats/.hidden.png",
        ".git/x.png",
        "__MACOSX/cats/._0.png",
        "cats/x.txt",
        "y",
        content=b"x",
    )
    found = scan(photos)
    assert len(found.files) == 8
    assert found.others == {"hidden": 4, ".txt": 1, "no ending": 1}


def test_empty_files_and_images_outside_a_class_are_listed(photos):
    put(photos, "cats/empty.png", content=b"")
    put(photos, "banner.png")
    assert sorted(scan(photos).skipped) == [
        ("banner.png", "outside a class folder"),
        ("cats/empty.png", "empty file"),
    ]


@pytest.mark.parametrize(
    "names", [("train", "validation", "test"), ("Train", "val", "TEST"), ("train", "valid")]
)
def test_a_folder_that_is_split_already(tmp_path, names):
    for name in names:
        put(tmp_path, *(f"{name}/{kind}/{number}.png" for kind in "ab" for number in range(3)))
    found = scan(tmp_path)
    assert found.class_names == ("a", "b")
    assert {file.split for file in found.files} == set(("train", "validation", "test")[: len(names)])


def test_train_and_test_can_be_names_of_classes(tmp_path):
    put(tmp_path, *(f"{kind}/{n}.png" for kind in ("train", "bus", "car") for n in range(3)))
    assert scan(tmp_path).class_names == ("bus", "car", "train")


def problem(root):
    with pytest.raises(DataError) as caught:
        scan(root)
    return str(caught.value)


def test_one_class_only(photos):
    shutil.rmtree(photos / "dogs")
    (photos / "old").mkdir()
    put(photos, "a.png", "b.png", "c.png")
    text = problem(photos)
    assert f"{photos}/ has one class folder ('cats') with 4 images; a classifier needs two or more." in text
    assert f"Expected {photos}/<class>/<image>." in text
    assert "Folders without images: 'old'." in text
    assert "Images outside a class folder: 3 (a.png, b.png, ... (1 more))" in text


def test_an_empty_class_says_what_is_in_it(photos):
    put(photos, "birds/a.heic", "birds/b.HEIC", content=b"x")
    text = problem(photos)
    assert "1 of 3 class folders without images" in text
    assert "'birds'" in text
    assert ".heic 2" in text


def test_images_directly_in_the_root(tmp_path):
    put(tmp_path, "a.png", "b.png")
    assert "has no class folder with images" in problem(tmp_path)
    assert "Images outside a class folder: 2" in problem(tmp_path)


def test_a_missing_folder_names_the_nearest(photos):
    assert f"Did you mean {photos}?" in problem(photos.parent / "photo")


def test_a_file_instead_of_a_folder(photos):
    assert "is a file" in problem(photos / "cats/1.png")


def test_an_empty_folder(tmp_path):
    assert "has no class folder with images" in problem(tmp_path)


def test_splits_with_other_classes(tmp_path):
    put(tmp_path, "train/a/1.png", "train/b/1.png", "test/a/2.png", "test/c/2.png")
    text = problem(tmp_path)
    assert f"{tmp_path}/test/ lacks b" in text
    assert f"{tmp_path}/test/ has c, which {tmp_path}/train/ lacks" in text


def test_split_folders_beside_others(tmp_path):
    put(tmp_path, "train/a/1.png", "train/b/1.png", "test/a/2.png", "test/b/2.png", "extra/a/1.png")
    assert "extra/" in problem(tmp_path)
    shutil.rmtree(tmp_path / "extra")
    put(tmp_path, "val/a/1.png", "valid/a/1.png")
    assert "two folders for one split: val/, valid/" in problem(tmp_path)


def test_a_link_in_a_circle(photos):
    (photos / "cats/again").symlink_to(photos / "cats")
    assert "cats/again is a link to a folder that it lies in" in problem(photos)


def test_links_to_a_file_that_is_there_already(photos):
    (photos / "cats/same.png").symlink_to(photos / "cats/1.png")
    os.link(photos / "cats/2.png", photos / "cats/same2.png")
    (photos / "cats/nowhere.png").symlink_to(photos / "gone.png")
    (photos / "cats/self.png").symlink_to("self.png")
    found = scan(photos)
    assert len(found.files) == 8
    assert [path for path, _ in found.skipped] == [
        f"cats/{n}.png" for n in ("nowhere", "same", "same2", "self")
    ]
    (photos / "dogs/cat.png").symlink_to(photos / "cats/1.png")
    assert "dogs/cat.png is cats/1.png" in problem(photos)


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
    assert "cats cannot be read: permission denied" in text
    assert "chmod -R u+rX" in text

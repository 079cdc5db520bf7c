"""The Projector's files, read as its plugin reads them."""

import numpy as np
import pytest
from google.protobuf import text_format
from PIL import Image
from tensorboard.plugins import projector

from tfkit.reporting.tensorboard import write_projector


def config_of(logdir):
    config = projector.ProjectorConfig()
    text_format.Parse((logdir / "projector_config.pbtxt").read_text(), config)
    (embedding,) = config.embeddings
    return embedding


def rows(logdir):
    text = (logdir / config_of(logdir).metadata_path).read_text()
    assert text.endswith("\n")
    return [line.split("\t") for line in text[:-1].split("\n")]


def test_points_labels_and_images_agree(evaluation, images, tmp_path):
    features = evaluation.probabilities
    labels = [evaluation.class_names[label] for label in evaluation.labels]
    write_projector(tmp_path, features, labels=labels, names=evaluation.names, images=images)
    embedding = config_of(tmp_path)
    stored = np.loadtxt(tmp_path / embedding.tensor_path, delimiter="\t")
    assert stored == pytest.approx(features, rel=1e-5)
    header, *body = rows(tmp_path)
    assert header == ["class", "name"]
    assert len(body) == len(features)
    assert body[7] == [" ".join(labels[7].split()), evaluation.names[7]]
    sprite = np.asarray(Image.open(tmp_path / embedding.sprite.image_path))
    assert list(embedding.sprite.single_image_dim) == [8, 8]
    assert sprite.shape == (23 * 8, 23 * 8, 3)
    row, column = divmod(100, 23)
    assert np.array_equal(sprite[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8], images[100])


def test_names_cannot_shift_rows(tmp_path):
    hostile = ["a\tb", "c\nd", "", "   ", "\x00", "\udcff", "<script>", "e\u2028f"]
    write_projector(tmp_path, np.eye(8), labels=hostile, names=hostile)
    shown = ["a b", "c d", "(no name)", "(no name)", "�", "�", "<script>", "e f"]
    assert rows(tmp_path)[1:] == [[name, name] for name in shown]


def test_many_points_are_thinned_and_fit_into_one_sprite(tmp_path):
    count = 4500
    features = np.arange(count, dtype=np.float32)[:, None] * [1, 2]
    images = np.zeros((count, 96, 48, 3), np.uint8)
    labels = [f"class {i}" for i in range(count)]
    write_projector(tmp_path, features, labels=labels, names=labels, images=images)
    embedding = config_of(tmp_path)
    stored = np.loadtxt(tmp_path / embedding.tensor_path, delimiter="\t")
    assert len(stored) == len(rows(tmp_path)) - 1 == 1500
    assert [label for label, _ in rows(tmp_path)][1:4] == ["class 0", "class 3", "class 6"]
    assert stored[:3, 0].tolist() == [0, 3, 6]
    assert list(embedding.sprite.single_image_dim) == [32, 64]
    assert max(Image.open(tmp_path / embedding.sprite.image_path).size) <= 4096


def test_without_images_there_is_no_sprite(tmp_path):
    named = {"labels": ["a", "b", "c"], "names": ["d", "e", "f"]}
    write_projector(tmp_path, np.eye(3), **named, images=np.zeros((3, 4, 4, 3), np.uint8))
    write_projector(tmp_path, np.eye(3), **named)
    assert not config_of(tmp_path).sprite.image_path
    assert not (tmp_path / "projector" / "sprite.png").exists()

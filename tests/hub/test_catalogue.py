"""Every spelling of a handle goes the right way, and a wrong one names the nearest right one."""

from pathlib import Path

import pytest

from tfkit import hub
from tfkit.environment import packages
from tfkit.environment.stack import keras, tf
from tfkit.errors import HubError
from tfkit.hub.bundled import MODELS
from tfkit.hub.catalogue import find, known_models, parse
from tfkit.hub.fetch import _make_slug, copy

pytestmark = pytest.mark.usefixtures("empty_cache")
KAGGLE = "https://www.kaggle.com/models/google/mobilenet-v2"
MOBILENET = "https://tfhub.dev/google/imagenet/mobilenet_v2_100_224/feature_vector/5"


@pytest.mark.parametrize(
    ("handle", "road", "location"),
    [
        ("efficientnet-lite0", "bundled", "efficientnet-lite0"),
        ("mobilenet_v2_100_224", "http", MOBILENET),
        (MOBILENET, "http", MOBILENET),
        ("http://host:8000/a.tar.gz?x=1", "http", "http://host:8000/a.tar.gz?x=1"),
        ("gs://bucket/a/b", "remote", "gs://bucket/a/b"),
        ("google/mobilenet-v2/tensorFlow2/100-224-feature-vector", "kaggle", None),
        ("google/mobilenet-v2/TensorFlow2/100-224-feature-vector/2", "kaggle", None),
        ("kaggle://google/mobilenet-v2/tensorflow2/100-224-feature-vector/2", "kaggle", None),
        (f"{KAGGLE}/tensorFlow2/100-224-feature-vector/2", "kaggle", None),
        (f"{KAGGLE}/frameworks/TensorFlow2/variations/100-224-feature-vector/versions/2", "kaggle", None),
    ],
)
def test_where_a_handle_leads(handle, road, location):
    found = parse(handle)
    assert (found.text, found.kind) == (handle, road)
    version = "/2" if handle.endswith("/2") else ""
    assert found.location == (location or f"google/mobilenet-v2/tensorFlow2/100-224-feature-vector{version}")


@pytest.mark.parametrize(
    ("handle", "words"),
    [
        ("eficientnet-lite", "efficientnet-lite0"),
        ("mobilenet-v2", "mobilenet_v2_100_224"),
        ("no such thing at all", "python -m tfkit models"),
        ("ftp://host/model", "no model comes by ftp://"),
        (KAGGLE, "no variation"),
        ("google/mobilenet-v2/tfLite/100-224/1", "tensorFlow2 variation"),
        ("minilm-l6", "minilm-l6-v2"),
        ("no/such/folder", "no/such/folder"),
    ],
)
def test_what_cannot_be_understood(handle, words):
    with pytest.raises(HubError, match=words):
        parse(handle)


def test_a_folder_named_as_a_bundled_model_needs_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("efficientnet-lite0").mkdir()
    assert parse("efficientnet-lite0").kind == "bundled"
    assert parse("./efficientnet-lite0").kind == "folder"
    found = parse(Path("./efficientnet-lite0"))  # which has no "./"
    assert found == ("./efficientnet-lite0", "folder", str(tmp_path / "efficientnet-lite0"))


def test_a_kaggle_model_without_kagglehub_names_the_command():
    with pytest.raises(HubError) as error:
        hub.load_model(f"{KAGGLE}/tensorFlow2/100-224-feature-vector/2")
    assert packages.command("kagglehub") in str(error.value)
    assert ".tar.gz" in str(error.value)


def test_models_come_through_tensorflows_file_system(hub_model, tmp_path):
    """ram:// is read as gs:// is, by the same calls."""
    for path in hub_model.rglob("*"):
        if path.is_file():
            tf.io.gfile.makedirs(f"ram://bucket/{path.relative_to(hub_model).parent}")
            tf.io.gfile.copy(str(path), f"ram://bucket/{path.relative_to(hub_model)}", overwrite=True)
    copy("ram://bucket/", tmp_path / "fetched")
    assert hub.load_model(tmp_path / "fetched").digest == hub.load_model(hub_model).digest


def test_a_scheme_that_tensorflow_cannot_read():
    with pytest.raises(HubError, match=r"hdfs2://host/model.*\n.*copy the folder"):
        copy("hdfs2://host/model", Path("nowhere"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.tflite", b"\x1c\0\0\0TFL3" + bytes(100)),
        ("saved_model.pb", b"\x08\x01"),
        ("page.tar.gz", b"  <html>"),
    ],
)
def test_files_of_other_kinds(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(HubError, match=rf"{name}[\s\S]*a folder, or a \.tar\.gz"):
        hub.load_model(tmp_path / name)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_keras_files_say_how_they_become_a_saved_model(tmp_path, keras_model, suffix):
    path = tmp_path / f"model{suffix}"
    keras_model.save(path)
    with pytest.raises(HubError, match=r"load_model\(.*\.save\("):
        hub.load_model(path)
    keras.models.load_model(path).save(tmp_path / "folder", save_format="tf")
    hub.load_model(tmp_path / "folder").check(image_size=24, trainable=True)


def test_a_folder_that_holds_another_kind(tmp_path):
    (tmp_path / "model.tflite").write_bytes(b"\x1c\0\0\0TFL3")
    with pytest.raises(HubError, match=r"no saved_model\.pb.*model\.tflite"):
        hub.load_model(tmp_path)


@pytest.mark.parametrize("handle", ["https://host/a/b/1", "../../x", ".hidden", "a b/ü", "x" * 500])
def test_an_entry_stays_in_the_cache_whatever_the_handle(handle):
    name = _make_slug(handle)
    assert len(name) <= 60
    assert not name.startswith(".")
    assert "/" not in name


def test_the_table_is_whole():
    table = known_models()
    names = {row.name for row in table}
    assert names >= {"efficientnet-lite0", "mobilenet_v2_100_224", "bit-m-r50x1", "minilm-l6-v2", "LaBSE"}
    assert len(names) == len({row.handle for row in table}) == len(table) > 30
    for row in table:
        assert find(row.name) is find(row.handle) is row
        assert row.parameters > 1e6 or row.name.startswith("scattering")  # which has no weights
        assert row.feature_size > 1
        assert row.licence
        assert (row.image_size is None) == (row.modality == "texts")
        assert (row.handle == row.name) == (row.name in MODELS)
        assert row.preprocessor is None or row.preprocessor.startswith("https://")

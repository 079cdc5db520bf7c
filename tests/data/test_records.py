"""TFRecords of tf.Examples are a table like any other: nothing is lost, and a damaged file is told by its record."""

from __future__ import annotations

import csv
import gzip
import json

import numpy as np
import pytest

from tests.data.mails import numbered, texts, write
from tfkit.data import load_images, load_texts, read_image
from tfkit.data.records import as_table
from tfkit.data.tables import open_table
from tfkit.environment.stack import tf
from tfkit.errors import ConfigError, DataError
from tfkit.settings.options import ImageSettings, TextSettings

TEXT = 'größer, "quoted"\nwith two lines 😀 {}'


def example(**features):
    """A serialized tf.Example; of str, bytes, int or float, or lists of these."""

    def feature(value):
        values = value if isinstance(value, list) else [value]
        if isinstance(values[0], str | bytes):
            content = [value if isinstance(value, bytes) else value.encode() for value in values]
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=content))
        if isinstance(values[0], float):
            return tf.train.Feature(float_list=tf.train.FloatList(value=values))
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    of_name = {name: feature(value) for name, value in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=of_name)).SerializeToString()


def write_records(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path), "GZIP" if path.suffix == ".gz" else "") as file:
        for record in records:
            file.write(record)
    return path


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """What ImportExampleGen or Transform leaves: two splits in packed shards, beside a transform graph."""
    folder, rows = tmp_path_factory.mktemp("records") / "examples", numbered(90, text=TEXT)
    for split, begin, end in (("eval", 0, 30), ("train", 30, 60), ("train", 60, 90)):
        name = f"Split-{split}/data_tfrecord-{begin // 60:05}-of-00002.gz"
        write_records(folder / name, (example(text=text, label=label) for text, label in rows[begin:end]))
    (folder / "transform_fn").mkdir()
    return folder


def test_records_are_read_as_a_table_of_the_same_rows_is(shards, tmp_path):
    rows = numbered(90, text=TEXT)
    table, records = load_texts(write(tmp_path / "t.csv", rows)), load_texts(shards)
    assert texts(records) == texts(table) == [text for text, _ in rows]
    assert records.class_names == table.class_names
    for split, places in table.indices.items():
        np.testing.assert_array_equal(records.indices[split], places)
    assert records.origin == str(shards)
    assert records.source.names[89] == "examples.jsonl:90"
    said = " ".join(records.notes)
    assert "Split-eval, Split-train" in said
    assert "not run" in said


def test_a_file_and_a_pattern_are_taken_and_what_changed_is_read_again(shards, tmp_path):
    assert len(texts(load_texts(shards / "Split-train"))) == 60
    assert len(texts(load_texts(f"{shards}/Split-train/*00001-of*"))) == 30
    path = tmp_path / "a.tfrecord"
    for count in (20, 30):
        write_records(path, (example(text=text, label=label) for text, label in numbered(count)))
        assert len(texts(load_texts(path))) == count


def test_every_kind_of_feature_is_told(tmp_path):
    odd = example(
        text="a", number=7, share=0.5, words=["b", "c"], ids=[1, 2], pixels=[0.5] * 2000, blob=b"\0\1\2"
    )
    path, _ = as_table(write_records(tmp_path / "a.tfrecords", [odd, example(text="d", none=b"")]))
    first, second = map(json.loads, path.read_text().splitlines())
    assert first == {
        "text": "a", "number": 7, "share": 0.5, "words": ["b", "c"], "ids": [1, 2], "pixels": {"values": 2000},
        "blob": {"bytes": 3},
    }  # fmt: skip
    assert second == {"text": "d", "none": ""}
    with pytest.raises(DataError, match=r"list or an object"):
        load_texts(path, text_column="ids", label_column="number")


def test_images_of_records_are_what_their_files_are(photos, tmp_path):
    paths = sorted(photos.glob("*/*.png"))
    records = [example(image=path.read_bytes(), label=path.parent.name) for path in (*paths, paths[0])]
    splits = load_images(write_records(tmp_path / "photos.tfrecord", records), image_size=24)
    by_folder = load_images(photos, image_size=24)
    assert splits.class_names == by_folder.class_names
    assert len(splits.source.labels) == len(paths) == len({path.read_bytes() for path in paths})
    assert "repeated images, which count once: 1." in " ".join(splits.notes)

    def contents(of):
        labels = [of.class_names[label] for label in of.source.labels]
        return {(of.source.raw(index).tobytes(), label) for index, label in enumerate(labels)}

    assert contents(splits) == contents(by_folder) == {
        (read_image(path).tobytes(), path.parent.name) for path in paths
    }  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    rows = (example(text=text, label=label) for text, label in numbered(50))
    return write_records(tmp_path_factory.mktemp("whole") / "a.tfrecord", rows).read_bytes()


@pytest.mark.parametrize(
    ("damage", "record"),
    [
        (lambda whole: whole[:500] + bytes([whole[500] ^ 1]) + whole[501:], "record 8"),
        (lambda whole: whole[:-7], "record 50"),
        (lambda whole: whole + b"\1\2\3", "record 51"),
        (lambda whole: whole[:-200], "record 4"),
        (lambda whole: (1 << 62).to_bytes(8, "little") + whole, "record 1"),  # TensorFlow would ask for its memory
        (gzip.compress, "record 1"),
        (lambda _: b"a text, and no records at all\n" * 9, "record 1"),
        (lambda _: b"", "no record"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused_by_its_record(whole, tmp_path, damage, record):
    path = tmp_path / "mails.tfrecord"
    path.write_bytes(damage(whole))
    with pytest.raises(DataError, match=record) as caught:
        load_texts(path)
    assert str(path) in str(caught.value)


def test_a_damaged_packed_file_is_refused(whole, tmp_path):
    for content in (gzip.compress(whole)[:-100], whole):
        (tmp_path / "mails.tfrecord.gz").write_bytes(content)
        with pytest.raises(DataError, match=r"mails.tfrecord.gz is damaged at record"):
            load_texts(tmp_path / "mails.tfrecord.gz")


def test_other_messages_and_a_graph_without_examples_are_refused(tmp_path):
    for content in (b"no message", b""):
        with pytest.raises(DataError, match=r"record 1 is no tf.Example"):
            load_texts(write_records(tmp_path / "a.tfrecord", [content]))
    (tmp_path / "graph/transform_fn").mkdir(parents=True)
    with pytest.raises(DataError, match="transformed_examples"):
        load_texts(tmp_path / "graph")
    with pytest.raises(DataError, match=r"no column 'bodi'(.|\n)*body"):
        row = example(body="a", label="b")
        load_texts(write_records(tmp_path / "b.tfrecord", [row]), text_column="bodi")


def test_settings_take_a_folder_of_records_and_refuse_another(shards, tmp_path):
    assert TextSettings(data_file=shards).names_data
    assert ImageSettings(data_file=shards / "Split-train").names_data
    with pytest.raises(ConfigError, match="--data-dir"):
        TextSettings(data_file=tmp_path)


def test_a_table_of_csv_is_no_records(tmp_path):
    with (tmp_path / "a-00000-of-00001.csv").open("w") as file:
        csv.writer(file).writerows([("text", "label"), ("a", "b")])
    assert open_table(tmp_path / "a-00000-of-00001.csv").path == tmp_path / "a-00000-of-00001.csv"

"""Examples that belong together are in one split, and given splits are kept."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tfkit.data import from_arrays, load_images, load_texts
from tfkit.data.groups import limit_groups
from tfkit.errors import ConfigError, DataError

COLUMNS = {"image_column": "file", "label_column": "label", "image_size": 32}


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Return a table of 240 images of 40 patients; a third of their patients have a rare class in one image of six."""
    folder = tmp_path_factory.mktemp("scans")
    rng = np.random.default_rng(0)
    rows = []
    for number in range(240):
        Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(folder / f"{number}.png")
        patient = number // 6
        label = "ill" if number % 6 == 0 and patient % 3 == 0 else "well"
        rows.append((f"{number}.png", label, f"P{patient}", "Training" if patient < 28 else "test"))
    pd.DataFrame(rows, columns=["file", "label", "patient", "part"]).to_csv(folder / "scans.csv", index=False)
    return folder / "scans.csv"


def groups_of(splits, frame, example, group):
    """Return the groups in each split."""
    group_of = dict(zip(frame[example], frame[group], strict=True))
    return {
        split: {group_of[splits.source.names[row]] for row in rows} for split, rows in splits.indices.items()
    }


def test_the_images_of_a_patient_are_in_one_split_and_each_class_is_in_all(scans):
    frame = pd.read_csv(scans)
    plain = load_images(scans, **COLUMNS)
    spread = groups_of(plain, frame, "file", "patient")
    assert spread["train"] & spread["test"]
    assert any("patient" in note and "group_column" in note for note in plain.notes)
    splits = load_images(scans, **COLUMNS, group_column="patient")
    groups = groups_of(splits, frame, "file", "patient")
    assert sum(map(len, groups.values())) == len(set.union(*groups.values())) == 40
    assert sum(map(len, splits.indices.values())) == 240
    assert min(counts["ill"] for counts in splits.counts.values()) >= 1
    assert any("40 groups" in note for note in splits.notes)
    again = load_images(scans, **COLUMNS, group_column="patient", seed=1)
    assert groups_of(again, frame, "file", "patient") != groups


def test_texts_of_a_sender_are_in_one_split_and_rows_without_one_are_named(tmp_path):
    senders = [f"s{number % 50}" for number in range(400)]
    senders[7] = ""
    texts = [f"text {number}" for number in range(400)]
    labels = ["ab"[number % 3 == 0] for number in range(400)]
    frame = pd.DataFrame({"body": texts, "label": labels, "sender": senders})
    path = tmp_path / "mails.csv"
    frame.to_csv(path, index=False)
    splits = load_texts(path, text_column="body", group_column="sender")
    frame["name"] = [f"mails.csv:{number + 2}" for number in range(400)]
    groups = groups_of(splits, frame, "name", "sender")
    assert sum(map(len, groups.values())) == len(set.union(*groups.values())) == 50
    assert [skip.path for skip in splits.skipped] == ["mails.csv:9"]
    frame[::-1].drop(columns="name").to_csv(path, index=False)
    shuffled = load_texts(path, text_column="body", group_column="sender")
    frame["name"] = [f"mails.csv:{401 - number}" for number in range(400)]
    assert groups_of(shuffled, frame, "name", "sender") == groups


def test_arrays_take_groups():
    images = np.random.default_rng(0).integers(0, 256, (120, 8, 8), np.uint8)
    groups, labels = np.arange(120) // 4, np.arange(120) % 2
    splits = from_arrays(images, labels, groups=groups)
    parts = [set(groups[rows]) for rows in splits.indices.values()]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 30
    assert len(limit_groups(splits, 1).indices["train"]) == len(parts[0])
    with pytest.raises(DataError, match="119 groups"):
        from_arrays(images, labels, groups=groups[1:])


@pytest.mark.parametrize("load", ["images", "texts"])
def test_given_splits_are_kept_and_the_one_that_lacks_is_held_out_from_train(scans, load):
    frame = pd.read_csv(scans)
    if load == "images":
        splits = load_images(scans, **COLUMNS, split_column="part", group_column="patient")
        part_of = dict(zip(frame["file"], frame["part"], strict=True))
    else:
        frame["body"] = frame["file"] + " a text"
        path = scans.with_name("texts.csv")
        frame[["body", "label", "patient", "part"]].to_csv(path, index=False)
        splits = load_texts(path, text_column="body", split_column="part", group_column="patient")
        part_of = {f"texts.csv:{number + 2}": part for number, part in enumerate(frame["part"])}
    parts = {
        split: {part_of[splits.source.names[row]] for row in rows} for split, rows in splits.indices.items()
    }
    assert parts == {"train": {"Training"}, "validation": {"Training"}, "test": {"test"}}
    assert len(splits.indices["test"]) == 72
    assert any("no validation split" in note for note in splits.notes)


def test_groups_that_given_splits_tear_apart_are_counted(scans):
    frame = pd.read_csv(scans)
    frame["part"] = np.where(np.arange(240) // 4 % 2, "train", "test")
    path = scans.with_name("torn.csv")
    frame.to_csv(path, index=False)
    splits = load_images(path, **COLUMNS, split_column="part", group_column="patient")
    keys = splits.source.groups[:, 0]
    train, validation, test = (keys[rows] for rows in splits.indices.values())
    count = np.isin(validation, train).sum() + np.isin(test, [*train, *validation]).sum()
    note = next(note for note in splits.notes if "earlier split" in note)
    assert f": {count}. " in note
    assert count > 50


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split_column": "patient"}, r"split_column 'patient'.*'P0'"),
        ({"group_column": "pationt"}, r"no column 'pationt' \(group_column\).*'patient'"),
        ({"group_column": "part"}, r"different groups|fewer than 3 groups"),
    ],
)
def test_columns_that_cannot_serve(scans, options, message):
    with pytest.raises(DataError, match=message):
        load_images(scans, **COLUMNS, **options)


@pytest.mark.parametrize("load", [load_images, load_texts])
def test_columns_of_what_is_no_table_are_refused(load, scans):
    source = "digits" if load is load_images else "sentiment"
    for data in (source, scans.parent):
        with pytest.raises(DataError, match=r"no table.*group_column"):
            load(data, group_column="patient")


def test_the_column_that_is_given_twice_is_named(scans):
    with pytest.raises(DataError, match="'label', is given for two things"):
        load_images(scans, **COLUMNS, group_column="label")


def test_no_more_than_so_many_of_a_group_train_whoever_else_is_there(scans):
    splits = load_images(scans, **COLUMNS, group_column="patient")
    frame = pd.read_csv(scans)
    patient_of = dict(zip(frame["file"], frame["patient"], strict=True))

    def names(splits):
        return {splits.source.names[row] for row in splits.indices["train"]}

    limited = limit_groups(splits, 2)
    counts = pd.Series([patient_of[name] for name in names(limited)]).value_counts()
    assert set(counts) == {2}
    assert set(counts.index) == {patient_of[name] for name in names(splits)}
    assert np.array_equal(limited.indices["test"], splits.indices["test"])
    away = min(counts.index)
    rest = [row for row in splits.indices["train"] if patient_of[splits.source.names[row]] != away]
    without = limit_groups(splits.replace(indices={**splits.indices, "train": np.asarray(rest)}), 2)
    assert names(without) == {name for name in names(limited) if patient_of[name] != away}
    with pytest.raises(ConfigError, match="group_column"):
        limit_groups(load_images(scans, **COLUMNS), 2)

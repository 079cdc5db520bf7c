"""Classes are taken for classes, and what is none is refused with what was seen."""

from __future__ import annotations

import csv
import itertools
import json
import random

import pytest

from tfkit.data import load_texts
from tfkit.data.labels import LabelCleaner, decide_task, in_order
from tfkit.errors import DataError

R = random.Random(0)
EMOTIONS = ["joy", "anger", "fear", "love"]
SEVERAL = [R.sample(EMOTIONS, R.choice([1, 1, 2])) for _ in range(300)]


def checked(values):
    cleaner = LabelCleaner()
    counts = {}
    for label in filter(None, map(cleaner, values)):
        counts[label] = counts.get(label, 0) + 1
    task, said = decide_task(counts, where="The label column 'x' of a.csv")
    return list(counts), said, list(cleaner.notes()), task


@pytest.mark.parametrize("sign", [", ", ","])
def test_commas_may_join_labels_or_be_part_of_one(sign):
    with pytest.raises(
        DataError, match=r"several labels in \d+ of 300 rows(?s:.*)--task classes(?s:.*)--task labels"
    ):
        checked(sign.join(found) for found in SEVERAL)


@pytest.mark.parametrize("sign", [";", "|"])
def test_several_labels_joined_by_a_sign(sign):
    *_, (note,), _, task = checked(sign.join(found) for found in SEVERAL)
    assert task == "labels"
    assert "of 300 rows" in note
    assert "--task classes" in note


@pytest.mark.parametrize(
    "write", [json.dumps, str, lambda found: str(tuple(found)), lambda found: str(set(found))]
)
def test_several_labels_as_lists(write):
    """Those of one are written as the others are: there is nothing to say of them."""
    *_, (note,), cleaned, task = checked(map(write, SEVERAL))
    assert task == "labels"
    assert "written as lists" in note
    assert not cleaned


@pytest.mark.parametrize(
    "names",
    [
        ["very positive", "positive", "neutral", "negative", "very negative"],
        ["credit card", "debit card", "card", "loan"],
        [
            f"{size} {colour}"
            for size in ("small", "large", "mid")
            for colour in ("red", "blue", "green", "grey")
        ],
        ["Home, garden", "Sports, outdoors", "Books", "Toys, games"],
        ["comp/graphics", "comp/windows", "rec/autos", "rec/motor"],
        ["A", "A+", "B", "B+", "C", "C+"],
        ["C", "C++", "C#"],
        ["yes", "no", "yes/no"],
        ["1", "2", "3", "4", "5"],
        ["-1", "0", "1"],
        ["[spam]", "(other)", "{x}"],
    ],
)
def test_classes_that_look_like_several_are_classes(names):
    found, notes, others, task = checked(names * 30)
    assert (found, others, task) == (names, [], "classes")
    assert all("--task order, or --task value" in note for note in notes)
    assert bool(notes) == names[0].removeprefix("-").isdecimal()


@pytest.mark.parametrize("names", [["bright|rare", "dark|rare", "dark|common"], ["a; b", "c; d", "e"]])
def test_a_few_joined_names_are_classes_and_said(names):
    _, (note,), _, task = checked(names * 30)
    assert task == "classes"
    assert repr(names[0]) in note
    assert "--task labels" in note


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (range(1000, 1300), "300 numbers(?s:.*)quantities or ids(?s:.*)--task value"),
        ([*range(25)] * 40, "25 numbers(?s:.*)Say which: task='value'"),
        ([0, 0.5, 1.0] * 40, "3 numbers, from 0 to 1(?s:.*)Say which: task='value'"),
        ([f"2024-{1 + n % 12:02}-{1 + n % 28:02}" for n in range(600)], "it looks like dates or times"),
        ([f"{1 + n % 28}.{1 + n % 12}.2024 10:00" for n in range(600)], "it looks like dates or times"),
        ([f"{n:032x}" for n in range(100)], "an id or a text"),
        ([f"sentence {n % 12} " * 30 for n in range(600)], "an id or a text"),
        (['{"name": "a"}', '{"name": "b"}'] * 40, "several labels in 80 of 80 rows(?s:.*)json_normalize"),
    ],
)
def test_what_is_no_class_is_refused(values, message):
    with pytest.raises(DataError, match=message) as raised:
        checked(map(str, values))
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize(
    "values",
    [
        [R.randint(0, 50) / 10 for _ in range(600)],
        [str(R.randint(0, 50) / 10).replace(".", ",") for _ in range(600)],
        [R.randint(0, 10) / 2 for _ in range(300)],
        [R.random() for _ in range(300)],
        [*range(1990, 2021)] * 40,
    ],
)
def test_many_numbers_are_values(values):
    names, (note,), _, task = checked(map(str, values))
    assert task == "value"
    assert f"holds {len(names)} numbers" in note
    assert "--task" in note


def test_numbers_with_leading_zeros_are_classes():
    assert checked([f"{n * 311:05}" for n in range(60)] * 40)[1::2] == ([], "classes")


def test_one_class_in_several_spellings():
    names, said, notes, _ = checked(["1", "1.0", "1 ", "0", "1,00", "01"] * 20)
    assert names == ["1", "0", "01"]
    assert "several spellings" in said[0]
    assert notes == ["40 labels are whole numbers with decimals: 1.0 is taken as 1."]
    assert checked(['["joy"]', "joy", "['fear']", "[]"] * 20)[0] == ["joy", "fear"]


@pytest.mark.parametrize("names", [*itertools.permutations(["1", "01", "2"])])
def test_one_number_in_two_spellings_has_its_place(names):
    """They come from a set, whose order is another one in each process, of several workers too."""
    assert in_order(names) == ["01", "1", "2"]


def test_missing_labels_are_those_of_pandas_and_named(tmp_path):
    path = tmp_path / "a.csv"
    labels = ["None", "NA", "n/a", "", "null", "none", "bug"]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *((f"text {n}", labels[n % 7]) for n in range(140))])
    splits = load_texts(path)
    assert splits.class_names == ("bug", "none")
    assert len(splits.skipped) == 100
    assert {reason for _, reason in splits.skipped} == {
        "has no label",
        *(f"has no label ({label!r})" for label in ("None", "NA", "n/a", "null")),
    }
    assert any("'None' (20)" in note and "as pandas has it" in note for note in splits.notes)


def test_cases_and_strokes_are_said(tmp_path):
    path = tmp_path / "a.csv"
    labels = ["not spam", "Not_Spam", "spam"]
    path.write_text("text,label\n" + "".join(f"text {n},{labels[n % 3]}\n" for n in range(60)))
    assert any("'Not_Spam' and 'not spam'" in note for note in load_texts(path).notes)


def test_nested_cells_are_no_texts_and_no_labels(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [{"text": f"text {n}", "label": ["ab"[n % 2]]} for n in range(40)]
    rows += [{"text": {"body": "x"}, "label": "a"}, {"text": ["x", "y"], "label": "a"}]
    path.write_text("\n".join(map(json.dumps, rows)))
    splits = load_texts(path)
    assert splits.class_names == ("a", "b")
    assert [tuple(one) for one in splits.skipped] == [
        (f"a.jsonl:{line}", "has a list or an object for a text") for line in (41, 42)
    ]
    several = ({"text": f"t {n}", "labels": found} for n, found in enumerate(SEVERAL))
    path.write_text("\n".join(map(json.dumps, several)))
    splits = load_texts(path)
    assert splits.class_names == tuple(sorted(EMOTIONS))
    of_names = [
        [name for name, there in zip(splits.class_names, row, strict=True) if there]
        for row in splits.source.labels
    ]
    assert of_names == [sorted(found) for found in SEVERAL]


def test_names_of_hugging_face_labels_and_lists_in_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    features = {"text": {"_type": "Value"}, "label": {"names": ["ham", "spam"], "_type": "ClassLabel"}}
    table = pyarrow.table({"text": [f"text {n}" for n in range(41)], "label": [*([0, 1] * 20), -1]})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(table, tmp_path / "a.parquet")
    splits = load_texts(tmp_path / "a.parquet")
    assert splits.class_names == ("ham", "spam")
    assert splits.source.labels.tolist() == [0, 1] * 20
    assert [tuple(one) for one in splits.skipped] == [("a.parquet:41", "has no label")]
    features = {"labels": {"feature": {"names": EMOTIONS, "_type": "ClassLabel"}, "_type": "Sequence"}}
    numbers = [[EMOTIONS.index(name) for name in found] for found in SEVERAL]
    named = pyarrow.table({"text": [f"text {n}" for n in range(300)], "labels": numbers})
    named = named.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(named, tmp_path / "c.parquet")
    lists = pyarrow.table({"text": [f"text {n}" for n in range(300)], "labels": SEVERAL})
    parquet.write_table(lists, tmp_path / "b.parquet")
    by_name, by_number = (load_texts(tmp_path / f"{name}.parquet") for name in "bc")
    assert by_name.class_names == by_number.class_names == tuple(sorted(EMOTIONS))
    assert (by_name.source.labels == by_number.source.labels).all()
    assert load_texts(tmp_path / "b.parquet", task="classes").source.labels.ndim == 1

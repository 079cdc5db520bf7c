"""What labels mean: tables to classes, an order, several labels or numbers, and how they are cut."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from tfkit.data import from_arrays, load_images, load_texts
from tfkit.errors import DataError

DIGITS = load_digits()
EVEN, PRIME, LOOP = {0, 2, 4, 6, 8}, {2, 3, 5, 7}, {0, 6, 8, 9}
LABELS = [("even", EVEN), ("loop", LOOP), ("prime", PRIME)]
COUNT = 240


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Scanned digits as files in two folders."""
    root = tmp_path_factory.mktemp("digits")
    for place, image in enumerate(DIGITS.images[:COUNT]):
        path = root / name_of(place)
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.rint(image * 255 / 16).astype(np.uint8)).save(path)
    return root


def name_of(place):
    return f"{'ab'[place % 2]}/{place}.png"


def tags(digit):
    return [name for name, digits in LABELS if digit in digits]


def table(folder, rows, name="t.csv", head=("file", "label")):
    with (folder / name).open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    return folder / name


def truth(splits, of_digit):
    """Return what each example should have, by the place in its name."""
    return np.array(
        [
            of_digit(DIGITS.target[int(name.split("/")[1].removesuffix(".png"))])
            for name in splits.source.names
        ]
    )


def some(splits):
    names = [splits.source.names[index] for rows in splits.indices.values() for index in rows]
    assert sorted(names) == sorted({*names})
    return {split: {splits.source.names[index] for index in rows} for split, rows in splits.indices.items()}


@pytest.mark.parametrize("write", ["|".join, ";".join, json.dumps])
def test_a_table_of_images_with_several_labels(folder, write):
    rows = [(name_of(place), write(tags(digit))) for place, digit in enumerate(DIGITS.target[:COUNT])]
    splits = load_images(table(folder, rows), image_size=16)
    assert splits.task.name == "labels"
    assert splits.class_names == ("even", "loop", "prime")
    assert len(splits.source.names) == COUNT, "one without labels is an example too"
    assert (
        splits.source.labels == truth(splits, lambda digit: [digit in digits for _, digits in LABELS])
    ).all()
    assert splits.source.labels.dtype == np.float32
    for rows in splits.indices.values():
        assert splits.source.labels[rows].any(axis=0).all()
        assert not splits.source.labels[rows].any(axis=1).all()
    pixels = splits.source.read(np.array([7]))[0, ..., 0]
    place = int(splits.source.names[7].split("/")[1].removesuffix(".png"))
    shown = np.asarray(
        Image.fromarray(np.rint(DIGITS.images[place] * 255 / 16).astype(np.uint8)).resize((16, 16), 2)
    )
    assert np.abs(pixels.astype(int) - shown).max() <= 1
    assert any("--task classes" in note for note in splits.notes)


@pytest.mark.parametrize("write", [json.dumps, str, lambda bits: "|".join(map(str, bits))])
def test_one_hot_rows_are_no_lists_of_labels(folder, write):
    """Each would have the labels 0 and 1, all of them both."""
    rows = [(name_of(place), write([int(place % 3 == n) for n in range(3)])) for place in range(COUNT)]
    with pytest.raises(DataError, match=r"one-hot(?s:.*)names of those labels"):
        load_images(table(folder, rows), image_size=16, task="labels")


def test_several_columns_of_yes_and_no(folder):
    rows = [
        (name_of(place), *(("1", "0")[digit not in digits] for _, digits in LABELS))
        for place, digit in enumerate(DIGITS.target[:COUNT])
    ]
    head = ("path", "even", "loop", "prime")
    splits = load_images(table(folder, rows, head=head), image_size=16, label_column="prime,even,loop")
    assert (
        splits.source.labels == truth(splits, lambda digit: [digit in digits for _, digits in LABELS])
    ).all()
    rows[3] = (rows[3][0], "1", "2", "")
    splits = load_images(table(folder, rows, head=head), image_size=16, label_column="even,loop,prime")
    assert ("t.csv:5", "has '2' in 'loop', neither 1 nor 0") in splits.skipped
    with pytest.raises(DataError, match=r"no column 'primes'(?s:.*)Did you mean 'prime'"):
        load_images(folder / "t.csv", label_column="even,primes")


def test_numbers_and_an_order(folder):
    rows = [(name_of(place), digit / 4) for place, digit in enumerate(DIGITS.target[:COUNT])]
    path = table(folder, rows)
    with pytest.raises(DataError, match="Say which: task='value'"):
        load_images(path, image_size=16)
    splits = load_images(path, image_size=16, task="value")
    assert (splits.task.name, splits.class_names) == ("value", ("label",))
    assert (splits.source.labels == truth(splits, lambda digit: digit / 4)).all()
    assert splits.source.labels.dtype == np.float32
    means = [splits.source.labels[rows].mean() for rows in splits.indices.values()]
    assert np.ptp(means) < 0.15, "cut by quantiles: of 36 at random means are .16 from each other"
    order = load_images(path, image_size=16, task="order")
    assert order.class_names[:4] == ("0", "0.25", "0.5", "0.75")
    assert (order.source.labels == truth(order, int)).all()
    # Where another number had one decimal, or began with 0, the commas would be of decimals.
    path = table(folder, [(name_of(place), f"{place * 37:,}") for place in range(COUNT)])
    for task in ("auto", "value", "order"):
        with pytest.raises(DataError, match=r"such as '1,\d\d\d'(?s:.*)thousands(?s:.*)point"):
            load_images(path, image_size=16, task=task)
    shares = [
        (name_of(place), f"{digit}%" if place % 2 else digit / 100)
        for place, digit in enumerate(DIGITS.target)
    ]
    with pytest.raises(
        DataError, match=r"in percent, such as '\d%', and others, such as '0\.0\d'(?s:.*)one unit"
    ):
        load_images(table(folder, shares[:COUNT]), image_size=16, task="value")
    names = {0: "low", 1: "high"}
    path = table(
        folder, [(name_of(place), names[digit > 4]) for place, digit in enumerate(DIGITS.target[:COUNT])]
    )
    with pytest.raises(DataError, match=r"no numbers: high, low(?s:.*)--class-order low high"):
        load_images(path, task="order")
    with pytest.raises(DataError, match="once; it is low mid high, and the classes are high, low"):
        load_images(path, task="order", class_order=("low", "mid", "high"))
    with pytest.raises(DataError, match=r"what is no number: 'high', 'low'"):
        load_images(path, task="value")
    splits = load_images(path, image_size=16, task="order", class_order=("low", "high"))
    assert (splits.class_names, splits.task.name) == (("low", "high"), "order")
    assert (splits.source.labels == truth(splits, lambda digit: digit > 4)).all()


def test_more_rows_move_few_examples(folder):
    rows = [(name_of(place), float(image.sum())) for place, image in enumerate(DIGITS.images[:COUNT])]
    before, after = (some(load_images(table(folder, part), image_size=16)) for part in (rows[:-1], rows))
    moved = sum(len(after[split] - before[split] - {rows[-1][0]}) for split in before)
    assert moved <= 4


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("../secret.png", "a"), r"t.csv:\d+ names '../secret.png', which leads to .*, out of the folder"),
        (("/etc/hostname", "a"), "out of the folder"),
        (("link.png", "a"), "out of the folder"),
        (("a/0.png", "b"), "another label for a/0.png"),
    ],
)
def test_what_a_row_cannot_name(folder, tmp_path, row, message):
    (folder / "link.png").unlink(missing_ok=True)
    (folder / "link.png").symlink_to(tmp_path / "x.png")
    Image.new("RGB", (9, 9)).save(tmp_path / "x.png")
    rows = [(name_of(place), "ab"[place % 3 > 1]) for place in range(60)]
    with pytest.raises(DataError, match=message):
        load_images(table(folder, [*rows, row]), image_size=16)


def test_rows_that_cannot_be_used_are_named(folder):
    rows = [(name_of(place), "ab"[place % 3 > 1]) for place in range(60)]
    rows += [("a/999.png", "a"), ("", "a"), ("t.csv", "a"), (name_of(61), ""), (name_of(62), "NaN"), rows[0]]
    path = table(folder, rows)
    splits = load_images(path, image_size=16)
    assert len(splits.source.names) == 60
    assert [*splits.skipped] == [
        ("t.csv:62 a/999.png", "names a file that is not there"),
        ("t.csv:63 ", "names no file"),
        ("t.csv:64 t.csv", "names no image"),
        ("t.csv:66", "has no label"),
        (name_of(61), "has no label"),
    ]
    assert splits.origin == str(path)
    assert "t.csv: Rows that repeat an image and its label, which counts once: 1." in splits.notes
    with pytest.raises(DataError, match="Without strict"):
        load_images(path, image_size=16, strict=True)
    with pytest.raises(DataError, match=r"names no image that is there \(t.csv:2 x.png"):
        load_images(table(folder, [("x.png", "a")]), image_size=16)
    with pytest.raises(DataError, match=r"is no table.*leave out image_column"):
        load_images(folder, image_column="file")


def test_texts_with_several_labels_or_none(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        (f"text {n}", "|".join(rng.choice(["x", "y", "z"], rng.integers(4), replace=False)))
        for n in range(200)
    ]
    splits = load_texts(table(tmp_path, rows, head=("text", "label")))
    assert (splits.task.name, splits.class_names, len(splits.source.names)) == (
        "labels",
        ("x", "y", "z"),
        200,
    )
    assert [splits.source.raw(n) for n in (0, 199)] == ["text 0", "text 199"]
    assert (
        splits.source.labels.sum(axis=1) == [len(label.split("|")) if label else 0 for _, label in rows]
    ).all()
    again = load_texts(tmp_path / "t.csv", task="classes")
    assert again.source.labels.ndim == 1
    without = [row for row in rows if row[1]]
    assert len(again.skipped) == 200 - len(without)
    assert [again.source.raw(n) for n in range(5)] == [text for text, _ in without[:5]]
    assert [again.class_names[label] for label in again.source.labels] == [label for _, label in without]
    assert again.source.read(np.array([3, 4])).tolist() == [text.encode() for text, _ in without[3:5]]
    turned = [("text 1", "|".join(reversed(rows[1][1].split("|")))), ("text 2", "x|y|z"), ("text 2", "z|y|x")]
    same = [row for row in rows if row[0] != "text 2"]
    splits = load_texts(table(tmp_path, [*same, *turned], head=("text", "label")))
    assert any(note.startswith("4 rows have a text that is there more than once") for note in splits.notes)
    assert not any("another label" in note for note in splits.notes)
    rare = [*rows, ("once", "w"), ("twice", "w")]
    with pytest.raises(DataError, match=r"too rare to be in each of train, validation, test: 'w' \(2\)"):
        load_texts(table(tmp_path, rare, head=("text", "label")))


def test_texts_with_numbers_and_folders_of_numbers(tmp_path):
    rows = [(f"text {n % 150}", n % 150 / 7 + (n > 150)) for n in range(300)]
    splits = load_texts(table(tmp_path, rows, head=("text", "label")))
    assert splits.task.name == "value"
    assert np.allclose(splits.source.labels, [value for _, value in rows])
    texts = [{splits.source.raw(index) for index in rows} for rows in splits.indices.values()]
    assert sum(map(len, texts)) == 150, "each text is in one split, whatever its numbers"
    assert not any("another label" in note for note in splits.notes)
    with pytest.raises(DataError, match=r"the same number, 3, everywhere"):
        load_texts(
            table(tmp_path, [(f"text {n}", 3) for n in range(60)], head=("text", "label")), task="value"
        )
    for task in ("value", "order"):
        splits = load_images("digits", image_size=16, task=task)
        assert splits.source.labels.tolist() == DIGITS.target.tolist()
        assert splits.task.name == task


def test_arrays():
    images = np.rint(DIGITS.images[:COUNT] * 255 / 16).astype(np.uint8)
    values = DIGITS.images[:COUNT].mean((1, 2))
    splits = from_arrays(images, values, task="value", image_size=16)
    assert (splits.class_names, splits.source.labels.dtype) == (("value",), np.float32)
    several = np.array([[digit in digits for _, digits in LABELS] for digit in DIGITS.target[:COUNT]])
    splits = from_arrays(
        images, several, task="labels", class_names=[name for name, _ in LABELS], image_size=16
    )
    assert splits.class_names == ("even", "loop", "prime")
    assert from_arrays(images, DIGITS.target[:COUNT], task="order", image_size=16).task.name == "order"

"""What counting words reaches is a fair rival: tuned, paired with the model, and honest where it wins."""

import csv

import numpy as np
import pytest
from scipy.stats import bootstrap

from tfkit import cli
from tfkit.data import load_texts
from tfkit.metrics import Evaluation, difference_interval, evaluation
from tfkit.run import Run
from tfkit.transfer.baseline import baseline, compare_with_baseline


def texts(folder, rows, **how):
    with (folder / "texts.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows(rows)
    return load_texts(folder / "texts.csv", **how)


def accuracy(splits, found):
    return float(np.mean(found.measured.predicted == splits.source.labels[splits.indices["test"]]))


THINGS = ("lamp", "kettle", "chair", "camera", "carpet", "radio")


def in_order(count=120):
    """Only the order of the words tells the classes apart."""
    for number in range(count):
        one, two = THINGS[number % 6], THINGS[(number // 6 + number + 1) % 6]
        yield f"{number} {one} not good {two} fine", "first"
        yield f"{number} {one} good {two} not fine", "second"


def test_pairs_of_words_are_tried_and_chosen_on_the_validation_split(tmp_path):
    splits = texts(tmp_path, in_order())
    found = baseline(splits)
    assert found.pairs
    assert accuracy(splits, found) == 1.0
    assert np.array_equal(baseline(splits).measured.predicted, found.measured.predicted)


def test_scripts_without_spaces_have_words(tmp_path):
    """scikit-learn's own pattern takes a whole clause for a word: nothing comes twice."""
    rows = []
    for number in range(80):
        filler = "".join(chr(0x4E00 + (number * 37 + place * 101) % 2000) for place in range(6))
        rows += [(f"{filler}很好喜欢{number}", "praise"), (f"{filler}退款坏了{number}", "complaint")]
        rows += [(f"{filler[:3]}สวัสดีครับ{number}", "greeting")]
    splits = texts(tmp_path, rows)
    assert accuracy(splits, baseline(splits)) > 0.95


@pytest.mark.parametrize("each", [3, 12])
def test_tiny_sets_many_classes_rare_ones_and_no_words_at_all(tmp_path, each):
    rows = [(f"{'🙂🎉☔'[label % 3] * (1 + number % 3)}{'!?;'[label // 3 % 3] * (number + 1)}", f"c{label}")
            for label in range(9) for number in range(each)]  # fmt: skip
    splits = texts(tmp_path, rows)
    validation = splits.indices["validation"]
    kept = validation[splits.source.labels[validation] != 0]  # a class is missing there
    splits = splits.replace(indices={**splits.indices, "validation": kept})
    found = baseline(splits)
    assert len(found.measured.predicted) == len(splits.indices["test"])
    assert accuracy(splits, found) > 1 / 9


def test_many_classes_cost_two_fits(tmp_path):
    rows = [(f"word{label} other{number}", f"c{label}") for label in range(40) for number in range(6)]
    splits = texts(tmp_path, rows)
    found = baseline(splits)
    assert found.strength == 10.0
    assert accuracy(splits, found) > 0.9


def test_the_interval_is_that_of_paired_answers():
    random = np.random.default_rng(0)
    right = random.random(800) < 0.9
    right_there = np.where(random.random(800) < 0.95, right, ~right)
    low, high = difference_interval(right, right_there)
    expected = bootstrap(
        (right, right_there), lambda a, b, axis: a.mean(axis) - b.mean(axis), paired=True, random_state=1
    ).confidence_interval
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.004)
    alone = 2 * 1.96 * np.sqrt(2 * 0.9 * 0.1 / 800)
    assert high - low < 0.7 * alone
    same = difference_interval(right, right)
    assert same[0] < 0 < same[1] < 0.01
    assert difference_interval(right[:3], ~right[:3])[1] <= 1


def test_where_all_numbers_are_one_there_is_no_score(tmp_path):
    """As in a table of a dozen rows: R2 of the validation split, or of the test split, is not defined."""
    rows = [
        (f"lamp {number} is {('bad', 'fair', 'good')[number % 3]}", 1.5 * (number % 3))
        for number in range(30)
    ]
    splits = texts(tmp_path, rows, task="value")
    same = np.flatnonzero(splits.source.labels == 1.5)
    splits = splits.replace(indices={**splits.indices, "validation": same[:4]})
    assert len(baseline(splits).measured.labels) == len(splits.indices["test"])
    splits = splits.replace(indices={**splits.indices, "test": same[4:]})
    measured = evaluation(np.ones([len(same) - 4, 2], np.float32), splits)
    with Run.create(tmp_path / "run", config={}) as run:
        compare_with_baseline(run, splits, measured, pretrained=True)
        assert "baseline/gain" not in run.metrics
        assert "R2 is not defined" in run.notes[0]


@pytest.mark.parametrize("model_wins", [False, True])
def test_if_words_win_the_first_closing_line_says_so(tmp_path, model_wins):
    splits = texts(tmp_path, in_order())
    labels = splits.source.labels[splits.indices["test"]]
    sure = np.eye(2)[labels if model_wins else 1 - labels]
    names = [str(place) for place in range(len(labels))]
    measured = Evaluation(labels=labels, probabilities=sure, names=names, class_names=splits.class_names)
    with Run.create(tmp_path / "run", config={}) as run:
        run.record(measured.metrics("test"))
        compare_with_baseline(run, splits, measured, pretrained=True)
        lines = [line for line in cli.closing_lines(run) if line]
    assert lines[0].startswith("Counting words is better") is not model_wins
    assert any("interval" in line for line in lines)
    assert (
        run.metrics["baseline/gain_low"] <= run.metrics["baseline/gain"] <= run.metrics["baseline/gain_high"]
    )

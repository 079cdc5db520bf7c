"""Labels of which an example has any number: their numbers are scikit-learn's, their thresholds chosen and guarded."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from sklearn import metrics as sk

from tfkit.data.labels import split_labels
from tfkit.errors import CheckError, ConfigError, DataError, RunError
from tfkit.metrics import LabelsEvaluation, best_thresholds
from tfkit.reporting.examples import load, save
from tfkit.run import Run
from tfkit.tasks import CLASSES, Labels, refuse, task_of

NAMES = ("even", "loop", "prime")


def drawn(count=400, *, seed=0, rare=False):
    """Labels, and probabilities that know something of them: of the second too low, of the third too high."""
    chance = np.random.default_rng(seed)
    labels = (chance.random([count, 3]) < ([0.5, 0.4, 0.01] if rare else [0.5, 0.4, 0.3])).astype(int)
    logits = 3 * (labels - 0.5) + chance.normal(size=labels.shape) + [0, -2, 2]
    return labels, (1 / (1 + np.exp(-logits))).astype(np.float32)


def evaluation(labels, probabilities, **more):
    names = [f"test/{place}" for place in range(len(labels))]
    return LabelsEvaluation(
        labels=labels, probabilities=probabilities, names=names, class_names=NAMES, **more
    )


def test_the_numbers_are_scikit_learns():
    labels, probabilities = drawn()
    measured = evaluation(labels, probabilities, thresholds=[0.5, 0.2, 0.8])
    said = (probabilities >= [0.5, 0.2, 0.8]).astype(int)
    numbers = measured.metrics()
    expected = {
        "micro_f1": sk.f1_score(labels, said, average="micro"),
        "macro_f1": sk.f1_score(labels, said, average="macro"),
        "mean_average_precision": sk.average_precision_score(labels, probabilities),
        "hamming_loss": sk.hamming_loss(labels, said),
        "subset_accuracy": sk.accuracy_score(labels, said),
        "loss": np.mean([sk.log_loss(labels[:, k], probabilities[:, k]) for k in range(3)]),
        "examples": 400,
    }
    for of in (sk.f1_score, sk.precision_score, sk.recall_score):
        values = of(labels, said, average=None)
        expected |= {
            f"{of.__name__.removesuffix('_score')}/{n}": v for n, v in zip(NAMES, values, strict=True)
        }
    for name, value in expected.items():
        assert numbers[f"test/{name}"] == pytest.approx(value, abs=1e-5), name
    assert numbers["test/micro_f1_low"] < numbers["test/micro_f1"] < numbers["test/micro_f1_high"]
    assert numbers["test/thresholds/loop"] == 0.2
    assert measured.agreement(probabilities) == 1


def test_the_interval_holds_for_other_examples():
    """Of 40 samples of one kind, the interval of the first holds what most of the others score."""
    low, high = evaluation(*drawn(400, seed=100)).interval
    scores = [evaluation(*drawn(400, seed=seed)).score for seed in range(40)]
    assert low < np.mean(scores) < high
    assert 0.01 < high - low < 0.1


def test_thresholds_are_the_best_of_all():
    labels, probabilities = drawn()
    chosen, left = best_thresholds(labels, probabilities)
    assert not left.any()
    for place, threshold in enumerate(chosen):
        ours = sk.f1_score(labels[:, place], probabilities[:, place] >= threshold)
        others = [
            sk.f1_score(labels[:, place], probabilities[:, place] >= one)
            for one in np.linspace(0.01, 0.99, 99)
        ]
        assert ours >= max(others) - 1e-9
    assert chosen[1] < 0.5 < chosen[2]  # one was too low, the other too high
    validation = evaluation(labels, probabilities)
    task, note = Labels().tuned(validation)
    assert task.judge(validation).score > validation.score
    assert "loop 0." in note


def test_a_rare_label_keeps_one_half_and_a_sure_one_stays_between():
    labels, probabilities = drawn(rare=True)
    chosen, left = best_thresholds(labels, probabilities)
    assert left.tolist() == [False, False, True]
    assert chosen[2] == 0.5
    assert "0.5 for prime" in Labels().tuned(evaluation(labels, probabilities))[1]
    perfect = best_thresholds(labels[:, :1], np.where(labels[:, :1], 0.9, 0.2).astype(np.float32))[0]
    assert perfect[0] == pytest.approx(0.55)  # halfway between the highest no and the lowest yes


def test_what_is_most_wrong():
    measured = evaluation(
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]], [[0.9, 0.1, 0.97], [0.1, 0.9, 0.1], [0.4, 0.1, 0.3]]
    )
    assert measured.worst(9).tolist() == [0, 2]
    assert measured.mistake(0) == "prime: no, predicted yes (0.97)"
    assert measured.mistake(2) == "prime: yes, predicted no (0.30)"
    assert measured.shown_class(np.array([0, 2])).tolist() == [2, 2]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"probabilities": [[2.0, 0.1, 0.1]]}, "logits"),
        ({"labels": [[0, 1, 2]]}, "neither 0 nor 1"),
        ({"labels": [1]}, "are needed"),
        ({"thresholds": [0.5]}, "thresholds"),
        ({"thresholds": [0.5, 0.0, 0.5]}, "thresholds"),
    ],
)
def test_what_is_no_evaluation_of_labels(changes, why):
    whole = {"labels": [[0, 1, 1]], "probabilities": [[0.1, 0.9, 0.9]], **changes}
    with pytest.raises(CheckError, match=why):
        evaluation(whole.pop("labels"), whole.pop("probabilities"), **whole)


def test_it_is_kept_and_read_back(tmp_path):
    measured = evaluation(*drawn(), thresholds=[0.5, 0.2, 0.8])
    save(tmp_path / "evaluation.npz", measured)
    again, _ = load(tmp_path / "evaluation.npz")
    assert type(again) is LabelsEvaluation
    assert again.metrics() == measured.metrics()
    np.savez(tmp_path / "odd.npz", evaluation=np.array("dreams"))
    with pytest.raises(RunError, match=r"odd\.npz"):
        load(tmp_path / "odd.npz")


def test_the_gain_is_paired():
    """Two models that fail together are told apart by less than two alone."""
    labels, probabilities = drawn(300)
    better = probabilities.copy()
    better[:20] = labels[:20]
    one, other = evaluation(labels, better), evaluation(labels, probabilities)
    low, high = one.gain_interval(other)
    assert 0 < low <= one.score - other.score <= high
    assert high - low < one.interval[1] - one.interval[0]


def test_labels_are_read_and_written_as_one_text():
    labels = Labels(thresholds=(0.5, 0.2, 0.8))
    assert labels.read("loop|even", NAMES, split_labels) == [1, 1, 0]
    assert labels.read('["prime"]', NAMES, split_labels) == [0, 0, 1]
    assert labels.read("", NAMES, split_labels) == [0, 0, 0]
    assert labels.read(None, NAMES, split_labels) is None
    assert labels.read("even|odd", NAMES, split_labels) is None
    probabilities = np.array([[0.6, 0.3, 0.7], [0.1, 0.1, 0.1]], np.float32)
    assert labels.answers(probabilities, NAMES)["label"].tolist() == ["even|loop", ""]
    assert labels.close(probabilities, 0.11).tolist() == [True, True]
    assert labels.close(probabilities, 0.05).tolist() == [False, False]
    assert labels.strata(np.array([[1, 1, 0], [1, 0, 0], [1, 0, 1], [0, 0, 0], [0, 0, 1]]), 3).tolist() == [
        1,
        0,
        2,
        3,
        2,
    ]
    assert CLASSES.read("loop", NAMES, split_labels) == 1
    assert CLASSES.read("loop|even", NAMES, split_labels) is None
    written = ("3.5", "3,5", "-.5", "50%", "1e3", "1,250.5", "nan", "inf", "many", "", None)
    value = task_of({"name": "value"})
    numbers = [value.read(text, ["price"], split_labels) for text in written]
    assert numbers == [3.5, 3.5, -0.5, 50, 1000, *[None] * 6]


def test_the_task_of_a_run(tmp_path):
    run = Run.create(tmp_path / "run", config={})
    assert run.task == CLASSES
    run.labels = ["even", "prime"]
    chosen = Labels(thresholds=(0.25, 0.5))
    (run.path / "task.json").write_text('{"name": "labels", "thresholds": [0.25, 0.5]}')
    assert run.task == chosen == task_of(chosen.describe())
    for odd in ('{"name": "dreams"}', '{"name": "labels", "width": 3}', '{"thresholds": ["a"]}', "[]",
                '{"name": "labels", "thresholds": [0.5]}'):  # fmt: skip
        (run.path / "task.json").write_text(odd)
        with pytest.raises(RunError, match=r"task\.json"):
            _ = run.task
    with pytest.raises(DataError, match="dreams"):
        task_of({"name": "dreams"})


def test_a_refusal_names_the_task_and_the_way_out():
    with pytest.raises(ConfigError, match="classes, not for labels: take another"):
        refuse(Labels(), "classes", what="This", why="take another.")
    refuse(CLASSES, "classes", what="This", why="")
    assert dataclasses.replace(Labels(), thresholds=(0.1,)).tunes

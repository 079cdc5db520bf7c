"""Numbers are checked against scikit-learn's own and against counting by hand, on a real classifier of the digits."""

import json

import numpy as np
import pytest
from sklearn import metrics

from tests.reporting.finished_runs import classified
from tfkit.data import load_images
from tfkit.errors import CheckError, RunError
from tfkit.metrics import Evaluation, largest_difference
from tfkit.reporting.examples import Examples, load, save


@pytest.fixture(scope="module")
def digits() -> Evaluation:
    return classified(tuple("0123456789"), smoothing=0.1)[0]


def _in_doubles(evaluation: Evaluation) -> np.ndarray:
    doubles = evaluation.probabilities.astype(np.float64)
    return doubles / doubles.sum(axis=1, keepdims=True)


def tiny(**changes) -> Evaluation:
    fields = {
        "labels": np.array([0, 0, 2]),
        "probabilities": np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.2, 0.1, 0.7]]),
        "names": ["a", "b", "c"],
        "class_names": ["cat", "absent", "dog"],
    }
    return Evaluation(**{**fields, **changes})


def test_numbers_are_scikit_learns(digits):
    labels, predicted = digits.labels, digits.probabilities.argmax(axis=1)
    assert 0.8 < digits.accuracy < 0.99
    assert digits.accuracy == metrics.accuracy_score(labels, predicted)
    assert digits.loss == pytest.approx(metrics.log_loss(labels, _in_doubles(digits)), rel=1e-5)
    assert digits.metrics()["test/top_5_accuracy"] == metrics.top_k_accuracy_score(
        labels, digits.probabilities, k=5
    )
    assert digits.recall == pytest.approx(metrics.recall_score(labels, predicted, average=None))
    assert digits.precision == pytest.approx(metrics.precision_score(labels, predicted, average=None))
    areas = [
        metrics.average_precision_score(labels == one, digits.probabilities[:, one]) for one in range(10)
    ]
    assert digits.average_precision == pytest.approx(areas)
    assert digits.confusion.sum() == len(labels)
    assert digits.confusion.dtype == np.int64


def test_metrics_are_plain_json_and_complete(digits):
    numbers = digits.metrics("test")
    assert json.loads(json.dumps(numbers, allow_nan=False)) == numbers
    assert numbers["test/examples"] == len(digits.labels)
    shares = [f"test/{of}/{digit}" for of in ("recall", "precision") for digit in range(10)]
    assert [name for name in numbers if name.count("/") == 2] == shares
    assert numbers["test/recall/8"] == np.mean(digits.predicted[digits.labels == 8] == 8)
    assert numbers["test/precision/8"] == np.mean(digits.labels[digits.predicted == 8] == 8)
    assert numbers["test/macro_f1"] == pytest.approx(
        metrics.f1_score(digits.labels, digits.predicted, average="macro")
    )


def test_a_class_without_examples_has_no_recall():
    evaluation = tiny()
    assert np.isnan(evaluation.recall[1])
    assert np.isnan(evaluation.precision[1])
    assert np.isnan(evaluation.average_precision[1])
    numbers = evaluation.metrics("validation")
    assert "validation/recall/absent" not in numbers
    assert numbers["validation/recall/cat"] == 0.5


def test_worst_are_the_surest_mistakes(digits):
    worst = digits.worst(12)
    sureness = digits.probabilities.max(axis=1)
    assert (digits.predicted[worst] != digits.labels[worst]).all()
    assert (np.diff(sureness[worst]) <= 0).all()
    others = np.setdiff1d(np.flatnonzero(digits.predicted != digits.labels), worst)
    assert sureness[others].max() <= sureness[worst].min()
    assert tiny().worst(9).tolist() == [1]
    assert tiny().mistake(1) == "cat, predicted dog (0.60)"


def test_no_mistakes_at_all():
    evaluation = tiny(labels=np.array([0, 2, 2]))
    assert evaluation.worst(5).tolist() == []
    assert tiny(probabilities=np.array([[0.0, 1.0, 0.0]] * 3)).loss == pytest.approx(15.94, rel=1e-3)
    low, high = evaluation.interval
    assert high == 1.0
    assert 0.3 < low < 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.array([0, 0, 3])}, r"outside 0\.\.2 in 1 of 3 examples, first in 'c': label 3"),
        ({"labels": np.array([-1, 0, 1])}, r"outside 0\.\.2"),
        ({"labels": np.array([0.0, 0.0, 1.0])}, "integer labels"),
        ({"labels": np.array([], int), "names": [], "probabilities": np.zeros((0, 3))}, r"int64 \[0\]"),
        ({"probabilities": np.eye(2)}, r"probabilities \[n, 3\].*\[2, 2\]"),
        ({"names": ["a"]}, "and 1"),
        ({"probabilities": np.array([[2.0, -1.0, 0.0]] * 3)}, "negative"),
        ({"probabilities": np.array([[2.0, 3.0, 1.0]] * 3)}, r"do not sum to one \(logits\?\)"),
        ({"probabilities": np.array([[np.nan, 0.5, 0.5]] * 3)}, "not finite in 3 of 3"),
    ],
)
def test_what_is_no_evaluation_is_refused(changes, message):
    with pytest.raises(CheckError, match=message):
        tiny(**changes)


def test_saved_and_loaded_without_pickles(digits, tmp_path):
    path = tmp_path / "evaluation.npz"
    names = ["tab\there", "ü 中", "\udcff broken utf-8", *digits.names[3:]]
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    before = Evaluation(
        labels=digits.labels, probabilities=digits.probabilities, names=names, class_names=digits.class_names
    )
    pictures = Examples(
        worst=before.worst(3), worst_inputs=images, samples=images, sample_labels=before.labels[:3]
    )
    save(path, before, pictures)
    after, loaded = load(path)
    assert after.names == tuple(names)
    assert after.class_names == digits.class_names
    assert after.metrics() == before.metrics()
    assert loaded is not None
    for name, array in vars(pictures).items():
        assert np.array_equal(getattr(loaded, name), array)
        assert getattr(loaded, name).dtype == array.dtype


def test_no_flipped_bit_changes_an_evaluation_without_a_word(tmp_path):
    path = tmp_path / "evaluation.npz"
    save(path, tiny())
    whole, refused = path.read_bytes(), 0
    expected, _ = load(path)
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            found, _ = load(path)
        except RunError:
            refused += 1
            continue
        np.testing.assert_array_equal(found.probabilities, expected.probabilities)
        np.testing.assert_array_equal(found.labels, expected.labels)
        assert (found.names, found.class_names) == (expected.names, expected.class_names)
    assert refused > len(whole) / 2


def test_pictures_are_the_images_of_those_examples():
    splits = load_images("digits", image_size=16)
    test = splits.indices["test"]
    truth = splits.source.labels[test]
    wrong = np.random.default_rng(0).dirichlet(np.ones(10), len(test))
    evaluation = Evaluation(
        labels=truth,
        probabilities=wrong,
        names=[splits.source.names[index] for index in test],
        class_names=splits.class_names,
    )
    pictures = Examples.of(evaluation, splits, worst=5, samples=7)
    worst = evaluation.worst(5)
    assert pictures.worst.tolist() == worst.tolist()
    assert np.array_equal(pictures.worst_inputs, splits.source.read(test[worst]))
    assert np.array_equal(pictures.samples[[0, -1]], splits.source.read(test[[0, -1]]))
    assert (len(pictures.samples), pictures.sample_labels[[0, -1]].tolist()) == (7, truth[[0, -1]].tolist())


def test_outputs_are_compared_in_the_unit_that_they_have():
    """Seven digits of a price are as good as those of a probability."""
    prices = np.float32([[300_000.0, 2_000.0], [10.0, 1.0]])
    assert largest_difference(prices * np.float32(1 + 1e-6), prices) < 3e-6
    assert largest_difference(np.float32([[0.2, 0.8]]), np.float32([[0.3, 0.7]])) == pytest.approx(0.1)
    assert largest_difference(np.float32([[np.nan]]), np.float32([[0.3]])) > 1  # within no tolerance


def test_what_is_as_probable_agrees():
    """A model that has hardly learned is as sure of many classes: rounding decides which it names."""
    measured = Evaluation(
        labels=np.array([0, 1]),
        probabilities=np.array([[0.501, 0.499], [0.7, 0.3]]),
        names=["a", "b"],
        class_names=("x", "y"),
    )
    assert measured.agreement(np.array([[0.499, 0.501], [0.7, 0.3]])) == 1
    assert measured.agreement(np.array([[0.499, 0.501], [0.3, 0.7]])) == 0.5

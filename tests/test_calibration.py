"""Temperature and sets: a known temperature is found, coverage is what was asked for, too few are refused."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from tfkit import calibration, run_files
from tfkit.calibration import (
    COVERAGES,
    FEWEST,
    calibrate,
    conformal_scores,
    expected_calibration_error,
    fit_temperature,
    prediction_sets,
    with_temperature,
)
from tfkit.environment import files
from tfkit.errors import CheckError, DataError, UsageError
from tfkit.metrics import Evaluation
from tfkit.regression import examples_needed
from tfkit.run import CALIBRATION, SHAPES, Run


def drawn(count, *, seed=0, classes=5):
    """Logits, and labels that occur with the very probabilities that these say."""
    random = np.random.default_rng(seed)
    logits = 3 * random.normal(size=(count, classes))
    return logits, (logits + random.gumbel(size=logits.shape)).argmax(axis=1)


def evaluation(count, *, seed=0, sureness=2.0):
    logits, labels = drawn(count, seed=seed)
    names = [str(place) for place in range(count)]
    return Evaluation(
        labels=labels, probabilities=softmax(sureness * logits, axis=1), names=names, class_names="abcde"
    )


@pytest.mark.parametrize("true", [0.5, 1.0, 2.5])
def test_a_known_temperature_is_found(true):
    logits, labels = drawn(4000)
    found = fit_temperature(true * logits, labels)
    assert found == pytest.approx(true, rel=0.08)
    assert fit_temperature(log_softmax(true * logits, axis=1), labels) == pytest.approx(found, rel=1e-3)
    before = softmax(true * logits, axis=1).astype(np.float32)
    after = with_temperature(before, found)
    assert expected_calibration_error(after, labels) < 0.03
    assert true == 1 or expected_calibration_error(before, labels) > 0.06
    np.testing.assert_array_equal(after.argmax(axis=1), before.argmax(axis=1))
    np.testing.assert_allclose(with_temperature(after, 1 / found), before, atol=1e-5)


@pytest.mark.parametrize(("mistakes", "is_fitted"), [(0, False), (4, False), (5, True)])
def test_few_mistakes_tell_no_temperature(mistakes, is_fitted):
    """Surer would seem better without end where all are right."""
    logits, _ = drawn(200)
    labels = logits.argmax(axis=1)
    labels[:mistakes] = (labels[:mistakes] + 1) % 5
    assert (fit_temperature(logits, labels) != 1.0) == is_fitted


def test_zero_probabilities_have_a_temperature_too():
    certain = np.eye(3, dtype=np.float32)
    after = with_temperature(certain, 20.0)
    assert np.isfinite(after).all()
    assert after.argmax(axis=1).tolist() == [0, 1, 2]
    with pytest.raises(UsageError, match="above 0"):
        with_temperature(certain, 0.0)


def test_the_error_is_the_distance_from_the_diagonal():
    """Of four that are 0.9 sure two are right; of four that are 0.6 sure three are."""
    probabilities = np.array([[0.9, 0.1]] * 4 + [[0.6, 0.4]] * 4)
    labels = np.array([0, 0, 1, 1, 0, 0, 0, 1])
    assert expected_calibration_error(probabilities, labels) == pytest.approx((0.4 + 0.15) / 2)
    found = calibration.reliability(probabilities, labels, bins=10)
    assert found.examples.tolist() == [0, 0, 0, 0, 0, 4, 0, 0, 4, 0]
    np.testing.assert_allclose(found.accuracy[[5, 8]], [0.75, 0.5])


@pytest.mark.parametrize("coverage", [0.7, 0.9, 0.95])
def test_coverage_is_what_was_asked_for(coverage):
    """However wrong the probabilities are; on average between the coverage and 1 / (m + 1) more."""
    few, found = 60, []
    for seed in range(200):
        measured = evaluation(few + 200, seed=seed, sureness=0.3)
        scores = conformal_scores(measured.probabilities[:few], measured.labels[:few])
        sets = prediction_sets(measured.probabilities[few:], scores, coverage)
        found.append(sets[np.arange(200), measured.labels[few:]].mean())
    error = np.std(found) / np.sqrt(len(found))
    assert coverage - 3 * error < np.mean(found) < coverage + 1 / (few + 1) + 3 * error


@pytest.mark.parametrize(("coverage", "needed"), [(0.5, 1), (0.9, 9), (0.95, 19), (0.99, 99), (0.999, 999)])
def test_too_few_scores_are_refused_with_how_many_are_needed(coverage, needed):
    scores, given = np.linspace(0, 1, needed), np.full((2, 4), 0.25, np.float32)
    assert examples_needed(coverage) == needed
    assert prediction_sets(given, scores, coverage).shape == (2, 4)
    with pytest.raises(DataError, match=f"scores of {needed} examples; there are {needed - 1}"):
        prediction_sets(given, scores[1:], coverage)


@pytest.mark.parametrize("coverage", [0.0, 1.0, 95.0, float("nan")])
def test_what_is_no_coverage_is_refused(coverage):
    with pytest.raises(UsageError, match="such as"):
        prediction_sets(np.full((1, 2), 0.5), np.zeros(100), coverage)


def test_a_set_of_none_and_sets_of_several():
    measured = evaluation(2000, sureness=1.0)
    scores = conformal_scores(measured.probabilities, measured.labels)
    unlike = np.full((1, 5), 0.2, np.float32)
    assert not prediction_sets(unlike, scores, 0.7).any(), "none of these"
    assert prediction_sets(unlike, scores, 0.99).all(), "it cannot tell"
    sets = prediction_sets(measured.probabilities, scores, 0.9)
    sizes = sets.sum(axis=1)
    assert sizes.max() > 1
    some = sizes > 0
    assert sets[np.arange(2000), measured.predicted][some].all(), "the most probable class is in each"


def test_the_test_split_is_measured_at_the_temperature_of_one_half_and_the_scores_of_the_other():
    validation, test = evaluation(400), evaluation(1000, seed=1)
    after, content = calibrate(validation, test, seed=3)
    assert run_files.fault_of(content, SHAPES[CALIBRATION]) is None
    assert content["examples"] == {"temperature": 200, "scores": 200, "test": 1000}
    assert content["temperature"] == pytest.approx(2, rel=0.3)
    assert content["ece"] < content["ece_before"]
    assert content["nll"] == after.loss < content["nll_before"] == test.loss
    np.testing.assert_array_equal(after.predicted, test.predicted)
    for asked, of in content["coverage"].items():
        sets = prediction_sets(after.probabilities, content["scores"], float(asked))
        assert of["measured"] == sets[np.arange(1000), test.labels].mean()
        assert of["interval"][0] < of["measured"] < of["interval"][1]
    assert content == calibrate(validation, test, seed=3)[1]
    assert content["scores"] != calibrate(validation, test, seed=4)[1]["scores"]
    # Those that give scores have no part in the temperature: other scores, the same temperature.
    scores = np.sort(
        conformal_scores(
            with_temperature(validation.probabilities, content["temperature"]), validation.labels
        )
    )
    assert np.isin(content["scores"], scores).all()
    metrics = calibration.numbers(content)
    assert metrics["calibration/coverage_95"] == content["coverage"]["0.95"]["measured"]
    assert all(np.isfinite(value) for value in metrics.values())


def test_few_examples_give_scores_and_no_temperature():
    _, content = calibrate(evaluation(FEWEST), evaluation(100, seed=1))
    assert content["temperature"] == 1.0
    assert content["ece"] == content["ece_before"]
    assert content["examples"] == {"temperature": 0, "scores": FEWEST, "test": 100}
    assert [float(asked) for asked in content["coverage"]] == list(COVERAGES[:2])


def test_a_temperature_that_changes_a_class_is_noticed(monkeypatch):
    monkeypatch.setattr(calibration, "with_temperature", lambda given, temperature: given[:, ::-1].copy())
    with pytest.raises(CheckError, match="most probable"):
        calibrate(evaluation(200), evaluation(200, seed=1))


@pytest.mark.parametrize("temperature", [0.0, -2.0, 1e9])
def test_a_strangers_temperature_is_damage(tmp_path, temperature):
    run = Run.create(tmp_path / "run", config={})
    assert calibration.temperature_of(run) == 1.0
    _, content = calibrate(evaluation(200), evaluation(200, seed=1))
    files.write_json(run.path / CALIBRATION, {**content, "temperature": temperature})
    with pytest.raises(UsageError, match="is damaged"):
        calibration.temperature_of(run)

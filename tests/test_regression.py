"""What numbers are worth: errors, likelihoods and intervals, against scikit-learn and by simulation."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression

import tfkit
from tfkit.environment.stack import tfp
from tfkit.errors import CheckError, DataError, UsageError
from tfkit.metrics import OrderEvaluation
from tfkit.regression import ValueEvaluation, conformal_quantile, fit_likelihood, negative_log_likelihood
from tfkit.tasks import Order, Value, task_of

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def diabetes():
    """A linear model of how far a disease has come, on patients whom it has not seen."""
    data = load_diabetes()
    model = LinearRegression().fit(data.data[:150], data.target[:150])
    means = model.predict(data.data[150:])
    return data.target[150:], np.stack([means, np.full(len(means), 50.0)], axis=1)


def evaluation(labels, outputs, **about):
    names = [f"test/{n}" for n in range(len(labels))]
    return ValueEvaluation(labels=labels, probabilities=outputs, names=names, class_names=["value"], **about)


def test_errors_are_those_of_scikit_learn(diabetes):
    labels, outputs = diabetes
    labels = labels + 0.25
    found = evaluation(labels, outputs, centre=150.0).metrics()
    mean = outputs[:, 0].astype(np.float32)
    assert found["test/r2"] == pytest.approx(sk.r2_score(labels, mean))
    assert found["test/mae"] == pytest.approx(sk.mean_absolute_error(labels, mean))
    assert found["test/rmse"] == pytest.approx(sk.root_mean_squared_error(labels, mean))
    assert found["test/nll"] == pytest.approx(-stats.norm(mean, 50).logpdf(labels).mean(), rel=1e-5)
    assert found["test/mae_of_mean"] == pytest.approx(np.abs(labels - 150).mean())
    assert found["test/r2_low"] < found["test/r2"] < found["test/r2_high"] < found["test/r2_low"] + 0.3
    held = np.abs(labels - mean) <= 1.6449 * 50
    assert found["test/coverage_90"] == held.mean()
    assert found["test/mean_width_90"] == pytest.approx(2 * 1.6449 * 50)
    assert found["test/coverage_90_low"] < held.mean() < found["test/coverage_90_high"]


def test_the_gain_is_of_the_same_samples(diabetes):
    labels, outputs = diabetes
    better, worse = evaluation(labels, outputs), evaluation(labels, np.add(outputs, [20.0, 0.0]))
    low, high = better.gain_interval(worse)
    assert low < better.score - worse.score < high
    assert high - low < np.ptp(better.interval)
    assert better.gain_interval(better) == (0, 0)


def test_split_conformal_intervals_hold(diabetes):
    """Whatever the scale says: of 292 patients, halved 30 times, 90 % are held, to what chance allows."""
    labels, outputs = diabetes
    wrong = outputs * [1.0, 0.02]  # far too sure
    held = []
    for seed in range(30):
        order = np.random.default_rng(seed).permutation(len(labels))
        validation, test = order[:200], order[200:]
        task, note = Value().tuned(evaluation(labels[validation], wrong[validation]))
        found = task.judge(evaluation(labels[test], wrong[test])).metrics()
        held.append([found["test/coverage_90"], found["test/coverage_95"]])
    assert np.mean(held, axis=0) == pytest.approx([0.9, 0.95], abs=0.025)
    assert "100 validation examples give the intervals" in note
    assert task == task_of(task.describe()), "task.json has all of it"
    columns = task.at(0.5).answers(wrong[test], ["value"])
    inside = (columns["low"] <= labels[test]) & (labels[test] <= columns["high"])
    assert 0.3 < inside.mean() < 0.7
    with pytest.raises(DataError, match="needs the scores of 999 examples; there are 100"):
        task.at(0.999)
    with pytest.raises(UsageError, match="above 0 and below 1"):
        task.at(1.5)


@pytest.mark.parametrize(("draws", "degrees"), [(stats.norm, math.inf), (stats.t(3), 3.0)])
def test_the_distribution_is_the_likeliest(draws, degrees):
    noise = draws.rvs(size=2000, random_state=1)
    scales = RNG.uniform(1, 3, 2000)
    outputs = np.stack([np.zeros(2000), scales], axis=1)
    found, factor = fit_likelihood(2 * scales * noise, outputs)
    assert found == degrees
    assert factor == pytest.approx(2, abs=0.15)
    kinds = tfp.distributions
    normal = math.isinf(degrees)
    drawn_from = kinds.Normal(0, 2 * scales) if normal else kinds.StudentT(degrees, 0, 2 * scales)
    exact = -np.mean(drawn_from.log_prob(2 * scales * noise))
    assert negative_log_likelihood(2 * scales * noise, outputs, degrees, 2.0) == pytest.approx(exact)


def test_too_few_examples_leave_the_likelihood():
    few = evaluation(np.arange(10.0), np.stack([np.arange(10.0), np.ones(10) * 2], axis=1))
    task, note = Value().tuned(few)
    assert task == Value()
    assert "too few" in note
    assert task.reach(0.9, few.probabilities) == pytest.approx(1.6449, abs=1e-3)
    of_one_number = np.stack([np.arange(10.0), np.ones(10)], axis=1)
    assert math.isnan(task.reach(0.9, of_one_number)), "of whose error nothing is known"
    assert (
        "test/coverage_90"
        not in Value()
        .evaluation(of_one_number, labels=np.arange(10.0) + 1, names=range(10), class_names=["v"])
        .metrics()
    )
    assert conformal_quantile(range(1, 20), 0.95) == 19


@pytest.mark.parametrize("outputs", [[[1.0, 0.0]], [[np.nan, 1.0]], [[1.0]], [[1.0, -1.0]]])
def test_what_is_no_number_with_a_scale_is_refused(outputs):
    with pytest.raises(CheckError, match=r"scale|means and scales"):
        evaluation([1.0], outputs)


def test_steps_between_classes_count():
    labels = np.array([0, 1, 2, 2, 1, 0])
    near, far = (np.eye(3)[guess] for guess in ([0, 1, 1, 2, 1, 0], [0, 1, 0, 2, 1, 0]))
    about = {"labels": labels, "names": range(6), "class_names": ["low", "mid", "high"]}
    near, far = (OrderEvaluation(probabilities=of, **about).metrics() for of in (near, far))
    assert near["test/accuracy"] == far["test/accuracy"]
    assert (near["test/mae_steps"], far["test/mae_steps"]) == (1 / 6, 2 / 6)
    assert near["test/quadratic_weighted_kappa"] > far["test/quadratic_weighted_kappa"]
    assert Order().units(3) == 2
    # Of a grade that no example here has, and no answer is, there is a step all the same.
    labels, guess = np.array([0, 0, 1, 1, 3, 3, 4, 4]), [0, 1, 1, 3, 3, 1, 4, 4]
    about = {"labels": labels, "names": range(8), "class_names": "abcde"}
    found = OrderEvaluation(probabilities=np.eye(5)[guess], **about).metrics()
    spread = labels.var() + np.var(guess) + (labels.mean() - np.mean(guess)) ** 2
    lins = 1 - np.mean((labels - guess) ** 2) / spread  # concordance, which it is equal to
    assert found["test/quadratic_weighted_kappa"] == pytest.approx(lins)


def test_a_model_of_one_number_is_judged_in_the_unit_of_its_labels(diabetes):
    """Whether prices are in euros or in thousands: only their unit is another."""
    (labels, outputs), unit = diabetes, 1e5
    assert fit_likelihood(unit * labels, unit * outputs[:, :1] * [1.0, 0.0] + [0.0, 1.0])[1] == pytest.approx(
        unit * fit_likelihood(labels, outputs[:, :1] * [1.0, 0.0] + [0.0, 1.0])[1], rel=0.01
    )
    priced = np.stack([unit * outputs[:, 0], np.ones(len(labels))], axis=1)
    task, _ = Value().tuned(evaluation(unit * labels[:200], priced[:200]))
    found = task.judge(evaluation(unit * labels[200:], priced[200:])).metrics()
    spread = float(np.std(unit * labels[200:] - priced[200:, 0]))
    assert found["test/nll"] == pytest.approx(stats.norm(0, spread).entropy(), abs=0.1)
    small = priced * [1e-10, 1]
    task, _ = Value().tuned(evaluation(1e-5 * labels[:200], small[:200]))
    there = task.judge(evaluation(1e-5 * labels[200:], small[200:]))
    assert there.agreement(there.probabilities) == 1
    assert there.agreement(there.probabilities - [2e-4, 0]) == 0, "which is far, of numbers around 1e-3"
    # Of too few to fit a distribution to, the intervals are known, and no likelihood.
    task, _ = Value().tuned(evaluation(unit * labels[:60], priced[:60]))
    found = task.judge(evaluation(unit * labels[200:], priced[200:])).metrics()
    assert "test/coverage_90" in found
    assert "test/nll" not in found
    # A row that cannot be read tells nothing of the others' errors.
    low = Value().answers(np.array([[3.0, 1.0], [np.nan, np.nan]]), ["price"])["low"]
    assert np.isnan(low).all()


def test_few_numbers_have_an_interval():
    """A sample of four may be four times the same: R2 is not defined then, which says nothing of the others."""
    four = evaluation(np.arange(4.0), np.stack([[0.1, 0.9, 2.2, 3.0], np.ones(4)], axis=1))
    low, high = four.interval
    assert low <= four.score <= high <= 1


def test_heads():
    """Zeros give what is known beforehand; classes in an order have probabilities, whatever the numbers."""
    from tfkit.environment.stack import keras, tf
    from tfkit.heads import ClassesInOrder, MeanAndScale, NormalLikelihood

    raw = tf.constant(RNG.normal(0, 4, (64, 3)), tf.float32)
    rows = ClassesInOrder()(raw).numpy()
    assert rows.shape == (64, 4)
    assert (rows >= 0).all()
    assert np.allclose(rows.sum(axis=1), 1, atol=1e-5)
    assert np.allclose(ClassesInOrder()(tf.zeros([1, 3])), 0.25, atol=1e-6)
    above = np.cumsum(ClassesInOrder()(tf.add(raw, [1.0, 0.0, 0.0])).numpy(), axis=1)
    assert (above <= np.cumsum(rows, axis=1) + 1e-6).all(), "the first number shifts all classes up"
    head = MeanAndScale(centre=40.0, spread=10.0)
    assert np.allclose(head(tf.zeros([2, 2])), [[40, 10.01]] * 2)
    assert (head(raw[:, :2]).numpy()[:, 1] > 0).all()
    assert keras.layers.deserialize(keras.layers.serialize(head), {"MeanAndScale": MeanAndScale}).spread == 10
    labels, outputs = tf.constant([1.0, 9.0]), tf.constant([[2.0, 1.0], [2.0, 3.0]])
    exact = -stats.norm([2, 2], [1, 3]).logpdf([1, 9])
    assert np.allclose(NormalLikelihood().call(labels, outputs), exact)
    clipped = -stats.norm([2, 2], [1, 3]).logpdf([1, 4])
    assert np.allclose(NormalLikelihood(bounds=(0.0, 4.0)).call(labels[:, None], outputs), clipped)


@pytest.mark.parametrize("steps", [1, 3])
def test_classes_in_an_order_have_an_int8_file(steps):
    """Its operations are all of int8: one in float would make it no int8 model, and every such run is without."""
    from tfkit.environment.stack import keras
    from tfkit.heads import ClassesInOrder
    from tfkit.litert import ParallelInterpreter

    rows = RNG.normal(0, 2, (200, 8)).astype(np.float32)
    inputs = keras.Input((8,))
    model = keras.Model(inputs, ClassesInOrder()(keras.layers.Dense(steps)(inputs)))
    content = tfkit.convert(model, variant="int8", representative_dataset=rows)
    with ParallelInterpreter(bytes(content)) as interpreter:
        answers = interpreter(rows)
    assert (answers.argmax(1) == model.predict(rows, verbose=0).argmax(1)).mean() > 0.95

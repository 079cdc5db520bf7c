"""A plan holds together, and its epsilon is that of dp-accounting, TF Privacy and closed forms."""

import itertools
import math
import re

import dp_accounting as dp
import numpy as np
import pytest
from scipy import integrate, stats

from tfkit import privacy
from tfkit.environment.stack import tf_privacy
from tfkit.errors import ConfigError, PrivacyError
from tfkit.privacy import DPSGD, calibrate, compute_epsilon

DIGITS = {"examples": 1258, "expected_batch_size": 256, "epochs": 10}
TUTORIAL = {"noise_multiplier": 1.1, "sampling_probability": 256 / 60000, "delta": 1e-5}
SMALL = {"sampling_probability": 256 / 1258, "steps": 300, "delta": 1e-5}


def reference(accountant, *, noise_multiplier, sampling_probability, steps, delta):
    step = dp.PoissonSampledDpEvent(sampling_probability, dp.GaussianDpEvent(noise_multiplier))
    return accountant.compose(dp.SelfComposedDpEvent(step, steps)).get_epsilon(delta)


@pytest.mark.parametrize("accountant", ["PLD", "RDP"])
def test_both_samplers_are_accounted_as_by_tf_privacy(accountant):
    library = tf_privacy("analysis.compute_dp_sgd_privacy_lib")
    kind = library.AccountantType[accountant]
    said = library.compute_dp_sgd_privacy_statement(
        60000, 256, 15, 1.1, 1e-5, used_microbatching=False, accountant_type=kind
    )
    once_an_epoch, poisson = (float(value) for value in re.findall(r": +(\d+\.\d+)$", said, re.MULTILINE))
    settings = {**TUTORIAL, "accountant": accountant.lower()}
    assert compute_epsilon(**settings, steps=math.ceil(15 * 60000 / 256)) == pytest.approx(poisson, abs=1e-3)
    shuffled = compute_epsilon(**settings, steps=15 * math.ceil(60000 / 256), sampler="shuffled")
    assert shuffled == pytest.approx(once_an_epoch, rel=1e-3)
    assert shuffled > 20


@pytest.mark.parametrize(("noise", "probability"), [(1.0, 0.1), (3.0, 0.5), (0.6, 0.01)])
def test_one_step_is_the_hockey_stick_of_its_two_outputs(noise, probability):
    """No accountant: delta by integrating where the output with the example is too likely beside that without."""
    settings = {"noise_multiplier": noise, "sampling_probability": probability, "delta": 1e-5}
    spent = compute_epsilon(**settings, steps=1)

    def delta(at):
        without = stats.norm(0, noise).pdf

        def mixed(x):
            return (1 - probability) * without(x) + probability * without(x - 1)

        grid = np.linspace(-12 * noise, 12 * noise + 1, 200_001)
        directions = [(mixed(grid), without(grid)), (without(grid), mixed(grid))]
        return max(integrate.simpson(np.maximum(p - math.exp(at) * q, 0), x=grid) for p, q in directions)

    assert delta(spent) <= 1e-5 * (1 + 1e-6)
    assert delta(0.98 * spent) > 1e-5


@pytest.mark.parametrize(("noise", "steps"), [(70.0, 100), (5.0, 100), (1.0, 1), (5.0, 1000)])
def test_full_batches_are_one_gaussian_mechanism(noise, steps):
    """Balle and Wang 2018 (arXiv:1805.06530), theorem 8."""
    spent = compute_epsilon(noise_multiplier=noise, sampling_probability=1, steps=steps, delta=1e-5)
    shift = math.sqrt(steps) / noise

    def delta(at):
        tails = stats.norm.cdf([shift / 2 - at / shift, -shift / 2 - at / shift])
        return tails[0] - math.exp(at) * tails[1]

    assert delta(spent) <= 1e-5 * (1 + 1e-3)
    assert delta(0.995 * spent) > 1e-5


@pytest.mark.parametrize("noise", [7.8, 0.73, 0.52])
def test_wider_bins_for_a_larger_epsilon_cost_little_and_never_flatter(noise):
    settings = {"noise_multiplier": noise, "sampling_probability": 256 / 60000, "steps": 500, "delta": 1e-5}
    fine = reference(dp.pld.PLDAccountant(), **settings)
    assert compute_epsilon(**settings) >= fine * (1 - 1e-2)
    assert compute_epsilon(**settings) <= fine * (1 + 5e-3)


@pytest.mark.parametrize(("batch", "epochs"), [(32, 12), (900, 40), (1000, 40)])
def test_the_epsilon_of_each_epoch_in_the_bins_of_all_never_flatters(batch, epochs):
    """Bins that are wider than an epoch's own round up; those of the last epoch are the statement's."""
    plan = DPSGD(target_epsilon=3, delta=1e-5).plan(examples=1000, expected_batch_size=batch, epochs=epochs)
    steps = [plan.steps_per_epoch * epoch for epoch in (1, 2, epochs // 2, epochs)]
    exact = np.array([plan.epsilon(number) for number in steps])
    shown = np.array([plan.epsilon(number, interval=plan.interval) for number in steps])
    assert (shown >= exact * (1 - 1e-9)).all()
    np.testing.assert_allclose(shown, exact, rtol=1e-3)
    assert shown[-1] == exact[-1] <= 3


def test_more_noise_fewer_steps_rarer_samples_and_a_larger_delta_spend_less():
    base = {**SMALL, "noise_multiplier": 3.0}
    changes = {
        "noise_multiplier": (8.0, 3.0, 2.0, 1.0),
        "steps": (0, 1, 2, 50, 51, 300),
        "sampling_probability": (0.01, 0.2, 0.5, 1.0),
        "delta": (1e-3, 1e-5, 1e-7, 1e-10),
    }
    for accountant, (name, values) in itertools.product(("pld", "rdp"), changes.items()):
        spent = [compute_epsilon(**{**base, name: value}, accountant=accountant) for value in values]
        assert all(less < more for less, more in itertools.pairwise(spent)), (accountant, name, spent)


def test_a_shuffled_epoch_is_spent_when_it_begins_however_the_batches_divide():
    def spent(steps, probability, sampler="shuffled"):
        settings = {"noise_multiplier": 2.0, "delta": 1e-5, "sampling_probability": probability}
        return compute_epsilon(**settings, steps=steps, sampler=sampler)

    one, three = (spent(epochs, 1, "poisson") for epochs in (1, 3))
    for batch, examples in ((1, 49), (2, 98), (1, 107), (256, 1258), (10, 100), (7, 7)):
        an_epoch, share = -(-examples // batch), batch / examples
        assert spent(1, share) == spent(an_epoch, share) == one
        assert spent(2 * an_epoch + 1, share) == spent(3 * an_epoch, share) == three


def test_no_noise_is_no_privacy_and_next_to_none_next_to_nothing():
    assert compute_epsilon(**SMALL, noise_multiplier=0) == math.inf
    assert compute_epsilon(**{**SMALL, "steps": 0}, noise_multiplier=0) == 0
    for noise, accountant in itertools.product((0.1, 0.01, 1e-4), ("pld", "rdp")):
        assert compute_epsilon(**SMALL, noise_multiplier=noise, accountant=accountant) > 1000


@pytest.mark.parametrize(
    "setting",
    [
        SMALL,
        {**SMALL, "accountant": "rdp"},
        {**SMALL, "sampler": "shuffled"},
        {"sampling_probability": 1, "steps": 100, "delta": 1e-5},
        {"sampling_probability": 4096 / 1e6, "steps": 5000, "delta": 1e-7},
    ],
    ids=["small", "rdp", "shuffled", "full", "large"],
)
def test_calibrated_noise_spends_the_target_and_never_more(setting):
    for target in (0.05, 0.5, 1.0, 3.0, 8.0):
        noise = calibrate(target_epsilon=target, **setting)
        assert 0.995 * target < compute_epsilon(noise_multiplier=noise, **setting) <= target


def test_targets_out_of_reach_say_what_would_be_within():
    with pytest.raises(PrivacyError, match="larger target_epsilon"):
        calibrate(target_epsilon=1e-3, sampling_probability=1, steps=100_000, delta=1e-5)
    with pytest.raises(PrivacyError, match="smaller target_epsilon"):
        calibrate(target_epsilon=1e7, sampling_probability=0.01, steps=10, delta=1e-5)
    for target, steps in ((0.0, 10), (math.inf, 10), (3.0, 0)):
        with pytest.raises(ConfigError, match="above 0"):
            calibrate(target_epsilon=target, sampling_probability=0.1, steps=steps, delta=1e-5)


def test_what_is_out_of_range_is_told_at_once():
    with pytest.raises(ConfigError) as caught:
        compute_epsilon(
            noise_multiplier=-1, sampling_probability=1.5, steps=-2, delta=1e-15, sampler="sorted", accountant="mine"
        )  # fmt: skip
    named = ("noise_multiplier", "sampling_probability", "steps", "delta", "'sorted'", "'mine'")
    assert all(word in str(caught.value) for word in named)


def test_a_plan_spends_its_target_over_its_epochs_and_not_more():
    plan = DPSGD(target_epsilon=3, delta=1e-5).plan(**DIGITS)
    assert plan.steps_per_epoch == 5
    assert plan.steps == 50
    assert plan.sampling_probability == 256 / 1258
    spent = [plan.epsilon(epoch * plan.steps_per_epoch) for epoch in range(plan.epochs + 1)]
    assert spent[0] == 0
    assert all(before < after for before, after in itertools.pairwise(spent))
    assert 2.98 < spent[-1] <= 3
    assert plan.epsilon(plan.steps, accountant="rdp") > spent[-1]


def test_delta_is_far_below_one_over_the_examples_unless_it_is_given():
    def delta(examples):
        return DPSGD(noise_multiplier=1).plan(examples=examples, expected_batch_size=1, epochs=1).delta

    assert delta(100) == delta(10_000) == 1e-5
    assert delta(1_000_000) == pytest.approx(1e-7)


@pytest.mark.parametrize("noise", [0.5, 1.1, 12.0, 25.0, 200.0])
def test_an_adaptive_clipping_norm_is_paid_for(noise):
    """The gradients (sensitivity 1) and the count (sensitivity 1/2) are one Gaussian mechanism of `noise`."""
    asked = DPSGD(noise_multiplier=noise, adaptive_clip_quantile=0.5)
    plan = asked.plan(examples=1258, expected_batch_size=256, epochs=1)
    of_gradients, of_count = 1 / plan.gradient_noise_multiplier, 0.5 / plan.count_noise
    assert math.hypot(of_gradients, of_count) == pytest.approx(1 / noise)
    assert plan.noise_multiplier == noise < plan.gradient_noise_multiplier < 1.16 * noise
    assert plan.count_noise == max(256 / 20, noise)


def test_no_noise_only_when_it_is_said_and_then_no_epsilon():
    plan = DPSGD(noise_multiplier=0, adaptive_clip_quantile=0.5).plan(**DIGITS)
    assert plan.gradient_noise_multiplier == plan.count_noise == 0
    assert plan.epsilon(1) == math.inf
    for both in ({}, {"target_epsilon": 3, "noise_multiplier": 1}):
        with pytest.raises(ConfigError, match="target_epsilon or noise_multiplier"):
            DPSGD(**both)


def test_all_that_is_wrong_is_told_at_once():
    wrong = {
        "target_epsilon": -3, "noise_multiplier": math.nan, "l2_norm_clip": 0, "sampler": "sorted", "delta": 2,
        "accountant": "moments", "microbatch_size": 0, "adaptive_clip_quantile": 50,
    }  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        DPSGD(**wrong)
    assert all(f"{name} is {value!r}" in str(caught.value) for name, value in wrong.items())
    for delta in (1 / 1258, 0.5, 1e-30):  # it protects nobody, or cannot be had
        with pytest.raises(PrivacyError, match=rf"delta is {delta:g}.*1/n = 0.00079.*--delta 1e-05"):
            DPSGD(target_epsilon=3, delta=delta).plan(**DIGITS)
    for batch, examples, epochs in ((1024, 1000, 1), (10, 1000, 0), (256, 0, 1)):
        with pytest.raises(ConfigError, match=f"split has {examples} examples.*global_batch_size") as caught:
            DPSGD(target_epsilon=3, delta=1e-5).plan(
                examples=examples, expected_batch_size=batch, epochs=epochs
            )


def test_the_noise_on_the_sum_has_the_multiplier_and_the_mean_is_of_unit_vectors():
    rows = np.random.default_rng(0).normal(1.0, 1.0, [500, 4000]) * np.arange(1, 501)[:, None]
    exact = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).mean(0)
    noise = 500 * (privacy.noisy_mean(rows, noise_multiplier=3.0, seed=1) - exact)
    assert noise.std() == pytest.approx(3.0, rel=0.03)
    np.testing.assert_allclose(privacy.noisy_mean(rows, noise_multiplier=0.0), exact, rtol=1e-5)
    again = [privacy.noisy_mean(rows, noise_multiplier=3.0) for _ in range(2)]
    assert np.abs(again[0] - again[1]).max() > 0


def test_a_row_that_is_no_number_is_not_seen_in_the_mean():
    rows = np.random.default_rng(0).normal(size=(20, 5))
    without = privacy.noisy_mean(np.concatenate([rows[:19], np.zeros([1, 5])]), noise_multiplier=0.0)
    for wrong in (np.nan, np.inf, -np.inf):
        rows[19, 2] = wrong
        np.testing.assert_allclose(privacy.noisy_mean(rows, noise_multiplier=0.0), without, rtol=1e-6)


def test_one_example_moves_the_sum_by_at_most_one():
    rows = np.random.default_rng(0).normal(size=[20, 8]) * 1000
    whole = 20 * privacy.noisy_mean(rows, noise_multiplier=0.0)
    without = 19 * privacy.noisy_mean(rows[1:], noise_multiplier=0.0)
    assert np.linalg.norm(whole - without) == pytest.approx(1.0, rel=1e-4)


def test_the_account_composes_it_with_the_steps():
    settings = {"noise_multiplier": 2.0, "sampling_probability": 0.2, "steps": 50, "delta": 1e-5}
    steps = dp.SelfComposedDpEvent(dp.PoissonSampledDpEvent(0.2, dp.GaussianDpEvent(2.0)), 50)
    event = dp.ComposedDpEvent([steps, dp.GaussianDpEvent(3.0)])
    both = dp.pld.PLDAccountant().compose(event).get_epsilon(1e-5)
    assert privacy.compute_epsilon(**settings, release_noise=3.0) == pytest.approx(both, rel=5e-3)
    assert privacy.compute_epsilon(**{**settings, "steps": 0}, release_noise=3.0) > 0
    assert privacy.compute_epsilon(**settings) < privacy.compute_epsilon(**settings, release_noise=3.0)


def test_a_plan_stays_below_its_target_and_a_share_is_that_share():
    alone = privacy.calibrate(target_epsilon=3, delta=1e-5, sampling_probability=1.0, steps=1)
    noise = privacy.noise_for_share(alone, 0.2)
    plan = privacy.DPSGD(target_epsilon=3, delta=1e-5, release_noise=noise).plan(
        examples=1000, expected_batch_size=1000, epochs=80
    )
    assert 2.98 < plan.epsilon(plan.steps) <= 3
    # What Gaussian mechanisms spend adds up in 1 / noise^2.
    assert plan.noise_multiplier**-2 * 80 + noise**-2 == pytest.approx(alone**-2, rel=5e-3)


@pytest.mark.parametrize("size", [2, 5])
def test_one_step_of_a_group_is_the_hockey_stick_of_a_binomial_number_of_examples(size):
    """No accountant: delta by integrating, where each of the examples of a person is in the step by chance."""
    noise, probability = 1.5, 0.3
    settings = {"noise_multiplier": noise, "sampling_probability": probability, "delta": 1e-3}
    spent = compute_epsilon(**settings, steps=1, examples_per_group=size)
    grid = np.linspace(-12 * noise, 12 * noise + size, 200_001)
    without = stats.norm(0, noise).pdf(grid)
    chances = stats.binom.pmf(range(size + 1), size, probability)
    mixed = sum(chance * stats.norm(count, noise).pdf(grid) for count, chance in enumerate(chances))

    def delta(at):
        directions = [(mixed, without), (without, mixed)]
        return max(integrate.simpson(np.maximum(p - math.exp(at) * q, 0), x=grid) for p, q in directions)

    assert delta(spent) <= 1e-3 * (1 + 1e-6)
    assert delta(0.98 * spent) > 1e-3


def test_a_group_moves_what_all_examples_enter_by_so_many_times_as_much():
    whole = {"sampling_probability": 1.0, "steps": 100, "delta": 1e-5}
    one = compute_epsilon(noise_multiplier=10, release_noise=25.0, **whole)
    settings = {"noise_multiplier": 40, "release_noise": 100.0, "examples_per_group": 4}
    assert compute_epsilon(**settings, **whole) == one
    sampled = compute_epsilon(**settings, **{**whole, "sampling_probability": 1 - 1e-9})
    assert sampled == pytest.approx(one, rel=1e-3)
    epoch = {"sampling_probability": 0.1, "steps": 10, "delta": 1e-5, "sampler": "shuffled"}
    alone = compute_epsilon(noise_multiplier=10, **epoch)
    assert compute_epsilon(noise_multiplier=40, examples_per_group=4, **epoch) == alone
    assert compute_epsilon(noise_multiplier=10, examples_per_group=1, **epoch) == alone


def test_the_noise_of_a_group_reaches_its_target():
    plan = DPSGD(target_epsilon=3, examples_per_group=3, release_noise=60).plan(**DIGITS)
    assert 0.99 * 3 < plan.epsilon(plan.steps) <= 3
    assert plan.epsilon(plan.steps) == compute_epsilon(
        noise_multiplier=plan.noise_multiplier, sampling_probability=plan.sampling_probability, steps=plan.steps,
        delta=plan.delta, release_noise=60, examples_per_group=3,
    )  # fmt: skip
    one = DPSGD(target_epsilon=3, release_noise=20).plan(**DIGITS)
    assert 2 * one.noise_multiplier < plan.noise_multiplier <= 3 * one.noise_multiplier


@pytest.mark.parametrize("settings", [{"accountant": "rdp"}, {"expected_trials": 5}])
def test_a_bound_that_nobody_knows_for_groups_is_refused(settings):
    with pytest.raises(ConfigError, match="examples_per_group"):
        DPSGD(target_epsilon=3, examples_per_group=2, **settings)
    assert DPSGD(target_epsilon=3, examples_per_group=1, **settings)

"""Epsilon against dp-accounting, TF Privacy and closed forms; noise that is calibrated never exceeds the target."""

import itertools
import math
import re

import dp_accounting as dp
import numpy as np
import pytest
from scipy import integrate, stats

from tfkit.environment.stack import tf_privacy
from tfkit.errors import ConfigError, PrivacyError
from tfkit.privacy import calibrate, compute_epsilon

TUTORIAL = {"noise_multiplier": 1.1, "sampling_probability": 256 / 60000, "delta": 1e-5}
SMALL = {"sampling_probability": 256 / 1258, "steps": 300, "delta": 1e-5}


def reference(accountant, *, noise_multiplier, sampling_probability, steps, delta):
    step = dp.PoissonSampledDpEvent(sampling_probability, dp.GaussianDpEvent(noise_multiplier))
    return accountant.compose(dp.SelfComposedDpEvent(step, steps)).get_epsilon(delta)


def test_the_tutorial_case():
    steps = 15 * round(60000 / 256)
    assert compute_epsilon(**TUTORIAL, steps=steps) == pytest.approx(1.13, abs=0.005)
    assert compute_epsilon(**TUTORIAL, steps=steps, accountant="rdp") == pytest.approx(1.28, abs=0.005)
    assert compute_epsilon(**TUTORIAL, steps=steps, accountant="pld") == reference(
        dp.pld.PLDAccountant(), **TUTORIAL, steps=steps
    )
    assert compute_epsilon(**TUTORIAL, steps=steps, accountant="rdp") == reference(
        dp.rdp.RdpAccountant(), **TUTORIAL, steps=steps
    )


@pytest.mark.parametrize("accountant", ["PLD", "RDP"])
def test_both_samplers_are_accounted_as_by_tf_privacy(accountant):
    library = tf_privacy("analysis.compute_dp_sgd_privacy_lib")
    said = library.compute_dp_sgd_privacy_statement(
        60000,
        256,
        15,
        1.1,
        1e-5,
        used_microbatching=False,
        accountant_type=library.AccountantType[accountant],
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
    def spent(steps, *, batch, examples):
        return compute_epsilon(
            noise_multiplier=2.0,
            sampling_probability=batch / examples,
            steps=steps,
            delta=1e-5,
            sampler="shuffled",
        )

    one = compute_epsilon(noise_multiplier=2.0, sampling_probability=1, steps=1, delta=1e-5)
    three = compute_epsilon(noise_multiplier=2.0, sampling_probability=1, steps=3, delta=1e-5)
    for batch, examples in ((1, 49), (2, 98), (1, 107), (256, 1258), (10, 100), (7, 7)):
        an_epoch = -(-examples // batch)
        assert spent(1, batch=batch, examples=examples) == one
        assert spent(an_epoch, batch=batch, examples=examples) == one
        assert spent(2 * an_epoch + 1, batch=batch, examples=examples) == three
        assert spent(3 * an_epoch, batch=batch, examples=examples) == three


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


def test_privacy_loss_distributions_need_less_noise_than_renyi():
    setting = {"target_epsilon": 3.0, **SMALL}
    assert 0.85 < calibrate(**setting) / calibrate(**setting, accountant="rdp") < 0.97


def test_targets_out_of_reach_say_what_would_be_within():
    with pytest.raises(PrivacyError, match="larger target_epsilon, or fewer epochs"):
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

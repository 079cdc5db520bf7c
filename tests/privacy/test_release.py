"""A release of the mean: its noise is what is accounted, and the account holds it."""

import numpy as np
import pytest
from dp_accounting import pld
from dp_accounting.dp_event import (
    ComposedDpEvent,
    GaussianDpEvent,
    PoissonSampledDpEvent,
    SelfComposedDpEvent,
)

from tfkit import privacy


def test_the_noise_on_the_sum_has_the_multiplier_and_the_mean_is_of_unit_vectors():
    rows = np.random.default_rng(0).normal(1.0, 1.0, [500, 4000]) * np.arange(1, 501)[:, None]
    exact = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).mean(0)
    noise = 500 * (privacy.noisy_mean(rows, noise_multiplier=3.0, seed=1) - exact)
    assert noise.std() == pytest.approx(3.0, rel=0.03)
    np.testing.assert_allclose(privacy.noisy_mean(rows, noise_multiplier=0.0), exact, rtol=1e-5)
    again = [privacy.noisy_mean(rows, noise_multiplier=3.0) for _ in range(2)]
    assert np.abs(again[0] - again[1]).max() > 0


def test_one_example_moves_the_sum_by_at_most_one():
    rows = np.random.default_rng(0).normal(size=[20, 8]) * 1000
    whole = 20 * privacy.noisy_mean(rows, noise_multiplier=0.0)
    without = 19 * privacy.noisy_mean(rows[1:], noise_multiplier=0.0)
    assert np.linalg.norm(whole - without) == pytest.approx(1.0, rel=1e-4)


def test_the_account_composes_it_with_the_steps():
    settings = {"noise_multiplier": 2.0, "sampling_probability": 0.2, "steps": 50, "delta": 1e-5}
    steps = SelfComposedDpEvent(PoissonSampledDpEvent(0.2, GaussianDpEvent(2.0)), 50)
    both = pld.PLDAccountant().compose(ComposedDpEvent([steps, GaussianDpEvent(3.0)])).get_epsilon(1e-5)
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

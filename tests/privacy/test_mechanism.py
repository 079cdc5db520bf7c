"""The plan that follows from what a user asks: its numbers hold together, and what cannot be is told at once."""

import itertools
import math

import pytest

from tfkit.errors import ConfigError, PrivacyError
from tfkit.privacy import DPSGD

DIGITS = {"examples": 1258, "expected_batch_size": 256, "epochs": 10}


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


def test_the_tutorial_plan():
    plan = DPSGD(noise_multiplier=1.1, delta=1e-5).plan(examples=60000, expected_batch_size=256, epochs=15)
    assert plan.noise_multiplier == plan.gradient_noise_multiplier == 1.1
    assert plan.epsilon(plan.steps) == pytest.approx(1.13, abs=0.005)
    assert plan.epsilon(plan.steps, accountant="rdp") == pytest.approx(1.28, abs=0.005)


def test_shuffled_epochs_have_every_example_and_a_fraction_of_the_privacy():
    asked = {"noise_multiplier": 1.1, "delta": 1e-5}
    plan = DPSGD(**asked, sampler="shuffled").plan(examples=60000, expected_batch_size=256, epochs=15)
    assert plan.steps_per_epoch == 235
    assert plan.epsilon(plan.steps, accountant="rdp") == pytest.approx(21.9, abs=0.05)
    assert plan.epsilon(plan.steps) > 20


def test_the_whole_data_as_a_batch():
    plan = DPSGD(target_epsilon=1).plan(examples=300, expected_batch_size=300, epochs=4)
    assert plan.sampling_probability == 1
    assert plan.steps == 4
    assert 0.995 < plan.epsilon(4) <= 1


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


@pytest.mark.parametrize("batch", [1, 8, 30, 64, 256, 1000, 4096, 65536])
def test_microbatches_waste_little_and_fit_in_memory(batch):
    plan = DPSGD(noise_multiplier=1).plan(examples=100_000, expected_batch_size=batch, epochs=1)
    assert 1 <= plan.microbatch_size <= 256
    assert plan.microbatch_size <= max(8, batch + 7)
    if batch >= 128:
        assert plan.microbatch_size / 2 <= 0.13 * batch  # padding of the last one, on average
    assert DPSGD(noise_multiplier=1, microbatch_size=3).plan(**DIGITS).microbatch_size == 3


def test_no_noise_only_when_it_is_said_and_then_no_epsilon():
    plan = DPSGD(noise_multiplier=0, adaptive_clip_quantile=0.5).plan(**DIGITS)
    assert plan.gradient_noise_multiplier == plan.count_noise == 0
    assert plan.epsilon(1) == math.inf
    for both in ({}, {"target_epsilon": 3, "noise_multiplier": 1}):
        with pytest.raises(ConfigError, match="target_epsilon or noise_multiplier"):
            DPSGD(**both)


def test_all_that_is_wrong_is_told_at_once():
    with pytest.raises(ConfigError) as caught:
        DPSGD(
            target_epsilon=-3,
            noise_multiplier=math.nan,
            l2_norm_clip=0,
            sampler="sorted",
            accountant="moments",
            microbatch_size=0,
            adaptive_clip_quantile=50,
            delta=2,
        )
    said = str(caught.value)
    for word in (
        "target_epsilon is -3", "noise_multiplier is nan", "l2_norm_clip", "'sorted'", "'moments'", "microbatch_size",
        "adaptive_clip_quantile", "delta is 2",
    ):  # fmt: skip
        assert word in said
    assert len(said.splitlines()) == 9
    with pytest.raises(PrivacyError) as caught:
        DPSGD(target_epsilon=3, delta=0.01).plan(examples=1000, expected_batch_size=1024, epochs=0)
    said = str(caught.value)
    for word in (
        "delta is 0.01", "1/n = 0.001", "--delta 1e-05", "global_batch_size of at most 1000", "epochs is 0",
    ):  # fmt: skip
        assert word in said
    assert len(said.splitlines()) == 4


@pytest.mark.parametrize("delta", [1 / 1258, 0.5, 1e-30])
def test_a_delta_that_protects_nobody_or_cannot_be_had(delta):
    with pytest.raises(PrivacyError, match="--delta 1e-05"):
        DPSGD(target_epsilon=3, delta=delta).plan(**DIGITS)


def test_settings_without_data_are_no_matter_of_privacy():
    with pytest.raises(ConfigError, match="training split has 0 examples"):
        DPSGD(target_epsilon=3, delta=1e-5).plan(examples=0, expected_batch_size=256, epochs=1)

"""A lower bound on epsilon that chance alone does not raise, and that a leak does."""

import numpy as np
import pytest

from tfkit.auditing import Attack, attack, lower_bound
from tfkit.auditing.attacks import refuted_epsilon


def by_rule(members, others, *, seed=0, name="rule"):
    return Attack.by_rule(name, members, others, seed=seed)


def probabilities(chance, count):
    said = np.exp(chance.normal(size=(count, 4)))
    return (said / said.sum(axis=1, keepdims=True)).astype(np.float32), chance.integers(0, 4, count)


def test_pure_noise_gives_a_bound_in_at_most_one_audit_of_twenty():
    """Of the best of three attackers, as an audit reports it."""
    chance = np.random.default_rng(0)
    found = [
        lower_bound(
            [
                by_rule(chance.normal(size=150), chance.normal(size=150), seed=run, name=str(n))
                for n in range(3)
            ]
        ).epsilon
        for run in range(500)
    ]
    assert np.mean(np.array(found) > 0) <= 0.06


def test_attackers_that_learn_find_nothing_in_noise_either():
    chance = np.random.default_rng(0)
    found = []
    for run in range(20):
        members, others = probabilities(chance, 60), probabilities(chance, 60)
        found.append(
            lower_bound(attack(("threshold", "knn"), members=members, others=others, seed=run)).epsilon
        )
    assert np.mean(np.array(found) > 0) <= 0.1


def test_a_known_epsilon_is_approached_and_exceeded_in_at_most_one_audit_of_twenty():
    """Randomized response with epsilon 2: the true bit with probability e^2 / (1 + e^2)."""
    chance = np.random.default_rng(1)
    honest = np.exp(2) / (1 + np.exp(2))
    bounds = []
    for seed in range(200):
        members = (chance.random(4000) < honest).astype(float)
        others = (chance.random(4000) > honest).astype(float)
        bounds.append(lower_bound([by_rule(members, others, seed=seed)]).epsilon)
    assert 1.9 < np.mean(bounds) < 2.0
    assert np.mean(np.array(bounds) > 2.0) <= 0.07


@pytest.mark.parametrize("sign", [1, -1])
def test_either_side_can_give_it_away(sign):
    """A few members (or a few others) that stand out are enough."""
    chance = np.random.default_rng(2)
    members, others = chance.normal(size=1000), chance.normal(size=1000)
    (members if sign > 0 else others)[:150] += 20 * sign
    found = lower_bound([by_rule(members, others)])
    assert found.epsilon > 2
    assert found.right >= found.guesses - 1
    assert lower_bound([by_rule(members, others)], delta=1e-4).epsilon < found.epsilon


def test_a_guarantee_that_fails_with_probability_delta_is_not_refuted_by_that():
    """Ten of a thousand members are given away, as delta = 0.01 permits; without it, they show an epsilon."""
    assert refuted_epsilon(10, 10, examples=1000, delta=0.0) > 1
    assert refuted_epsilon(10, 10, examples=1000, delta=0.01) == 0


def test_all_right_is_a_bound_and_no_guess_is_none():
    """20 right guesses of 20: at the bound they have a probability of 5 %."""
    epsilon = refuted_epsilon(20, 20, examples=40, delta=0.0)
    assert (1 / (1 + np.exp(-epsilon))) ** 20 == pytest.approx(0.05, rel=1e-3)
    assert refuted_epsilon(0, 0, examples=40, delta=0.0) == 0

"""A lower bound on epsilon that chance alone does not raise, and that a leak does."""

import numpy as np
import pytest

from tfkit.audit import lower_bound


def test_pure_noise_gives_a_bound_in_at_most_one_run_of_twenty():
    chance = np.random.default_rng(0)
    found = [
        lower_bound(
            {f"attack{n}": (chance.normal(size=300), chance.normal(size=300)) for n in range(3)}, seed=run
        ).epsilon
        for run in range(100)
    ]
    assert np.mean(np.array(found) > 0) <= 0.08


def test_a_known_epsilon_is_approached_and_not_exceeded():
    """Randomized response with epsilon 2: the true bit with probability e^2 / (1 + e^2)."""
    chance = np.random.default_rng(1)
    honest = np.exp(2) / (1 + np.exp(2))
    bounds = []
    for seed in range(20):
        members = (chance.random(4000) < honest).astype(float)
        others = (chance.random(4000) > honest).astype(float)
        bounds.append(lower_bound({"response": (members, others)}, seed=seed).epsilon)
    assert 1.6 < np.mean(bounds) < 2.0
    assert np.mean(np.array(bounds) > 2.0) <= 0.1


@pytest.mark.parametrize("sign", [1, -1])
def test_either_side_can_give_it_away(sign):
    """A few members (or a few others) that stand out are enough."""
    chance = np.random.default_rng(2)
    members, others = chance.normal(size=1000), chance.normal(size=1000)
    (members if sign > 0 else others)[:150] += 20 * sign
    found = lower_bound({"tail": (members, others)})
    assert found.epsilon > 1.5
    assert found.guess == ("member" if sign > 0 else "other")
    assert lower_bound({"tail": (members, others)}, delta=0.2).epsilon < found.epsilon

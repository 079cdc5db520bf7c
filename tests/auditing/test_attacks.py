"""Attackers find what gives membership away and no more; chance does not raise the bound on epsilon, a leak does."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from tfkit.auditing import ATTACKS, Attack, attack, lower_bound
from tfkit.auditing.attacks import lira, refuted_epsilon
from tfkit.errors import ConfigError


def said_of(chance, count, *, sure):
    """Probabilities of 4 classes, the larger at the label the surer the model is, and the labels."""
    labels = chance.integers(0, 4, count)
    logits = chance.normal(size=(count, 4))
    logits[np.arange(count), labels] += sure
    said = np.exp(logits)
    return (said / said.sum(axis=1, keepdims=True)).astype(np.float32), labels


@pytest.mark.parametrize("name", [name for name in ATTACKS if name not in ("mlp", "forest")])
def test_a_model_that_is_surer_of_its_members_gives_them_away(name):
    chance = np.random.default_rng(0)
    members, others = said_of(chance, 200, sure=4), said_of(chance, 200, sure=1)
    (found,) = attack((name,), members=members, others=others)
    assert found.name == name
    assert 0.75 < found.auc < 1
    low, high = found.auc_interval
    assert low < found.auc < high
    assert found.advantage > 0.4


@pytest.mark.parametrize("name", ["threshold", "entropy", "knn"])
def test_nothing_is_found_where_members_are_like_others(name):
    chance = np.random.default_rng(1)
    members, others = said_of(chance, 400, sure=2), said_of(chance, 400, sure=2)
    (found,) = attack((name,), members=members, others=others)
    low, high = found.auc_interval
    assert low <= 0.5 <= high


def test_an_attacker_that_learns_is_judged_on_what_it_has_not_learnt_from():
    chance = np.random.default_rng(2)
    members, others = said_of(chance, 100, sure=1), said_of(chance, 80, sure=1)
    by_rule, learned = attack(("threshold", "knn"), members=members, others=others)
    assert [*map(len, by_rule.judged)] == [100, 80]
    assert [*map(len, learned.judged)] == [50, 40]
    for one in (by_rule, learned):
        halves = one.of(one.choosing), one.of(~one.choosing)
        assert [len(scores) for half in halves for scores in half] == [50, 40, 50, 40]
    again = attack(("knn",), members=members, others=others)[0]
    assert np.array_equal(again.judged[0], learned.judged[0])


def test_the_global_random_generator_is_left_as_it_was():
    chance = np.random.default_rng(3)
    before = np.random.get_state()[1].copy()
    attack(("knn",), members=said_of(chance, 40, sure=1), others=said_of(chance, 40, sure=1))
    assert np.array_equal(before, np.random.get_state()[1])


@pytest.mark.parametrize("names", [("magic",), ("threshold", "magic"), ()])
def test_attackers_that_there_are_not_are_named(names):
    said = said_of(np.random.default_rng(0), 20, sure=1)
    with pytest.raises(ConfigError, match="threshold, logistic"):
        attack(names, members=said, others=said)


def test_intervals_of_the_auc_hold_in_19_of_20_cases_and_at_the_ends():
    chance = np.random.default_rng(4)
    inside = 0
    for _ in range(400):
        # A member is one standard deviation above: the AUC is Phi(1 / sqrt(2)) = 0.760.
        one = Attack.by_rule("", chance.normal(1, 1, 40), chance.normal(0, 1, 40), seed=0)
        inside += one.auc_interval[0] <= 0.760 <= one.auc_interval[1]
    assert 0.92 <= inside / 400 <= 0.98
    perfect = Attack.by_rule("", np.ones(40), np.zeros(40), seed=0)
    assert perfect.auc_interval[1] == 1
    assert 0.85 < perfect.auc_interval[0] < 1


def test_members_found_at_few_false_alarms():
    one = Attack.by_rule("", np.arange(1000) + 500.0, np.arange(1000.0), seed=0)
    assert one.true_positives(false=0.01) == pytest.approx(0.51, abs=0.002)
    assert one.true_positives(false=0.5) == 1


def test_lira_finds_members_that_a_loss_alone_does_not_tell():
    """Examples of very different difficulty: what counts is how much surer the model is than others would be."""
    chance = np.random.default_rng(5)
    pool, dimensions = 240, 60
    features = chance.normal(size=(pool, dimensions)) * chance.uniform(0.2, 3, size=(pool, 1))
    labels = chance.integers(0, 2, pool)

    def train(places):
        model = LogisticRegression(C=1.0, max_iter=500).fit(features[places], labels[places])
        return model.predict_proba(features)

    is_member = np.arange(pool) < pool // 2
    target = train(np.flatnonzero(is_member))
    members, others = ((target[which], labels[which]) for which in (is_member, ~is_member))
    (by_loss,) = attack(("threshold",), members=members, others=others)
    found = lira(target, labels, is_member, shadow=train, shadows=16)
    assert found.auc > by_loss.auc + 0.02
    assert found.auc > 0.7


def test_pure_noise_gives_a_bound_in_at_most_one_audit_of_twenty():
    """Of the best of three attackers, as an audit reports it."""
    chance = np.random.default_rng(0)
    found = []
    for run in range(500):
        scores = chance.normal(size=(3, 2, 150))
        found.append(lower_bound([Attack.by_rule("", *pair, seed=run) for pair in scores]).epsilon)
    assert np.mean(np.array(found) > 0) <= 0.06


def test_attackers_that_learn_find_nothing_in_noise_either():
    chance = np.random.default_rng(0)
    found = []
    for run in range(20):
        members, others = said_of(chance, 60, sure=0), said_of(chance, 60, sure=0)
        attacks = attack(("threshold", "knn"), members=members, others=others, seed=run)
        found.append(lower_bound(attacks).epsilon)
    assert np.mean(np.array(found) > 0) <= 0.1


def test_more_members_than_others_are_refused_and_no_leak():
    """By their share alone most guesses that all are members are right: chance would refute an epsilon of 1."""
    chance = np.random.default_rng(0)
    unequal = Attack.by_rule("loss", chance.normal(size=900), chance.normal(size=200), seed=0)
    with pytest.raises(ConfigError, match="loss attacked 900 members and 200 others"):
        lower_bound([unequal])


def test_a_known_epsilon_is_approached_and_exceeded_in_at_most_one_audit_of_twenty():
    """Randomized response with epsilon 2: the true bit with probability e^2 / (1 + e^2)."""
    chance = np.random.default_rng(1)
    honest = np.exp(2) / (1 + np.exp(2))
    bounds = []
    for seed in range(200):
        members = (chance.random(4000) < honest).astype(float)
        others = (chance.random(4000) > honest).astype(float)
        bounds.append(lower_bound([Attack.by_rule("", members, others, seed=seed)]).epsilon)
    assert 1.9 < np.mean(bounds) < 2.0
    assert np.mean(np.array(bounds) > 2.0) <= 0.07


@pytest.mark.parametrize("sign", [1, -1])
def test_either_side_can_give_it_away(sign):
    """A few members (or a few others) that stand out are enough."""
    chance = np.random.default_rng(2)
    members, others = chance.normal(size=1000), chance.normal(size=1000)
    (members if sign > 0 else others)[:150] += 20 * sign
    attacks = [Attack.by_rule("", members, others, seed=0)]
    found = lower_bound(attacks)
    assert found.epsilon > 2
    assert found.right >= found.guesses - 1
    assert lower_bound(attacks, delta=1e-4).epsilon < found.epsilon


def test_a_guarantee_that_fails_with_probability_delta_is_not_refuted_by_that():
    """Ten of a thousand members are given away, as delta = 0.01 permits; without it, they show an epsilon."""
    assert refuted_epsilon(10, 10, examples=1000, delta=0.0) > 1
    assert refuted_epsilon(10, 10, examples=1000, delta=0.01) == 0


def test_all_right_is_a_bound_and_no_guess_is_none():
    """20 right guesses of 20: at the bound they have a probability of 5 %."""
    epsilon = refuted_epsilon(20, 20, examples=40, delta=0.0)
    assert (1 / (1 + np.exp(-epsilon))) ** 20 == pytest.approx(0.05, rel=1e-3)
    assert refuted_epsilon(0, 0, examples=40, delta=0.0) == 0

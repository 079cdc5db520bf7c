"""Membership inference: attackers on what a model says of examples, and the lower bound on epsilon they prove.

The attackers are those of TensorFlow's empirical privacy tests.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tfkit.environment import stack
from tfkit.environment.timeline import track
from tfkit.errors import ConfigError

Predictions = tuple[np.ndarray, np.ndarray]
"""A model's answers to examples: probabilities float32 [n, c], and their labels int64 [n]."""


Scores = tuple[np.ndarray, np.ndarray]
"""An attack's scores of training examples, float64 [n], and of others, float64 [m]; larger means a member."""


def halves(members: int, others: int, *, seed: int) -> np.ndarray:
    """Return which of the members, and of the others after them, belong to the choosing half, by lot: bool [n]."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.permutation(count) < count // 2 for count in (members, others)])


@dataclass(frozen=True, kw_only=True, eq=False)
class Attack:
    """One attacker's success.

    Attributes:
      name: of `tfkit.auditing.ATTACKS`, or "lira".
      scores: float64 [n], of members and others; larger means a member.
      is_member: bool [n].
      choosing: bool [n], the half from which the attacker may learn, and by which thresholds are chosen; nothing was
        known of the other half then.
      learned: whether it learnt from the choosing half who is a member: then only the other half judges it.
    """

    name: str
    scores: np.ndarray
    is_member: np.ndarray
    choosing: np.ndarray
    learned: bool = False

    @classmethod
    def by_rule(cls, name: str, members: np.ndarray, others: np.ndarray, *, seed: int) -> Attack:
        """Return an attacker that follows a rule and has learnt nothing about who is a member."""
        scores = [np.asarray(values, np.float64).ravel() for values in (members, others)]
        counts = [*map(len, scores)]
        return cls(
            name=name,
            scores=np.concatenate(scores),
            is_member=np.repeat([True, False], counts),
            choosing=halves(*counts, seed=seed),
        )

    def of(self, which: np.ndarray) -> Scores:
        """Return the scores of these members and of these others, bool [n]."""
        return self.scores[which & self.is_member], self.scores[which & ~self.is_member]

    @property
    def judged(self) -> Scores:
        """Return the scores by which the attacker is judged."""
        return self.of(~self.choosing if self.learned else np.ones_like(self.choosing))

    @property
    def auc(self) -> float:
        """Return the probability that a member's score is above another's; 0.5 is a coin."""
        from sklearn.metrics import roc_auc_score

        return float(roc_auc_score(*self._labels_and_scores))

    @property
    def auc_interval(self) -> tuple[float, float]:
        """Return the 95 % interval of the AUC: all values from which it is less than 1.96 standard deviations away.

        Source: Newcombe 2006 (doi:10.1002/sim.2324), with the variance of Hanley and McNeil 1982.
        """
        from scipy.optimize import brentq

        auc, (n_members, n_others) = self.auc, map(len, self.judged)

        def deviation(value: float) -> float:
            q1, q2 = value / (2 - value), 2 * value**2 / (1 + value)
            variance = value * (1 - value)
            variance += (n_members - 1) * (q1 - value**2) + (n_others - 1) * (q2 - value**2)
            return 1.96 * math.sqrt(max(variance, 0.0) / (n_members * n_others))

        inside = min(max(auc, 1e-6), 1 - 1e-6)  # at 0 and 1 the deviation is nothing, which ends no interval
        low = 0.0 if auc == 0 else brentq(lambda value: auc - value - deviation(value), 0, inside)
        high = 1.0 if auc == 1 else brentq(lambda value: value - auc - deviation(value), inside, 1)
        return float(low), float(high)

    @property
    def roc(self) -> tuple[np.ndarray, np.ndarray]:
        """Return false and true positive rates, both rising from 0 to 1."""
        from sklearn.metrics import roc_curve

        false, true, _ = roc_curve(*self._labels_and_scores, drop_intermediate=False)
        return false, true

    @property
    def advantage(self) -> float:
        """Return the largest difference of true and false positive rate."""
        false, true = self.roc
        return float((true - false).max())

    def true_positives(self, *, false: float) -> float:
        """Return the share of members found where this share of others is taken for members (Carlini et al. 2022)."""
        false_rates, true_rates = self.roc
        return float(true_rates[false_rates <= false].max())

    @property
    def _labels_and_scores(self) -> tuple[np.ndarray, np.ndarray]:
        return np.repeat([1, 0], [*map(len, self.judged)]), np.concatenate(self.judged)


CONFIDENCE = 0.95
LARGEST = 100.0
CANDIDATES = 40


class LowerBound(NamedTuple):
    """A bound from the examples that were not used to choose how to measure.

    Attributes:
      epsilon: no smaller epsilon can hold, with a confidence of 95 %; 0 where nothing was found.
      attack: the attacker that was chosen.
      guesses: of how many examples it said whether they are members.
      right: how often it was right.
      examples: of how many it could have said it: half of all.
    """

    epsilon: float
    attack: str
    guesses: int
    right: int
    examples: int


def lower_bound(attacks: Sequence[Attack], *, delta: float = 0.0) -> LowerBound:
    """Return the largest epsilon that the attackers refute.

    Who trusts an attacker's highest scores and takes them for members, and its lowest for others, is right no more
    often than by so many tosses of a coin that falls right with probability e^epsilon / (1 + e^epsilon), even though
    all examples went into one training and may have influenced each other (Steinke, Nasr and Jagielski 2023,
    "Privacy Auditing with One (1) Training Run", arXiv:2305.08846). Attacker and thresholds are chosen on one half of
    the examples and the guesses counted on the other: choosing and counting on the same ones would find epsilon in
    pure chance.

    Args:
      attacks: on the same examples, half of them members, with the same halves.
      delta: of the guarantee that is tested.

    Returns:
      The bound, at 95 % confidence; 0 where nothing is refuted.

    Raises:
      ConfigError: there are more members than others, or fewer: who calls all of them members is right too often then.
    """
    for target in attacks:
        if (members := int(target.is_member.sum())) != len(target.is_member) - members:
            raise ConfigError(
                f"{target.name} attacked {members} members and {len(target.is_member) - members} others; a lower bound"
                " takes as many of both.\n  Draw as many of the more numerous by lot before they are attacked."
            )
    best, (_, *thresholds) = max(
        ((attack, _choose(attack.of(attack.choosing))) for attack in attacks), key=lambda pair: pair[1][0]
    )
    scores = best.of(~best.choosing)
    guesses, hits = map(int, _count(scores, *thresholds))
    examples = sum(map(len, scores))
    epsilon = refuted_epsilon(hits, guesses, examples=examples, delta=delta)
    return LowerBound(epsilon=epsilon, attack=best.name, guesses=guesses, right=hits, examples=examples)


def refuted_epsilon(right: int, guesses: int, *, examples: int, delta: float) -> float:
    """Return the largest epsilon for which so many right guesses have a probability of at most 5 %.

    Args:
      right: guesses that are right.
      guesses: those made; the attacker kept silent about the other examples.
      examples: of which each was a member with probability 1/2.
      delta: of the guarantee.
    """
    from scipy.optimize import brentq

    def excess(epsilon: float) -> float:
        return _bound_probability(right, guesses, epsilon, examples, delta) - (1 - CONFIDENCE)

    if excess(0.0) > 0:
        return 0.0
    if excess(LARGEST) <= 0:
        return LARGEST
    # Below the root by more than the tolerance: a lower bound.
    return max(float(brentq(excess, 0.0, LARGEST, xtol=1e-7)) - 1e-6, 0.0)


def _bound_probability(right: int, guesses: int, epsilon: float, examples: int, delta: float) -> float:
    """Return the probability of being right so often or more, at most: theorem 5.2 of Steinke et al."""
    from scipy.stats import binom

    coin = 1 / (1 + math.exp(-epsilon))
    tail = float(binom.sf(right - 1, guesses, coin))
    if delta == 0 or right == 0:
        return tail
    # What one failure of the guarantee, of probability delta an example, can add: it makes i guesses right.
    terms = np.cumsum(binom.pmf(np.arange(right - 1, -1, -1), guesses, coin)) / np.arange(1, right + 1)
    return min(tail + 2 * examples * delta * float(terms.max()), 1.0)


def _choose(scores: Scores) -> tuple[float, float, float]:
    """Return the epsilon that looks best, and between which scores nothing is guessed to reach it."""
    from scipy.stats import beta

    ranked = np.sort(np.concatenate(scores))
    counts = np.unique(np.geomspace(1, len(ranked), CANDIDATES).astype(int))
    lows = np.append(ranked[counts - 1], -np.inf)
    highs = np.append(ranked[len(ranked) - counts], np.inf)
    low, high = (grid.ravel() for grid in np.meshgrid(lows, highs))
    is_ordered = low < high
    low, high = low[is_ordered], high[is_ordered]
    guesses, right = _count(scores, low, high)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = beta.ppf(1 - CONFIDENCE, right, guesses - right + 1)
        epsilon = np.where(right > 0, np.log(share / (1 - share)), -np.inf)
    best = int(epsilon.argmax())
    return float(epsilon[best]), float(low[best]), float(high[best])


def _count(scores: Scores, low: Any, high: Any) -> tuple[Any, Any]:
    """Return how many guesses there are, and how many are right, for pairs of thresholds."""
    members, others = (np.sort(values) for values in scores)
    tp, fp = (len(values) - np.searchsorted(values, high, side="left") for values in (members, others))
    fn, tn = (np.searchsorted(values, low, side="right") for values in (members, others))
    return tp + fp + fn + tn, tp + tn


ATTACKS = {
    "threshold": "THRESHOLD_ATTACK",
    "logistic": "LOGISTIC_REGRESSION",
    "entropy": "THRESHOLD_ENTROPY_ATTACK",
    "forest": "RANDOM_FOREST",
    "mlp": "MULTI_LAYERED_PERCEPTRON",
    "knn": "K_NEAREST_NEIGHBORS",
}
_FOLDER = "privacy_tests.membership_inference_attack"


def attack(
    names: tuple[str, ...], *, members: Predictions, others: Predictions, seed: int = 0
) -> list[Attack]:
    """Let attackers tell members from others by what the model says of them.

    `threshold` looks at the loss, `entropy` at the entropy given the label (Song and Mittal 2021, arXiv:2003.10595).
    The others learn from the probabilities and the loss of one half of the examples and are judged on the other half
    alone: the package's own cross-validation has each half judged by what was learnt from the other, and what chance
    does in one then repeats in the other, so that neither an interval nor a bound would hold.

    Args:
      names: of `ATTACKS`.
      members: probabilities float32 [n, c] and labels int64 [n] of training examples.
      others: the same of examples that training has not seen.
      seed: of the halves, and of attackers that learn.

    Returns:
      One `Attack` for each name, in their order.

    Raises:
      ConfigError: there is no such attacker.
    """
    if not names or set(names) - set(ATTACKS):
        raise ConfigError(f"--attacks {' '.join(names) or '(none)'}: there is: {', '.join(ATTACKS)}.")
    structures = stack.tf_privacy(f"{_FOLDER}.data_structures")

    def to_input(kind: str) -> Any:
        values = {f"{kind}_train": members[0], f"{kind}_test": others[0]}
        return structures.AttackInputData(**values, labels_train=members[1], labels_test=others[1])

    results = []
    for name in track(dict.fromkeys(names), "Attacking", unit="attacker"):
        kind = structures.AttackType[ATTACKS[name]]
        if kind.is_trained_attack:
            results.append(_train(name, kind, to_input("probs"), len(members[0]), len(others[0]), seed))
            continue
        # The package looks for entropies among the logits, and takes rows that add up to 1 for probabilities.
        form, quantity = ("probs", "loss") if name == "threshold" else ("logits", "entropy")
        scores = [getattr(to_input(form), f"get_{quantity}_{part}")() for part in ("train", "test")]
        # What training has seen is expected to have the smaller one.
        results.append(Attack.by_rule(name, -scores[0], -scores[1], seed=seed))
    return results


def _train(name: str, kind: Any, data: Any, members: int, others: int, seed: int) -> Attack:
    """Train an attacker that learns from the choosing half; there, quarters judge each other."""
    from sklearn.model_selection import StratifiedKFold

    models = stack.tf_privacy(f"{_FOLDER}.models")
    with _quiet_and_seeded(seed):
        features = models.create_attacker_data(data, balance=False).features_all
        is_member = np.arange(len(features)) < members
        choosing = halves(members, others, seed=seed)

        def score(fit_rows: np.ndarray, rows: np.ndarray) -> np.ndarray:
            attacker = models.create_attacker(kind)
            attacker.train_model(features[fit_rows], is_member[fit_rows])
            return np.asarray(attacker.predict(features[rows]))

        scores = np.empty(len(features))
        train_rows, test_rows = np.flatnonzero(choosing), np.flatnonzero(~choosing)
        scores[test_rows] = score(train_rows, test_rows)
        quarters = StratifiedKFold(2, shuffle=True, random_state=seed)
        for fit_fold, fold in quarters.split(train_rows, is_member[train_rows]):
            scores[train_rows[fold]] = score(train_rows[fit_fold], train_rows[fold])
    return Attack(name=name, scores=scores, is_member=is_member, choosing=choosing, learned=True)


@contextlib.contextmanager
def _quiet_and_seeded(seed: int) -> Iterator[None]:
    """Seed NumPy's global generator, from which the attackers draw, and put it back afterwards.

    They also try settings that scikit-learn no longer has, and say so: what is left of them is enough.
    """
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        np.random.set_state(state)


Predict = Callable[[np.ndarray], np.ndarray]
"""From positions in the pool that a shadow model is trained on to its probabilities of the whole pool [n, c]."""


def lira(
    target: np.ndarray,
    labels: np.ndarray,
    is_member: np.ndarray,
    *,
    shadow: Predict,
    shadows: int,
    seed: int = 0,
) -> Attack:
    """Attack by comparison with shadow models, each trained on a random half of the same pool.

    Args:
      target: probabilities float32 [n, c] of the model under attack, of members and others.
      labels: int64 [n].
      is_member: bool [n].
      shadow: trains one shadow model.
      shadows: how many; 4 or more.
      seed: of the halves.
    """
    module = stack.tf_privacy("privacy_tests.membership_inference_attack.advanced_mia")

    def compute_statistic(probabilities: np.ndarray) -> np.ndarray:
        # It writes into what it is given.
        return module.calculate_statistic(probabilities.astype(np.float64), labels, is_logits=False)[:, None]

    rng = np.random.default_rng(seed)
    masks, rows = [], []
    # Halves and their complements: every example is in as many models as it is out of.
    for _ in track(range(shadows // 2), "Training shadow models", unit="pair"):
        order = rng.permutation(len(labels))
        for half in np.array_split(order, 2):
            masks.append(np.isin(np.arange(len(labels)), half))
            rows.append(compute_statistic(shadow(np.sort(half))))
    is_inside, statistics = np.stack(masks), np.stack(rows)
    scores = module.compute_score_lira(
        compute_statistic(target),
        [statistics[is_inside[:, index], index] for index in range(len(labels))],
        [statistics[~is_inside[:, index], index] for index in range(len(labels))],
        fix_variance=True,
    )
    return Attack.by_rule("lira", -scores[is_member], -scores[~is_member], seed=seed)

"""Membership inference: the attackers of TensorFlow's empirical privacy tests, on what a model says of examples."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from tfkit import stack
from tfkit.audit.scores import Attack, Scores, halves
from tfkit.errors import ConfigError

ATTACKS = {
    "threshold": "THRESHOLD_ATTACK",
    "logistic": "LOGISTIC_REGRESSION",
    "entropy": "THRESHOLD_ENTROPY_ATTACK",
    "forest": "RANDOM_FOREST",
    "mlp": "MULTI_LAYERED_PERCEPTRON",
    "knn": "K_NEAREST_NEIGHBORS",
}
_FOLDER = "privacy_tests.membership_inference_attack"


def check_names(names: tuple[str, ...]) -> None:
    """Raise ConfigError for attackers that there are not, or none."""
    unknown = [name for name in names if name not in ATTACKS]
    if unknown or not names:
        raise ConfigError(f"--attacks {' '.join(unknown) or '(none)'}: there is: {', '.join(ATTACKS)}.")


def attack(
    names: tuple[str, ...],
    *,
    members: tuple[np.ndarray, np.ndarray],
    others: tuple[np.ndarray, np.ndarray],
    seed: int = 0,
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
    check_names(names)
    kinds = stack.tf_privacy(f"{_FOLDER}.data_structures").AttackType
    done = []
    for name in dict.fromkeys(names):
        kind = kinds[ATTACKS[name]]
        if kind.is_trained_attack:
            done.append(_learn(name, kind, members, others, seed))
        else:
            scores = _entropies(members, others) if name == "entropy" else _losses(members, others)
            # What training has seen is expected to have the smaller one.
            done.append(Attack.by_rule(name, -scores.members, -scores.others, seed=seed))
    return done


def _input(
    members: tuple[np.ndarray, np.ndarray], others: tuple[np.ndarray, np.ndarray], *, as_: str = "probs"
) -> Any:
    structures = stack.tf_privacy(f"{_FOLDER}.data_structures")
    said = {f"{as_}_train": members[0], f"{as_}_test": others[0]}
    return structures.AttackInputData(**said, labels_train=members[1], labels_test=others[1])


def _losses(members: tuple[np.ndarray, np.ndarray], others: tuple[np.ndarray, np.ndarray]) -> Scores:
    given = _input(members, others)
    return Scores(given.get_loss_train(), given.get_loss_test())


def _entropies(members: tuple[np.ndarray, np.ndarray], others: tuple[np.ndarray, np.ndarray]) -> Scores:
    # The package looks for them among the logits, and takes rows that add up to 1 for probabilities.
    given = _input(members, others, as_="logits")
    return Scores(given.get_entropy_train(), given.get_entropy_test())


def _learn(
    name: str,
    kind: Any,
    members: tuple[np.ndarray, np.ndarray],
    others: tuple[np.ndarray, np.ndarray],
    seed: int,
) -> Attack:
    """An attacker that learns from the choosing half; there, quarters judge each other."""
    from sklearn.model_selection import StratifiedKFold

    models = stack.tf_privacy(f"{_FOLDER}.models")
    with _quiet_and_seeded(seed):
        features = models.create_attacker_data(_input(members, others), balance=False).features_all
        is_member = np.arange(len(features)) < len(members[0])
        choosing = np.concatenate(halves(len(members[0]), len(others[0]), seed=seed))

        def judge(learned_from: np.ndarray, judged: np.ndarray) -> np.ndarray:
            attacker = models.create_attacker(kind)
            attacker.train_model(features[learned_from], is_member[learned_from])
            return np.asarray(attacker.predict(features[judged]))

        scores = np.empty(len(features))
        places, rest = np.flatnonzero(choosing), np.flatnonzero(~choosing)
        scores[rest] = judge(places, rest)
        quarters = StratifiedKFold(2, shuffle=True, random_state=seed)
        for one, other in quarters.split(places, is_member[places]):
            scores[places[other]] = judge(places[one], places[other])
    return Attack(
        name=name,
        choosing=Scores(scores[choosing & is_member], scores[choosing & ~is_member]),
        measured=Scores(scores[~choosing & is_member], scores[~choosing & ~is_member]),
        learned=True,
    )


@contextlib.contextmanager
def _quiet_and_seeded(seed: int) -> Iterator[None]:
    """The attackers draw from NumPy's global generator, which is put back afterwards.

    They also try settings that scikit-learn no longer has, and say so: what is left of them is enough.
    """
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        np.random.set_state(before)

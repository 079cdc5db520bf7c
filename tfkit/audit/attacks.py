"""Membership inference: the attackers of TensorFlow's empirical privacy tests, on what a model says of examples."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfkit import stack
from tfkit.errors import ConfigError

ATTACKS = {
    "threshold": "THRESHOLD_ATTACK",
    "logistic": "LOGISTIC_REGRESSION",
    "entropy": "THRESHOLD_ENTROPY_ATTACK",
    "forest": "RANDOM_FOREST",
    "mlp": "MULTI_LAYERED_PERCEPTRON",
    "knn": "K_NEAREST_NEIGHBORS",
}
LOW_FALSE_POSITIVES = 0.01


@dataclass(frozen=True, kw_only=True, eq=False)
class Attack:
    """One attacker's success.

    Attributes:
      name: of `ATTACKS`, or "lira".
      members: float64 [n], its scores of training examples; larger means a member.
      others: float64 [m], of examples that training has not seen.
    """

    name: str
    members: np.ndarray
    others: np.ndarray

    @property
    def auc(self) -> float:
        """Probability that a member's score is above another's; 0.5 is a coin."""
        from sklearn.metrics import roc_auc_score

        return float(roc_auc_score(*self._labelled))

    @property
    def auc_interval(self) -> tuple[float, float]:
        """The 95 % interval of the AUC (Hanley and McNeil 1982)."""
        auc, members, others = self.auc, len(self.members), len(self.others)
        of_members, of_others = auc / (2 - auc), 2 * auc**2 / (1 + auc)
        variance = (
            auc * (1 - auc) + (members - 1) * (of_members - auc**2) + (others - 1) * (of_others - auc**2)
        )
        width = 1.96 * math.sqrt(max(variance, 0.0) / (members * others))
        return max(auc - width, 0.0), min(auc + width, 1.0)

    @property
    def roc(self) -> tuple[np.ndarray, np.ndarray]:
        """False and true positive rates, both rising from 0 to 1."""
        from sklearn.metrics import roc_curve

        false, true, _ = roc_curve(*self._labelled)
        return false, true

    @property
    def advantage(self) -> float:
        """The largest difference of true and false positive rate."""
        false, true = self.roc
        return float((true - false).max())

    @property
    def true_positives_at_low_false(self) -> float:
        """The share of members found where 1 % of the others are taken for members (Carlini et al. 2022)."""
        false, true = self.roc
        return float(true[false <= LOW_FALSE_POSITIVES].max())

    @property
    def _labelled(self) -> tuple[np.ndarray, np.ndarray]:
        labels = np.concatenate([np.ones(len(self.members)), np.zeros(len(self.others))])
        return labels, np.concatenate([self.members, self.others])


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

    `threshold` looks at the loss, `entropy` at the entropy, the others are trained on the probabilities and the loss
    of one half of the examples and judge the other half.

    Args:
      names: of `ATTACKS`.
      members: probabilities float32 [n, c] and labels int64 [n] of training examples.
      others: the same of examples that training has not seen.
      seed: of the attackers that are trained.

    Raises:
      ConfigError: there is no such attacker.
    """
    check_names(names)
    folder = "privacy_tests.membership_inference_attack"
    structures = stack.tf_privacy(f"{folder}.data_structures")
    attacks = stack.tf_privacy(f"{folder}.membership_inference_attack")
    given = structures.AttackInputData(
        probs_train=members[0], labels_train=members[1], probs_test=others[0], labels_test=others[1]
    )
    done = []
    for name in names:
        kind = structures.AttackType[ATTACKS[name]]
        with _seeded(seed), warnings.catch_warnings():
            # Of their own bounds, which are not used: those divide by counts of zero.
            warnings.simplefilter("ignore", RuntimeWarning)
            found = attacks.run_attacks(given, attack_types=(kind,)).single_attack_results[0]
        done.append(
            Attack(
                name=name,
                members=np.asarray(found.membership_scores_train, np.float64).ravel(),
                others=np.asarray(found.membership_scores_test, np.float64).ravel(),
            )
        )
    return done


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[Any]:
    """The attackers draw from NumPy's global generator; it is put back afterwards."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)

"""LiRA: is what the model says of an example likelier from models that have seen it, or from those that have not?

Source: Carlini et al. 2022 (arXiv:2112.03570).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tfkit import stack
from tfkit.audit.scores import Attack

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

    def statistic(probabilities: np.ndarray) -> np.ndarray:
        # It writes into what it is given.
        return module.calculate_statistic(probabilities.astype(np.float64), labels, is_logits=False)[:, None]

    chance = np.random.default_rng(seed)
    inside, values = [], []
    # Halves and their complements: every example is in as many models as it is out of.
    for _ in range(shadows // 2):
        order = chance.permutation(len(labels))
        for half in np.array_split(order, 2):
            inside.append(np.isin(np.arange(len(labels)), half))
            values.append(statistic(shadow(np.sort(half))))
    seen, of_model = np.stack(inside), np.stack(values)
    scores = module.compute_score_lira(
        statistic(target),
        [of_model[seen[:, place], place] for place in range(len(labels))],
        [of_model[~seen[:, place], place] for place in range(len(labels))],
        fix_variance=True,
    )
    return Attack.by_rule("lira", -scores[is_member], -scores[~is_member], seed=seed)

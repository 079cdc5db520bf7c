"""The audit of a run folder: attackers on its exported model, set beside what the run claims."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfkit import export, files
from tfkit import run as runs
from tfkit.audit.attacks import Attack, attack, check_names
from tfkit.audit.bound import LowerBound, lower_bound
from tfkit.errors import CheckError, DataError
from tfkit.run import Run
from tfkit.tensorboard.audit_figures import write_audit

if TYPE_CHECKING:
    from tfkit.data import Splits

DEFAULT_ATTACKS = ("threshold", "logistic")
FEWEST = 20


@dataclass(frozen=True, kw_only=True, eq=False)
class Audit:
    """What attackers found out.

    Attributes:
      attacks: one for each attacker.
      bound: the lower bound on epsilon.
      claimed: epsilon and delta of privacy.json; None where nothing is claimed.
    """

    attacks: list[Attack]
    bound: LowerBound
    claimed: tuple[float, float] | None

    @property
    def best(self) -> Attack:
        """The attacker with the AUC farthest from a coin's."""
        return max(self.attacks, key=lambda attack: abs(attack.auc - 0.5))

    @property
    def refuted(self) -> bool:
        """Whether the claim cannot be true."""
        return self.claimed is not None and self.bound.epsilon > self.claimed[0]

    @property
    def verdict(self) -> str:
        """In words, and no more than was found."""
        low, high = self.best.auc_interval
        found = f"The best attacker ({self.best.name}) has an AUC of {self.best.auc:.3f} (95 % interval {low:.3f} to"
        found += f" {high:.3f}; 0.5 is a coin). "
        bound = f"Its examples show an epsilon of at least {self.bound.epsilon:.3g} (95 % confidence)"
        if self.claimed is None:
            return found + bound + "; the run claims none."
        if self.refuted:
            return found + bound + f": the claimed {self.claimed[0]:.3g} is refuted."
        return (
            found
            + bound
            + (
                f", which does not contradict the claimed {self.claimed[0]:.3g}. An audit that finds nothing proves"
                " nothing: stronger attackers may exist."
            )
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as in audit.json."""
        return {
            "verdict": self.verdict,
            "refuted": self.refuted,
            "claimed_epsilon": self.claimed[0] if self.claimed else None,
            "claimed_delta": self.claimed[1] if self.claimed else None,
            "epsilon_lower_bound": self.bound.epsilon,
            "confidence": self.bound.confidence,
            "measured_with": {name: value for name, value in vars(self.bound).items() if name != "epsilon"},
            "members": len(self.attacks[0].members),
            "others": len(self.attacks[0].others),
            "attacks": {
                one.name: {
                    "auc": one.auc,
                    "auc_interval": list(one.auc_interval),
                    "advantage": one.advantage,
                    "true_positives_at_1_percent_false": one.true_positives_at_low_false,
                }
                for one in self.attacks
            },
        }


def audit(
    run: Run | str | Path,
    splits: Splits,
    *,
    attacks: Sequence[str] = DEFAULT_ATTACKS,
    seed: int = 0,
    further: Callable[[np.ndarray, np.ndarray, np.ndarray], list[Attack]] | None = None,
) -> Audit:
    """Attack the exported model of a run with its own training and test examples.

    Args:
      run: finished; it gets audit.json, metrics `audit/...` and pictures in TensorBoard.
      splits: that it was trained on: as many test examples as there are, and as many training examples by lot.
      attacks: of `tfkit.audit.ATTACKS`.
      seed: of the lot, and of attackers that are trained.
      further: attackers of your own, from the indices [n] of the examples, who is a member (bool [n]), and what the
        model says of them [n, c].

    Raises:
      ConfigError: there is no such attacker.
      DataError: these are not the data of the run, or too few.
      CheckError: the lower bound is above the epsilon that the run claims. Everything is written before.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    check_names(tuple(attacks))
    _check_data(run, splits)
    model = run.model
    chance = np.random.default_rng(seed)
    train, test = splits.indices["train"], splits.indices["test"]
    count = min(len(train), len(test))
    pair = [np.sort(chance.choice(indices, count, replace=False)) for indices in (train, test)]
    labels = splits.source.labels
    said = [export.predict(model, splits, indices) for indices in pair]
    done = attack(
        tuple(attacks), members=(said[0], labels[pair[0]]), others=(said[1], labels[pair[1]]), seed=seed
    )
    if further is not None:
        is_member = np.arange(2 * count) < count
        done += further(np.concatenate(pair), is_member, np.concatenate(said))
    claimed = _claim(run)
    bound = lower_bound(
        {one.name: (one.members, one.others) for one in done}, delta=claimed[1] if claimed else 0.0, seed=seed
    )
    result = Audit(attacks=done, bound=bound, claimed=claimed)
    _write(run, result)
    if result.refuted:
        raise CheckError(
            f"{run.path} fails the audit. {result.verdict}\n"
            "  Do not publish the model: find out what its training did that privacy.json does not say."
        )
    return result


def _check_data(run: Run, splits: Splits) -> None:
    known, given = run.provenance.get("data", {}), splits.provenance
    if any(known.get(name) != given[name] for name in ("fingerprint", "division")):
        raise DataError(
            f"{run.path} was trained on other data ({known.get('origin')}), or on other splits of them, than"
            f" these ({splits.origin}, seed {splits.seed}): members could not be told from others.\n"
            "  Give the data and the seed as they were, or train anew."
        )
    fewest = min(len(splits.indices[name]) for name in ("train", "test"))
    if fewest < FEWEST:
        raise DataError(f"{splits.origin} has {fewest} examples to attack; at least {FEWEST} are needed.")


def _claim(run: Run) -> tuple[float, float] | None:
    said = run.read(runs.PRIVACY)
    claims = bool(said) and said["private"] and said["epsilon"] is not None
    return (float(said["epsilon"]), float(said["delta"])) if claims else None


def _write(run: Run, result: Audit) -> None:
    files.write_json(run.path / runs.AUDIT, result.as_dict())
    numbers = {"audit/epsilon_lower_bound": result.bound.epsilon}
    for one in result.attacks:
        numbers[f"audit/{one.name}_auc"] = one.auc
        numbers[f"audit/{one.name}_advantage"] = one.advantage
    run.record(numbers)
    write_audit(run.logdir, result.attacks)

"""The audit of a run folder: attackers on its exported model, set beside what the run claims."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tfkit import export, files
from tfkit import run as runs
from tfkit.audit.attacks import attack, check_names
from tfkit.audit.bound import lower_bound
from tfkit.audit.result import Audit
from tfkit.audit.scores import Attack
from tfkit.audit.secrets import Exposure
from tfkit.errors import CheckError, DataError, RunError
from tfkit.privacy.owner import check_data, is_private
from tfkit.run import Run
from tfkit.tensorboard.audit_figures import write_audit

if TYPE_CHECKING:
    from tfkit.data import Splits

DEFAULT_ATTACKS = ("threshold", "logistic")
FEWEST = 20


def audit(
    run: Run | str | Path,
    splits: Splits,
    *,
    attacks: Sequence[str] = DEFAULT_ATTACKS,
    seed: int = 0,
    further: Callable[[np.ndarray, np.ndarray, np.ndarray], list[Attack]] | None = None,
    secrets: Callable[[], Exposure] | None = None,
) -> Audit:
    """Attack the exported model of a run with its own training and test examples.

    What is found holds as far as training and test examples are alike but for the training: splits that tfkit made
    are; folders `train/` and `test/` that were filled in different ways differ in more than that, and look like a leak.

    Args:
      run: finished; it gets audit.json, metrics `audit/...` and pictures in TensorBoard.
      splits: that it was trained on: of each class as many training as test examples are taken, by lot.
      attacks: of `tfkit.audit.ATTACKS`.
      seed: of lots, and of attackers that learn.
      further: attackers of your own, from the indices [n] of the examples, who is a member (bool [n]), and what the
        model says of them [n, c].
      secrets: measures what codes among the training texts leave in a model; see `tfkit.audit.secrets`.

    Returns:
      The attacks, the lower bound, and what was said of them; audit.json holds the same.

    Raises:
      ConfigError: there is no such attacker.
      DataError: these are not the data of the run, or too few.
      RunError: the run holds no exported model.
      CheckError: the lower bound is above the epsilon that the run claims. Everything is written before.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    check_names(tuple(attacks))
    claimed = claim(run)
    check_data(run, splits)
    pair = _by_lot(splits, seed=seed)
    model = run.model
    said = [export.predict(model, splits, indices) for indices in pair]
    if not all(np.isfinite(probabilities).all() for probabilities in said):
        raise CheckError(f"{run.path} gives probabilities that are no numbers: its training went wrong.")
    labels = splits.source.labels
    done = attack(
        tuple(attacks), members=(said[0], labels[pair[0]]), others=(said[1], labels[pair[1]]), seed=seed
    )
    count = len(pair[0])
    if further is not None:
        done += further(np.concatenate(pair), np.arange(2 * count) < count, np.concatenate(said))
    bound = lower_bound(done, delta=claimed[1] if claimed else 0.0)
    result = Audit(
        attacks=done,
        bound=bound,
        claimed=claimed,
        examples=count,
        seed=seed,
        exposure=secrets() if secrets else None,
    )
    _write(run, result)
    if result.refuted:
        raise CheckError(
            f"{run.path} fails the audit. {result.verdict}\n"
            "  Do not publish the model: find out what its training did that privacy.json does not say."
        )
    return result


def claim(run: Run) -> tuple[float, float] | None:
    """The epsilon and the delta that a run claims in privacy.json; None where it claims none.

    Raises:
      RunError: the file is damaged.
    """
    said = run.read(runs.PRIVACY)
    if not said.get("private", True) or said.get("epsilon") is None:
        return None
    try:
        return float(said["epsilon"]), float(said["delta"])
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{run.path / runs.PRIVACY} claims an epsilon and no delta, or none that is a number ({error!r})."
            "\n  It is not as a private training wrote it: nothing can be set beside it."
        ) from error


def _by_lot(splits: Splits, *, seed: int) -> list[np.ndarray]:
    """Indices of members and of as many others, of each class as many."""
    chance = np.random.default_rng(seed)
    chosen: list[list[np.ndarray]] = [[], []]
    for label in range(len(splits.class_names)):
        of_class = [
            indices[splits.source.labels[indices] == label]
            for indices in (splits.indices["train"], splits.indices["test"])
        ]
        count = min(map(len, of_class))
        for place, indices in enumerate(of_class):
            chosen[place].append(chance.choice(indices, count, replace=False))
    pair = [np.sort(np.concatenate(indices)) for indices in chosen]
    if len(pair[0]) < FEWEST:
        raise DataError(
            f"{splits.origin} has {len(pair[0])} training examples with as many test examples of the same classes;"
            f" at least {FEWEST} are needed to attack."
        )
    return pair


def _write(run: Run, result: Audit) -> None:
    private = is_private(run)
    content = result.published() if private else result.as_dict()
    files.write_json(run.path / runs.AUDIT, content)
    # Those of attackers of an earlier audit are no longer true.
    others = {name: value for name, value in run.metrics.items() if not name.startswith("audit/")}
    files.write_json(run.path / runs.METRICS, others)
    numbers = {"audit/epsilon_lower_bound": content["epsilon_lower_bound"]}
    for name, found in content["attacks"].items():
        numbers[f"audit/{name}_auc"] = found["auc"]
        numbers[f"audit/{name}_advantage"] = found["advantage"]
    if content["exposure"]:
        for times, of in content["exposure"]["insertions"].items():
            numbers[f"audit/exposure_{times}_bits"] = of["mean_bits"]
    run.record(numbers)
    if not private:
        write_audit(run.logdir, content["attacks"])

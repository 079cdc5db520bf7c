"""Audit a run: attackers on its exported model, set beside the epsilon that it claims."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from tfkit import hub, reporting
from tfkit.auditing.attacks import CONFIDENCE, Attack, LowerBound, attack, lira, lower_bound
from tfkit.auditing.exposure import exposure
from tfkit.calibration import temperature_of, with_temperature
from tfkit.data.splits import Splits
from tfkit.distribution import strategies
from tfkit.environment import files, packages, stack
from tfkit.environment.process import rounded_up
from tfkit.environment.timeline import stage
from tfkit.errors import CheckError, ConfigError, DataError, RunError
from tfkit.hub import Encoder
from tfkit.metrics import evaluate
from tfkit.privacy.ledger import check_data, is_private
from tfkit.reporting.tensorboard import write_audit
from tfkit.run import AUDIT, PRIVACY, Run
from tfkit.settings.jobs import AuditConfig
from tfkit.settings.options import PrivateSettings, TextColumns
from tfkit.settings.parse import from_keywords
from tfkit.tasks import refuse
from tfkit.training.export import predict
from tfkit.training.fit import train
from tfkit.training.stage import Stage, class_weight
from tfkit.transfer.continuing import trained_on
from tfkit.transfer.fine_tuning import build_head
from tfkit.transfer.private import train_private_head
from tfkit.transfer.train import load, settings_of

if TYPE_CHECKING:
    from tfkit.settings import keywords

BINS = 40
CURVE_POINTS = 201
LOW_FALSE = {"1_percent": 0.01, "0.1_percent": 0.001}
FEWEST = 20
PACKAGES = (
    "tfkit", "tensorflow", "tensorflow-privacy", "tensorflow-empirical-privacy", "scikit-learn", "numpy"
)  # fmt: skip
RECIPES = ("transfer_image", "transfer_text", "train_private")
HEAD_STAGES = ("head", "private")


@dataclass(frozen=True, kw_only=True, eq=False)
class Audit:
    """The result of an audit.

    Attributes:
      attacks: one for each attacker.
      bound: the lower bound on epsilon.
      claimed: epsilon and delta of privacy.json; None where nothing is claimed.
      examples: how many members, and as many others, were attacked.
      seed: of lots, halves and attackers.
      exposure: of codes among the training texts, as in audit.json; None where it was not measured.
    """

    attacks: list[Attack]
    bound: LowerBound
    claimed: tuple[float, float] | None
    examples: int
    seed: int
    exposure: dict[str, Any] | None = None

    def __repr__(self) -> str:
        """Return the attackers' names and what follows from their success."""
        return f"Audit({', '.join(attack.name for attack in self.attacks)}): {self.verdict}"

    @property
    def best(self) -> Attack:
        """Return the attacker with the largest AUC."""
        return max(self.attacks, key=lambda attack: attack.auc)

    @property
    def refuted(self) -> bool:
        """Return whether the claim is below what was measured."""
        return self.claimed is not None and self.bound.epsilon > self.claimed[0]

    @property
    def verdict(self) -> str:
        """Return the result in words, no more than was found, and as rounded as a private run's folder may hold it."""
        best, (low, high) = self.best, self.best.auc_interval
        text = (
            f"The attacker that did best ({best.name}) has an AUC of {best.auc:.2f} (95 % interval {low:.2f} to"
            f" {high:.2f}; 0.5 is a coin). The lower bound on epsilon is {_round_down(self.bound.epsilon):.3g} (95 %"
            " confidence)"
        )
        if self.claimed is None:
            return f"{text}; the run claims none."
        claimed = rounded_up(self.claimed[0], 3)
        if self.refuted:
            return f"{text}: the claimed {claimed} is refuted."
        return (
            f"{text}, which does not contradict the claimed {claimed}. An audit that finds nothing proves nothing:"
            " stronger attackers may exist."
        )

    def as_dict(self, *, private: bool = False) -> dict[str, Any]:
        """Return plain values, as in audit.json.

        Args:
          private: for the folder of a private run: nothing finer than a hundredth, no count, no curve. They are
            measured on training examples without noise: of exact ones somebody who knows all examples but one could
            tell whether that one was there.
        """
        bound, (epsilon, delta) = self.bound, self.claimed or (None, None)
        attacks = {attack.name: _describe_attack(attack, delta or 0.0) for attack in self.attacks}
        content: dict[str, Any] = {
            "verdict": self.verdict,
            "refuted": self.refuted,
            "claimed_epsilon": epsilon,
            "claimed_delta": delta,
            "epsilon_lower_bound": _round_down(bound.epsilon) if private else bound.epsilon,
            "confidence": CONFIDENCE,
            "versions": {name: packages.version(name) for name in PACKAGES},
        }
        if private:
            keys = ("auc", "auc_interval", "advantage")
            attacks = {name: {key: values[key] for key in keys} for name, values in attacks.items()}
            return {**content, **_round_numbers({"attacks": attacks, "exposure": self.exposure})}
        facts = {name: getattr(bound, name) for name in ("attack", "right", "guesses", "examples")}
        counts = {"members": self.examples, "others": self.examples, "seed": self.seed}
        return {**content, "measured_with": facts, **counts, "attacks": attacks, "exposure": self.exposure}


def _round_numbers(content: Any) -> Any:
    """Return what JSON can hold with all numbers in it rounded to hundredths."""
    return json.loads(json.dumps(content), parse_float=lambda text: round(float(text), 2))


def _round_down(value: float) -> float:
    """Return the hundredth below, which is still a lower bound."""
    return math.floor(100 * value) / 100


def _describe_attack(attack: Attack, delta: float) -> dict[str, Any]:
    members, others = attack.judged
    false, true = attack.roc
    points = np.unique(np.linspace(0, len(false) - 1, CURVE_POINTS).round().astype(int))
    # Scores that are far out are counted in the outer bins.
    low, high = np.quantile(np.concatenate([members, others]), [0.005, 0.995])
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    counts = [
        np.histogram(np.clip(scores, edges[0], edges[-1]), edges)[0].tolist() for scores in (members, others)
    ]
    rates = {
        f"true_positives_at_{name}_false": attack.true_positives(false=share)
        for name, share in LOW_FALSE.items()
        if share * len(others) >= 1
    }
    return {
        "auc": attack.auc,
        "auc_interval": list(attack.auc_interval),
        "advantage": attack.advantage,
        **rates,
        "epsilon_lower_bound": lower_bound([attack], delta=delta).epsilon,
        "judged_members": len(members),
        "judged_others": len(others),
        "roc": {"false": false[points].tolist(), "true": true[points].tolist()},
        "histogram": {"edges": edges.tolist(), "members": counts[0], "others": counts[1]},
    }


def audit(
    run: Run | str | Path, splits: Splits | None = None, **settings: Unpack[keywords.AuditKeywords]
) -> Audit:
    """Attack the exported model of a run with its own training and test examples, and write what comes of it.

    The result holds as far as training and test examples are alike but for the training: splits that tfkit made are;
    folders `train/` and `test/` that were filled in different ways differ in more than that, and look like a leak.

    Args:
      run: finished, or its folder; it gets audit.json, metrics `audit/...`, pictures in TensorBoard, a new report.
      splits: that it was trained on: of each class as many training as test examples are taken, by lot. None: of a run
        of `tfkit.train` or its recipes, whose data are read again.
      settings: what the flags of recipes.audit_privacy are called: `attacks`, `shadows`, `canaries`, `seed`.

    Returns:
      The attacks and the lower bound; audit.json holds the same, rounded where the run is private.

    Raises:
      ConfigError: a setting is unknown or cannot be.
      DataError: these are not the data of the run, or too few.
      RunError: the run holds no exported model.
      CheckError: the lower bound is above the epsilon that the run claims. Everything is written before.

    Example:
      tfkit.audit("runs/private", shadows=16)
    """
    run = run if isinstance(run, Run) else Run.open(run)
    config = from_keywords(AuditConfig, {**settings, "run_dir": run.path}, call="tfkit.audit")
    claimed = claim(run)
    refuse(
        run.task,
        "classes",
        what="tfkit.audit",
        why="its attackers look at the probability of one true class.",
    )
    run.check_writable()
    with run.timed("audit", keep=not is_private(run)) as record_times:
        backbone: Any = None
        run_config: Any = None
        with stage("data", "Loading the model and the data of the run"):
            if splits is None or config.shadows or config.canaries:
                otherwise = "tfkit.audit(run, splits), with the splits of its training"
                if splits is not None:  # what only a recipe's run can have was asked for
                    otherwise = "tfkit.audit(run, splits) without shadows and canaries"
                run_config = settings_of(run, recipes=RECIPES, otherwise=otherwise)
                _check(run, run_config, config)
                backbone, run_splits = load(run_config)
                splits = splits or run_splits
        check_data(run, splits)
        pair, labels = _draw_pair(_drop_known_examples(run, splits), seed=config.seed), splits.source.labels
        with stage("predict", "Predicting the examples"):
            predictions = [predict(run.model, splits, indices) for indices in pair]
        if not all(np.isfinite(probabilities).all() for probabilities in predictions):
            raise CheckError(f"{run.path} gives probabilities that are no numbers: its training went wrong.")
        members, nonmembers = zip(predictions, (labels[indices] for indices in pair), strict=True)
        with stage("attacks", "Attacking"):
            attacks = attack(config.attacks, members=members, others=nonmembers, seed=config.seed)
        count, secrets = len(pair[0]), None
        features: Any = hub.extract(backbone, splits).splits if config.shadows or config.canaries else None
        fit_head = functools.partial(head_again, run_config, backbone, seed=config.seed)
        if config.shadows:
            pool, is_member = np.concatenate(pair), np.arange(2 * count) < count
            shadow = functools.partial(_predict_shadow, fit_head, features, pool)
            # The shadows have no temperature: the run's own is taken back.
            target = with_temperature(np.concatenate(predictions), 1 / temperature_of(run))
            attacks.append(
                lira(target, labels[pool], is_member, shadow=shadow, shadows=config.shadows, seed=config.seed)
            )
        epsilon, delta = claimed or (None, 0.0)
        if config.canaries:
            secrets = exposure(
                backbone, features, fit=fit_head, canaries=config.canaries, epsilon=epsilon, seed=config.seed
            )
        bound = lower_bound(attacks, delta=delta)
        result = Audit(
            attacks=attacks, bound=bound, claimed=claimed, examples=count, seed=config.seed, exposure=secrets
        )
        _write(run, result)
        record_times()
        if run.finished:
            reporting.write_report(run)
    if result.refuted:
        raise CheckError(
            f"{run.path} fails the audit. {result.verdict}\n"
            "  Do not publish the model: find out what its training did that privacy.json does not say."
        )
    return result


def _check(run: Run, setup: Any, config: AuditConfig) -> None:
    """Raise if the audit cannot be made of this run, before anything is read."""
    if not run.finished:
        raise RunError(f"{run.path} has not come to its end. The command that began it goes on with it.")
    extra = any(stage not in HEAD_STAGES for stage in run.history.get("stage", []))
    texts = isinstance(setup, TextColumns) and setup.of_texts
    needs_head = config.shadows or config.canaries
    extra = extra or not setup.features or getattr(setup, "augment", "none") != "none" or setup.continue_from
    extra = extra or getattr(setup, "words", "no") == "yes"
    if (config.canaries and not texts) or (needs_head and extra):
        raise ConfigError(
            f"{run.path} is a run of {'texts' if texts else 'images'}, with {'more than ' if extra else ''}a head on"
            " stored features; --shadows train such a head anew, --canaries with codes among texts.\n  Leave them out."
        )


def _predict_shadow(fit_head: Any, features: Splits, indices: np.ndarray, half: np.ndarray) -> np.ndarray:
    """Return what a head says of the pool that was trained on one half of it, as the run's own was on all."""
    validation = features.indices["validation"]
    pool = features.replace(indices={"train": indices[half], "validation": validation, "test": indices})
    return evaluate(fit_head(pool), pool).probabilities


def claim(run: Run) -> tuple[float, float] | None:
    """Return the epsilon and the delta that a run claims in privacy.json; None where it claims none."""
    statement = run.read(PRIVACY)
    epsilon = statement.get("epsilon") if statement.get("private", True) else None
    return None if epsilon is None else (float(epsilon), float(statement.get("delta", 0.0)))


def _drop_known_examples(run: Run, splits: Splits) -> Splits:
    """Return the splits without the test examples that the run, or one that it started from, was trained on."""
    digests, test = trained_on(run.path), splits.indices["test"]
    if digests is None or not (mask := np.isin(splits.digests("test"), digests)).any():
        return splits
    run.say(
        f"{mask.sum()} of the {len(test)} test examples are left out: the run, or one that it started from, was trained"
        " or validated on the same ones."
    )
    return splits.replace(indices={**splits.indices, "test": test[~mask]})


def _draw_pair(splits: Splits, *, seed: int) -> list[np.ndarray]:
    """Draw as many test as training examples of each class; return the indices of members and of others."""
    rng, labels = np.random.default_rng(seed), splits.source.labels
    parts: list[list[np.ndarray]] = [[], []]
    for label in range(len(splits.class_names)):
        sides = [splits.indices[name][labels[splits.indices[name]] == label] for name in ("train", "test")]
        count = min(map(len, sides))
        for side, indices in enumerate(sides):
            parts[side].append(rng.choice(indices, count, replace=False))
    pair = [np.sort(np.concatenate(indices)) for indices in parts]
    if len(pair[0]) < FEWEST:
        raise DataError(
            f"{splits.origin} has {len(pair[0])} training examples with as many test examples of the same classes;"
            f" at least {FEWEST} are needed to attack."
        )
    return pair


def _write(run: Run, result: Audit) -> None:
    private = is_private(run)
    content = result.as_dict(private=private)
    files.write_json(run.path / AUDIT, content)
    numbers = {"audit/epsilon_lower_bound": content["epsilon_lower_bound"]}
    for name, values in content["attacks"].items():
        numbers |= {f"audit/{name}_{measure}": values[measure] for measure in ("auc", "advantage")}
    for times, values in (content["exposure"] or {"insertions": {}})["insertions"].items():
        numbers[f"audit/exposure_{times}_bits"] = values["mean_bits"]
    run.record(numbers, instead_of="audit/")  # those of an earlier audit are no longer true
    if not private:
        write_audit(run.logdir, content["attacks"])


def head_again(config: Any, backbone: Encoder, pool: Splits, *, seed: int) -> stack.keras.Model:
    """Train a head with the run's own settings, private or not; nothing of its training is left on disk.

    Args:
      config: of the recipe that made the run: a `TransferConfig` or a `PrivateSettings`.
      backbone: that the features are of.
      pool: of features, with the training split in place.
      seed: of what is drawn, but for the noise of private training.

    Returns:
      Features float32 [b, d] to logits float32 [b, classes], compiled.
    """
    examples = len(pool.indices["train"])
    with tempfile.TemporaryDirectory() as folder, Run.create(Path(folder) / "run", config={}) as run:
        if isinstance(config, PrivateSettings):
            # What suited the run's own number of examples may be too large for fewer of them, or for more.
            batch = min(config.global_batch_size, examples) if config.global_batch_size else None
            delta = config.delta if config.delta and config.delta < 1 / examples else None
            settings = dataclasses.replace(config, delta=delta, global_batch_size=batch, seed=seed)
            strategy = strategies.strategy(settings.strategy)
            return train_private_head(run, backbone, pool, settings, strategy=strategy, verbose=0)[0].model
        weights = class_weight(pool, when=config.class_weights)
        stage = Stage.of_settings(config, class_weight=weights, seed=seed, profile=False, verbose=0)
        return train(build_head(config, backbone, pool), pool, stage, run=run).model

"""A private search: its epsilon by hand, the noise of its trials, what is left of it, and what is not."""

from __future__ import annotations

import json
import math
import os

import numpy as np
import pytest
from scipy.optimize import brentq

import tfkit
from tfkit.data.splits import Splits
from tfkit.errors import ConfigError, RunError
from tfkit.privacy import DPSGD, compute_epsilon, paragraph
from tfkit.privacy.plan import statement
from tfkit.run import Run
from tfkit.tuning import private

ORDERS = np.concatenate([np.linspace(1.01, 11, 1000), np.arange(11.0, 2000, 0.25)])


def by_hand(noises, *, mean, delta):
    """Epsilon of the best of a geometric number of compositions of Gaussian mechanisms.

    Papernot and Steinke 2022, theorem 2 with eta = 1, where E[K] = 1 / gamma; Canonne et al. 2020, proposition 12, from
    Renyi divergences to epsilon.
    """
    of_one = ORDERS * sum(1 / (2 * noise**2) for noise in noises)
    constant = 2 * np.min((1 - 1 / ORDERS) * of_one + math.log(mean) / ORDERS)
    of_search = of_one + constant + math.log(mean) / (ORDERS - 1)
    of_order = of_search + np.log1p(-1 / ORDERS) - np.log(delta * ORDERS) / (ORDERS - 1)
    return float(of_order.min())


@pytest.mark.parametrize(("mean", "target"), [(2, 1.0), (10, 3.0), (30, 8.0)])
def test_epsilon_of_a_search_is_that_of_the_theorem(mean, target):
    steps, delta = 80, 1e-5
    plan = DPSGD(target_epsilon=target, delta=delta, expected_trials=mean, release_noise=90.0).plan(
        examples=1255, expected_batch_size=1255, epochs=steps
    )
    assert plan.accountant == "rdp"
    ours = plan.epsilon(plan.steps)
    hand = by_hand([plan.noise_multiplier / math.sqrt(steps), 90.0], mean=mean, delta=delta)
    # dp-accounting looks at fewer orders: never less, and hardly more.
    assert hand * (1 - 1e-6) <= ours <= target
    assert ours < 1.02 * hand
    needed = brentq(
        lambda noise: by_hand([noise / math.sqrt(steps), 90.0], mean=mean, delta=delta) - target, 1, 500
    )
    assert plan.noise_multiplier == pytest.approx(needed, rel=0.02)
    alone = DPSGD(target_epsilon=target, delta=delta, release_noise=90.0)
    assert (
        plan.noise_multiplier
        > 1.3 * alone.plan(examples=1255, expected_batch_size=1255, epochs=80).noise_multiplier
    )
    # What a validation example can change is its share of one count.
    assert hand * 0.97 < by_hand([plan.score_noise], mean=mean, delta=delta) <= ours


def test_what_is_no_search_is_refused():
    with pytest.raises(ConfigError, match="expected_trials"):
        DPSGD(target_epsilon=1, expected_trials=1)
    case = {"noise_multiplier": 2.0, "sampling_probability": 0.5, "steps": 9, "delta": 1e-5}
    with pytest.raises(ConfigError, match="expected_trials 0"):
        compute_epsilon(**case, expected_trials=0)
    assert compute_epsilon(**case, expected_trials=2) > compute_epsilon(**case, accountant="rdp")


def test_the_statement_says_what_a_search_covers():
    def said_of(**more):
        plan = DPSGD(target_epsilon=3, **more).plan(examples=1255, expected_batch_size=1255, epochs=10)
        content = statement(plan, steps=plan.steps, optimizer="SGD")
        return content, paragraph(content)

    content, text = said_of(expected_trials=10)
    assert "the search for hyper-parameters" in " ".join(content["covered"])
    assert "the search for hyper-parameters" not in " ".join(content["not_covered"])
    assert "must stay secret" in text
    assert f"standard deviation {content['score_noise']:.4g}" in text
    assert "epsilon_pld" not in content
    content, text = said_of()
    assert "the search for hyper-parameters" in " ".join(content["not_covered"])
    assert "expected_trials" not in content
    assert "must stay secret" not in text


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("TFKIT_CACHE", str(folder))
        yield folder


ASKED = {"target_epsilon": 3.0, "delta": 1e-4, "image_size": 32, "epochs": 4, "trials": 3}
ASKED["global_batch_size"] = 189  # all training examples: `by_hand` knows no sampling


@pytest.fixture(scope="module")
def found(scans, cache, tmp_path_factory):
    """A search of three trials that was interrupted in the second one: what was left, and what came out."""
    run_dir, drawn, splits_of_trials = tmp_path_factory.mktemp("runs") / "search", [], []

    def train(run, encoder, splits: Splits, config, *, strategy):
        drawn.append((config.learning_rate, config.l2_norm_clip, config.expected_trials))
        splits_of_trials.append(splits)
        if len(drawn) == 2:
            raise KeyboardInterrupt
        return trained(run, encoder, splits, config, strategy=strategy)

    trained, tosses = private.train_private, iter([1, 1, 0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(private, "train_private", train)
        patch.setattr(private.secrets, "randbelow", lambda most: next(tosses))
        with pytest.raises(KeyboardInterrupt):
            tfkit.tune("train_private", data_dir=scans, run_dir=run_dir, **ASKED)
        left = sorted(str(path.relative_to(run_dir)) for path in run_dir.rglob("*"))
        (trials,) = cache.glob("private/*-trials")
        kept = sorted(path.name for path in trials.iterdir()), oct(trials.stat().st_mode)[-3:]
        trials.rename(trials.with_name("lost"))
        with pytest.raises(RunError, match="lost"):
            tfkit.tune("train_private", data_dir=scans, run_dir=run_dir, **ASKED)
        trials.with_name("lost").rename(trials)
        run = tfkit.tune("train_private", data_dir=scans, run_dir=run_dir, **ASKED)
    return {"run": run, "drawn": drawn, "left": left, "kept": kept, "splits": splits_of_trials}


@pytest.mark.slow
def test_an_interrupted_search_goes_on_and_tells_nothing_meanwhile(found):
    assert len(found["drawn"]) == 4
    assert found["drawn"][1] == found["drawn"][2]
    assert len(set(found["drawn"])) == 3
    assert {row[2] for row in found["drawn"]} == {3}
    assert not [name for name in found["left"] if name.startswith(("trials", "search.db", "best"))]
    names, mode = found["kept"]
    assert names == ["0", "1", "search.json"]
    assert mode == "700"


@pytest.mark.slow
def test_what_is_released_is_the_best_trial_and_one_epsilon_for_all(found, cache, scans, capsys):
    run = found["run"]
    folder, said = run.path.parent, json.loads((run.path / "privacy.json").read_text())
    examples, steps = said["examples"], said["steps"]
    noises = [
        said["noise_multiplier"] / math.sqrt(steps),
        *([said["release_noise"]] if said["release_noise"] else []),
    ]
    assert said["sampling_probability"] == 1
    assert steps == 4
    hand = by_hand(noises, mean=3, delta=1e-4)
    assert hand * (1 - 1e-6) <= said["epsilon"] <= 3
    assert said["epsilon"] < 1.02 * hand
    # What trained: the account beside the checkpoint, and the settings of one of the trials.
    account = json.loads((run.path / "backup" / "private" / "ledger.json").read_text())
    assert account["epochs_begun"] == 4
    assert account["plan"]["noise_multiplier"] == said["noise_multiplier"]
    assert account["plan"]["expected_trials"] == 3
    settings = run.config["learning_rate"], run.config["l2_norm_clip"], 3
    assert settings in found["drawn"]
    assert run.finished
    assert run.metrics["privacy/epsilon"] == said["epsilon"]
    # No trial had the test examples, and their number and scores are nowhere in the folder.
    for splits in found["splits"]:
        np.testing.assert_array_equal(splits.indices["test"], splits.indices["validation"])
    content = [path for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in content if path.name in ("trials.csv", "search.db", "search.json")]
    assert not any(name.startswith("search/trials_c") for name in Run.open(folder).metrics)
    assert "seconds" not in " ".join(Run.open(folder).metrics)
    dates = [path.stat().st_mtime for path in content if path.name != ".lock"]
    assert max(dates) - min(dates) < 5
    events = [path.name for path in content if "tfevents" in path.name]
    assert events
    assert not [name for name in events if str(os.getpid()) in name]
    # The owner's record has what was spent, once; the trials are gone.
    (record,) = cache.glob("private/*.json")
    assert json.loads(record.read_text())["spent"] == said["epsilon"]
    assert not [*cache.glob("private/*-trials")]
    assert Run.open(folder).read("privacy.json") == said
    assert ">Trials</h2>" not in (folder / "report.html").read_text()
    again = tfkit.tune("train_private", data_dir=scans, run_dir=folder, **ASKED)
    assert again.path == run.path
    assert "holds the finished search" in capsys.readouterr().out
    assert examples == len(found["splits"][0].indices["train"])

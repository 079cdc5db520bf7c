"""Search the settings of private training, so that one epsilon holds for the search as a whole.

Source: Papernot and Steinke 2022 (arXiv:2110.03620). If one trial (settings drawn independently of the data, training,
score) is private, so is this: do a random number of trials, release the best and nothing of the others. Three things
make the theorem hold here, and each costs something:

- The number of trials is geometric: after each of them the search ends with probability 1 / mean. It stays secret, so
  there is no limit of time, and neither storage nor table of trials.
- Settings are drawn by lot and never by what earlier trials gave; nothing is stopped by comparison with others. Only
  those are searched on which the noise does not depend, learning rate and clipping norm, so that all trials spend the
  same.
- The score is a part of the mechanism. It is the number of validation examples that were classified right, with
  Gaussian noise. Nobody is among the training and the validation examples, so who is a training example enters a trial
  by the training alone, and who is a validation example by the score alone: the noise of each is chosen for the same
  epsilon (`tfkit.privacy.plan.Plan.score_noise`). An exact score would have made the weights that are released, which
  without a search do not depend on validation examples at all, depend on them without any promise.

What is released is the model of the best trial as it was trained. It is not trained again, which would spend again.

Until it is found all trials are in a folder of the owner's cache, whose name the run's provenance holds, and an
interrupted search goes on from there: after each trial the coin is tossed, the settings of the next are drawn, and both
are kept. Where that folder is lost nobody knows what was spent, and the search is refused.
"""

from __future__ import annotations

import dataclasses
import json
import math
import secrets
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfkit import tasks
from tfkit.data.splits import Splits
from tfkit.environment import files, packages, stack
from tfkit.environment.process import rounded_up
from tfkit.errors import CheckError, PrivacyError, RunError
from tfkit.privacy import ledger
from tfkit.run import BEST, LOGS, PROVENANCE, Run
from tfkit.settings import fields
from tfkit.settings.parse import as_dict
from tfkit.transfer.private import plan_training, train_private

STATE = "search.json"


class Search(NamedTuple):
    """Hold what a search is made of.

    Attributes:
      run: of the search, being written.
      config: of the search, of a class of `tfkit.tuning.tune.with_search`.
      settings: those of its recipe.
      space: Optuna's distributions of the settings that are searched.
      load_model: from a model handle to the model, its splits, and those of its stored features or None.
      strategy: a tf.distribute.Strategy.
    """

    run: Run
    config: Any
    settings: Any
    space: Mapping[str, Any]
    load_model: Callable[[str], tuple[Any, Any, Any]]
    strategy: Any


def without_test(splits: Splits, **changes: Any) -> Splits:
    """Return splits in which the validation examples stand in the place of the test examples too: of a trial.

    Args:
      splits: that the search is on.
      changes: of other fields.
    """
    return splits.replace(indices={**splits.indices, "test": splits.indices["validation"]}, **changes)


def check(config: Any) -> None:
    """Raise where no epsilon would hold for the search, before anything is read.

    Args:
      config: of the search.

    Raises:
      PrivacyError: what was asked does not go together with privacy.
    """
    reasons = {
        "minutes": "the number of trials must be drawn by lot, whatever their time",
        "model_handles": "all trials must spend the same",
        "search_whole": "all trials must spend the same",
        "expected_trials": "--trials decides it",
        "diagnostics": "numbers without noise tell of all trials",
        "deterministic_noise": "its trials have no epsilon, and so the search has none",
    }
    errors = [f"{fields.flag(name)}: {why}" for name, why in reasons.items() if getattr(config, name)]
    if errors or config.trials == 1 or config.noise_multiplier == 0:
        rule = "A private search has --trials of 2 or more and a --noise-multiplier above 0, and takes none of these:"
        raise PrivacyError("\n  ".join([rule, *errors]))


def find(search: Search) -> Any:
    """Search, or do what is left of a search, and put the run of the best trial into the folder `best`.

    Args:
      search: of recipes.train_private.

    Returns:
      The settings of the best trial, whose training is done: what is left is to measure and export it.

    Raises:
      CheckError: all trials failed.
      PrivacyError: no noise gives so small an epsilon.
      RunError: the folder of the trials is lost.
    """
    settings = dataclasses.replace(search.settings, expected_trials=search.config.trials)
    if not (search.run.path / BEST).is_dir():
        _run_search(search._replace(settings=settings))
    best = Run.open(search.run.path / BEST).config
    return dataclasses.replace(settings, **{name: best[name] for name in search.space})


def _run_search(search: Search) -> None:
    run, settings = search.run, search.settings
    encoder, splits, _ = search.load_model(settings.model_handle)
    why = "of others one example changes the score by more than its noise is for. Use recipes.train_private."
    tasks.refuse(splits.task, "classes", what="A private search", why=why)
    *_, plan = plan_training(settings, splits, encoder)
    noise, is_resumed = plan.score_noise, ledger.RECORD in run.provenance.get("data", {})
    assert noise is not None, "it is of a search"
    run.provenance = {"data": ledger.register(run, splits)}  # refuses other data than it was begun on
    folder = files.cache_dir(ledger.FOLDER) / f"{run.provenance['data'][ledger.RECORD]}-trials"
    if is_resumed and not (folder / STATE).is_file():
        raise RunError(
            f"{run.path} was begun, and its trials in {folder} are lost: nobody can tell what was spent.\n  Bring them"
            " back, or begin anew with --overwrite, which spends again on the same people."
        )
    if not is_resumed:
        run.note(
            f"A private search of {plan.expected_trials} trials on average, each with a noise multiplier of"
            f" {plan.noise_multiplier:.4g} in training, and noise of {noise:.3g} on the number of validation examples"
            f" that are right: epsilon {rounded_up(plan.epsilon(plan.steps))} in all."
        )
        ledger.spend(run, epsilon=plan.epsilon(plan.steps))
        folder.mkdir(mode=0o700)
        initial = {"number": 0, "drawn": _draw_settings(search.space), "best": None, "score": -math.inf}
        files.write_text(folder / STATE, json.dumps(initial))  # JSON of Python: the score is -Infinity
    state = json.loads((folder / STATE).read_text())
    while state["drawn"] is not None:
        start, name, score = time.monotonic(), str(state["number"]), -math.inf
        config = dataclasses.replace(settings, **state["drawn"])
        try:
            with Run.create(folder / name, config=as_dict(config)) as trial:
                subset = without_test(splits)
                result = train_private(trial, encoder, subset, config, strategy=search.strategy).evaluation
            score = result.correct + noise * np.random.default_rng(secrets.randbits(256)).standard_normal()
        except CheckError as error:  # it came apart, which the data decide: the lowest score
            run.say(f"A trial failed: {packages.first_line(error)}")
        if score > state["score"]:
            state |= {"best": name, "score": score}
        is_last = secrets.randbelow(settings.expected_trials) == 0
        state |= {"number": state["number"] + 1, "drawn": None if is_last else _draw_settings(search.space)}
        files.write_text(folder / STATE, json.dumps(state))
        for path in folder.glob("[0-9]*"):
            if path.name != state["best"]:
                shutil.rmtree(path)
        remaining = 0.0 if is_last else (time.monotonic() - start) * settings.expected_trials
        run.say(f"A trial is done; on average {remaining:.0f} s are left.")
    if state["best"] is None:
        raise CheckError(
            "All trials of the private search failed. Train once with recipes.train_private, to see why."
        )
    with files.new_folder(run.path / BEST) as best:
        # Its logs tell the time, and by that how many trials came after it.
        shutil.copytree(folder / state["best"], best, dirs_exist_ok=True, ignore=shutil.ignore_patterns(LOGS))
        files.write_json(best / PROVENANCE, {"data": run.provenance["data"]})
    shutil.rmtree(folder)


def forget_times(folder: Path) -> None:
    """Take from the files of a search what tells how long it took and how many trials it had: their dates, and the
    numbers that TensorFlow counts event files by.

    Args:
      folder: of the search, finished.
    """
    for number, path in enumerate(sorted(folder.rglob("*tfevents*"))):
        _, _, kind = path.name.rpartition(".")
        path.rename(path.with_name(f"events.out.tfevents.{number:010d}.best.{kind}"))
    files.forget_dates(folder)


def _draw_settings(space: Mapping[str, Any]) -> dict[str, Any]:
    """Draw settings by the system's entropy: by a seed, those of the best would tell how many came before."""
    study = stack.optuna.create_study(sampler=stack.optuna.samplers.RandomSampler(seed=secrets.randbits(32)))
    return dict(study.ask(dict(space)).params)

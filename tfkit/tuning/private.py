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
interrupted search goes on from there: the coin is tossed after each trial, and the lot of the one that was interrupted
is kept. Where that folder is lost nobody knows what was spent, and the search is refused.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import secrets
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tfkit.data.splits import Splits
from tfkit.environment import files, packages
from tfkit.errors import CheckError, ConfigError, PrivacyError, RunError
from tfkit.privacy import ledger
from tfkit.run import BEST, Run
from tfkit.settings.parse import as_dict
from tfkit.transfer.private import plan_training, train_private

STATE = "search.json"


def check(config: Any) -> None:
    """Raise where no epsilon would hold for the search, before anything is read.

    Args:
      config: of a search, of `tfkit.tuning.tune.with_search`.

    Raises:
      ConfigError: what was asked does not go together with privacy.
      PrivacyError: the trials would have no epsilon.
    """
    reasons = {
        "--minutes ends a search where the data are slow; the number of trials must be drawn by lot": config.minutes,
        "--trials 1 is no search: python -m recipes.train_private": config.trials == 1,
        "--model-handles is not for private training: each model would have a cost of its own": config.model_handles,
        "--search-whole is not for private training, which has nothing beside its settings": config.search_whole,
        "--expected-trials is decided by --trials": config.expected_trials,
        "--diagnostics shows numbers without noise, by which trials could be compared": config.diagnostics,
    }
    if wrong := [reason for reason, holds in reasons.items() if holds]:
        raise ConfigError(
            "A private search cannot be like this:\n  " + "\n  ".join(wrong) + ".\n  Leave it out."
        )
    if config.deterministic_noise or config.noise_multiplier == 0:
        raise PrivacyError(
            "--deterministic-noise and --noise-multiplier 0 make trials without an epsilon: a search over them has none"
            " either.\n  Leave them out, or search with recipes.tune transfer_image."
        )


def find(run: Run, config: Any, own: Any, space: Mapping[str, Any], loaded: Any, strategy: Any) -> Any:
    """Search, or do what is left of a search, and put the run of the best trial into the folder `best`.

    Args:
      run: of the search.
      config: of the search.
      own: the recipe's settings.
      space: Optuna's distributions of the settings that are drawn.
      loaded: gives model, splits and stored features.
      strategy: of the training.

    Returns:
      The settings of the best trial, whose training is done: what is left is to measure and export it.

    Raises:
      CheckError: all trials failed.
      PrivacyError: no noise gives so small an epsilon.
      RunError: the folder of the trials is lost.
    """
    own = dataclasses.replace(own, expected_trials=config.trials)
    if not (run.path / BEST).is_dir():
        _search(run, own, space, loaded, strategy)
    best = Run.open(run.path / BEST)
    return dataclasses.replace(own, **{name: best.config[name] for name in space})


def without_test(splits: Splits, **changes: Any) -> Splits:
    """Return splits in which the validation examples stand in the place of the test examples too: of a trial.

    Args:
      splits: that the search is on.
      changes: of other fields.
    """
    return splits.replace(indices={**splits.indices, "test": splits.indices["validation"]}, **changes)


def _search(run: Run, own: Any, space: Mapping[str, Any], loaded: Any, strategy: Any) -> None:
    encoder, splits, _ = loaded(own)
    of_all = own if encoder is not None else dataclasses.replace(own, features=False)
    stage, of_batches, *_ = plan_training(of_all, splits)
    plan = stage.privacy.plan(
        examples=len(splits.indices["train"]),
        expected_batch_size=of_batches.global_batch_size,
        epochs=stage.epochs,
    )
    noise, begun = plan.score_noise, ledger.RECORD in run.provenance.get("data", {})
    if not begun:
        run.provenance = {"data": ledger.register(run, splits)}
        run.note(
            f"A private search of {plan.expected_trials} trials on average, each with noise multiplier"
            f" {plan.noise_multiplier:.4g} and noise of {noise:.3g} on the number of validation examples that are"
            f" right: epsilon {plan.epsilon(plan.steps):.4g} in all."
        )
    else:
        ledger.check_data(run, splits)
    folder = files.cache_dir(ledger.FOLDER) / f"{run.provenance['data'][ledger.RECORD]}-trials"
    if begun and not (folder / STATE).is_file():
        raise RunError(
            f"{run.path} was begun, and its trials in {folder} are lost: nobody can tell what was spent.\n  Bring them"
            " back, or begin anew with --overwrite, which spends again on the same people."
        )
    if not begun:
        ledger.spend(run, epsilon=plan.epsilon(plan.steps))
        folder.mkdir(mode=0o700)
        _keep(folder, {"number": 0, "drawn": None, "best": None, "score": -math.inf, "ended": False})
    state = json.loads((folder / STATE).read_text())
    while not state["ended"]:
        if state["drawn"] is None:
            state["drawn"] = _draw(space)
            _keep(folder, state)
        began, name, score = time.monotonic(), str(state["number"]), -math.inf
        chosen = dataclasses.replace(own, **state["drawn"])
        try:
            with Run.create(folder / name, config=as_dict(chosen)) as trial:
                classifier = train_private(trial, encoder, without_test(splits), chosen, strategy=strategy)
            chance = np.random.default_rng(secrets.randbits(256))
            score = classifier.evaluation.correct + noise * chance.standard_normal()
        except CheckError as error:  # it came apart, which the data decide: the lowest score
            run.warn(f"A trial failed: {packages.first_line(error)}")
        if score > state["score"]:
            state |= {"best": name, "score": score}
        ended = secrets.randbelow(plan.expected_trials) == 0
        state |= {"number": state["number"] + 1, "drawn": None, "ended": ended}
        _keep(folder, state)
        for other in folder.glob("[0-9]*"):
            if other.name != state["best"]:
                shutil.rmtree(other)
        seconds = time.monotonic() - began
        run.say(
            f"A trial is done, in {seconds:.0f} s. "
            + (
                "It was the last."
                if ended
                else f"On average {seconds * plan.expected_trials:.0f} s are left."
            )
        )
    if state["best"] is None:
        raise CheckError(
            "All trials of the private search failed. Train once with recipes.train_private, to see why."
        )
    with files.new_folder(run.path / BEST) as best:
        # Its logs tell the time, and by that how many trials came after it.
        shutil.copytree(
            folder / state["best"], best, dirs_exist_ok=True, ignore=shutil.ignore_patterns("logs")
        )
        files.write_json(best / "provenance.json", {"data": run.provenance["data"]})
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
    for path in (folder, *folder.rglob("*")):
        os.utime(path)


def _draw(space: Mapping[str, Any]) -> dict[str, Any]:
    """Draw settings by the system's entropy: by a seed, those of the best would tell how many came before."""
    import optuna

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=secrets.randbits(32)))
    return dict(study.ask(dict(space)).params)


def _keep(folder: Path, state: Mapping[str, Any]) -> None:
    """Write how far the search is; its owner alone reads it."""
    with files.new_file(folder / STATE, mode=0o600) as file:
        file.write(json.dumps(state).encode())

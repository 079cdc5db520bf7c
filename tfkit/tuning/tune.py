"""Search the settings of a recipe that trains by Optuna, on the validation split, and train with the best ones.

<run_dir>/search.db     Optuna's storage: what an interrupted search goes on from
<run_dir>/trials.csv    a row a trial
<run_dir>/trials/007/   config, history, numbers and TensorBoard's logs of a trial; no model
<run_dir>/best/         the run of the best settings, as its recipe makes it

No trial has the test examples: in its splits validation stands in their place too.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from tfkit import run_files
from tfkit.distribution import strategies
from tfkit.environment import cluster, files, packages, process, stack
from tfkit.environment.timeline import Timeline, stage
from tfkit.errors import CheckError, ConfigError
from tfkit.run import BACKUP, BEST, DATABASE, PRIVACY, TABLE, TRIALS, Run
from tfkit.settings.jobs import TuneConfig
from tfkit.settings.options import PrivateSettings
from tfkit.settings.parse import as_dict, from_keywords, run_dir, takes_settings
from tfkit.transfer.train import RECIPES, data_settings, job_of, load, say_what_changed, train_classifier

if TYPE_CHECKING:
    from tfkit.data.splits import Splits
    from tfkit.settings import keywords
    from tfkit.tuning.private import Search

PRINT_SECONDS = 4.0
_MEASURES = ("val_loss", "val_accuracy")


@takes_settings(TuneConfig, *RECIPES.values())
def tune(recipe: str, data: Any = None, **settings: Unpack[keywords.TuneKeywords]) -> Run:
    """Search the settings of a training by the validation split, train with the best, and measure that once.

    What is given is fixed, what is left out is searched: learning rate, epochs, batch size, units and dropout of the
    head, with `search_whole=True` augmentation and fine-tuning too. A call that was interrupted goes on when it is made
    again. Of train_private learning rate and clipping norm are searched, and epsilon is that of the whole search; see
    `tfkit.tuning.private`.

    Args:
      recipe: "transfer_image", "transfer_text", "train_distributed" or "train_private".
      data: what `tfkit.train` takes, also in memory; None: what the settings say.
      settings: `trials`, `minutes`, `target`, `model_handles`, `search_whole`, and what the recipe's flags are called.

    Returns:
      The finished run of the best settings, in the folder `best` of the search's.

    Raises:
      ConfigError: there is no such recipe, a setting cannot be, or nothing is left to search.
      CheckError: all trials failed.
      StackError: Optuna is not installed.
      TfkitError: see `tfkit.errors`.

    Example:
      run = tfkit.tune("transfer_image", data_dir="photos/", trials=20, minutes=30)
      run.config["learning_rate"], run.metrics["test/accuracy"]
    """
    values: dict[str, Any] = {**settings}
    if data is not None:
        values |= data_settings(data, values)
    return search(from_keywords(with_search(recipe), values, call="tfkit.tune"))


def with_search(name: str) -> type[Any]:
    """Return the settings of the recipe of this name together with those of a search, as one dataclass.

    Raises:
      ConfigError: no recipe that trains has this name.
    """
    if name not in RECIPES:
        raise ConfigError(f"{name!r} is no recipe that trains; there are {', '.join(RECIPES)}.")
    settings: type[Any] = RECIPES[name]

    @dataclass(frozen=True, kw_only=True)
    class Config(TuneConfig, settings):
        """Say what to train on, and how to search."""

        recipe: ClassVar[str] = name

    return Config


def search(config: Any) -> Run:
    """Do a search, or what is left of it, or nothing where it is done.

    Args:
      config: of a class that `with_search` made.

    Returns:
      The run of the best settings.

    Raises:
      TfkitError: see `tune`.
    """
    from tfkit.reporting.page import write_report
    from tfkit.tuning import private

    _check(config)
    recipe, cls = config.recipe, RECIPES[config.recipe]
    settings: Any = cls(**{field.name: getattr(config, field.name) for field in dataclasses.fields(cls)})
    space = search_space(config)
    fixed = {name: value for name, value in as_dict(config).items() if name not in space}
    folder = run_dir(config, recipe=f"tune-{recipe}")
    with Run.create(folder, config=fixed, overwrite=config.overwrite) as run:
        if run.finished:
            run.say(f"{folder} holds the finished search of this very config; --overwrite would do it again.")
            best = Run.open(folder / BEST)
            say_what_changed(config, best)
            return best
        run.record({"search/trials_asked": config.trials})
        run.versions = packages.versions()
        run.note(f"Searched are {', '.join(space)}; all other settings are as they were given.")
        augment, has_features = getattr(settings, "augment", "none"), getattr(settings, "features", False)
        if augment != "none" and has_features and not config.search_whole:
            run.note(
                "Trials train on images as they are, whose features are stored; the training with the best settings has"
                f" --augment {augment}, and other losses. --search-whole: trials have it too."
            )
        # How long a private search took would tell of its trials: it is kept nowhere.
        with Timeline() if isinstance(settings, PrivateSettings) else run.timed():
            with strategies.cluster_strategy(settings, run) as strategy:
                # It counts functions that are traced again, as those of each trial are.
                logging.getLogger("tensorflow").setLevel(logging.ERROR)
                load_model = functools.cache(functools.partial(_load, settings))
                run_trials = private.find if isinstance(settings, PrivateSettings) else _run_trials
                with stage("trials", "Searching"):
                    best = run_trials(private.Search(run, config, settings, space, load_model, strategy))
            # The devices are divided already.
            best = dataclasses.replace(best, run_dir=folder / BEST, overwrite=False, logical_cpus=0)
            with stage("best", "Training with the best settings"):
                winner = train_classifier(best, recipe=recipe)
            run.provenance = {name: of for name, of in winner.provenance.items() if name in ("data", "model")}
            if statement := winner.read(PRIVACY):
                files.write_json(folder / PRIVACY, statement)
            write_report(run)
            if statement:
                private.forget_times(folder)
    return winner


def _check(config: Any) -> None:
    """Raise where a search would make no sense, before anything is read."""
    if config.continue_from is not None:
        raise ConfigError("--continue-from is for one training: a search begins with a published model.")
    if isinstance(config, PrivateSettings):
        from tfkit.tuning import private

        private.check(config)
    strategies.locate(config)
    if cluster.current().size > 1:
        raise ConfigError(
            "A search is the work of one process, and this job has several workers.\n  Search on one machine,"
            " --strategy mirrored on all its GPUs; then train with best/config.yaml on all."
        )
    stack.optuna.logging.set_verbosity(stack.optuna.logging.WARNING)


def search_space(config: Any) -> dict[str, Any]:
    """Return the Optuna distribution of each setting that is searched: what was given is not among them.

    Args:
      config: of the search, of a class that `with_search` made.

    Raises:
      ConfigError: none is left.
    """
    kinds = stack.optuna.distributions
    Choice, Number, Integer = kinds.CategoricalDistribution, kinds.FloatDistribution, kinds.IntDistribution
    if isinstance(config, PrivateSettings):  # nothing on which the noise depends: all trials cost the same
        low, high = (1, 16) if config.features else (1 / 16, 1)
        space: dict[str, Any] = {"l2_norm_clip": Number(0.1, 1, log=True)}
    else:
        low, high = type(config).learning_rate / 30, type(config).learning_rate * 10
        space = {"epochs": Integer(10, 40), "hidden": Choice((None, 0, 128, 512, 1024))}
        space["dropout"] = Choice((None, 0.0, 0.1, 0.3, 0.5, 0.7))
        if config.batch_size_per_replica is None:
            space["global_batch_size"] = Choice((32, 64, 128, 256))
    space = {"learning_rate": Number(low, high, log=True), **space}
    if config.search_whole:
        from tfkit.data import augment

        space |= {"fine_tune_epochs": Choice((None, 0, 2, 5, 10)), "augment": Choice(augment.PRESETS)}
        space["fine_tune_learning_rate"] = Number(1e-5, 1e-3, log=True)
        space["optimizer"] = Choice(("adam", "sgd"))
    not_given = vars(config).keys() - config.given_names
    space = {name: values for name, values in space.items() if name in not_given}
    if config.model_handles:
        space["model_handle"] = Choice(tuple(dict.fromkeys(config.model_handles)))
    if not space:
        raise ConfigError("All settings that a search knows of are given. Leave some out: it finds them.")
    return space


def _load(settings: Any, model_handle: str) -> tuple[Any, Splits, Splits | None]:
    """Return a model, its splits, and the splits of its features where they are stored."""
    from tfkit import hub

    settings = dataclasses.replace(settings, model_handle=model_handle)
    encoder, splits = load(settings)
    if encoder is None or not getattr(settings, "features", False):
        return encoder, splits, None
    process.say(f"The features of {encoder.handle} are computed, unless they are stored already.")
    extraction = hub.extract(encoder, splits)
    process.say(extraction.summary)
    return encoder, splits, extraction.splits


def _run_trials(search: Search) -> Any:
    """Return the recipe's settings with the best of the values that were tried in place of its own."""
    import pandas as pd

    optuna, trial_state = stack.optuna, stack.optuna.trial.TrialState
    run, config, settings, space = search[:4]
    handle = next(iter(config.model_handles), settings.model_handle)
    _, splits, _ = search.load_model(handle)  # what is wrong with the data is no failure of a trial
    if config.target == "accuracy":
        from tfkit import tasks

        why = "training measures none. Leave it out: the loss decides."
        tasks.refuse(splits.task, "classes", "order", what="--target accuracy", why=why)
    study = _open_study(search)
    if not study.trials:  # what the recipe does by itself is among them
        defaults = {**vars(settings), "model_handle": handle}
        study.enqueue_trial({name: defaults[name] for name in space})
    while len(rows := _build_rows(study)) < config.trials:
        seconds, number = sum(row["seconds"] for row in rows), len(rows) + 1
        if config.minutes is not None and seconds >= 60 * config.minutes:
            run.note(
                f"After {seconds / 60:.1f} minutes and {len(rows)} of {config.trials} trials the search ended."
            )
            break
        # By its number: an interrupted search tries what an uninterrupted one would have tried.
        study.sampler = optuna.samplers.TPESampler(seed=int(files.digest_of(config.seed, number)[:8], 16))
        trial, folder = study.ask(dict(space)), run.path / TRIALS / f"{number:03d}"
        start, state, value = time.monotonic(), trial_state.COMPLETE, None
        try:
            value = _run_trial(search, trial, folder)
        except optuna.TrialPruned:
            state = trial_state.PRUNED
        except Exception as error:  # what ends the process is none: such a trial goes on with the next call
            state = trial_state.FAIL
            trial.set_user_attr("error", f"{type(error).__name__}: {packages.first_line(error)}")
        shutil.rmtree(folder / BACKUP, ignore_errors=True)
        trial.set_user_attr("seconds", round(time.monotonic() - start, 2))
        study.tell(trial, value, state=state)
        table = pd.DataFrame(_build_rows(study)).to_csv(index=False, float_format="%.6g")
        files.write_text(run.path / TABLE, table)
        _report_trial(search, _build_rows(study))
    best = _select_best(config, rows)
    if best is None:
        raise CheckError(
            f"No trial came to its end: {rows[0]['error']}.\n  All of them are in"
            f" {run.path / TABLE}. Train once with the recipe itself; then search with --overwrite."
        )
    states = [row["state"] for row in rows]
    run.record({f"search/trials_{state}": states.count(state) for state in ("complete", "pruned", "fail")})
    run.record({f"search/best_{name}": best[name] for name in _MEASURES if best[name] is not None})
    run.record({"search/seconds": sum(row["seconds"] for row in rows)})
    values = {name: best[name] for name in space}
    run.note(f"Trial {best['trial']} is the best by val_{config.target}: {_format(values)}.")
    return dataclasses.replace(settings, **values)


def _open_study(search: Search) -> Any:
    """Return the study in the run folder, new or as an earlier process left it."""
    from sqlalchemy import URL

    optuna, trial_state = stack.optuna, stack.optuna.trial.TrialState
    path = (search.run.path / DATABASE).resolve()
    try:
        study = optuna.create_study(
            storage=str(URL.create("sqlite", database=str(path))),
            study_name="search",
            load_if_exists=True,
            direction="minimize" if search.config.target == "loss" else "maximize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=5),
        )
        for trial in study.get_trials(states=(trial_state.RUNNING,)):  # of a process that was killed
            study.tell(trial.number, state=trial_state.FAIL)
            study.enqueue_trial(trial.params)
    except Exception as error:  # of SQLAlchemy, or of Optuna
        raise run_files.damaged(path, packages.first_line(error)) from error
    return study


def _run_trial(search: Search, trial: Any, folder: Path) -> float:
    """Train by the trial's settings in a folder of its own; return what the validation split says."""
    from tfkit.reporting import tensorboard
    from tfkit.transfer.continuing import Start
    from tfkit.transfer.fine_tuning import train_head
    from tfkit.tuning.private import without_test

    config, settings = search.config, dataclasses.replace(search.settings, **trial.params)
    encoder, splits, features = search.load_model(settings.model_handle)
    watcher = _make_watch(trial, config)
    kwargs = {"strategy": search.strategy, "start": Start(), "callbacks": [watcher]}
    with process.muted(), Run.create(folder, config=as_dict(settings)) as run:
        settings = strategies.scale_to_replicas(settings, search.strategy, run)
        batch = {"global_batch_size": settings.global_batch_size}
        try:
            if features is not None and not config.search_whole:
                train_head(encoder, without_test(features, **batch), settings, run=run, **kwargs)
            else:
                job_of(settings, encoder)(run, encoder, without_test(splits, **batch), settings, **kwargs)
        finally:
            stack.keras.backend.clear_session()
            metrics = tensorboard.best(run.history) or watcher.best
            run.record(metrics)
            tensorboard.write_hparams(run.logdir, trial.params, metrics)
            for name in _MEASURES:
                trial.set_user_attr(name, metrics.get(f"best/{name}"))
    return metrics[f"best/val_{config.target}"]


def _make_watch(trial: Any, config: Any) -> Any:
    """Return a Keras callback that reports each epoch to the pruner, and to who waits for it."""
    verbose, name = process.is_verbose(), f"val_{config.target}"

    class Watch(stack.keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.step, self.print_time, self.best = -1, time.monotonic(), dict[str, float]()

        def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
            values = {key: float(value) for key, value in (logs or {}).items() if key in _MEASURES}
            if values["val_loss"] < self.best.get("best/val_loss", math.inf):
                self.best = {f"best/{key}": value for key, value in values.items()}
            self.step = max(epoch, self.step + 1)  # each stage counts from 0
            trial.report(values[name], self.step)
            if verbose and time.monotonic() - self.print_time > PRINT_SECONDS:
                print(f"  epoch {self.step + 1}: {_format(values)}", flush=True)
                self.print_time = time.monotonic()
            if trial.should_prune():
                raise stack.optuna.TrialPruned

    return Watch()


def _build_rows(study: Any) -> list[dict[str, Any]]:
    """Return what is known of each trial that ended, in their order: of the table."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if "seconds" in trial.user_attrs]
    return [
        {
            "trial": number,
            "state": trial.state.name.lower(),
            **{name: trial.user_attrs.get(name) for name in (*_MEASURES, "seconds")},
            **trial.params,
            "error": trial.user_attrs.get("error"),
        }
        for number, trial in enumerate(trials, 1)
    ]


def _select_best(config: Any, rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the row of the best trial, of equal accuracies that with the lower loss; None where none is complete."""
    sign, rows = -1 if config.target == "accuracy" else 1, [row for row in rows if row["state"] == "complete"]
    return min(rows, key=lambda row: (sign * row[f"val_{config.target}"], row["val_loss"]), default=None)


def _report_trial(search: Search, rows: list[dict[str, Any]]) -> None:
    """Say how the last trial ended, which is the best, and how long the search will take."""
    config, row, seconds = search.config, rows[-1], sum(row["seconds"] for row in rows)
    facts = _format({name: value for name, value in row.items() if name not in ("trial", "state", "seconds")})
    remaining = seconds / len(rows) * (config.trials - len(rows))
    if config.minutes is not None:
        remaining = min(remaining, max(60 * config.minutes - seconds, 0.0))
    best = _select_best(config, rows)
    text = f"Trial {row['trial']} of {config.trials}: {row['state']} after {row['seconds']:.1f} s, {facts}."
    text += f" The best is trial {best['trial']}." if best else ""
    (search.run.warn if row["error"] else search.run.say)(f"{text} About {remaining:.0f} s left.")


def _format(values: Mapping[str, Any]) -> str:
    texts = {name: f"{value:.3g}" if isinstance(value, float) else value for name, value in values.items()}
    return ", ".join(f"{name} {text}" for name, text in texts.items() if text is not None)

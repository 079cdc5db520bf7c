"""Search the settings of a recipe that trains by Optuna, on the validation split, and train with the best ones.

<run_dir>/search.db     Optuna's storage: what an interrupted search goes on from
<run_dir>/trials.csv    a row a trial
<run_dir>/trials/007/   config, history, numbers and TensorBoard's logs of a trial; no model
<run_dir>/best/         the run of the best settings, as its recipe makes it

No trial has the test examples: in its splits validation stands in their place too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import logging
import math
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pandas as pd

from tfkit import run_files
from tfkit.data.augment import PRESETS
from tfkit.distribution import strategies
from tfkit.environment import cluster, files, packages, process
from tfkit.errors import CheckError, ConfigError, StackError
from tfkit.run import BACKUP, BEST, DATABASE, PRIVACY, TABLE, TRIALS, Run
from tfkit.settings.options import (
    ImageSettings,
    PrivateSettings,
    TextColumns,
    TextSettings,
    TransferConfig,
    TuneConfig,
    WholeModelSettings,
)
from tfkit.settings.parse import as_dict, from_keywords, run_dir, takes_settings
from tfkit.transfer.train import RECIPES, job_of, load, resolve, train_classifier
from tfkit.tuning import private
from tfkit.tuning.private import without_test

if TYPE_CHECKING:
    from tfkit.data.splits import Splits
    from tfkit.privacy.plan import DPSGD

TOLD_SECONDS = 4.0
_STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
_MEASURED = ("val_loss", "val_accuracy")
HIDDEN = (0, 128, 512, 1024)
BATCHES = (32, 64, 128, 256)

Loaded = Callable[[Any], tuple[Any, Any, Any]]
"""From a trial's settings to its pretrained model, its splits, and the splits of stored features where it has some."""


@takes_settings(TuneConfig, ImageSettings, TextSettings, PrivateSettings, WholeModelSettings)
def tune(
    data: str | Path | None = None,
    *,
    model: str | None = None,
    privacy: DPSGD | None = None,
    trainable: Literal["auto", "all"] = "auto",
    **settings: Any,
) -> Run:
    """Search the settings of a training by the validation split, train with the best, and measure that once.

    What is given is fixed, what is left out is searched: learning rate, epochs, batch size, units and dropout of the
    head, with `search_whole=True` augmentation and fine-tuning too. A call that was interrupted goes on when it is made
    again. With privacy, learning rate and clipping norm are searched, and epsilon is that of the whole search; see
    `tfkit.tuning.private`.

    Args:
      data: as of `tfkit.train`, and so are the others.
      model: a TF Hub or Kaggle URL, a SavedModel folder or a bundled name; `model_handles=` names several.
      privacy: of the search as a whole.
      trainable: "auto", or "all": a model of images from the first step, as recipes.train_distributed.
      settings: `trials`, `minutes`, `target`, `model_handles`, `search_whole`, and what `tfkit.train` takes.

    Returns:
      The finished run of the best settings, in the folder `best` of the search's.

    Raises:
      ConfigError: a setting cannot be, or nothing is left to search.
      CheckError: all trials failed.
      StackError: Optuna is not installed.
      TfkitError: see `tfkit.errors`.

    Example:
      run = tfkit.tune("photos/", trials=20, minutes=30)
      run.config["learning_rate"], run.metrics["test/accuracy"]
    """
    recipe, settings = resolve(data, model=model, privacy=privacy, trainable=trainable, settings=settings)
    return search(from_keywords(with_search(recipe), settings, call="tfkit.tune"))


def with_search(name: str) -> type[Any]:
    """Return the settings of the recipe of this name together with those of a search, as one dataclass."""
    settings: type[Any] = RECIPES[name]

    @dataclass(frozen=True, kw_only=True)
    class Config(TuneConfig, settings):  # type: ignore[valid-type,misc]
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

    _check(config)
    strategies.locate(config)
    if cluster.current().size > 1:
        raise ConfigError(
            "A search is the work of one process, and this job has several workers.\n  Search on one machine"
            " (--strategy mirrored takes all its GPUs), then train with best/config.yaml on all."
        )
    recipe, settings = config.recipe, RECIPES[config.recipe]
    own = settings(**{field.name: getattr(config, field.name) for field in dataclasses.fields(settings)})
    space = search_space(config, own)
    asked = {name: value for name, value in as_dict(config).items() if name not in space}
    folder = run_dir(config, recipe=f"tune-{recipe}")
    with Run.create(folder, config=asked, overwrite=config.overwrite) as run:
        if run.finished:
            run.say(f"{folder} holds the finished search of this very config; --overwrite would do it again.")
            return Run.open(folder / BEST)
        run.record({"search/trials_asked": config.trials})
        run.versions = packages.versions()
        run.note(f"Searched are {', '.join(space)}; all other settings are as they were given.")
        find = private.find if isinstance(own, PrivateSettings) else _find
        with strategies.cluster_strategy(own, run) as strategy, _quiet():
            loaded = functools.cache(functools.partial(_load, own))
            best = find(run, config, own, space, lambda chosen: loaded(chosen.model_handle), strategy)
        # The devices are divided already.
        best = dataclasses.replace(best, run_dir=folder / BEST, overwrite=False, logical_cpus=0)
        found = train_classifier(best, recipe=recipe)
        run.provenance = {name: of for name, of in found.provenance.items() if name in ("data", "model")}
        run.record({name: value for name, value in found.metrics.items() if name.startswith("privacy/")})
        if statement := found.read(PRIVACY):
            files.write_json(folder / PRIVACY, statement)
        write_report(run)
        if isinstance(own, PrivateSettings):
            private.forget_times(folder)
    return found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep from warning while the block runs: Optuna of each study, TensorFlow of functions traced for each trial."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logger = logging.getLogger("tensorflow")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _check(config: Any) -> None:
    """Raise where a search would make no sense, before anything is read."""
    if config.continue_from is not None:
        raise ConfigError(
            "--continue-from is for one training: a search begins with the published model. Leave it out."
        )
    if isinstance(config, PrivateSettings):
        private.check(config)
    try:
        importlib.import_module("optuna")
    except ImportError as error:
        raise StackError(
            f"The search is Optuna's, which is not here ({error}){packages.REPAIR}{packages.command('optuna')}"
            "\n  It is tfkit's extra `tune`."
        ) from error


def search_space(config: Any, own: Any) -> dict[str, Any]:
    """Return the Optuna distribution of each setting that is searched: what was given is not among them.

    Args:
      config: of the search.
      own: of the recipe.

    Raises:
      ConfigError: none is left.
    """
    from optuna.distributions import CategoricalDistribution as Choice
    from optuna.distributions import FloatDistribution as Number
    from optuna.distributions import IntDistribution as Whole

    if isinstance(own, PrivateSettings):
        # Nothing on which the noise depends: all trials then cost the same.
        scale = 1.0 if own.features else 1 / 16
        space: dict[str, Any] = {
            "learning_rate": Number(0.25 * scale, 32 * scale, log=True),
            "l2_norm_clip": Number(0.03, 3, log=True),
        }
    else:
        usual = type(own).learning_rate
        space = {
            "learning_rate": Number(usual / 30, usual * 10, log=True),
            "epochs": Whole(10, 40),
            "global_batch_size": Choice(BATCHES),
            "hidden": Choice(HIDDEN),
            "dropout": Number(0, 0.7),
        }
        if config.search_whole:
            space |= {
                "fine_tune_epochs": Whole(0, 10),
                "fine_tune_learning_rate": Number(1e-5, 1e-3, log=True),
                "augment": Choice(PRESETS),
                "layer_decay": Number(0.7, 1),
                "optimizer": Choice(("adam", "sgd")),
            }
        if own.batch_size_per_replica is not None:
            del space["global_batch_size"]
    has = {field.name for field in dataclasses.fields(own)}
    space = {name: values for name, values in space.items() if name in has and name not in config.given}
    if config.model_handles:
        space["model_handle"] = Choice(tuple(dict.fromkeys(config.model_handles)))
    if not space:
        raise ConfigError(
            "All settings that a search knows of are given. Leave some out: it finds values for them."
        )
    return space


def _load(own: Any, model_handle: str) -> tuple[Any, Splits, Splits | None]:
    """Return a model, its splits, and the splits of its features where they are stored."""
    from tfkit import hub

    own = dataclasses.replace(own, model_handle=model_handle)
    stored = getattr(own, "features", False)
    trainable = not stored if isinstance(own, PrivateSettings) else isinstance(own, WholeModelSettings)
    encoder, splits = load(own, global_batch_size=own.global_batch_size or 1, trainable=trainable)
    if encoder is None or not stored:
        return encoder, splits, None
    process.say(f"The features of {encoder.handle} are computed, unless they are stored already.")
    extraction = hub.extract(encoder, splits)
    process.say(extraction.summary)
    return encoder, splits, extraction.splits


def _find(run: Run, config: Any, own: Any, space: Mapping[str, Any], loaded: Loaded, strategy: Any) -> Any:
    """Return the recipe's settings with the best of the values that were tried in place of its own."""
    import optuna
    from optuna.trial import TrialState

    if "model_handle" not in space:
        loaded(own)  # what is wrong with the data is no failure of a trial
    study, next_trial = _open_study(run, config, space)
    if not study.trials:  # what the recipe does by itself is among them
        study.enqueue_trial(_usual(own, config, space))
    while len(rows := [row for row in _rows(study) if row["state"] != "running"]) < config.trials:
        spent = sum(row["seconds"] for row in rows)
        if config.minutes is not None and spent >= 60 * config.minutes:
            run.note(
                f"The search ended after {spent / 60:.1f} minutes and {len(rows)} of {config.trials} trials."
            )
            break
        trial = next_trial()
        began, state, value = time.monotonic(), TrialState.COMPLETE, None
        try:
            value = _try(run, config, own, trial, loaded, strategy)
        except optuna.TrialPruned:
            state = TrialState.PRUNED
        except Exception as error:  # what ends the process is none: such a trial goes on with the next call
            state = TrialState.FAIL
            trial.set_user_attr("error", f"{type(error).__name__}: {packages.first_line(error)}")
        shutil.rmtree(_folder(run, trial) / BACKUP, ignore_errors=True)
        trial.set_user_attr("seconds", round(time.monotonic() - began, 2))
        study.tell(trial, value, state=state)
        files.write_text(
            run.path / TABLE, pd.DataFrame(_rows(study)).to_csv(index=False, float_format="%.6g")
        )
        _tell(run, config, _rows(study))
    rows = _rows(study)
    done = [row for row in rows if row["state"] == "complete"]
    if not done:
        first = next((row["error"] for row in rows if row["error"]), "none began")
        raise CheckError(
            f"No trial came to its end: {first}.\n  The recipe itself, called once, shows more; {run.path / TABLE} has"
            " all of them. After a repair: --overwrite."
        )
    best = _best(done, config)
    counts = {
        f"search/trials_{state}": sum(row["state"] == state for row in rows) for state in _STATES.values()
    }
    measured = {f"search/best_{name}": best[name] for name in _MEASURED if best[name] is not None}
    run.record({**counts, **measured, "search/seconds": sum(row["seconds"] for row in rows)})
    values = {name: best[name] for name in space}
    run.note(
        f"Trial {best['trial']} has the best val_{config.target}, {best[f'val_{config.target}']:.4g}: {_shown(values)}."
    )
    return dataclasses.replace(own, **values)


def _open_study(run: Run, config: Any, space: Mapping[str, Any]) -> tuple[Any, Callable[[], Any]]:
    """Return the study in the run folder, new or as an earlier process left it, and what gives its next trial.

    Each trial has a sampler of its own, seeded by the search's seed and the trial's number: an interrupted search tries
    what an uninterrupted one would have tried.
    """
    import optuna
    from optuna.trial import TrialState
    from sqlalchemy import URL
    from sqlalchemy.exc import SQLAlchemyError

    path = (run.path / DATABASE).resolve()
    try:
        storage = optuna.storages.RDBStorage(str(URL.create("sqlite", database=str(path))))
        study = optuna.create_study(
            storage=storage,
            study_name="search",
            load_if_exists=True,
            direction="minimize" if config.target == "loss" else "maximize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=5),
        )
        known = study.get_trials()
    except (SQLAlchemyError, optuna.exceptions.OptunaError, LookupError, ValueError, RuntimeError) as error:
        raise run_files.damaged(path, packages.first_line(error)) from error
    identity = storage.get_study_id_from_name(study.study_name)
    interrupted = [trial for trial in known if trial.state == TrialState.RUNNING]

    def next_trial() -> Any:
        while interrupted:
            last = interrupted.pop()
            if set(last.params) == set(space):
                return optuna.Trial(
                    study, storage.get_trial_id_from_study_id_trial_number(identity, last.number)
                )
            study.tell(last.number, state=TrialState.FAIL)  # killed as it was drawn
        seed = int(files.digest_of(config.seed, len(study.trials))[:8], 16)
        study.sampler = optuna.samplers.TPESampler(seed=seed)
        return study.ask(dict(space))

    return study, next_trial


def _usual(own: Any, config: Any, space: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the recipe does by itself, as far as it is among the values that are searched."""
    texts = isinstance(own, TextColumns) and own.of_texts
    usual = {**vars(own), **({"hidden": 1024, "dropout": 0.5} if texts else {"hidden": 0, "dropout": 0.2})}
    usual["model_handle"] = [*config.model_handles, own.model_handle][0]
    return {name: usual[name] for name in space if usual[name] is not None}


def _folder(run: Run, trial: Any) -> Path:
    return run.path / TRIALS / f"{trial.number + 1:03d}"


def _try(run: Run, config: Any, own: Any, trial: Any, loaded: Loaded, strategy: Any) -> float:
    """Train by the trial's settings in a folder of its own; return what the validation split says."""
    from tfkit.environment.stack import keras
    from tfkit.reporting import tensorboard
    from tfkit.transfer.continuing import Start
    from tfkit.transfer.fine_tuning import train_head

    chosen = dataclasses.replace(own, **trial.params)
    encoder, splits, features = loaded(chosen)
    watch = _watch(trial, config)
    how = {"strategy": strategy, "start": Start(), "callbacks": [watch]}
    with process.muted(), Run.create(_folder(run, trial), config=as_dict(chosen)) as trial_run:
        chosen = strategies.scale_to_replicas(chosen, strategy, trial_run)
        try:
            if isinstance(own, TransferConfig) and features is not None and not config.search_whole:
                features = without_test(features, global_batch_size=chosen.global_batch_size)
                train_head(encoder, features, chosen, run=trial_run, **how)
            else:
                splits = without_test(splits, global_batch_size=chosen.global_batch_size)
                job_of(chosen, encoder)(trial_run, encoder, splits, chosen, **how)
        finally:
            keras.backend.clear_session()
            measured = tensorboard.best(trial_run.history) or watch.best
            trial_run.record(measured)
            tensorboard.write_hparams(trial_run.logdir, trial.params, measured)
            for name in _MEASURED:
                trial.set_user_attr(name, measured.get(f"best/{name}"))
    return measured[f"best/val_{config.target}"]


def _watch(trial: Any, config: Any) -> Any:
    """Return a Keras callback that reports each epoch to the pruner, and to who waits for it."""
    import optuna

    from tfkit.environment.stack import keras

    verbose, name = process.is_verbose(), f"val_{config.target}"

    class Watch(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.epochs, self.told, self.best = 0, time.monotonic(), dict[str, float]()

        def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
            values = {key: float((logs or {})[key]) for key in _MEASURED if key in (logs or {})}
            if name not in values:
                raise CheckError(f"This training measures no {name}: --target names something else")
            if values["val_loss"] < self.best.get("best/val_loss", math.inf):
                self.best = {f"best/{key}": value for key, value in values.items()}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a trial that goes on reports some epochs twice
                trial.report(values[name], self.epochs)
            self.epochs += 1
            if verbose and time.monotonic() - self.told > TOLD_SECONDS:
                print(f"  epoch {self.epochs}: {_shown(values)}", flush=True)
                self.told = time.monotonic()
            if trial.should_prune():
                raise optuna.TrialPruned

    return Watch()


def _rows(study: Any) -> list[dict[str, Any]]:
    """Return what is known of each trial, in their order: of the table."""
    return [
        {
            "trial": trial.number + 1,
            "state": _STATES.get(trial.state.name, "running"),
            **{name: trial.user_attrs.get(name) for name in _MEASURED},
            "seconds": trial.user_attrs.get("seconds", 0.0),
            **trial.params,
            "error": trial.user_attrs.get("error"),
        }
        for trial in study.get_trials(deepcopy=False)
        if trial.state.name != "WAITING"
    ]


def _best(rows: list[dict[str, Any]], config: Any) -> dict[str, Any]:
    """Return the row of the best trial; of equal accuracies the one with the lower loss."""
    sign = -1 if config.target == "accuracy" else 1
    return min(rows, key=lambda row: (sign * row[f"val_{config.target}"], row["val_loss"]))


def _tell(run: Run, config: Any, rows: list[dict[str, Any]]) -> None:
    """Say how the last trial ended, which is the best, and how long the search will take."""
    ended = [row for row in rows if row["state"] != "running"]
    row, spent = ended[-1], sum(row["seconds"] for row in ended)
    text = f"Trial {row['trial']} of {config.trials}, {row['state']} after {row['seconds']:.1f} s"
    settings = {
        name: value for name, value in row.items() if name not in ("trial", "state", "seconds", "error")
    }
    if row["error"]:
        run.warn(f"{text}: {row['error']} ({_shown(settings)}).")
    else:
        run.say(f"{text}: {_shown(settings)}.")
    left = spent / len(ended) * (config.trials - len(ended))
    if config.minutes is not None:
        left = min(left, max(60 * config.minutes - spent, 0.0))
    if done := [row for row in ended if row["state"] == "complete"]:
        best = _best(done, config)
        value = best[f"val_{config.target}"]
        run.say(
            f"  The best is trial {best['trial']} (val_{config.target} {value:.4g}); about {left:.0f} s left."
        )


def _shown(values: Mapping[str, Any]) -> str:
    form = {float: "{:.3g}"}
    return ", ".join(
        f"{name} {form.get(type(value), '{}').format(value)}"
        for name, value in values.items()
        if value is not None
    )

"""A search as its user calls it: what it finds, what it never looks at, how it goes on, and what a private one says."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import tfkit
from recipes import tune
from tests import forked
from tests.conftest import write_digits
from tfkit.environment import stack
from tfkit.errors import CheckError, ConfigError, HubError, RunError, StackError, UsageError
from tfkit.run import Run
from tfkit.settings.options import TransferConfig
from tfkit.settings.parse import from_keywords
from tfkit.transfer.train import RECIPES, settings_of
from tfkit.tuning.tune import search_space, with_search

ROOT = Path(__file__).parents[2]
QUICK = {"image_size": 32, "epochs": 3, "fine_tune_epochs": 0}
SEARCHED = ["learning_rate", "hidden", "dropout", "global_batch_size"]


@pytest.fixture(scope="module")
def divided(tmp_path_factory):
    """Digits in folders train/, validation/ and test/, and the same with the test images under wrong classes."""
    folder = tmp_path_factory.mktemp("data")
    whole = write_digits(folder / "whole", classes=3, each=40)
    for image in sorted(whole.glob("*/*.png")):
        place = len([*(folder / "photos").glob(f"*/{image.parent.name}/*")])
        part = folder / "photos" / ("train" if place < 24 else "validation" if place < 32 else "test")
        (part / image.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(image, part / image.parent.name)
    shutil.copytree(folder / "photos", folder / "poisoned")
    names = sorted(path.name for path in (folder / "poisoned" / "test").iterdir())
    for name in names:
        (folder / "poisoned" / "test" / name).rename(folder / "poisoned" / "test" / f"old {name}")
    for name, other in zip(names, names[1:] + names[:1], strict=True):
        (folder / "poisoned" / "test" / f"old {name}").rename(folder / "poisoned" / "test" / other)
    return folder


@pytest.fixture(scope="module")
def finished(divided):
    """The run of the program in docs/manual/how-to/tune.md."""
    (program,) = re.findall(
        r"^```python\n(.*?)^```$", (ROOT / "docs/manual/how-to/tune.md").read_text(), re.DOTALL | re.MULTILINE
    )
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(divided)
        exec(compile(program, "docs/manual/how-to/tune.md", "exec"), names)
    return Run.open(divided / names["run"].path)


def table(folder):
    return pd.read_csv(folder / "trials.csv")


@pytest.mark.slow
def test_the_best_of_the_trials_is_trained_as_a_plain_run_and_tested_once(finished):
    folder = finished.path.parent
    rows = table(folder)
    assert list(rows["state"]) == ["complete"] * 3
    first, best = rows.iloc[0], rows.loc[rows["val_loss"].idxmin()]
    # What the recipe does by itself is among them.
    assert first["learning_rate"] == TransferConfig.learning_rate
    assert first["global_batch_size"] == TransferConfig.global_batch_size
    assert pd.isna(first["hidden"])
    assert len(set(rows["learning_rate"])) == 3
    # The run of the best is a run of the recipe: the same training, and the settings that make it again.
    assert finished.metrics["best/val_loss"] == pytest.approx(best["val_loss"], rel=1e-4)
    again = settings_of(finished, otherwise="")
    assert type(again) is RECIPES["transfer_image"]
    assert again.learning_rate == pytest.approx(best["learning_rate"], rel=1e-5)
    assert finished.finished
    assert "test/accuracy" in finished.metrics
    # Nothing else has been tested, and no model but the best is kept.
    trials = [Run.open(path) for path in sorted((folder / "trials").iterdir())]
    assert len(trials) == 3
    for trial, row in zip(trials, rows.itertuples(), strict=True):
        assert not [name for name in trial.metrics if name.startswith("test")]
        assert trial.metrics["best/val_loss"] == pytest.approx(row.val_loss, rel=1e-4)
        assert not (trial.path / "saved_model").exists()
        assert not (trial.path / "backup").exists()
        assert [*trial.logdir.glob("*hparams*")]
    page = (folder / "report.html").read_text()
    assert ">Trials</h2>" in page
    assert page.count("<td>complete</td>") == 3
    assert Run.open(folder).config.keys().isdisjoint(SEARCHED)
    assert f"search       {folder}" in "\n".join(tune.closing_lines(finished))


@pytest.mark.slow
def test_neither_a_kill_nor_the_test_labels_change_what_is_tried(finished, divided, tmp_path, capsys):
    search = tmp_path / "s"
    words = ["transfer_image", "--data-dir", divided / "poisoned", "--run-dir", search, "--trials", "3"]
    words = [*map(str, words), "--image-size", "32", "--epochs", "3", "--fine-tune-epochs", "0"]
    program = [sys.executable, "-m", "recipes.tune", *words]
    process = forked.Popen(program, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL)
    began = time.monotonic()
    # In the second trial: its folder is there, and the table has the first alone.
    while not (search / "trials" / "002" / "config.yaml").is_file():
        assert process.poll() is None
        assert time.monotonic() - began < 900
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait(600)
    assert not (search / "best").exists()
    for _ in range(2):
        with pytest.raises(SystemExit) as ended:
            tune.main(words)
        assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "Trial 1 of 3" not in printed
    assert "Trial 3 of 3" in printed
    assert "holds the finished search" in printed
    of_plain, of_killed = (table(folder).drop(columns="seconds") for folder in (finished.path.parent, search))
    pd.testing.assert_frame_equal(of_killed, of_plain)
    # Those labels were wrong indeed.
    assert Run.open(search / "best").metrics["test/accuracy"] < 0.4 < finished.metrics["test/accuracy"]


@pytest.mark.slow
def test_a_trial_that_fails_is_named_and_the_others_go_on(divided, tmp_path, capsys):
    handles = ("efficientnet-lite0", str(tmp_path / "no_such_model"))
    settings = {"data_dir": divided / "photos", "model_handles": handles, "trials": 3, **QUICK}
    run = tfkit.tune("transfer_image", run_dir=tmp_path / "s", target="accuracy", **settings)
    rows = table(tmp_path / "s")
    failed = rows[rows["state"] == "fail"]
    assert len(rows) == 3
    assert len(failed) >= 1
    assert set(failed["model_handle"]) == {handles[1]}
    assert failed["error"].str.contains("no_such_model").all()
    assert "no_such_model" in capsys.readouterr().err
    assert run.config["model_handle"] == handles[0]
    done = rows[rows["state"] == "complete"]
    best = done[done["val_accuracy"] == done["val_accuracy"].max()]
    assert run.metrics["best/val_loss"] == pytest.approx(best["val_loss"].min(), rel=1e-4)


def test_where_all_fail_the_first_reason_is_the_error(photos, tmp_path):
    settings = {"data_dir": photos, "run_dir": tmp_path / "s", "trials": 2, **QUICK, "learning_rate": 1e38}
    settings["augment"] = "light"  # which trials on stored features have not
    with pytest.raises(CheckError, match=r"No trial.*came apart.*(.|\n)*trials.csv"):
        tfkit.tune("transfer_image", **settings)
    assert list(table(tmp_path / "s")["state"]) == ["fail", "fail"]
    assert "images as they are" in (tmp_path / "s/notes.txt").read_text()
    (tmp_path / "s" / "search.db").write_text("no database")
    with pytest.raises(RunError, match=r"search\.db"):
        tfkit.tune("transfer_image", **settings)


def test_fine_tuning_that_is_asked_for_is_checked_before_the_first_trial(tmp_path):
    in_memory = np.zeros((40, 8, 8), np.uint8), np.arange(40) % 2  # which a search takes as training does
    settings = {"model_handle": "scattering", "run_dir": tmp_path / "s", "fine_tune_epochs": 2}
    with pytest.raises(HubError, match=r"scattering(.|\n)*--fine-tune-epochs 0"):
        tfkit.tune("transfer_image", in_memory, **settings)
    assert not (tmp_path / "s" / "trials.csv").exists()
    for verb in tfkit.tune, lambda _, *data, **given: tfkit.train(*data, **given):
        with pytest.raises(ConfigError, match="data_dir="):
            verb("transfer_image", in_memory, data_dir=tmp_path, **settings)


def test_accuracy_is_no_target_where_training_measures_none(photos, tmp_path):
    rows = [f"{image},{image.parent.name[-1]}|digit\n" for image in photos.glob("*/*.png")]
    table = photos.parent / "tags.csv"
    table.write_text("".join(["file,tags\n", *rows]).replace(f"{photos.parent}/", ""))
    settings = {"data_file": table, "image_column": "file", "label_column": "tags", "task": "labels"}
    with pytest.raises(
        ConfigError, match="--target accuracy is for the task classes and order, not for labels"
    ):
        tfkit.tune("transfer_image", run_dir=tmp_path / "s", target="accuracy", **settings, **QUICK)
    assert not (tmp_path / "s" / "search.db").exists()


def space_of(recipe, **given):
    config = from_keywords(with_search(recipe), given, call="tfkit.tune")
    return search_space(config)


def test_what_is_given_is_not_searched(tmp_path):
    assert set(space_of("transfer_image")) == {*SEARCHED, "epochs"}
    assert set(space_of("transfer_text", epochs=5, dropout=0.2)) == {
        "learning_rate",
        "hidden",
        "global_batch_size",
    }
    assert set(space_of("train_distributed")) == {"learning_rate", "epochs", "global_batch_size"}
    whole = {"fine_tune_epochs", "fine_tune_learning_rate", "augment"}
    assert set(space_of("transfer_image", search_whole=True)) == {*SEARCHED, "epochs", *whole}
    assert set(space_of("train_private")) == {"learning_rate", "l2_norm_clip"}
    (tmp_path / "some.yaml").write_text("learning_rate: 0.003\n")
    assert "learning_rate" not in space_of("transfer_image", config=tmp_path / "some.yaml")
    # All layers learn at smaller rates than a head; of a light model there is no head on stored features.
    for all_layers in ({"features": False}, {"model_handle": "light", "dataset": "sentiment"}):
        assert space_of("train_private", **all_layers)["learning_rate"].high == 1
    assert space_of("train_private")["learning_rate"].high == 16
    with pytest.raises(ConfigError, match="Leave some out"):
        space_of("train_private", learning_rate=1.0, l2_norm_clip=1.0)


@pytest.mark.parametrize(
    ("recipe", "given", "named"),
    [
        ("transfer_imag", {}, "transfer_image"),
        ("transfer_image", {"trails": 3}, "trials="),
        ("transfer_image", {"trials": 0}, "trials="),
        ("transfer_image", {"continue_from": "runs/other"}, "--continue-from"),
        ("train_private", {"minutes": 3}, "--minutes"),
        ("train_private", {"trials": 1}, "--trials of 2"),
        ("train_private", {"expected_trials": 4}, "--expected-trials"),
        ("train_private", {"model_handles": ["a", "b"]}, "--model-handles"),
        ("train_private", {"diagnostics": True}, "--diagnostics"),
        ("train_private", {"deterministic_noise": True}, "--deterministic-noise"),
        ("train_private", {"noise_multiplier": 0}, "--noise-multiplier"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_read(recipe, given, named, tmp_path):
    with pytest.raises(UsageError, match=re.escape(named)):
        tfkit.tune(recipe, run_dir=tmp_path / "s", **given)
    assert not (tmp_path / "s").exists()


def test_several_workers_and_a_missing_optuna_are_refused(tmp_path, monkeypatch, capsys):
    workers = {"worker": ["127.0.0.1:1", "127.0.0.1:2"]}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": workers, "task": {"type": "worker", "index": 0}}))
    with pytest.raises(ConfigError, match="one process"):
        tfkit.tune("train_distributed", run_dir=tmp_path / "s")
    monkeypatch.delenv("TF_CONFIG")
    monkeypatch.delattr(stack, "optuna")
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(StackError, match=r"optuna(.|\n)*(install .*optuna|--extra=tune)"):
        tfkit.tune("transfer_image", run_dir=tmp_path / "s")
    for words, said in (
        (["no_such"], "invalid choice"),
        ([], "recipe"),
        (["train_private", "--trials"], "--trials"),
    ):
        with pytest.raises(SystemExit) as ended:
            tune.main(words)
        assert ended.value.code == 2
        assert said in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        tune.main(["transfer_text", "--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "python -m recipes.tune" in printed
    assert all(flag in printed for flag in ("--trials", "--minutes", "--search-whole", "--text-column"))

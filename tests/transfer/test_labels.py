"""Several labels an example, from a table to a .tflite file: real digits that are even, have a loop, or are prime."""

from __future__ import annotations

import csv
import importlib.metadata
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import tfkit
from tfkit.environment.stack import keras
from tfkit.errors import ConfigError, DataError, RunError
from tfkit.reporting.examples import load
from tfkit.run import Run
from tfkit.tasks import Labels

DOCS = Path(__file__).parents[2] / "docs/manual/how-to/tasks.md"
NAMES = ["even", "loop", "prime"]
OF_DIGIT = np.array([[d % 2 == 0, d in (0, 6, 8, 9), d in (2, 3, 5, 7)] for d in range(10)], int)
COUNT = 400


def programs() -> list[str]:
    return re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A table of files: a row a digit, its labels joined."""
    digits, place = load_digits(), tmp_path_factory.mktemp("labels")
    (place / "digits").mkdir()
    with (place / "digits/labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "tags"])
        for number in range(COUNT):
            pixels = np.round(digits.images[number] * (255 / 16)).astype(np.uint8)
            Image.fromarray(pixels).resize((32, 32)).save(place / f"digits/{number}.png")
            rows.writerow([f"{number}.png", "|".join(np.array(NAMES)[OF_DIGIT[digits.target[number]] == 1])])
    return place


@pytest.fixture(scope="module")
def run(folder) -> Run:
    """What the first program of docs/manual/how-to/tasks.md makes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(compile(programs()[0], str(DOCS), "exec"), {})
    return Run.open(folder / "runs/digits")


@pytest.mark.slow
def test_a_table_becomes_a_run(run):
    assert run.labels == NAMES
    assert isinstance(run.task, Labels)
    assert len(run.task.thresholds) == 3
    assert run.read("task.json")["name"] == "labels"
    # Always yes reaches 0.6 on these.
    assert run.metrics["test/micro_f1"] > 0.8
    assert (
        run.metrics["test/micro_f1_low"] < run.metrics["test/micro_f1"] <= run.metrics["test/micro_f1_high"]
    )
    assert "Thresholds by the best F1" in " ".join(run.notes)
    assert not run.read("calibration.json")
    measured, examples = load(run.path / "evaluation.npz")
    assert measured.thresholds.tolist() == pytest.approx(list(run.task.thresholds))
    assert examples.sample_labels.shape[1:] == (3,)
    assert run.provenance["data"]["sizes"]["test"] == len(measured.labels)
    assert "micro F1" in (run.path / "report.html").read_text()
    assert "| label | train | test | f1 |" in (run.path / "model_card.md").read_text()
    assert f"micro_f1 {run.metrics['test/micro_f1']:.4g}" in repr(run)


@pytest.mark.slow
def test_predict_gives_what_was_measured(run, folder):
    measured, _ = load(run.path / "evaluation.npz")
    frame = run.predict([folder / "digits" / name for name in measured.names])
    assert np.abs(frame[NAMES].to_numpy() - measured.probabilities).max() < 1e-4
    expected = ["|".join(np.array(NAMES)[row == 1]) for row in measured.predicted]
    assert frame["label"].tolist() == expected
    assert "probability" not in frame
    shown = subprocess.run(
        [sys.executable, "-m", "tfkit", "predict", run.path, folder / "digits" / measured.names[0]],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert shown.stdout.rstrip("\n").split("\t")[1] == expected[0]


@pytest.mark.slow
def test_a_file_is_judged_by_the_thresholds(run, folder):
    content = run.read("tflite/variants.json")
    by_name = {row["name"]: row for row in content["variants"]}
    assert content["output"] == "sigmoid"
    assert content["source"]["micro_f1"] == pytest.approx(run.metrics["test/micro_f1"])
    for row in by_name.values():
        assert row["micro_f1_drop"] == pytest.approx(content["source"]["micro_f1"] - row["micro_f1"])
    assert by_name["float32"]["agreement"] > 0.99
    assert run.metrics["lite/int8/micro_f1_drop"] <= 0.03
    assert "micro F1" in content["verdict"]
    measured, _ = load(run.path / "evaluation.npz")
    files = [folder / "digits" / name for name in measured.names[:6]]
    script = [sys.executable, run.path / "tflite/infer.py"]
    table = subprocess.run([*script, *files], capture_output=True, text=True, check=True).stdout.splitlines()
    for line, probabilities in zip(table, measured.probabilities, strict=False):
        _, said, *numbers = line.split("\t")
        given = np.array(numbers, float)
        assert np.abs(given - probabilities).max() < 0.2
        assert said == "|".join(np.array(NAMES)[given >= np.round(run.task.thresholds, 6)])


@pytest.mark.slow
def test_what_is_not_for_labels_is_refused(run, folder):
    for job in (
        lambda: tfkit.find_label_errors(run),
        lambda: tfkit.audit(run),
        lambda: run.predict([folder / "digits/0.png"], coverage=0.9),
    ):
        with pytest.raises(ConfigError, match="not for labels"):
            job()
    with pytest.raises(ConfigError, match=r"class_weights.*not for labels"):
        tfkit.train(
            folder / "digits/labels.csv", image_column="file", model="cnn", class_weights="always",
            run_dir=folder / "runs/weighted",
        )  # fmt: skip
    with pytest.raises(ConfigError, match="not for classes"):
        tfkit.train(continue_from=run, task="classes", run_dir=folder / "runs/classes")


@pytest.mark.slow
def test_a_run_goes_on_from_it(run, folder):
    further = tfkit.train(continue_from=run, epochs=1, run_dir=folder / "runs/further")
    assert "the validation binary accuracy is 0." in " ".join(further.notes)
    assert further.metrics["test/micro_f1"] > 0.75
    assert run.explain(folder / "digits/3.png", label="prime")[0].label == "prime"


def own(units=3, activation="sigmoid", loss="binary_crossentropy"):
    def build():
        layers = [keras.Input([8, 8, 3]), keras.layers.Flatten(), keras.layers.Dense(units, activation)]
        model = keras.Sequential(layers)
        model.compile(keras.optimizers.Adam(3e-2), loss)
        return model

    return build


@pytest.fixture(scope="module")
def arrays() -> dict:
    digits = load_digits()
    images = np.round(digits.images[:600] * (255 / 16)).astype(np.uint8)
    return {"images": images, "tags": OF_DIGIT[digits.target[:600]]}


@pytest.fixture(scope="module")
def splits(arrays) -> tfkit.Splits:
    about = {"task": "labels", "class_names": NAMES, "image_size": 8, "global_batch_size": 60}
    return tfkit.from_arrays(arrays["images"], arrays["tags"], **about)


LOGITS = keras.losses.BinaryCrossentropy(from_logits=True)
WRONG = {
    "softmax": (own(activation="softmax"), ConfigError, "one label what it takes from the others"),
    "one class": (own(loss="sparse_categorical_crossentropy"), ConfigError, "binary_crossentropy"),
    "shares": (own(loss="categorical_crossentropy"), ConfigError, "binary_crossentropy"),
    "units": (own(units=2), DataError, "3 labels"),
    "one unit": (own(units=1), DataError, "3 labels"),
    "unsaid": (own(activation=None, loss="mse"), ConfigError, "BinaryCrossentropy"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_model_that_cannot_learn_labels_is_refused_after_no_epoch(name, splits, tmp_path):
    build, kind, why = WRONG[name]
    with pytest.raises(kind, match=why):
        tfkit.fit(build, splits, run_dir=tmp_path / "run", epochs=1, verbose=0)
    assert not (tmp_path / "run/history.csv").exists()


def test_models_of_ones_own(arrays, splits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = {"tfkit": tfkit, "build_model": own(), **arrays}
    exec(compile(programs()[1], str(DOCS), "exec"), made)
    assert made["own"].metrics["test/micro_f1"] > 0.6
    for name, build in (("logits", own(activation=None, loss=LOGITS)), ("mse", own(loss="mse"))):
        run = tfkit.fit(build, splits, run_dir=tmp_path / name, epochs=12, verbose=0, calibrate=False)
        assert run.metrics["test/micro_f1"] > 0.7
        assert run.metrics["export/agreement"] == 1
    with pytest.raises(ConfigError, match="calibrate"):
        tfkit.fit(own(), splits, run_dir=tmp_path / "calibrated", epochs=1, calibrate=True)


def test_a_private_run_chooses_nothing_by_its_examples(splits, tmp_path):
    asked = {"target_epsilon": 8.0, "delta": 1e-3, "l2_norm_clip": 0.3}
    run = tfkit.fit(
        own(activation=None, loss=LOGITS), splits, run_dir=tmp_path / "run", epochs=6, verbose=0,
        privacy=tfkit.DPSGD(**asked),
    )  # fmt: skip
    statement = run.read("privacy.json")
    assert statement["private"]
    # As without labels: the accountant knows of samples and noise alone.
    settings = {
        "delta": 1e-3,
        "steps": statement["steps"],
        "sampling_probability": statement["sampling_probability"],
    }
    spent = tfkit.privacy.compute_epsilon(noise_multiplier=statement["noise_multiplier"], **settings)
    assert statement["epsilon"] == pytest.approx(spent, rel=1e-6)
    assert run.task == Labels()
    assert not [note for note in run.notes if "Threshold" in note]
    assert "counts" not in json.dumps(run.provenance)
    assert load(run.path / "evaluation.npz")[0].names[0] == "test/0"
    assert run.metrics["test/mean_average_precision"] > 0.4


@pytest.fixture(scope="module")
def topics(tmp_path_factory) -> Path:
    """What the installed packages say of themselves, and under which topics they stand."""
    said: dict[str, set[str]] = {}
    for package in importlib.metadata.distributions():
        of = {
            line.split(" :: ")[1]
            for line in package.metadata.get_all("Classifier") or []
            if line[:8] == "Topic ::"
        }
        if (summary := package.metadata.get("Summary")) and of:
            said[" ".join(summary.split())] = of
    counts = Counter(topic for of in said.values() for topic in of)
    kept = {topic for topic, count in counts.items() if count >= 20}
    path = tmp_path_factory.mktemp("topics") / "packages.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerows(
            [["text", "topics"], *([text, "; ".join(sorted(of & kept))] for text, of in said.items())]
        )
    return path


@pytest.mark.slow
def test_texts_beside_counted_words(topics):
    run = tfkit.train(
        topics, model="light", label_column="topics", task="labels", epochs=10, run_dir=topics.parent / "run",
        validation_fraction=0.4,
    )  # fmt: skip
    assert {*run.task.thresholds} != {0.5}, "so that the gain is of two models with thresholds of their own"
    assert "Software Development" in run.labels
    numbers = run.metrics
    assert 0 < numbers["baseline/micro_f1"] <= 1
    gain = numbers["test/micro_f1"] - numbers["baseline/micro_f1"]
    assert numbers["baseline/gain"] == pytest.approx(gain)
    assert numbers["baseline/gain_low"] <= gain <= numbers["baseline/gain_high"]
    assert any(note.startswith("Thresholds") for note in run.notes)
    measured, _ = load(run.path / "evaluation.npz")
    table = topics.parent / "others.csv"
    table.write_text(
        'text,topics\n"Machine learning, in Python","Scientific/Engineering"\n"Nothing",\n"What?","Dreams"\n'
    )
    frame = run.predict(table, label_column="topics")
    assert frame.attrs["evaluated"] == 2
    assert frame.attrs["unknown_classes"] == {"Dreams": 1}
    assert 0 <= frame.attrs["micro_f1"] <= 1
    assert measured.class_names == tuple(run.labels)
    with pytest.raises(RunError):
        Run.open(topics.parent).predict(table)

"""The job of a spreadsheet of messages: raw strings in, probabilities out, and a word about whether it was worth it."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from recipes import train_private
from recipes.transfer_text import Config, run
from tests import forked
from tests.composition.composed import SAID, THINGS
from tests.privacy import planted
from tfkit.data import load_texts
from tfkit.environment.stack import tf
from tfkit.errors import ConfigError
from tfkit.run import Run

ROOT = Path(__file__).parents[2]
HOSTILE = "<script>alert('x')</script>"
QUICK = {"epochs": 4, "global_batch_size": 16, "text_column": "body", "label_column": "folder"}
AUF_DEUTSCH = {
    "billing": "Die Rechnung für {} stimmt nicht, bitte erstatten Sie {}.",
    "delivery": "Mein Paket mit {} ist nicht angekommen. Wo bleibt {}?",
    "praise": "Was für ein schönes Ding: {}! Auch {} gefällt mir, vielen Dank.",
}


@pytest.fixture(scope="session")
def mails(tmp_path_factory) -> Path:
    """120 short mails in two languages, three folders, with quoted line breaks, emoji, markup and a text of 20 kB."""
    path = tmp_path_factory.mktemp("data") / "mails.csv"
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        rows = csv.writer(file)
        rows.writerow(["body", "folder", "language"])
        for number in range(40):
            for folder in SAID:
                first, second = THINGS[number % 10], THINGS[(number * 7 + 3) % 10]
                german = number % 3 == 0
                text = (AUF_DEUTSCH if german else SAID)[folder].format(f"{first} {number}", second)
                if number % 10 == 4:
                    text = f"Hello,\n\n{text} 🙂 \u05e9\u05dc\u05d5\u05dd {HOSTILE}\n"
                if number == 7:
                    text += " And so on." * 2000
                rows.writerow([text, folder, "de" if german else "en"])
    return path


@pytest.fixture(scope="module")
def finished(mails, tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("runs") / "mails"
    found = {**QUICK, "text_column": None, "label_column": None}  # and the language
    return run(Config(data_file=mails, fine_tune_epochs=1, run_dir=folder, **found))


@pytest.mark.slow
def test_the_run_folder_holds_all_that_is_promised(finished):
    metrics = finished.metrics
    assert metrics["test/accuracy"] > 0.8
    assert 0.5 < metrics["baseline/accuracy"] <= 1
    assert metrics["baseline/gain"] == pytest.approx(metrics["test/accuracy"] - metrics["baseline/accuracy"])
    assert metrics["export/agreement"] == 1.0
    assert metrics["export/max_difference"] < 1e-4
    assert 8 < metrics["data/median_tokens"] < 40
    found = [finished.config[f"{column}_column"] for column in ("text", "label", "language")]
    assert found == ["body", "folder", "language"]
    assert finished.config["max_length"] == finished.provenance["model"]["max_length"]
    assert metrics["data/cut_share"] > 0
    assert metrics["test/examples/en"] + metrics["test/examples/de"] == metrics["test/examples"]
    assert list(finished.history["stage"].unique()) == ["head", "fine_tune"]
    page = (finished.path / "report.html").read_text()
    assert ("of a baseline (TF-IDF" in page, "Languages" in page, HOSTILE in page) == (True, True, False)
    assert (finished.path / "saved_model/assets/vocab.txt").read_text(encoding="utf-8").startswith("[PAD]\n")
    assert {path.name for path in finished.logdir.iterdir() if path.is_dir()} == {
        "train",
        "validation",
        "projector",
    }


@pytest.mark.slow
def test_the_model_takes_strings_as_they_are(finished):
    model = finished.model
    text = "Where is my parcel? It has not arrived."
    one = model(tf.constant(text)).numpy()
    assert finished.labels[one.argmax()] == "delivery"
    strange = ["", "\0", "مرحبا بالعالم", "你好，世界", "🙂" * 500, text, "x" * 100_000, b"\xff\xfe broken"]
    many = model(tf.constant(strange)).numpy()
    np.testing.assert_allclose(many.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(many[5], one, atol=1e-5)  # whatever it is padded to
    for string, expected in zip(strange, many, strict=True):
        on_device = model.signatures["device"](texts=tf.constant([string]))["probabilities"].numpy()[0]
        np.testing.assert_allclose(on_device, expected, atol=1e-5)


@pytest.mark.slow
def test_loading_the_model_needs_nothing_but_tensorflow_and_its_text_operations(finished):
    program = (
        "import sys, tensorflow as tf, tensorflow_text\n"
        f"model = tf.saved_model.load({str(finished.path / 'saved_model')!r})\n"
        "out = model.signatures['serving_default'](texts=tf.constant(['a', 'b']))['probabilities']\n"
        "assert out.shape == (2, 3), out.shape\n"
        "assert not {'tfkit', 'tensorflow_hub', 'tf_keras'} & set(sys.modules)\n"
    )
    stock = {name: value for name, value in os.environ.items() if not name.startswith("TF")}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd="/", env=stock)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_light_model_trains_from_scratch_and_on_two_replicas(mails, tmp_path):
    """A folder of its own for each: one process by Python, two replicas by the command line."""
    settings = {**QUICK, "epochs": 20, "learning_rate": 3e-3, "model_handle": "light"}
    one = run(Config(data_file=mails, run_dir=tmp_path / "one", **settings))
    assert one.metrics["test/accuracy"] > 0.8
    assert one.metrics["export/agreement"] == 1.0
    assert one.metrics["export/size_bytes"] < 5e6
    words = ["--data-file", str(mails), "--run-dir", str(tmp_path / "two"), "--logical-cpus", "2"]
    words += [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    done = recipe("transfer_text", *words)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "baseline" in done.stdout
    two = Run.open(tmp_path / "two")
    np.testing.assert_allclose(two.history["loss"], one.history["loss"], rtol=0.2)
    apart = ["each replica for itself" in " ".join(run.notes) for run in (one, two)]
    assert apart == [False, True], "of dropout, which makes the weights others"
    assert two.metrics["test/accuracy"] > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("handle", ["minilm-l6-v2", "light"])
def test_private_training_leaves_no_text_in_the_folder(tmp_path, capsys, handle):
    letters = planted.texts(tmp_path / "letters.csv")
    settings = {"text_column": "body", "label_column": "ward", "target_epsilon": 8, "epochs": 5}
    if handle == "light":  # MiniLM is converted already, for rows of its own length
        settings["max_length"] = 16
    where = {"data_file": letters, "run_dir": tmp_path / "private", "model_handle": handle}
    private = train_private.run(train_private.Config(**where, **settings))
    assert private.metrics["privacy/epsilon"] <= 8
    assert "baseline/accuracy" not in private.metrics, "it was fitted without privacy"
    assert not [name for name in private.metrics if name.startswith("data/") and "token" in name]
    splits = load_texts(letters, text_column="body", label_column="ward")
    assert planted.leaks(private.path, planted.IN_TEXTS, planted.secrets(splits, letters)) == []
    assert "letters.csv:113" in capsys.readouterr().out  # its owner sees which row has no label
    assert "letters.csv:" not in " ".join(private.notes)


def recipe(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return forked.run(
        [sys.executable, "-m", f"recipes.{name}", *arguments], cwd=ROOT, capture_output=True, text=True
    )


def test_settings_that_cannot_be_are_refused(mails, tmp_path):
    for wrong, said in (
        ({"data_file": tmp_path / "absent.csv"}, "not a file"),
        ({"data_file": tmp_path}, "--data-dir"),
        ({"data_dir": mails}, "--data-file"),
        ({"data_file": mails, "data_dir": tmp_path}, "both given"),
    ):
        with pytest.raises(ConfigError, match=said):
            Config(**wrong)

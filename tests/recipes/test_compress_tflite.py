"""The compressing recipe, as a user calls it: on a run, on a private run, on a stranger's SavedModel."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from recipes import compress_tflite, train_distributed, train_private, transfer_image
from tests.privacy import planted
from tfkit import cli, reporting
from tfkit.data import load_images
from tfkit.environment import files
from tfkit.environment.stack import keras, tf
from tfkit.run import Run

INTENDED_USE = """\
To show what a report looks like. It was trained on handwritten digits of 8 by 8 pixels, white on black.

Not for reading forms, cheques or addresses: nobody has tried it on digits of any other origin.
"""
FAST = ("--image-size", "32", "--epochs", "5", "--fine-tune-epochs", "0", "--seed", "1")


def call(module, *arguments):
    closing = getattr(module, "closing_lines", None)
    with pytest.raises(SystemExit) as ended:
        cli.main(module.Config, module.run, list(map(str, arguments)), closing=closing)
    return ended.value.code


@pytest.fixture(scope="module")
def run(scans, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    assert call(transfer_image, "--data-dir", scans, "--run-dir", folder, *FAST) == 0
    return Run.open(folder)


PRUNE = (
    "--techniques", "prune", "--final-sparsity", "0.5", "--epochs", "1", "--variants", "int8",
    "--max-accuracy-drop", "0.9",
)  # fmt: skip


@pytest.fixture(scope="module")
def pruned(scans, tmp_path_factory):
    """Of the small network: README's command, which tests/test_readme.py runs, prunes a backbone."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    words = ("--data-dir", scans, "--image-size", "32", "--epochs", "5", "--run-dir", folder)
    assert call(train_distributed, *words) == 0
    assert call(compress_tflite, "--from-run", folder, *PRUNE) == 0
    return Run.open(folder)


@pytest.fixture(scope="module")
def compressed(run):
    assert call(compress_tflite, "--from-run", run.path, "--variants", "float32", "int8") == 0
    return run


@pytest.mark.slow
def test_a_runs_model_becomes_int8_and_is_as_good(compressed):
    content = compressed.read("tflite/variants.json")
    found = {one["name"]: one for one in content["variants"]}
    assert found["float32"]["agreement"] == 1.0
    assert found["float32"]["accuracy"] == pytest.approx(compressed.metrics["test/accuracy"])
    assert found["int8"]["size_bytes"] < 4_100_000
    assert found["int8"]["macs"] == {"int8": 1.0}
    assert content["chosen"] == "int8" or found["int8"]["accuracy_drop"] > 0.01
    folder = compressed.path / "tflite"
    assert (folder / "model.tflite").read_bytes() == (folder / f"{content['chosen']}.tflite").read_bytes()
    assert (folder / "infer.py").is_file()
    assert compressed.metrics["lite/int8/size_bytes"] == found["int8"]["size_bytes"]
    assert "TFLite</h2>" in (compressed.path / "report.html").read_text()
    assert not any(one["name"].startswith("prune") for one in content["variants"])


@pytest.mark.slow
def test_its_report_is_the_picture_in_the_readme(compressed, browser, screenshot, tmp_path):
    """`--screenshots tests/reporting` takes it anew: tests/reporting/report.png."""
    folder = shutil.copytree(
        compressed.path, tmp_path / "photos", ignore=shutil.ignore_patterns("logs", "backup", "saved_model")
    )
    shown = Run.open(folder)
    # Where this test's images happen to be is nothing for a README.
    known = shown.provenance
    shown.provenance = {**known, "data": {**known["data"], "origin": "photos/"}}
    (folder / "intended_use.md").write_text(INTENDED_USE)
    reporting.write_report(shown)
    context = browser.new_context(viewport={"width": 1200, "height": 1100}, color_scheme="light")
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.goto((folder / "report.html").as_uri())
    picture = screenshot(page, "report")
    assert said == []  # such as what the page's own policy has blocked
    context.close()
    assert Image.open(picture).size == (1200, 1100)
    assert picture.stat().st_size < 200_000
    card = (folder / "model_card.md").read_text()
    assert all(part in card for part in ("| licence | Apache-2.0 |", "Not for reading forms", "(chosen) |"))


@pytest.mark.slow
def test_pruning_is_measured_and_not_done_twice(pruned):
    found = {one["name"]: one for one in pruned.read("tflite/variants.json")["variants"]}
    assert found["prune0.5+int8"]["sparsity"] > 0.42
    assert found["prune0.5+int8"]["macs"] == {"int8": 1.0}
    # The same again trains nothing.
    folder = pruned.path / "tflite/training/prune0.5/backup/train"
    trained = {state.parent.name: state.stat().st_mtime_ns for state in folder.glob("[0-9]*/state.json")}
    assert trained
    assert call(compress_tflite, "--from-run", pruned.path, *PRUNE) == 0
    again = {state.parent.name: state.stat().st_mtime_ns for state in folder.glob("[0-9]*/state.json")}
    assert again == trained


@pytest.mark.slow
def test_limits_that_nothing_keeps_to_end_with_1_and_the_nearest(pruned, capsys):
    before = (pruned.path / "saved_model" / "saved_model.pb").read_bytes()
    assert (pruned.path / "tflite" / "model.tflite").exists()
    asked = ("--from-run", pruned.path, "--variants", "float32", "--max-size-kb", "20")
    assert call(compress_tflite, *asked) == 1
    said = capsys.readouterr()
    size = (pruned.path / "tflite" / "float32.tflite").stat().st_size
    assert f"The nearest is float32: {size / 1000:,.0f}" in said.err
    assert "Traceback" not in said.err
    assert not (pruned.path / "tflite" / "model.tflite").exists()
    assert pruned.read("tflite/variants.json")["chosen"] is None
    assert (pruned.path / "saved_model" / "saved_model.pb").read_bytes() == before


@pytest.mark.slow
def test_a_private_run_is_not_shown_its_training_examples_again(tmp_path, capsys):
    folder = tmp_path / "private"
    scans = planted.images(tmp_path / "scans")
    private = ("--target-epsilon=8", "--delta=1e-4", "--image-size=32", "--epochs=5")
    assert call(train_private, "--data-dir", scans, "--run-dir", folder, *private) == 0
    statement = (folder / "privacy.json").read_bytes()
    assert call(compress_tflite, "--from-run", folder, "--techniques", "qat") == 2
    assert "look at its training examples again" in capsys.readouterr().err
    # Pruning, which is let alone with the examples, is in the matrix (tests/composition).
    asked = ("--from-run", folder, "--max-accuracy-drop", "0.9")
    assert call(compress_tflite, *asked) == 0
    said = capsys.readouterr().out
    assert "int8 left out" in said
    assert "None of its training examples was looked at" in said
    names = [one["name"] for one in Run.open(folder).read("tflite/variants.json")["variants"]]
    assert names == ["float32", "float16", "dynamic"]
    assert (folder / "privacy.json").read_bytes() == statement
    assert not any("lite/float" in str(path) for path in (folder / "logs").rglob("*lite*"))
    secrets = planted.secrets(load_images(scans, image_size=32), scans)
    assert planted.leaks(folder, planted.IN_IMAGES, secrets) == []
    (files.cache_root() / "private" / f"{Run.open(folder).provenance['data']['record']}.json").unlink()
    assert call(compress_tflite, *asked) == 2
    assert "Copy it here" in capsys.readouterr().err


@pytest.mark.slow
def test_a_strangers_saved_model(tmp_path, capsys):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(8, 3), keras.layers.GlobalMaxPooling2D(), keras.layers.Dense(4)]
    keras.Sequential([keras.Input([32, 32, 3]), *layers]).export(str(tmp_path / "model"))
    photos = tmp_path / "photos"
    photos.mkdir()
    chance = np.random.default_rng(0)
    for number in range(12):
        picture = tf.io.encode_png(chance.integers(0, 256, (40, 30, 3), dtype=np.uint8))
        tf.io.write_file(str(photos / f"{number}.png"), picture)
    asked = ("--saved-model", tmp_path / "model", "--run-dir", tmp_path / "run")
    assert call(compress_tflite, *asked, "--representative-data", photos, "--max-accuracy-drop", "0.5") == 0
    found = {one["name"]: one for one in Run.open(tmp_path / "run").read("tflite/variants.json")["variants"]}
    assert found["float32"]["agreement"] == 1.0
    assert found["int8"]["accuracy"] is None
    said = capsys.readouterr().out
    told = (
        "true labels",
        "taken for real values",
        "1 - R2 against the original",
        "input.npy",
        "from 0, black, to 1",
    )
    assert [sentence for sentence in told if sentence not in said] == []
    assert found["int8"]["accuracy_drop"] is None
    assert 0 < found["int8"]["error"] < 0.7
    metrics = Run.open(tmp_path / "run").metrics
    assert "lite/int8/accuracy_drop" not in metrics
    assert metrics["lite/int8/error"] == found["int8"]["error"]
    np.save(tmp_path / "wrong.npy", np.zeros((4, 9)))
    assert call(compress_tflite, *asked, "--representative-data", tmp_path / "wrong.npy") == 2
    assert "[n, 32, 32, 3]" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert call(compress_tflite, *asked, "--representative-data", tmp_path / "empty") == 2
    assert "no image that can be read" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_whose_data_changed_is_refused(run, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(run.path, other)
    provenance = json.loads((other / "provenance.json").read_text())
    provenance["data"]["division"] = "another"
    (other / "provenance.json").write_text(json.dumps(provenance))
    assert call(compress_tflite, "--from-run", other) == 2
    assert "was trained on other data" in capsys.readouterr().err

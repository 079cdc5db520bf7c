"""Calibrated runs: the exported model, its files, the numbers, report and TensorBoard all say the same."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import tfkit
from recipes import train_distributed
from tests.conftest import write_digits
from tfkit import data
from tfkit.calibration import calibrate, prediction_sets, temperature_of, with_temperature
from tfkit.compression.compare import compare_all
from tfkit.compression.compress import compress_model
from tfkit.compression.convert import ConversionRequest, run_conversions
from tfkit.compression.results import of_run
from tfkit.environment import files
from tfkit.environment.stack import keras, tf
from tfkit.errors import ConfigError, PrivacyError, RunError
from tfkit.metrics import evaluate, to_probabilities
from tfkit.reporting.examples import load
from tfkit.run import CALIBRATION, EVALUATION, REPORT, Run
from tfkit.settings.jobs import CompressConfig
from tfkit.training import export
from tfkit.transfer import models


def build_model():
    layers = keras.layers
    model = keras.Sequential(
        [layers.Flatten(input_shape=(16, 16, 3)), layers.Dense(64, "relu"), layers.Dense(10)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-2), loss, metrics=["accuracy"])
    return model


@pytest.fixture(scope="module")
def splits():
    found = data.load_images("digits", image_size=16, global_batch_size=64)
    return found.replace(indices={**found.indices, "train": found.indices["train"][::4]})


@pytest.fixture(scope="module")
def run(splits, tmp_path_factory):
    """Of a model that is too sure of what few examples taught it."""
    folder = tmp_path_factory.mktemp("runs") / "sure"
    done = tfkit.fit(build_model, splits, run_dir=folder, epochs=20, calibrate=True, verbose=0)
    tfkit.report(done)
    return done


@pytest.mark.slow
def test_the_exported_model_and_its_tflite_file_say_what_was_measured(run, splits):
    measured, _ = load(run.path / EVALUATION)
    content = run.read(CALIBRATION)
    assert content["temperature"] != 1
    assert run.metrics["test/loss"] == pytest.approx(content["nll"])
    assert run.metrics["test/accuracy"] == measured.accuracy
    as_users_have_them = export.predict(run.model, splits, splits.indices["test"])
    np.testing.assert_allclose(as_users_have_them, measured.probabilities, atol=0.01)
    loaded = run.model
    batches = [loaded.classify(images).numpy() for images, _ in splits.test]
    np.testing.assert_allclose(np.concatenate(batches), measured.probabilities, atol=1e-5)
    with of_run(run, splits, examples=None) as tested:
        made, _ = run_conversions(tested.source, [ConversionRequest(name="float32", variant="float32")])
        assert compare_all(tested, made)[0]["float32"].max_difference < 1e-5
    # Which class is the most probable one is as it was, of each test example.
    before = with_temperature(measured.probabilities, 1 / content["temperature"])
    np.testing.assert_array_equal(before.argmax(axis=1), measured.predicted)
    assert np.abs(before - measured.probabilities).max() > 0.01
    for asked, of in content["coverage"].items():
        sets = prediction_sets(measured.probabilities, content["scores"], float(asked))
        assert sets[np.arange(len(sets)), measured.labels].mean() == of["measured"]
        assert run.metrics[f"calibration/coverage_{100 * float(asked):g}"] == of["measured"]


@pytest.mark.slow
def test_report_card_and_tensorboard_show_it(run):
    page, card = (run.path / REPORT).read_text(), (run.path / "model_card.md").read_text()
    content = run.read(CALIBRATION)
    assert "Calibration</h2>" in page
    assert (
        f"Expected calibration error {content['ece_before']:.3f} before, {content['ece']:.3f} after" in page
    )
    assert f"It was {content['ece_before']:.3f} without the temperature" in card
    assert f"| 0.95 | {100 * content['coverage']['0.95']['measured']:.1f} % |" in card
    events = [event for path in run.logdir.glob("*tfevents*") for event in _events(path)]
    shown = {value.tag for event in events for value in event.summary.value}
    numbers = {f"results/{name}" for name in run.metrics if name.startswith("calibration/")}
    assert {"test/reliability", *numbers} <= shown
    assert "results/calibration/ece_before" in shown


def _events(path):
    return [tf.compat.v1.Event.FromString(one.numpy()) for one in tf.data.TFRecordDataset(str(path))]


def test_nothing_is_fitted_unless_it_is_asked_for_and_never_under_privacy(splits, tmp_path):
    with pytest.raises(PrivacyError, match="calibrate=True looks at validation examples"):
        tfkit.fit(
            build_model,
            splits,
            run_dir=tmp_path / "run",
            epochs=1,
            calibrate=True,
            privacy=tfkit.DPSGD(target_epsilon=3),
        )
    with pytest.raises(ConfigError, match="calibrate= looks at validation examples"):
        tfkit.train("digits", run_dir=tmp_path / "run", target_epsilon=3, calibrate=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("logits", [True, False])
@pytest.mark.parametrize("units", [1, 4])
def test_outputs_of_each_kind_have_a_temperature(units, logits):
    values = tf.random.stateless_normal([50, units], [1, 2], stddev=4.0)
    if not logits:
        values = tf.sigmoid(values) if units == 1 else tf.nn.softmax(values)
    plain = to_probabilities(values, logits=logits).numpy()
    warm = to_probabilities(values, logits=logits, temperature=1.5)
    np.testing.assert_allclose(warm, with_temperature(plain, 1.5), atol=1e-5)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A run of a recipe, and its settings."""
    config = train_distributed.Config(
        run_dir=tmp_path_factory.mktemp("runs") / "cnn", epochs=3, learning_rate=5e-3, global_batch_size=128
    )
    return train_distributed.run(config), config


@pytest.mark.slow
def test_a_recipe_calibrates_and_does_so_again_when_it_is_resumed(small, tmp_path):
    run, config = small
    content = run.read(CALIBRATION)
    assert content["examples"] == {"temperature": 138, "scores": 137, "test": 267}
    splits = data.load_images("digits", image_size=32)
    model = models.rebuild(run, None, splits)
    plain = {split: evaluate(model, splits, logits=True, split=split) for split in ("validation", "test")}
    _, expected = calibrate(**plain, seed=config.seed)
    assert expected["temperature"] == pytest.approx(content["temperature"], rel=1e-3) != 1
    np.testing.assert_allclose(expected["scores"], content["scores"], atol=1e-4)
    copy = shutil.copytree(run.path, tmp_path / "again")
    for name in (REPORT, CALIBRATION):
        (copy / name).unlink()
    again = train_distributed.run(train_distributed.Config(**{**vars(config), "run_dir": copy}))
    assert again.read(CALIBRATION) == content
    other = train_distributed.Config(**{**vars(config), "calibrate": False})
    with pytest.raises(RunError, match="calibrate: True there, False now"):
        train_distributed.run(other)


@pytest.mark.slow
def test_what_is_trained_for_a_device_keeps_the_temperature(small, tmp_path):
    """Training that changes next to nothing gives the probabilities of the run."""
    run, _ = small
    copy = Run.open(shutil.copytree(run.path, tmp_path / "copy"))
    asked = {"techniques": ("prune",), "final_sparsity": 0.01, "learning_rate": 1e-9, "epochs": 1}
    compress_model(CompressConfig(from_run=copy.path, variants=("float32",), max_accuracy_drop=0.9, **asked))
    found = {one["name"]: one for one in copy.read("tflite/variants.json")["variants"]}
    assert found["float32"]["max_difference"] < 1e-5
    assert found["prune0.01+float32"]["max_difference"] < 0.02
    files.write_json(copy.path / CALIBRATION, {**copy.read(CALIBRATION), "temperature": 3.0})
    assert temperature_of(copy) == 3.0
    with pytest.raises(RunError, match="gives other probabilities"):
        models.rebuild(copy, None, data.load_images("digits", image_size=32))


@pytest.mark.slow
def test_the_programs_of_the_docs_run(small, tmp_path, monkeypatch, capsys):
    run, _ = small
    text = (Path(__file__).parents[2] / "docs/manual/how-to/calibration.md").read_text()
    of_a_run, of_arrays = re.findall(r"^```python\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    shutil.copytree(run.path, tmp_path / "runs" / "digits")
    shutil.copy(
        write_digits(tmp_path / "all", classes=8, each=1) / "digit 7" / "7.png", tmp_path / "seven.png"
    )
    monkeypatch.chdir(tmp_path)
    exec(compile(of_a_run, "docs", "exec"), {})
    printed = capsys.readouterr().out.strip()
    assert printed == "none of these" or set(re.findall(r"\w+", printed)) <= set(run.labels)
    exec(compile(of_arrays, "docs", "exec"), {})
    temperature, before, after = map(float, capsys.readouterr().out.split())
    assert temperature > 1
    assert after < before

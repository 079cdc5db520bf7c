"""The private recipe and its audit, as a user calls them."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from recipes import audit_privacy, train_private
from tests.privacy import planted
from tfkit import cli
from tfkit.data import load_images
from tfkit.environment.stack import tf
from tfkit.privacy import compute_epsilon
from tfkit.reporting.examples import load
from tfkit.run import Run

QUICK = ("--image-size", "32", "--epochs", "8", "--seed", "1")


def call(module, *arguments):
    closing = getattr(module, "closing_lines", None)
    with pytest.raises(SystemExit) as ended:
        cli.main(module.Config, module.run, arguments, closing=closing)
    return ended.value.code


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    return planted.images(tmp_path_factory.mktemp("data") / "scans")


def asked_of(scans):
    return ("--data-dir", str(scans), "--target-epsilon", "8", "--delta", "1e-4", *QUICK)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, scans):
    folder = tmp_path_factory.mktemp("runs") / "private"
    assert call(train_private, "--run-dir", str(folder), *asked_of(scans)) == 0
    return Run.open(folder)


@pytest.mark.slow
def test_one_command_gives_a_model_and_a_statement_that_stands(finished):
    said = json.loads((finished.path / "privacy.json").read_text())
    assert {"sampler", "steps", "accountant", "neighbouring_relation", "covered", "not_covered"} <= set(said)
    assert 7.8 < said["epsilon"] <= 8
    assert said["delta"] == 1e-4
    for name in ("epsilon", "delta", "noise_multiplier"):
        assert finished.metrics[f"privacy/{name}"] == said[name]
    assert finished.metrics["export/agreement"] == 1.0
    assert finished.config["global_batch_size"] == said["expected_batch_size"]
    assert finished.config["learning_rate"] > 0
    assert "dataset" not in finished.config
    image = tf.zeros([50, 40, 3], tf.uint8)
    assert finished.model(image).shape == [len(finished.labels)]


@pytest.mark.slow
def test_the_audit_leaves_the_run_as_it_is_and_adds_what_it_found(finished, capsys):
    names = ("config.yaml", "privacy.json", "labels.txt")
    before = {name: (finished.path / name).read_bytes() for name in names}
    assert call(audit_privacy, "--run-dir", str(finished.path), "--shadows", "4") == 0
    assert "proves nothing" in capsys.readouterr().out
    found = json.loads((finished.path / "audit.json").read_text())
    assert set(found["attacks"]) == {"threshold", "logistic", "lira"}
    assert found["epsilon_lower_bound"] <= found["claimed_epsilon"]
    assert before == {name: (finished.path / name).read_bytes() for name in before}
    assert "proves nothing" in (finished.path / "report.html").read_text()
    assert np.isfinite(finished.metrics["audit/lira_auc"])


@pytest.mark.slow
def test_no_stage_of_a_private_run_is_kept(finished):
    """How long it took to read the examples, and how much memory, depends on each of them."""
    kept = {name for name in finished.metrics if name.startswith(("time/", "memory/"))}
    assert kept == {"time/total_seconds"}  # which the statement names
    assert "Where the time went" not in (finished.path / "report.html").read_text()


@pytest.mark.slow
def test_nothing_of_the_examples_is_in_the_folder_after_training_and_audit(finished, scans):
    splits = load_images(scans, image_size=32, seed=1)
    assert planted.leaks(finished.path, planted.IN_IMAGES, planted.secrets(splits, scans)) == []
    measured, pictures = load(finished.path / "evaluation.npz")
    assert (measured.names[0], pictures) == ("test/0", None)
    assert "data:image/png" not in (finished.path / "report.html").read_text()
    assert not [*finished.logdir.glob("*.samples"), *finished.logdir.glob("*.worst*")]
    counts = {*splits.counts["train"].values(), *planted.EACH.values(), len(splits.source.labels)}
    assert [found for found in planted.numbers(finished.path) if found[1] in counts] == []


@pytest.mark.slow
def test_to_do_it_again_is_said_to_spend_again(finished, scans, capsys):
    assert call(train_private, "--run-dir", str(finished.path), *asked_of(scans)) == 0
    assert "once more" in capsys.readouterr().out
    # An error after the data were read, and before anything is spent.
    again = (f"--run-dir={finished.path.with_name('again')}", f"--config={finished.path / 'config.yaml'}")
    assert call(train_private, *again, "--global-batch-size", "100000") == 2
    said = capsys.readouterr().err
    assert "spends again on the same people" in said
    assert str(finished.path) in said


@pytest.mark.slow
def test_codes_are_not_put_among_images(finished, capsys):
    assert call(audit_privacy, "--run-dir", str(finished.path), "--canaries", "10") == 2
    assert "among texts" in capsys.readouterr().err


@pytest.mark.slow
def test_a_false_claim_fails_the_audit_with_exit_code_1(finished, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "claims"
    shutil.copytree(finished.path, folder)
    said = json.loads((folder / "privacy.json").read_text())
    (folder / "privacy.json").write_text(json.dumps({**said, "epsilon": -1.0}))  # below any bound
    assert call(audit_privacy, "--run-dir", str(folder)) == 1
    assert "refuted" in capsys.readouterr().err
    assert json.loads((folder / "audit.json").read_text())["refuted"] is True


@pytest.mark.slow
def test_epsilon_is_of_all_images_of_a_patient(tmp_path, capsys):
    rng = np.random.default_rng(0)
    lines = ["file,label,patient"]
    for number in range(240):
        Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{'ab'[number % 2]},P{number // 6}")
    table = tmp_path / "scans.csv"
    table.write_text("\n".join(lines))
    data = ("--data-file", str(table), "--image-column", "file", "--epochs", "4", "--image-size", "16")
    groups = ("--examples-per-group", "2", "--group-column", "patient")
    folder = str(tmp_path / "run")
    assert call(train_private, *data, *groups[:2], "--run-dir", folder) == 2
    assert "--group-column" in capsys.readouterr().err
    assert call(train_private, *data, *groups, "--run-dir", folder) == 0
    content = Run.open(folder).read("privacy.json")
    patients = load_images(table, image_column="file", label_column="label", group_column="patient")
    count = len(np.unique(patients.source.groups[patients.indices["train"], 0]))
    assert (content["examples"], content["examples_per_group"]) == (2 * count, 2)
    names = (
        "noise_multiplier",
        "sampling_probability",
        "steps",
        "delta",
        "release_noise",
        "examples_per_group",
    )
    assert content["epsilon"] == compute_epsilon(**{name: content[name] for name in names}) <= 3
    assert "of a group of at most 2" in capsys.readouterr().out

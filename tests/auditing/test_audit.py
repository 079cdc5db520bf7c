"""The audit of a run folder: a leak is caught, what is measured is kept or rounded, bad input is refused."""

import json

import numpy as np
import pytest
from sklearn.datasets import load_digits

import tfkit
from tfkit import auditing
from tfkit.data import from_arrays
from tfkit.environment.files import write_json
from tfkit.environment.stack import keras
from tfkit.errors import CheckError, ConfigError, DataError, RunError
from tfkit.run import TRAINED_ON


def small_digits(labels):
    images = (load_digits().images[:600] * 15.9).astype(np.uint8)
    fractions = {"validation_fraction": 0.1, "test_fraction": 0.4}
    return from_arrays(images, labels, image_size=8, global_batch_size=32, **fractions)


def mlp():
    inputs = keras.Input([8, 8, 3])
    hidden = keras.layers.Dense(256, activation="relu")(keras.layers.Flatten()(inputs))
    model = keras.Model(inputs, keras.layers.Dense(10)(hidden))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    return model


@pytest.fixture(scope="module")
def leaky(tmp_path_factory):
    """An MLP that has memorised random labels, trained by an engine without clipping and noise."""
    labels = np.random.default_rng(0).integers(0, 10, 600)
    splits = small_digits(labels)
    # The same samples each time: the bound by a half of few examples is 0 once in a while.
    privacy = tfkit.privacy.DPSGD(noise_multiplier=0.0, l2_norm_clip=1e6, deterministic_noise=True)
    folder = tmp_path_factory.mktemp("runs") / "leaky"
    return tfkit.fit(mlp, splits, run_dir=folder, epochs=60, verbose=0, privacy=privacy), splits


def test_a_planted_leak_is_caught(leaky):
    run, splits = leaky
    claim = json.loads((run.path / "privacy.json").read_text())
    assert claim["epsilon"] is None  # the engine itself does not claim anything
    assert auditing.audit(run, splits).bound.epsilon > 1.5  # and nothing is refuted then
    write_json(run.path / "privacy.json", {**claim, "private": True, "epsilon": 1.0})
    with pytest.raises(CheckError, match="claimed 1 is refuted"):
        auditing.audit(run, splits)
    found = json.loads((run.path / "audit.json").read_text())
    assert found["refuted"] is True
    assert found["epsilon_lower_bound"] > 1.0
    assert run.metrics["audit/threshold_auc"] > 0.8
    # The run was to be private: what is measured on its examples without noise is kept without counts and rounded.
    assert not [*run.logdir.glob("*.audit")]
    assert not {"members", "measured_with"} & set(found)
    assert set(found["attacks"]["threshold"]) == {"auc", "auc_interval", "advantage"}
    assert run.metrics["audit/threshold_auc"] == round(run.metrics["audit/threshold_auc"], 2)


def test_of_a_run_without_privacy_all_that_is_measured_is_kept(tmp_path):
    splits = small_digits(load_digits().target[:600])
    run = tfkit.fit(mlp, splits, run_dir=tmp_path, epochs=40, verbose=0)
    found = auditing.audit(run, splits)
    assert "claims none" in found.verdict
    content = json.loads((tmp_path / "audit.json").read_text())
    assert content["measured_with"]["examples"] - content["members"] in (0, 1)
    assert content["attacks"][found.best.name]["auc"] == found.best.auc
    assert {"roc", "histogram"} <= set(content["attacks"]["threshold"])
    assert [*run.logdir.glob("*.audit")]
    # Had it started from a run that was trained on some of the test examples, these would be no others.
    np.savez(tmp_path / TRAINED_ON, digests=splits.digests("test")[:150])
    rest = {**splits.indices, "test": splits.indices["test"][150:]}
    of_class = [np.bincount(splits.source.labels[rest[name]], minlength=10) for name in ("train", "test")]
    assert auditing.audit(run, splits, attacks=["threshold"]).examples == np.minimum(*of_class).sum()


def test_bad_input_is_refused_before_the_model_is_loaded(leaky, tmp_path):
    run, splits = leaky
    for settings, match in (
        ({"attacks": ["magic"]}, r"attacks.*threshold"),
        ({"attack": ["logistic"]}, "attacks="),
        ({"shadows": 3}, "shadows"),
    ):
        with pytest.raises(ConfigError, match=match):
            auditing.audit(run, splits, **settings)
    with pytest.raises(RunError, match=r"audit\(run, splits\)"):
        auditing.audit(str(run.path))
    with pytest.raises(RunError, match=r"audit\(run, splits\) without shadows"):  # which a recipe's run has
        auditing.audit(run, splits, shadows=4)
    with pytest.raises(DataError, match="other data"):
        auditing.audit(run, small_digits(load_digits().target[:600]))
    with pytest.raises(RunError, match="holds no run"):
        auditing.audit(tmp_path, splits)

"""The audit of a run folder: a leak is caught, an honest claim stands, bad input is refused."""

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


def small_digits(labels=None, *, examples=600, held_out=0.4, batch=32):
    digits = load_digits()
    images = (digits.images[:examples] * 15.9).astype(np.uint8)
    labels = digits.target[:examples] if labels is None else labels
    settings = {"validation_fraction": 0.1, "test_fraction": held_out}
    return from_arrays(images, labels, image_size=8, global_batch_size=batch, **settings)


def mlp():
    inputs = keras.Input([8, 8, 3])
    hidden = keras.layers.Dense(256, activation="relu")(keras.layers.Flatten()(inputs))
    model = keras.Model(inputs, keras.layers.Dense(10)(hidden))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    return model


def last(path, splits, epochs, **settings):
    """A run whose last weights remain, as in private training: no epoch is chosen."""
    return tfkit.fit(mlp, splits, run_dir=path, epochs=epochs, verbose=0, **settings)


@pytest.fixture(scope="module")
def leaky(tmp_path_factory):
    """An MLP that has memorised random labels, trained by an engine without clipping and noise."""
    labels = np.random.default_rng(0).integers(0, 10, 600)
    splits = small_digits(labels)
    privacy = tfkit.privacy.DPSGD(noise_multiplier=0.0, l2_norm_clip=1e6)
    run = last(tmp_path_factory.mktemp("runs") / "leaky", splits, 60, privacy=privacy)
    return run, splits


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
    assert not (run.logdir / "audit").exists()
    assert not {"members", "measured_with"} & set(found)
    assert set(found["attacks"]["threshold"]) == {"auc", "auc_interval", "advantage"}
    assert run.metrics["audit/threshold_auc"] == round(run.metrics["audit/threshold_auc"], 2)


def test_an_overfit_model_leaks_and_a_private_one_does_not(tmp_path):
    """FACTS of the field: the same network, with and without privacy."""
    splits = small_digits(examples=900, batch=64)
    inside = splits.indices["train"]
    few = splits.replace(indices={**splits.indices, "train": inside[: len(inside) // 2]})

    class Overfit(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["val_loss"] = -float(epoch)  # so that the last epoch remains

    plain = last(tmp_path / "plain", few, 80, callbacks=[Overfit()])
    dpsgd = tfkit.privacy.DPSGD(target_epsilon=4, delta=1e-5, l2_norm_clip=1.0)
    private = last(tmp_path / "private", few, 30, privacy=dpsgd)
    leak, none = auditing.audit(plain, few), auditing.audit(private, few)
    assert leak.best.auc > 0.55
    assert all(0.44 <= attack.auc <= 0.56 for attack in none.attacks)
    assert none.bound.epsilon <= 4
    assert "proves nothing" in none.verdict


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
        auditing.audit(run, small_digits())
    with pytest.raises(RunError, match="holds no run"):
        auditing.audit(tmp_path, splits)

"""Private training through tfkit.fit: what is spent, what is written, what a killed run goes on with."""

import json

import numpy as np
import pytest

import tfkit
from tfkit import privacy
from tfkit.data import load_images
from tfkit.environment.stack import keras, tf
from tfkit.errors import ConfigError, PrivacyError

EPOCHS = 3


@pytest.fixture(scope="module")
def splits():
    return load_images("digits", image_size=16, global_batch_size=128)


def build(optimizer="sgd"):
    inputs = keras.Input([16, 16, 3])
    pooled = keras.layers.AveragePooling2D(2)(inputs)
    hidden = keras.layers.Dense(24, activation="relu")(keras.layers.Flatten()(pooled))
    model = keras.Model(inputs, keras.layers.Dense(10)(hidden))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=optimizer, loss=loss, metrics=["accuracy"])
    return model


def train(splits, folder, *, callbacks=(), seed=0, optimizer="sgd", **asked):
    settings = {"target_epsilon": 3.0, "delta": 1e-5} if "noise_multiplier" not in asked else {}
    return tfkit.fit(
        lambda: build(optimizer), splits, run_dir=folder, epochs=EPOCHS, seed=seed, callbacks=callbacks, verbose=0,
        privacy=privacy.DPSGD(**{**settings, **asked}),
    )  # fmt: skip


def weights(run):
    newest = sorted((run.path / "backup" / "train").glob("[0-9]*"))[-1]
    loaded = tf.train.load_checkpoint(str(newest / "variables"))
    names = [name for name in loaded.get_variable_to_shape_map() if name.startswith("model/layer_with")]
    return np.concatenate([loaded.get_tensor(name).ravel() for name in sorted(names)])


class Killed(keras.callbacks.Callback):
    """Stops the process, as it were, within an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch, self.now = epoch, 0

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.now == self.epoch and batch == 1:
            raise KeyboardInterrupt


def test_the_statement_is_of_what_ran_and_nothing_about_training_examples_is_logged(splits, tmp_path):
    run = train(splits, tmp_path / "run")
    said = json.loads((run.path / "privacy.json").read_text())
    examples = len(splits.indices["train"])
    steps = EPOCHS * round(examples / 128)
    assert said["steps"] == steps
    assert said["examples"] == examples
    assert said["sampling_probability"] == pytest.approx(128 / examples)
    spent = privacy.compute_epsilon(
        noise_multiplier=said["noise_multiplier"],
        sampling_probability=128 / examples,
        steps=steps,
        delta=1e-5,
    )
    assert said["epsilon"] == pytest.approx(spent)
    assert 2.9 < said["epsilon"] <= 3.0
    assert run.metrics["privacy/epsilon"] == said["epsilon"]
    assert list(run.history["epsilon"]) == sorted(run.history["epsilon"])
    assert not {"loss", "accuracy"} & set(run.history.columns)
    assert {"val_loss", "val_accuracy"} <= set(run.history.columns)


def test_a_killed_run_pays_for_the_epoch_it_had_begun_and_never_exceeds_the_target(splits, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(splits, tmp_path / "run", callbacks=[Killed(1)])
    run = train(splits, tmp_path / "run")
    said = json.loads((run.path / "privacy.json").read_text())
    assert len(run.history) == EPOCHS - 1  # one was lost
    assert said["steps"] == EPOCHS * round(len(splits.indices["train"]) / 128)
    assert said["epsilon"] <= 3.0


def test_a_seed_does_not_fix_the_noise_unless_that_is_asked_for_and_said(splits, tmp_path):
    noisy = [weights(train(splits, tmp_path / f"noisy{n}")) for n in range(2)]
    assert np.abs(noisy[0] - noisy[1]).max() > 1e-3
    fixed = [train(splits, tmp_path / f"fixed{n}", deterministic_noise=True) for n in range(2)]
    np.testing.assert_array_equal(weights(fixed[0]), weights(fixed[1]))
    said = json.loads((fixed[0].path / "privacy.json").read_text())
    assert said["private"] is False
    assert "NOT PRIVATE" in privacy.paragraph(said)


def test_microbatches_are_a_matter_of_memory_alone(splits, tmp_path):
    results = [
        weights(
            train(
                splits,
                tmp_path / str(size),
                noise_multiplier=0.0,
                deterministic_noise=True,
                microbatch_size=size,
            )
        )
        for size in (16, 256)
    ]
    np.testing.assert_allclose(*results, rtol=1e-4, atol=1e-6)


def test_adam_and_an_adaptive_clipping_norm(splits, tmp_path):
    run = train(splits, tmp_path / "run", optimizer="adam", l2_norm_clip=0.01, adaptive_clip_quantile=0.5)
    norms = run.history["l2_norm_clip"].to_numpy()
    assert (np.diff(norms) > 0).all()  # from far too small towards the median
    assert "Adam" in json.loads((run.path / "privacy.json").read_text())["optimizer"]


def test_diagnostics_are_there_when_asked_for(splits, tmp_path):
    run = train(splits, tmp_path / "run", diagnostics=True, l2_norm_clip=0.1)
    last = run.history.iloc[-1]
    assert 0.5 < last["clipped_fraction"] <= 1
    assert 0.1 < last["gradient_norm_p50"] <= last["gradient_norm_p90"] <= last["gradient_norm_max"]
    assert 0 <= last["accuracy"] <= 1
    assert last["loss"] > 0


def test_what_would_look_at_examples_is_refused_before_training(splits, tmp_path):
    asked = privacy.DPSGD(target_epsilon=3.0)
    with pytest.raises(ConfigError, match="patience") as caught:
        tfkit.fit(
            build, splits, run_dir=tmp_path / "a", epochs=1, patience=2, class_weights="always", privacy=asked
        )
    assert "class_weight" in str(caught.value)

    def with_batch_norm():
        model = keras.Sequential(
            [
                keras.Input([16, 16, 3]),
                keras.layers.BatchNormalization(),
                keras.layers.Flatten(),
                keras.layers.Dense(10),
            ]
        )
        model.compile("sgd", "sparse_categorical_crossentropy")
        return model

    with pytest.raises(PrivacyError, match="BatchNormalization"):
        tfkit.fit(with_batch_norm, splits, run_dir=tmp_path / "b", epochs=1, privacy=asked)

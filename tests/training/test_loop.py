"""Training: what is interrupted goes on as if it had not been; what replicas share adds up."""

from __future__ import annotations

import os
import resource
import signal

import numpy as np
import pytest

import tfkit
from tfkit import data
from tfkit.environment.stack import keras
from tfkit.errors import CheckError, RunError
from tfkit.run import Run
from tfkit.training import fit
from tfkit.training.stage import Cadence, Stage, class_weight


def digits(**changes):
    return data.load_images("digits", image_size=16, global_batch_size=64, **changes)


def build_model():
    """A small model with everything that has state: dropout, batch norm, Adam's moments."""
    layers = keras.layers
    body = [layers.Conv2D(4, 3, strides=2), layers.BatchNormalization(), layers.ReLU(), layers.Flatten()]
    model = keras.Sequential([keras.Input([16, 16, 3]), *body, layers.Dropout(0.3), layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    return model


class StopAt(keras.callbacks.Callback):
    """Ctrl-C at the end of an epoch, and at any later one if the first was too late for it."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.epoch:
            raise KeyboardInterrupt


class TermAt(keras.callbacks.Callback):
    """A scheduler's SIGTERM within an epoch."""

    def __init__(self, epoch, step):
        super().__init__()
        self.place = epoch, step

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if (self.epoch, batch) == self.place:
            os.kill(os.getpid(), signal.SIGTERM)


class DieAt(TermAt):
    """A process that ends there without a word, as far as one can within this one."""

    def on_train_batch_begin(self, batch, logs=None):
        if (self.epoch, batch) == self.place:
            raise RuntimeError("dead")


def train(run_dir, *, callbacks=(), epochs=5, splits=None, **changes):
    run = Run.create(run_dir, config={})
    usual = {"seed": 7, "patience": 3, "verbose": 0, "cadence": Cadence(epoch_seconds=0.0)}
    settings = {**usual, "augment": data.Augmentation.preset("light"), **changes}
    try:
        stage = Stage(epochs=epochs, **settings)
        return fit.train(build_model, splits or digits(), stage, run=run, callbacks=callbacks)
    finally:
        run.close()


def assert_same(resumed, uninterrupted):
    for ours, theirs in zip(resumed.model.get_weights(), uninterrupted.model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for name in ("loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"):
        assert [row[name] for row in resumed.rows] == [row[name] for row in uninterrupted.rows]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return train(tmp_path_factory.mktemp("uninterrupted"))


def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, uninterrupted):
    """Bit for bit, with dropout, augmentation, batch norm, Adam and early stopping; three times in one training."""
    for epoch in (0, 2, 4):
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, callbacks=[StopAt(epoch)])
    assert_same(train(tmp_path), uninterrupted)
    assert list(Run.open(tmp_path).history["epoch"]) == [0, 1, 2, 3, 4]


def notes_of(run_dir):
    return " ".join(Run.open(run_dir).notes)


def test_stopped_within_an_epoch_it_goes_on_at_the_next_step(tmp_path, uninterrupted):
    """SIGTERM is "save and stop": the rest is bit for bit what it would have been, training metrics included."""
    places = [(0, 0), (1, 7), (2, 18), (4, 10)]
    for place in places:
        with pytest.raises(KeyboardInterrupt, match=f"epoch {place[0] + 1}, step {place[1] + 1} of 20"):
            train(tmp_path, callbacks=[TermAt(*place)])
    resumed = train(tmp_path)
    for epoch, step in places:
        assert f"epoch {epoch + 1} of 5, step {step + 2} of 20" in notes_of(tmp_path)
    assert_same(resumed, uninterrupted)


def test_killed_within_an_epoch_it_goes_on_from_the_last_backup_there(tmp_path, uninterrupted):
    often, places = Cadence(steps=4), [(1, 13), (3, 19)]
    for place in places:
        with pytest.raises(RuntimeError, match="dead"):
            train(tmp_path, callbacks=[DieAt(*place)], cadence=often)
    resumed = train(tmp_path, cadence=often)
    for epoch, step in places:
        assert f"epoch {epoch + 1} of 5, step {step // 4 * 4 + 1} of 20" in notes_of(tmp_path)
    assert_same(resumed, uninterrupted)


def test_a_damaged_newest_backup_is_passed_over(tmp_path, uninterrupted):
    with pytest.raises(RuntimeError, match="dead"):
        train(tmp_path, callbacks=[DieAt(2, 9)], cadence=Cadence(steps=4))
    folders = sorted((tmp_path / "backup" / "train").glob("[0-9]*"))
    assert len(folders) == 2
    variables = next(folders[-1].glob("variables.data-*"))
    content = bytearray(variables.read_bytes())
    content[len(content) // 2] ^= 1
    variables.write_bytes(content)
    resumed = train(tmp_path)
    assert any("newest checkpoint is damaged" in note for note in Run.open(tmp_path).notes)
    assert any("epoch 3 of 5, step 5 of 20" in note for note in Run.open(tmp_path).notes)
    assert_same(resumed, uninterrupted)


class FullDisk(keras.callbacks.Callback):
    """No file becomes longer than 20 kB for two epochs."""

    def on_epoch_begin(self, epoch, logs=None):
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000 if epoch in (1, 2) else hard, hard))


def test_a_full_disk_costs_backups_and_nothing_else(tmp_path, uninterrupted, capfd):
    often = Cadence(epoch_seconds=0.0, steps=7)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        disturbed = train(tmp_path, cadence=often, callbacks=[FullDisk()])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "A checkpoint failed" in capfd.readouterr().err
    assert_same(disturbed, uninterrupted)
    assert [path.name[0] for path in (tmp_path / "backup" / "train").iterdir()] == ["0", "0"]


def test_another_batch_size_is_no_way_to_go_on(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, callbacks=[TermAt(0, 3)])
    with pytest.raises(RunError, match=r"epochs of 20 steps[\s\S]*--global-batch-size"):
        train(tmp_path, splits=digits().replace(global_batch_size=128))


def test_a_finished_stage_is_not_trained_again(tmp_path):
    first = train(tmp_path, epochs=2)
    again = train(tmp_path, epochs=2, callbacks=[StopAt(0)])
    for ours, theirs in zip(again.model.get_weights(), first.model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert again.seconds == first.seconds


def test_the_best_epoch_is_kept_and_training_stops(tmp_path):
    """With a learning rate that diverges after a while the last epoch is not the best one."""
    rates = keras.callbacks.LearningRateScheduler(lambda epoch: 0.001 if epoch < 2 else 1.0)
    trained = train(tmp_path, callbacks=[rates], epochs=30, patience=2)
    losses = [row["val_loss"] for row in trained.rows]
    assert len(losses) == trained.best_epoch + 3
    assert losses[trained.best_epoch] == min(losses)
    assert trained.model.evaluate(digits().validation, verbose=0)[0] == pytest.approx(min(losses), rel=1e-4)


def test_a_damaged_backup_is_an_error_that_says_how_to_go_on(tmp_path):
    train(tmp_path, epochs=1)
    for file in (tmp_path / "backup" / "train").glob("*/*.data-*"):
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(RunError, match=r"cannot be restored[\s\S]*--overwrite"):
        train(tmp_path, epochs=1)


def test_a_loss_that_is_no_number_is_an_error(tmp_path):
    def diverging():
        model = keras.Sequential([keras.layers.Flatten(input_shape=(16, 16, 3)), keras.layers.Dense(10)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(1e38), loss, metrics=["accuracy"])
        return model

    with pytest.raises(CheckError, match=r"epoch 1: .*nan[\s\S]*Lower the learning rate"):
        tfkit.fit(diverging, digits(), run_dir=tmp_path, epochs=2, verbose=0)


def test_interrupted_in_a_notebook_the_same_call_goes_on_and_with_other_labels_does_not(tmp_path):
    """A notebook keeps the last error, and with it every local variable of what raised it."""
    kept = []
    try:
        tfkit.fit(build_model, digits(), run_dir=tmp_path, epochs=1, verbose=0, callbacks=[StopAt(0)])
    except KeyboardInterrupt as interrupted:
        kept.append(interrupted)
    assert kept
    run = tfkit.fit(build_model, digits(), run_dir=tmp_path, epochs=1, verbose=0)
    assert run.metrics["export/agreement"] == 1.0
    corrected = digits()
    corrected.source.labels = 9 - corrected.source.labels
    with pytest.raises(RunError, match=r"another config.*\n.*data_division"):
        tfkit.fit(build_model, corrected, run_dir=tmp_path, epochs=1, verbose=0)


def build_dense(*, rate=1e-2, activation="relu", cell=1, initializer="glorot_uniform"):
    """A model with the code of a notebook's cell, which has another number each time."""

    def build():
        layers = keras.layers
        halve = layers.Lambda(eval(compile("lambda pixels: pixels / 2", f"cell {cell}", "eval")))
        last = layers.Dense(10, kernel_initializer=initializer)
        body = [halve, layers.Flatten(), layers.Dense(32, activation, kernel_initializer=initializer)]
        model = keras.Sequential([keras.Input([16, 16, 3]), *(body if activation else body[:2]), last])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
        return model

    return build


def test_another_model_in_the_folder_is_no_way_to_go_on(tmp_path, capsys):
    asked = {"run_dir": tmp_path, "epochs": 1, "verbose": 0}
    run = tfkit.fit(build_dense(), digits(), **asked)
    loss = run.metrics["test/loss"]
    assert run.finished  # with its report: `export`, which asks for that, takes it
    for other in ({"rate": 1e-3}, {"activation": "tanh"}):
        with pytest.raises(RunError, match=r"another model[\s\S]*resume=False"):
            tfkit.fit(build_dense(**other), digits(), **asked)
    assert tfkit.fit(build_dense(cell=2), digits(), **asked).metrics["test/loss"] == loss
    assert "resume=False" in capsys.readouterr().out


def test_weights_that_a_callback_puts_in_place_at_the_end_are_those_of_the_run(tmp_path):
    """Of the epoch with the lowest accuracy: another one than the best by the validation loss."""

    def fit_once():
        lowest = keras.callbacks.EarlyStopping(
            "val_accuracy", mode="min", patience=9, restore_best_weights=True
        )
        asked = {"run_dir": tmp_path, "epochs": 3, "verbose": 0, "callbacks": [lowest]}
        run = tfkit.fit(build_dense(), digits(), **asked)
        return run.metrics["test/loss"], run.history["val_loss"].min()

    loss, lowest_of_validation = fit_once()
    assert loss > lowest_of_validation + 0.1
    assert fit_once() == (loss, lowest_of_validation)


def test_the_order_of_the_examples_is_of_the_seed_that_was_asked(tmp_path):
    def last_loss(seed):
        build = build_dense(activation=None, initializer="zeros")
        run = tfkit.fit(build, digits(), run_dir=tmp_path / f"{seed}", epochs=1, seed=seed, verbose=0)
        return run.history["val_loss"].iloc[-1]

    assert last_loss(0) != last_loss(1)


def test_what_is_drawn_as_the_model_is_built_is_drawn_alike_after_the_training(tmp_path):
    def build():
        projection = np.random.normal(size=(768, 64)).astype(np.float32) / 28
        layers = keras.layers
        body = [
            layers.Flatten(),
            layers.Lambda(lambda rows: rows @ projection),
            layers.ReLU(),
            layers.Dense(10),
        ]
        model = keras.Sequential([keras.Input([16, 16, 3]), *body])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(1e-2), loss, metrics=["accuracy"])
        return model

    run = tfkit.fit(build, digits(), run_dir=tmp_path, epochs=3, strategy="mirrored", verbose=0)
    assert run.metrics["test/accuracy"] == pytest.approx(run.history["val_accuracy"].max(), abs=0.08)


def test_class_weights_come_on_above_three_to_one(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (140, 8, 8, 3), np.uint8)
    labels = np.array([0] * 40 + [1] * 100)
    mild = data.from_arrays(images, labels, image_size=8)
    assert class_weight(mild, when="auto") is None
    labels = np.array([0] * 20 + [1] * 120)
    strong = data.from_arrays(images, labels, image_size=8)
    run = Run.create(tmp_path, config={})
    weights = class_weight(strong, when="auto", run=run)
    counts = list(strong.counts["train"].values())
    assert weights[0] * counts[0] == pytest.approx(weights[1] * counts[1])
    assert sum(weights[i] * counts[i] for i in (0, 1)) == pytest.approx(sum(counts))
    assert "Class weights are on" in run.notes[0]
    assert class_weight(strong, when="never") is None
    assert class_weight(mild, when="always") is not None

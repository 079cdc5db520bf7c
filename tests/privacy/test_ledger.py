"""A training goes on only with the account of its own weights: a smaller epsilon than was spent is never stated."""

import json
import shutil

import numpy as np
import pytest

import tfkit
from tfkit.data import from_arrays
from tfkit.environment.stack import keras
from tfkit.errors import RunError
from tfkit.privacy import DPSGD
from tfkit.privacy.ledger import Ledger
from tfkit.run import Run
from tfkit.training.loop import train
from tfkit.training.stage import Stage

EPOCHS, STEPS = 6, 4


@pytest.fixture(scope="module")
def splits():
    chance = np.random.default_rng(0)
    images = chance.integers(0, 256, (400, 8, 8), np.uint8)
    return from_arrays(images, np.arange(400) % 2, image_size=8, global_batch_size=70)


def build():
    inputs = keras.Input([8, 8, 3])
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(inputs)))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    return model


class Killed(keras.callbacks.Callback):
    """Stops the process, as it were, in the fourth epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 3:
            raise KeyboardInterrupt


def fit(splits, folder, *, callbacks=()):
    asked = DPSGD(noise_multiplier=2.0, delta=1e-5)
    return tfkit.fit(
        build, splits, run_dir=folder, epochs=EPOCHS, privacy=asked, callbacks=callbacks, verbose=0
    )


@pytest.fixture(scope="module")
def killed(splits, tmp_path_factory):
    """A run that had begun four epochs and saved three."""
    folder = tmp_path_factory.mktemp("runs") / "killed"
    with pytest.raises(KeyboardInterrupt):
        fit(splits, folder, callbacks=[Killed()])
    return folder


def account(folder):
    return folder / "backup" / "train" / "ledger.json"


def change(**changed):
    def to(folder, other):
        content = json.loads(account(folder).read_text())
        account(folder).write_text(json.dumps({**content, **changed}))

    return to


def changed_plan(folder, other):
    content = json.loads(account(folder).read_text())
    plan = {**content["plan"], "noise_multiplier": 4.0}
    account(folder).write_text(json.dumps({**content, "plan": plan}))


def only_logs_are_left(folder, other):
    shutil.rmtree(folder / "backup")
    (folder / "metrics.json").write_text("{}")


LOST = {
    "gone": (lambda folder, other: account(folder).unlink(), "is missing"),
    "shorter than the weights": (change(epochs_begun=2), "2 epochs"),
    "of another run": (
        lambda folder, other: shutil.copy(account(other), account(folder)),
        "another training",
    ),
    "of another plan": (changed_plan, "noise_multiplier 4.0 there, 2.0 now"),
    "cut off": (lambda folder, other: account(folder).write_text('{"epochs_be'), "damaged"),
    "empty": (lambda folder, other: account(folder).write_text("{}"), "damaged"),
    "no number": (change(epochs_begun=True), "damaged"),
    "all but the logs gone": (only_logs_are_left, "is missing"),
}


@pytest.mark.parametrize("case", LOST)
def test_weights_without_their_account_are_not_trained_further(case, killed, splits, tmp_path):
    lose, said = LOST[case]
    folder = shutil.copytree(killed, tmp_path / "run")
    other = tmp_path / "other"
    if case == "of another run":
        fit(splits, other)
    lose(folder, other)
    before = {path: path.read_bytes() for path in folder.glob("backup/**/*") if path.is_file()}
    with pytest.raises(RunError) as caught:
        fit(splits, folder)
    assert str(account(folder)) in str(caught.value)
    assert said in str(caught.value)
    assert "--overwrite" in str(caught.value)
    assert not (folder / "privacy.json").exists()
    assert before == {path: path.read_bytes() for path in folder.glob("backup/**/*") if path.is_file()}


def test_with_its_account_all_that_was_begun_is_paid_for(killed, splits, tmp_path):
    folder = shutil.copytree(killed, tmp_path / "run")
    run = fit(splits, folder)
    assert json.loads((folder / "privacy.json").read_text())["steps"] == EPOCHS * STEPS
    assert len(run.history) == EPOCHS - 1
    account(folder).unlink()
    with pytest.raises(RunError, match="is missing"):  # finished: an epsilon of no steps would be stated
        fit(splits, folder)


def test_a_folder_as_it_was_at_an_earlier_time_is_not_trained_further(splits, tmp_path):
    """Its account fits its weights, and leaves out what was begun after the copy was made."""
    with pytest.raises(KeyboardInterrupt):
        fit(splits, tmp_path / "later", callbacks=[Killed()])
    shutil.copytree(tmp_path / "later", tmp_path / "earlier")
    fit(splits, tmp_path / "later")
    with pytest.raises(RunError, match=r"private/[0-9a-f]{32}\.json[\s\S]*--overwrite"):
        fit(splits, tmp_path / "earlier")
    assert not (tmp_path / "earlier" / "privacy.json").exists()


def test_a_statement_of_one_stage_does_not_stand_for_two(killed, splits, tmp_path):
    folder = shutil.copytree(killed, tmp_path / "run")
    run = Run.open(folder)
    with pytest.raises(RunError, match="more"):
        train(
            build, splits, Stage(name="more", epochs=1, privacy=DPSGD(target_epsilon=1.0), verbose=0), run=run
        )
    with pytest.raises(RunError, match=r"ledger\.json"):
        train(build, splits, Stage(name="more", epochs=1, verbose=0), run=run)


@pytest.mark.parametrize("lost", ["missing", "another"])
def test_a_mean_that_was_released_is_not_released_once_more(lost, tmp_path):
    run = Run.create(tmp_path / "run", config={})
    mean = run.backup / "private" / "mean.npy"
    mean.parent.mkdir(parents=True)
    mean.write_bytes(b"noisy")
    plan = DPSGD(noise_multiplier=2.0).plan(examples=100, expected_batch_size=10, epochs=2)
    ledger = Ledger(run, "private")
    ledger.check_plan(plan)
    ledger.begin_epoch()
    assert Ledger(run, "private").epochs_begun == 1
    if lost == "missing":
        mean.unlink()
    else:
        mean.write_bytes(b"another")
    with pytest.raises(RunError, match=r"mean\.npy[\s\S]*--overwrite"):
        Ledger(run, "private")

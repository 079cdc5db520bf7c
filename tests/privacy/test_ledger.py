"""A smaller epsilon than was spent is never stated, and nothing of the examples is in a private run's folder."""

import json
import re
import secrets
import shutil
import stat

import numpy as np
import pytest

import tfkit
from tests.privacy import planted
from tfkit import reporting
from tfkit.data import from_arrays, load_images
from tfkit.environment import files
from tfkit.environment.stack import keras
from tfkit.errors import ConfigError, DataError, RunError
from tfkit.privacy import DPSGD, compute_epsilon
from tfkit.privacy.ledger import PUBLIC_FIELDS, Ledger, check_data, is_private, recorded_digests, register
from tfkit.reporting import write_comparison
from tfkit.run import Run
from tfkit.training.fit import train
from tfkit.training.stage import Stage

EPOCHS, STEPS = 6, 4


@pytest.fixture(scope="module")
def splits():
    chance = np.random.default_rng(0)
    images = chance.integers(0, 256, (400, 8, 8), np.uint8)
    return from_arrays(images, np.arange(400) % 2, image_size=8, global_batch_size=70)


def build_for(splits):
    def build():
        inputs = keras.Input(splits.spec.shape)
        flat = keras.layers.Flatten()(inputs)
        model = keras.Model(inputs, keras.layers.Dense(len(splits.class_names))(flat))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("sgd", loss, metrics=["accuracy"])
        return model

    return build


class Killed(keras.callbacks.Callback):
    """Stops the process, as it were, in the fourth epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 3:
            raise KeyboardInterrupt


def fit(splits, folder, **asked):
    settings = {"epochs": EPOCHS, "privacy": DPSGD(noise_multiplier=2.0, delta=1e-5), **asked}
    return tfkit.fit(build_for(splits), splits, run_dir=folder, verbose=0, **settings)


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


def of_another_run(folder, other):
    shutil.copy(account(other), account(folder))


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
    "of another run": (of_another_run, "another training"),
    "of another plan": (changed_plan, "noise_multiplier 4.0 there, 2.0 now"),
    "empty": (lambda folder, other: account(folder).write_text("{}"), "damaged"),
    "no number": (change(epochs_begun=True), "damaged"),
    "all but the logs gone": (only_logs_are_left, "is missing"),
}


@pytest.mark.parametrize("case", LOST)
def test_weights_without_their_account_are_not_trained_further(case, killed, splits, tmp_path):
    lose, culprit = LOST[case]
    folder, other = shutil.copytree(killed, tmp_path / "run"), tmp_path / "other"
    if case == "of another run":
        fit(splits, other)
    lose(folder, other)

    def content():
        return {path: path.read_bytes() for path in folder.glob("backup/**/*") if path.is_file()}

    before = content()
    with pytest.raises(RunError) as caught:
        fit(splits, folder)
    for words in (str(account(folder)), culprit, "--overwrite"):
        assert words in str(caught.value)
    assert not (folder / "privacy.json").exists()
    assert before == content()


def test_what_an_interrupted_run_leaves_does_not_tell_how_long_an_epoch_took(killed):
    """That tells how many examples were sampled: the two last checkpoints lie one epoch apart."""
    left = [*account(killed).parent.glob("[0-9]*")]
    assert len(left) == 2
    assert {json.loads((folder / "state.json").read_text())["seconds"] for folder in left} == {0.0}
    assert len({path.stat().st_mtime_ns for folder in left for path in (folder, *folder.iterdir())}) == 1


@pytest.fixture(scope="module")
def ended(killed, splits, tmp_path_factory):
    """What became of the killed run, whose folder is still as it was."""
    folder = shutil.copytree(killed, tmp_path_factory.mktemp("runs") / "run")
    return fit(splits, folder)


def test_a_folder_as_it_was_at_an_earlier_time_is_not_trained_further(killed, ended, splits, tmp_path):
    """Its account fits its weights, and leaves out what was begun after the copy was made."""
    shutil.copytree(killed, tmp_path / "earlier")
    with pytest.raises(RunError, match=r"private/[0-9a-f]{32}\.json[\s\S]*--overwrite"):
        fit(splits, tmp_path / "earlier")
    assert not (tmp_path / "earlier" / "privacy.json").exists()


def test_with_its_account_all_that_was_begun_is_paid_for(ended, splits):
    folder = ended.path
    content = json.loads((folder / "privacy.json").read_text())
    plan = json.loads(account(folder).read_text())["plan"]
    settings = {name: plan[name] for name in ("noise_multiplier", "sampling_probability", "delta")}
    assert content["steps"] == EPOCHS * STEPS
    assert content["epsilon"] == compute_epsilon(**settings, steps=EPOCHS * STEPS)
    assert len(ended.history) == EPOCHS - 1
    assert len({path.stat().st_mtime_ns for path in account(folder).parent.rglob("*")}) == 1
    account(folder).unlink()
    with pytest.raises(RunError, match="is missing"):  # finished: an epsilon of no steps would be stated
        fit(splits, folder)


def test_a_statement_of_one_stage_does_not_stand_for_two(killed, splits, tmp_path):
    folder = shutil.copytree(killed, tmp_path / "run")
    run = Run.open(folder)
    for privacy, match in ((DPSGD(target_epsilon=1.0), "more"), (None, r"ledger\.json")):
        stage = Stage(name="more", epochs=1, privacy=privacy, verbose=0)
        with pytest.raises(RunError, match=match):
            train(build_for(splits), splits, stage, run=run)


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


SECRET = []
"""Where the noise of a training comes from: who knows it takes the noise away again."""


def load(folder, **changed):
    return load_images(folder, image_size=16, global_batch_size=64, **changed)


def fit_scans(splits, folder, **asked):
    return fit(splits, folder, **{"epochs": 2, "privacy": DPSGD(target_epsilon=3.0, delta=1e-5), **asked})


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    return planted.images(tmp_path_factory.mktemp("private") / "scans")


@pytest.fixture(scope="module")
def run(scans, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "mine"
    draw = secrets.token_bytes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(secrets, "token_bytes", lambda size: SECRET.append(draw(size)) or SECRET[-1])
        made = fit_scans(load(scans), folder)
    reporting.write_report(made)
    return made


def test_nothing_of_the_examples_is_in_the_folder(run, scans):
    splits = load(scans)
    more = {
        **planted.secrets(splits, scans),
        "the noise's secret": next(found for found in SECRET if len(found) == 32),
    }
    assert planted.leaks(run.path, planted.IN_IMAGES, more) == []
    of_classes = {*splits.counts["train"].values(), *planted.EACH.values(), len(splits.source.labels)}
    assert [found for found in planted.numbers(run.path) if found[1] in of_classes] == []
    assert set(run.provenance["data"]) == {*PUBLIC_FIELDS, "record"}


def test_the_search_finds_what_is_kept_without_privacy(scans, tmp_path):
    """A search that finds nothing would prove nothing."""
    splits = load(scans)
    made = fit_scans(splits, tmp_path / "plain", privacy=None, epochs=1)
    reporting.write_report(made)
    found = {name for name, _ in planted.leaks(made.path, planted.IN_IMAGES, planted.secrets(splits, scans))}
    for name in ("zqPatientUnreadable", "zqPatientEmpty", "zqPatientOutside"):
        assert f"{name} in utf-8" in found
    assert "zqPatientMueller in utf-32-le" in found  # evaluation.npz, unpacked
    assert {"hex of fingerprint", "hex of division"} <= found
    assert {count for _, count in planted.numbers(made.path)} >= {*splits.counts["train"].values()}


def test_the_owner_knows_the_data_again_and_nobody_else_can_tell(run, scans, tmp_path):
    check_data(run, load(scans))
    (record,) = (files.cache_root() / "private").glob(f"{run.provenance['data']['record']}.json")
    assert stat.S_IMODE(record.stat().st_mode) == 0o600
    with pytest.raises(DataError, match="other data"):
        check_data(run, load(scans, seed=1))
    elsewhere = record.rename(tmp_path / record.name)
    try:
        with pytest.raises(DataError, match=str(record)):
            check_data(run, load(scans))
    finally:
        elsewhere.rename(record)


def test_a_name_of_a_record_leads_out_of_nowhere(run, scans, tmp_path):
    """A stranger's folder names no file of the reader's."""
    there = Run(shutil.copytree(run.path, tmp_path / "copy"))
    content = there.provenance
    there.provenance = {**content, "data": {**content["data"], "record": "../../secret"}}
    with pytest.raises(DataError, match="record"):
        check_data(there, load(scans))


def test_changed_data_are_seen_before_a_run_goes_on(run, scans, tmp_path):
    there = shutil.copytree(run.path, tmp_path / "copy")
    data = shutil.copytree(scans, tmp_path / "scans", symlinks=True)
    (data / "digit 0" / "zqPatientTwice.png").unlink()
    changed = load(data).replace(origin=load(scans).origin)
    with pytest.raises(DataError, match="other data"):
        fit_scans(changed, there)
    (there / "provenance.json").unlink()
    with pytest.raises(DataError, match=r"provenance\.json"):
        fit_scans(load(scans), there)


def test_runs_of_one_owner_compare_on_the_same_examples(run, scans, tmp_path, capsys):
    """They spend on the same people twice, which is said."""
    plain = fit_scans(load(scans), tmp_path / "plain", privacy=None, epochs=1)
    capsys.readouterr()
    again = fit_scans(load(scans), tmp_path / "again", epochs=1)
    said = capsys.readouterr().err
    assert "spends again on the same people" in said
    assert str(run.path) in said
    assert not [note for note in again.notes if str(run.path) in note]
    page = write_comparison([run, again, plain], tmp_path / "page.html")
    assert "All were tested on the very same examples." in page.read_text()


def test_people_are_known_again_in_a_set_that_has_grown(run, scans, tmp_path, monkeypatch, capsys):
    """Whatever is added, however it is cut, at whatever size: who was trained on is trained on again."""
    (tmp_path / "cache/private").mkdir(parents=True)  # other tests train on the same scans
    for path in (files.cache_root() / "private").glob(f"{run.provenance['data']['record']}.*"):
        shutil.copy(path, tmp_path / "cache/private")
    monkeypatch.setenv("TFKIT_CACHE", str(tmp_path / "cache"))
    grown = shutil.copytree(scans, tmp_path / "grown", symlinks=True)
    (grown / "digit 0" / "zqNew.png").write_bytes(
        next((scans / "digit 1").glob("*Mueller*")).read_bytes() + b" "
    )
    earlier, now = load(scans), load_images(grown, image_size=8, global_batch_size=64, seed=5)
    before, after = (
        [(folder / splits.source.names[i]).read_bytes() for i in splits.indices["train"]]
        for folder, splits in ((scans, earlier), (grown, now))
    )
    capsys.readouterr()
    with Run.create(tmp_path / "run", config={}) as there:
        register(there, now)
    said, again = capsys.readouterr().err, sum(content in before for content in after)
    assert 0 < again < len(after)
    assert re.search(r"(\d+) of these", said)[1] == str(again)
    assert sorted(recorded_digests(run.provenance["data"])) == sorted(earlier.digests("train"))


def test_others_under_the_same_labels_are_not_the_same(killed, tmp_path, capsys):
    images = np.random.default_rng(1).integers(0, 256, (400, 8, 8), np.uint8)
    others = from_arrays(images, np.arange(400) % 2, image_size=8, global_batch_size=70)
    with Run.create(tmp_path / "run", config={}) as there:
        register(there, others)
    assert "trained on privately" not in capsys.readouterr().err


def test_class_weights_are_refused_before_the_counts_are_noted(scans, tmp_path):
    with pytest.raises(ConfigError, match="class_weight"):
        fit_scans(load(scans), tmp_path / "run", class_weights="always")
    assert planted.leaks(tmp_path, ("training examples",), {}) == []


def test_a_run_whose_statement_is_lost_still_shows_nothing(run, tmp_path):
    there = Run(shutil.copytree(run.path, tmp_path / "copy"))
    (there.path / "privacy.json").unlink()
    assert is_private(there)
    page = reporting.write_report(there).read_text()
    assert "NOT PRIVATE" in page
    assert "Trained without differential privacy" not in page
    assert json.dumps(there.provenance).count("digit") == 0

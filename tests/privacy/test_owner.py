"""What a private run keeps in its folder, and what stays with its owner: shown to strangers, and known again."""

import json
import shutil
import stat

import pytest

import tfkit
from tests.privacy import planted
from tfkit import reporting
from tfkit.data import load_images
from tfkit.environment import files
from tfkit.environment.stack import keras
from tfkit.errors import ConfigError, DataError
from tfkit.privacy import DPSGD
from tfkit.privacy.ledger import SHOWN, check_data, is_private
from tfkit.reporting import write_comparison
from tfkit.run import Run

SECRET = []
"""Where the noise of a training comes from: who knows it takes the noise away again."""


class NoisesSecret(keras.callbacks.Callback):
    """A training's own process can look; nobody else is to find it."""

    def on_train_begin(self, logs=None):
        SECRET.append(self.model.train_step._seed.numpy().tobytes())


def build():
    inputs = keras.Input([16, 16, 3])
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(inputs)))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    return model


def load(folder, **changed):
    return load_images(folder, image_size=16, global_batch_size=64, **changed)


def fit(splits, folder, **asked):
    settings = {"epochs": 2, "privacy": DPSGD(target_epsilon=3.0, delta=1e-5), **asked}
    return tfkit.fit(build, splits, run_dir=folder, verbose=0, **settings)


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    return planted.images(tmp_path_factory.mktemp("private") / "scans")


@pytest.fixture(scope="module")
def run(scans, tmp_path_factory):
    made = fit(load(scans), tmp_path_factory.mktemp("runs") / "mine", callbacks=[NoisesSecret()])
    reporting.write_report(made)
    return made


def test_nothing_of_the_examples_is_in_the_folder(run, scans):
    splits = load(scans)
    more = {**planted.secrets(splits, scans), "the noise's secret": SECRET[0]}
    assert planted.leaks(run.path, planted.IN_IMAGES, more) == []
    of_classes = {*splits.counts["train"].values(), *planted.EACH.values(), len(splits.source.labels)}
    assert [found for found in planted.numbers(run.path) if found[1] in of_classes] == []
    assert set(run.provenance["data"]) == {*SHOWN, "record"}


def test_the_search_finds_what_is_kept_without_privacy(scans, tmp_path):
    """A search that finds nothing would prove nothing."""
    splits = load(scans)
    made = fit(splits, tmp_path / "plain", privacy=None, epochs=1)
    reporting.write_report(made)
    found = {name for name, _ in planted.leaks(made.path, planted.IN_IMAGES, planted.secrets(splits, scans))}
    for name in ("zqPatientMueller", "zqPatientUnreadable", "zqPatientEmpty", "zqPatientOutside"):
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
        fit(changed, there)
    (there / "provenance.json").unlink()
    with pytest.raises(DataError, match=r"provenance\.json"):
        fit(load(scans), there)


def test_runs_of_one_owner_compare_on_the_same_examples(run, scans, tmp_path, capsys):
    """They spend on the same people twice, which is said."""
    plain = fit(load(scans), tmp_path / "plain", privacy=None, epochs=1)
    capsys.readouterr()
    again = fit(load(scans), tmp_path / "again", epochs=1)
    said = capsys.readouterr().err
    assert "spends again on the same people" in said
    assert str(run.path) in said
    assert not [note for note in again.notes if str(run.path) in note]
    page = write_comparison([run, again, plain], tmp_path / "page.html")
    assert "All were tested on the very same examples." in page.read_text()


def test_class_weights_are_refused_before_the_counts_are_noted(scans, tmp_path):
    with pytest.raises(ConfigError, match="class_weight"):
        fit(load(scans), tmp_path / "run", class_weights="always")
    assert planted.leaks(tmp_path, ("training examples",), {}) == []


def test_a_run_whose_statement_is_lost_still_shows_nothing(run, tmp_path):
    there = Run(shutil.copytree(run.path, tmp_path / "copy"))
    (there.path / "privacy.json").unlink()
    assert is_private(there)
    page = reporting.write_report(there).read_text()
    assert "NOT PRIVATE" in page
    assert "Trained without differential privacy" not in page
    assert json.dumps(there.provenance).count("digit") == 0

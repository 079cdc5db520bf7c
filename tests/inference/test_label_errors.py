"""Label errors: of labels that the test has flipped, most are among the first that are listed."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits

import tfkit
from tests.conftest import write_digits
from tfkit.__main__ import main
from tfkit.errors import DataError, PrivacyError, RunError
from tfkit.inference import label_errors
from tfkit.inference.label_errors import out_of_sample

FLIPPED = 0.05


@pytest.mark.parametrize("seed", [0, 1])
def test_most_of_the_first_are_truly_flipped(seed):
    features, labels = load_digits(return_X_y=True)
    chance = np.random.default_rng(seed)
    flipped = chance.choice(len(labels), int(FLIPPED * len(labels)), replace=False)
    given = labels.copy()
    given[flipped] = (given[flipped] + chance.integers(1, 10, len(flipped))) % 10
    found = label_errors(out_of_sample(features.astype(np.float32), given, seed=seed), given)
    first = found.index[: len(flipped)]
    assert np.isin(first, flipped).sum() >= 0.6 * len(flipped)
    assert (found["given"] == given[found.index]).all()
    assert (found["given"] != found["suggested"]).all()
    true = found.loc[np.isin(found.index, flipped)]
    assert (true["suggested"] == labels[true.index]).mean() > 0.8
    assert found["score"].is_monotonic_decreasing
    assert found["score"].between(0, 1).all()


def test_copies_do_not_bear_each_other_out():
    """A photo that is there ten times under a wrong name: a model that has seen nine of them believes the tenth."""
    features, labels = load_digits(return_X_y=True)
    chance = np.random.default_rng(0)
    often = np.concatenate(
        [np.arange(len(labels)), np.repeat(chance.choice(len(labels), 40, replace=False), 9)]
    )
    copied = np.bincount(often) > 1
    given = np.where(copied, (labels + 1) % 10, labels)[often]
    features, wrong = features[often].astype(np.float32), given != labels[often]
    shares = [
        np.isin(
            np.flatnonzero(wrong), label_errors(out_of_sample(features, given, groups=groups), given).index
        )
        for groups in (None, often)
    ]
    assert shares[0].mean() < 0.5
    assert shares[1].mean() > 0.7


def test_the_count_is_that_of_the_paper():
    """Thresholds .8 and .6: example 2, labelled 0, reaches that of class 1 alone; example 5 reaches none."""
    probabilities = [[0.9, 0.1], [0.9, 0.1], [0.3, 0.7], [0.1, 0.9], [0.2, 0.8], [0.65, 0.35]]
    found = label_errors(probabilities, [0, 0, 0, 1, 1, 1])
    assert found.index.tolist() == [2]
    assert found.loc[2].tolist() == [0, 1, 0.3, pytest.approx(0.7)]


@pytest.mark.parametrize("labels", [[0, 1], [0, 1, 2], ["a", "b", "a"], [0.0, 1.0, 0.0], [0, -1, 1]])
def test_labels_that_do_not_go_with_probabilities_are_refused(labels):
    with pytest.raises(DataError, match="unique"):
        label_errors(np.full((3, 2), 0.5), labels)


@pytest.fixture(scope="module")
def flipped_photos(tmp_path_factory):
    """Photos of five digits in class folders, one in twenty in a wrong one, and the names of those."""
    folder = write_digits(tmp_path_factory.mktemp("data") / "photos", classes=5, each=80, side=32)
    files = sorted(folder.rglob("*.png"))
    chance, wrong = np.random.default_rng(0), set()
    for file in chance.choice(files, int(FLIPPED * len(files)), replace=False):
        other = (int(file.parent.name[-1]) + int(chance.integers(1, 5))) % 5
        wrong.add(f"digit {other}/{file.name}")
        file.rename(folder / f"digit {other}" / file.name)
    return folder, wrong


@pytest.mark.slow
def test_the_files_of_a_run_that_are_in_a_wrong_folder(flipped_photos, tmp_path, monkeypatch, capsys):
    folder, wrong = flipped_photos
    run = tfkit.train(folder, model="cnn", image_size=16, epochs=1, run_dir=tmp_path / "runs" / "photos")
    found = tfkit.find_label_errors(run)
    assert list(found) == ["name", "split", "given", "suggested", "probability", "score"]
    assert found["name"].head(len(wrong)).isin(wrong).sum() >= 0.6 * len(wrong)
    assert set(found["split"]) <= {"train", "validation", "test"}
    assert (found["given"] == found["name"].str.partition("/")[0]).all()
    assert "trained from scratch" in capsys.readouterr().out
    table = tmp_path / "errors.csv"
    assert main(["labels", str(run.path), "--output", str(table), "--most", "3"]) == 0
    printed = capsys.readouterr().out
    assert found["name"][0] in printed
    assert printed.count(", rather ") == 3
    pd.testing.assert_frame_equal(pd.read_csv(table), found, check_dtype=False)
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "manual" / "how-to" / "explain.md").read_text()
    programs = [one for one in re.findall(r"```python\n(.*?)```", page, re.S) if "label_errors(" in one]
    assert len(programs) == 2
    for program in programs:
        exec(program, {})
    assert found["name"][0] in capsys.readouterr().out
    (run.path / "privacy.json").write_text('{"private": true, "epsilon": 3.0}')
    with pytest.raises(PrivacyError, match="private"):
        tfkit.find_label_errors(run.path)
    (run.path / "privacy.json").unlink()
    run.provenance = {"data": run.provenance["data"]}
    with pytest.raises(RunError, match="label_errors\\(probabilities, labels\\)"):
        tfkit.find_label_errors(run)

"""Pictures, curves and hparams, read back as the dashboards read them."""

import importlib
import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import precision_score, recall_score
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.pr_curve import metadata as pr_metadata
from tensorboard.util import tensor_util

from tfkit.reporting import figures
from tfkit.reporting.tensorboard import best, notebook, write_evaluation, write_hparams, write_images


def picture(multiplexer, run, tag) -> np.ndarray:
    (event,) = multiplexer.Tensors(run, tag)
    width, height, png = tensor_util.make_ndarray(event.tensor_proto)
    pixels = np.asarray(Image.open(io.BytesIO(png)))
    assert pixels.shape == (int(height), int(width), 3)
    return pixels


def test_images_are_shown_as_they_are_and_once(images, tmp_path, read):
    red = np.zeros((3, 8, 8, 3), np.uint8)
    red[..., 0] = 200
    write_images(tmp_path, "samples", images[:5])
    write_images(tmp_path, "samples", red, captions=["<b>", "$x_1$ 100 %", "中"])
    write_images(tmp_path, "worst mistakes", images[:1])
    multiplexer = read(tmp_path)
    assert set(multiplexer.Runs()["."]["tensors"]) == {"samples", "worst mistakes"}
    pixels = picture(multiplexer, ".", "samples")
    shown = (pixels == [200, 0, 0]).all(axis=-1)
    # Three squares beside each other fill about a quarter of the whole; the captions stand above them.
    assert 0.2 < shown.mean() < 0.95
    assert np.flatnonzero(shown.any(axis=1))[0] > 10


def test_captions_are_drawn_and_never_read_as_formulas(images, tmp_path, read):
    """An unclosed "$" or a wrong formula would be an error in matplotlib's markup."""

    def drawn(caption):
        write_images(tmp_path, "samples", images[:1], captions=[caption])
        return picture(read(tmp_path), ".", "samples")

    hostile = [drawn("$\\frac{broken$"), drawn("$$"), drawn("bell\x07 \udcff")]
    for pixels in hostile:
        assert not np.array_equal(pixels, drawn(""))


def test_no_mistakes_is_no_picture(tmp_path, read):
    write_images(tmp_path, "worst", np.zeros((0, 8, 8, 3), np.uint8), captions=[])
    assert read(tmp_path).Runs()["."]["tensors"] == []


def test_confused_pairs_are_the_matrix_without_its_diagonal(evaluation):
    pairs = figures.confused_pairs(evaluation, most=1000)
    counts = [count for *_, count in pairs]
    assert sum(counts) == len(evaluation.labels) - evaluation.correct
    assert counts == sorted(counts, reverse=True)
    true, guess, count = pairs[0]
    names = list(evaluation.class_names)
    assert evaluation.confusion[names.index(true), names.index(guess)] == count


def test_pr_curves_are_the_evaluations(evaluation, tmp_path, read):
    write_evaluation(tmp_path, evaluation)
    write_evaluation(tmp_path, evaluation)
    multiplexer = read(tmp_path)
    assert set(multiplexer.PluginRunToTagToContent(pr_metadata.PLUGIN_NAME)) == {"."}
    tags = multiplexer.PluginRunToTagToContent(pr_metadata.PLUGIN_NAME)["."]
    assert len(tags) == 11
    assert all(tag.count("/") == 2 for tag in tags)
    (event,) = multiplexer.Tensors(".", "pr/8 中文/pr_curves")
    _, _, _, _, precision, recall = tensor_util.make_ndarray(event.tensor_proto)
    for place in (20, 100, 180):
        predicted = evaluation.probabilities[:, 8] >= place / 200
        assert precision[place] == pytest.approx(precision_score(evaluation.labels == 8, predicted))
        assert recall[place] == pytest.approx(recall_score(evaluation.labels == 8, predicted))
    assert multiplexer.SummaryMetadata(".", "pr/2 <b>two<∕b>/pr_curves").display_name == "<b>two</b>"


def test_hparams_are_at_the_root_with_their_metrics(tmp_path, read):
    config = {"epochs": 5, "learning_rate": 1e-3, "features": True, "model_handle": "lite0", "augment": None}
    write_hparams(tmp_path / "run", config, {"test/accuracy": 0.5})
    write_hparams(tmp_path / "run", config, {"test/accuracy": 0.97, "test/loss": 0.1, "test/recall/cat": 1})
    multiplexer = read(tmp_path)
    contents = multiplexer.PluginRunToTagToContent("hparams")["run"]
    started = hparams_metadata.parse_session_start_info_plugin_data(contents["_hparams_/session_start_info"])
    found = {name: getattr(value, value.WhichOneof("kind")) for name, value in started.hparams.items()}
    del config["augment"]  # left out when asked, left out here
    assert found == config
    asked = hparams_metadata.parse_experiment_plugin_data(contents["_hparams_/experiment"])
    metrics = [info.name.tag for info in asked.metric_infos]
    assert metrics[:2] == ["results/test/accuracy", "results/best/val_accuracy"]
    assert metrics[-1] == "results/test/loss"
    (event,) = multiplexer.Tensors("run", "results/test/accuracy")
    assert tensor_util.make_ndarray(event.tensor_proto) == np.float32(0.97)


def test_runs_that_are_called_alike_are_not_one(tmp_path, read, monkeypatch):
    """Trials of two searches: TensorBoard makes one line of one trial id, and of one name one run."""
    searches, told = [tmp_path / name / "trials/001" for name in "ab"], []
    for place, path in enumerate(searches):
        write_hparams(path / "logs", {"epochs": 5}, {"test/accuracy": place})
    found = read(tmp_path).PluginRunToTagToContent("hparams").values()
    starts = [of["_hparams_/session_start_info"] for of in found]
    assert len({hparams_metadata.parse_session_start_info_plugin_data(one).group_name for one in starts}) == 2
    monkeypatch.setattr(importlib.import_module("tensorboard.notebook"), "start", told.append)
    notebook(*searches)
    assert all(f"{path.relative_to(tmp_path)}:{path}/logs" in told[0] for path in searches)


def test_the_best_epoch_is_that_of_the_lowest_validation_loss():
    history = pd.DataFrame({"epoch": [0, 1, 2], "val_loss": [0.5, 0.2, 0.3], "val_accuracy": [0.6, 0.7, 0.8]})
    found = {"epoch": 2, "val_loss": 0.2, "val_accuracy": 0.7}
    last = {"last/val_loss": 0.3, "last/val_accuracy": 0.8}
    assert best(history) == {f"best/{name}": value for name, value in found.items()} | last
    assert best(history[[]]) == {}

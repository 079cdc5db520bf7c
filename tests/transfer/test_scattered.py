"""Private training on small grey images: which model it takes by itself, and what that is worth."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tfkit
from recipes import train_private
from tfkit.reporting.examples import load as evaluation
from tfkit.settings.options import AUTO
from tfkit.transfer.private import FEWEST_STEPS, SCATTERING, plan_training
from tfkit.transfer.train import load

DOCS = Path(__file__).parents[2] / "docs/manual/how-to/private_images.md"


def folder_of(path, *, mode, side):
    chance = np.random.default_rng(0)
    for number in range(24):
        pixels = chance.integers(0, 256, (side, side, 3), np.uint8)
        image = path / f"c{number % 2}" / f"{number}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).convert(mode).save(image)
    return path


@pytest.mark.parametrize(
    ("mode", "side", "settings", "handle", "size"),
    [
        ("L", 28, {}, "scattering", 28),
        ("L", 28, {"image_size": 32}, "scattering", 32),
        ("I;16", 30, {}, "scattering", 28),
        ("RGB", 28, {}, "efficientnet-lite0", 160),
        ("L", 100, {}, "efficientnet-lite0", 224),
        ("L", 28, {"image_size": 96}, "efficientnet-lite0", 96),
        ("L", 28, {"features": False, "image_size": 32}, "efficientnet-lite0", 32),
        ("L", 28, {"model_handle": "efficientnet-lite0", "image_size": 32}, "efficientnet-lite0", 32),
    ],
)
def test_the_format_of_the_set_decides(tmp_path, mode, side, settings, handle, size):
    config = train_private.Config(data_dir=folder_of(tmp_path / "data", mode=mode, side=side), **settings)
    encoder, splits = load(config)
    assert (encoder.handle, splits.source.shape) == (handle, (size, size, 3))
    assert encoder.scatters == (handle == "scattering")


def test_arrays_and_embedded_sets_tell_their_format():
    grey = tfkit.load_images("digits", image_size=32)
    assert (grey.side, grey.grey) == (8, True)
    pixels = np.zeros((40, 20, 10, 3), np.uint8)
    pixels[:20] = 255
    colour = tfkit.from_arrays(pixels, np.arange(40) % 2, image_size=32)
    assert (colour.side, colour.grey) == (20, False)


def test_texts_have_the_model_of_texts():
    assert train_private.Config(dataset="sentiment").model_handle == AUTO
    assert train_private.Config(dataset="sentiment").encoder_handle == "minilm-l6-v2"


def test_what_is_left_out_suits_the_features_and_what_is_given_stays():
    encoder, splits = load(train_private.Config(delta=1e-4))
    stage, of_batches, rate, plan = plan_training(train_private.Config(delta=1e-4), splits, encoder)
    assert plan.steps == 4 * stage.epochs == pytest.approx(FEWEST_STEPS, abs=4)
    assert of_batches.global_batch_size == pytest.approx(len(splits.indices["train"]) / 4, abs=1)
    assert (plan.l2_norm_clip, plan.release_noise) == (SCATTERING.l2_norm_clip, 0.0)
    given = train_private.Config(
        delta=1e-4, l2_norm_clip=0.5, global_batch_size=64, epochs=3, mean_budget=0.1
    )
    stage, of_batches, other, plan = plan_training(given, splits, encoder)
    assert (stage.epochs, of_batches.global_batch_size, plan.l2_norm_clip) == (3, 64, 0.5)
    assert plan.release_noise > 0
    assert other * 0.5 == pytest.approx(rate * SCATTERING.l2_norm_clip)  # the step is as long


@pytest.mark.slow
def test_a_run_that_names_no_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    (program,) = re.findall(r"^```python\n(.*?)^```$", DOCS.read_text(), re.DOTALL | re.MULTILINE)
    exec(compile(program, str(DOCS), "exec"), names)
    run = names["run"]
    assert (run.config["model_handle"], run.config["image_size"]) == ("scattering", 28)
    assert run.metrics["privacy/epsilon"] <= 8
    assert run.metrics["test/accuracy"] > 0.93  # 0.88 by EfficientNet-Lite0, 0.92 by pixels
    assert "no colour" in (run.path / "notes.txt").read_text()
    assert run.metrics["export/agreement"] == 1.0
    assert (
        run.metrics["export/max_difference"] < 1e-5
    )  # enlarged by the exported graph, by Pillow in training
    splits = tfkit.load_images("digits", image_size=28)
    given = np.asarray(run.model(splits.source.read(splits.indices["test"])))
    measured = evaluation(run.path / "evaluation.npz")[0]
    assert measured.agreement(given) == 1.0
    np.testing.assert_allclose(given, measured.probabilities, atol=1e-5)

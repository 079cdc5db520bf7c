"""The plain training: a network from scratch or all layers of a backbone, on what devices there are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from recipes.train_distributed import Config, run
from tfkit.environment.stack import tf
from tfkit.run import Run

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def finished(photos, tmp_path_factory) -> Run:
    run_dir = tmp_path_factory.mktemp("runs") / "photos"
    return run(Config(data_dir=photos, run_dir=run_dir, epochs=12, image_size=24, global_batch_size=16))


@pytest.mark.slow
def test_it_learns_from_scratch_and_exports_what_it_learned(finished, photos):
    from PIL import Image

    assert finished.metrics["test/accuracy"] > 0.8
    assert finished.metrics["export/agreement"] == 1.0
    assert (finished.path / "report.html").is_file()
    assert "from scratch" in finished.provenance["model"]["handle"]
    assert any("1 replica on CPU:0" in note for note in finished.notes)
    image = np.asarray(Image.open(next((photos / "digit 1").iterdir())).convert("RGB"))
    assert finished.model(tf.constant(image)).numpy().shape == (3,)


@pytest.mark.slow
def test_all_layers_of_a_backbone(photos, tmp_path):
    settings = {"model_handle": "efficientnet-lite0", "epochs": 2, "image_size": 64, "learning_rate": 1e-3}
    done = run(Config(data_dir=photos, run_dir=tmp_path / "run", global_batch_size=16, **settings))
    assert done.metrics["test/accuracy"] > 0.8
    assert done.provenance["model"]["handle"] == "efficientnet-lite0"


@pytest.mark.slow
def test_parameter_servers_are_rehearsed_in_one_process(tmp_path):
    """Their ports are open to every interface: in a network of their own."""
    flags = ["--epochs", "2", "--image-size", "16", "--strategy", "parameter_server"]
    words = [sys.executable, "-m", "recipes.train_distributed", *flags, "--run-dir", str(tmp_path / "run")]
    alone = ["unshare", "-r", "-n", "sh", "-c", 'ip link set lo up; exec "$@"', "sh", *words]
    done = subprocess.run(alone, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    finished = Run.open(tmp_path / "run")
    assert finished.metrics["test/accuracy"] > 0.6
    assert any("ParameterServerStrategy" in note for note in finished.notes)

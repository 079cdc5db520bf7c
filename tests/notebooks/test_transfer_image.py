"""The notebook, as a student runs it: top to bottom, in a kernel of its own."""

from __future__ import annotations

import os
import signal
import tomllib
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# It opens ports: test_train_distributed.py runs it, in a network of its own.
IN_THIS_NETWORK = [path for path in NOTEBOOKS if path.stem != "train_distributed"]


@pytest.fixture
def _no_tensorboard_left(tmp_path):
    """%tensorboard leaves a server behind, on purpose; the ones that the notebook began end with the test."""
    yield
    from tensorboard import manager

    for info in manager.get_all():
        if Path(info.logdir).is_relative_to(tmp_path) or not Path(info.logdir).is_absolute():
            os.kill(info.pid, signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.usefixtures("_no_tensorboard_left")
@pytest.mark.parametrize("path", IN_THIS_NETWORK, ids=lambda path: path.stem)
def test_it_runs_from_top_to_bottom(path, tmp_path, monkeypatch):
    # The kernel finds the recipes as an installed package would offer them, and TensorBoard's own notes end here.
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert (tmp_path / "runs" / "notebook" / "report.html").is_file()
    made = "index/embeddings.npy" if path.stem == "search_text" else "saved_model/saved_model.pb"
    assert (tmp_path / "runs" / "notebook" / made).is_file()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_clean_and_points_to_the_published_address(path):
    address = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert all(not cell.get("outputs") for cell in notebook.cells)
    text = "\n".join(cell.source for cell in notebook.cells)
    slug = address.removeprefix("https://github.com/")
    assert (
        f"colab.research.google.com/github/{slug}/blob/main/notebooks/{path.name}" in notebook.cells[0].source
    )
    assert f"git+{address}" in text
    assert "#@param" in text
    assert "%tensorboard" in text

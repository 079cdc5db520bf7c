"""The notebooks are one family: they begin, install and end alike."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
ADDRESS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]


def test_they_are_all_here():
    assert [path.stem for path in NOTEBOOKS] == [
        "compress_tflite",
        "end_to_end",
        "search_text",
        "train_distributed",
        "train_private",
        "transfer_image",
        "transfer_text",
    ]


def test_they_install_alike():
    cells = {nbformat.read(path, as_version=4).cells[1].source for path in NOTEBOOKS}
    assert len(cells) == 1
    (cell,) = cells
    assert cell.startswith("#@title Install tfkit (about a minute; changes nothing that Colab brings")
    assert cell.count(f"git+{ADDRESS}") == 2  # on Colab, and elsewhere
    of_colab = cell.partition("google.colab")[2].partition("else:")[0]
    # With their dependencies these would take Colab's attrs back by three years.
    assert re.search(r"--no-deps .*dp-accounting", of_colab)
    assert re.search(r'--no-deps "tfkit @', of_colab)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_one_of_them(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
    first, last = notebook.cells[0].source, notebook.cells[-1].source
    assert first.startswith("# ")
    slug = ADDRESS.removeprefix("https://github.com/")
    assert f"colab.research.google.com/github/{slug}/blob/main/notebooks/{path.name}" in first
    for part in ("**At the end of this notebook you have** ", "**It takes** about ", "**How it works.** "):
        assert part in first
    assert last.startswith("## What to try next\n")
    text = "\n".join(cell.source for cell in notebook.cells)
    assert "#@param" in text
    assert "%tensorboard" in text
    assert all(cell.source.startswith("#@title") for cell in notebook.cells if "#@param" in cell.source)
    for link in re.findall(r"\]\((\w+\.ipynb)\)", text):
        assert (path.parent / link).is_file(), link

"""The notebooks are one family: they begin, install and end alike, and show what they made."""

from __future__ import annotations

import ast
import base64
import re
import tomllib
from pathlib import Path

import nbconvert
import nbformat
import pytest

from notebooks import make

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
ADDRESS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["tfkit"]["repository"]
ELSEWHERE = "https://github.com/somebody/tfkit"
of_all = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


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


@of_all
def test_they_are_as_the_setting_makes_them(path):
    notebook = nbformat.read(path, as_version=4)
    make.publish(notebook, path.name, ADDRESS)
    assert notebook == nbformat.read(path, as_version=4)


@of_all
@pytest.mark.parametrize("address", ["", ELSEWHERE])
def test_they_link_where_the_setting_says_and_nowhere_else(path, address):
    notebook = nbformat.read(path, as_version=4)
    make.publish(notebook, path.name, ELSEWHERE)
    make.publish(notebook, path.name, address)
    text = "\n".join(cell.source for cell in notebook.cells)
    badge = f"colab.research.google.com/github/somebody/tfkit/blob/main/notebooks/{path.name}"
    assert text.count(badge) == bool(address)
    assert text.count(f"git+{ELSEWHERE}") == bool(address)
    assert bool(re.search(r"git\+|colab-badge|github", text)) == bool(address)
    install = notebook.cells[1].source
    assert install == make.INSTALL.format(
        source=make.PUBLISHED.replace("ADDRESS", address) if address else make.NO_WHEEL
    )
    assert ast.parse(re.sub(r"%pip .*", "pass", install))
    assert "tfkit_tensorflow-*.whl" in install
    of_colab = install.partition("google.colab")[2].partition("else:")[0]
    # With their dependencies these would take Colab's attrs back by three years.
    assert re.search(r"--no-deps .*dp-accounting", of_colab)
    assert '--no-deps "{source}"' in of_colab


def test_without_address_and_wheel_it_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    cell = re.sub(r"%pip .*", "pass", make.INSTALL.format(source=make.NO_WHEEL))
    with pytest.raises(SystemExit, match="upload tfkit_tensorflow"):
        exec(cell, {})
    (tmp_path / "tfkit_tensorflow-0.1.0-py3-none-any.whl").touch()
    names: dict[str, str] = {}
    exec(cell, names)
    assert names["source"] == f"tfkit-tensorflow[bundled] @ {(tmp_path / names['wheels'][0]).as_uri()}"


@of_all
def test_it_is_one_of_them(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    first, last = notebook.cells[0].source, notebook.cells[-1].source
    assert first.startswith("# ")
    for part in ("**At the end of this notebook you have** ", "**It takes** about ", "**How it works.** "):
        assert part in first
    assert last.startswith("## What to change next\n")
    text = "\n".join(cell.source for cell in notebook.cells)
    assert "#@param" in text
    assert "tensorboard.notebook(" in text
    assert "%tensorboard" not in text
    assert all(cell.source.startswith("#@title") for cell in notebook.cells if "#@param" in cell.source)
    for link in re.findall(r"\]\((\w+\.ipynb)\)", text):
        assert (path.parent / link).is_file(), link


@of_all
def test_its_outputs_are_of_its_cells_and_fit_to_be_read(path):
    assert path.stat().st_size < 250_000
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    assert outputs
    for cell in cells:
        assert cell.metadata.get("source") == make.digest(cell.source), cell.source
    text = "\n".join(
        output.get("text", "")
        + "".join(map(str, (output.get("data", {}).get(kind, "") for kind in ("text/plain", "text/html"))))
        for output in outputs
    )
    assert not re.search(r"(?<![\w.:/])/(tmp|home|root|usr|work|Users|content)/", text)
    assert not re.search(r"tqdm|it/s|widget|█|<iframe|Traceback|WARNING:|INFO:", text)
    assert not re.search(r"\d\.\d{5,}", text)
    pictures = [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    assert pictures
    assert all(len(base64.b64decode(picture)) < 40_000 for picture in pictures)


@of_all
def test_it_is_rendered_with_its_figures(path):
    notebook = nbformat.read(path, as_version=4)
    page, _ = nbconvert.HTMLExporter(template_name="lab").from_notebook_node(notebook)
    figures = sum(
        "image/png" in output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])
    )
    assert page.count('src="data:image/png;base64,') == figures > 0
    assert "What to change next" in page

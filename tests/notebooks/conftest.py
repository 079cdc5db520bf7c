"""A notebook, run from top to bottom as a student runs it, in a kernel of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pytest

from notebooks import execute as program
from notebooks import make
from tests import forked

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Executed:
    """Where a notebook ran, and what its cells showed."""

    folder: Path
    outputs: list[Any]

    @property
    def printed(self) -> str:
        return "".join(output["text"] for output in self.outputs if output.output_type == "stream")

    @property
    def plots(self) -> int:
        return sum("image/png" in output.get("data", {}) for output in self.outputs)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the notebooks of a file run one after the other: their TensorBoards are one, if they ask alike."""
    folder = tmp_path_factory.mktemp("notebooks")
    with pytest.MonkeyPatch.context() as patch:
        # The kernel finds the recipes as an installed package would offer them, and TensorBoard's own notes end here.
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("TMPDIR", str(folder))
        patch.setattr("tempfile.tempdir", str(folder))
        # That of test_train_distributed.py is a plain process.
        patch.setattr("jupyter_client.launcher.Popen", forked.Popen)
        yield folder
        program.end_tensorboards()


@pytest.fixture
def execute(folder: Path) -> Callable[..., Executed]:
    """`execute("transfer_image", image_size=48)` runs it, with other values of its settings."""

    def run(name: str, **settings: object) -> Executed:
        shutil.rmtree(folder / "runs", ignore_errors=True)
        path = ROOT / "notebooks" / f"{name}.ipynb"
        executed = program.execute(str(path), str(folder), settings)
        outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
        compare(executed, nbformat.read(path, as_version=4), folder)
        return Executed(folder=folder, outputs=outputs)

    return run


def compare(executed: nbformat.NotebookNode, committed: nbformat.NotebookNode, folder: Path) -> None:
    """The committed outputs are of these cells: the same kinds of them, where the notebook has any."""
    executed = nbformat.from_dict(executed)
    for ours, theirs in zip(executed.cells, committed.cells, strict=True):
        make.clean(ours, str(folder))
        if "source" in theirs.metadata:
            assert make.kinds(ours) == make.kinds(theirs), theirs.source

"""A notebook, run from top to bottom as a student runs it, in a kernel of its own."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

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


@pytest.fixture
def execute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Executed]]:
    """`execute("transfer_image")` runs it with its own settings."""
    # The kernel finds the recipes as an installed package would offer them, and TensorBoard's own notes end here.
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def run(name: str) -> Executed:
        notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
        NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
        return Executed(folder=tmp_path, outputs=outputs)

    yield run
    from tensorboard import manager

    # %tensorboard leaves a server behind, on purpose, and a note of it in TMPDIR, which is this test's alone.
    for info in manager.get_all():
        os.kill(info.pid, signal.SIGTERM)

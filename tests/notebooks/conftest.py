"""A notebook, run from top to bottom as a student runs it, in a kernel of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.notebooks import execute as program

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
def execute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Executed]:
    """`execute("transfer_image")` runs it with its own settings."""
    # The kernel finds the recipes as an installed package would offer them, and TensorBoard's own notes end here.
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def run(name: str) -> Executed:
        program.main(str(ROOT / "notebooks" / f"{name}.ipynb"), str(tmp_path))
        cells = nbformat.read(tmp_path / "executed.ipynb", as_version=4).cells
        return Executed(folder=tmp_path, outputs=[one for cell in cells for one in cell.get("outputs", [])])

    return run

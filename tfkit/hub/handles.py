"""What a model handle means: where the model is, and by which road it comes."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from tfkit.errors import HubError
from tfkit.hub import bundled, known, known_text

Kind = Literal["bundled", "http", "kaggle", "remote", "folder", "file"]
KAGGLE_HOSTS = ("kaggle.com", "www.kaggle.com")
KAGGLE_FRAMEWORKS = {name.lower(): name for name in ("tensorFlow1", "tensorFlow2", "tfLite", "keras", "tfJs")}
REMOTE_SCHEMES = ("gs", "s3", "hdfs")


@dataclass(frozen=True)
class Handle:
    """A handle that was understood."""

    text: str
    """As it was asked for."""
    kind: Kind
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
    if isinstance(handle, str):
        if text in bundled.MODELS:
            return Handle(text, "bundled", text)
        if row := known.find(text) or known_text.find(text):
            return Handle(text, *_road(row.handle))
        if "://" in text:
            return Handle(text, *_road(text))
    path = Path(text).expanduser()
    if path.is_dir():
        return Handle(text, "folder", str(path.absolute()))
    if path.exists():
        return Handle(text, "file", str(path.absolute()))
    parts = text.split("/")
    if len(parts) in (4, 5) and parts[2].lower() in KAGGLE_FRAMEWORKS:
        return Handle(text, "kaggle", _kaggle(text, parts))
    raise HubError(_not_found(text, path))


def _road(url: str) -> tuple[Kind, str]:
    split = urlsplit(url)
    scheme = split.scheme.lower()
    if scheme == "kaggle" or (scheme in ("http", "https") and split.hostname in KAGGLE_HOSTS):
        path = f"{split.netloc}{split.path}" if scheme == "kaggle" else split.path.removeprefix("/models/")
        return "kaggle", _kaggle(url, path.strip("/").split("/"))
    if scheme in ("http", "https"):
        return "http", url
    if scheme in REMOTE_SCHEMES:
        return "remote", url
    if scheme == "file":
        found = parse(Path(unquote(split.path)))
        return found.kind, found.location
    raise HubError(
        f"{url}: no model comes by {scheme}://. "
        f"Known are http, https, kaggle, file, {', '.join(REMOTE_SCHEMES)}, a path, or a name."
    )


def _kaggle(text: str, parts: list[str]) -> str:
    """owner/model/framework/variation[/version], out of that or of what the web page's address has between."""
    parts = [part for part in parts if part not in ("frameworks", "variations", "versions")]
    if len(parts) not in (4, 5) or parts[2].lower() not in KAGGLE_FRAMEWORKS:
        raise HubError(
            f"{text} names no variation of a Kaggle model.\n"
            "  Choose one on its page, such as "
            "https://www.kaggle.com/models/google/mobilenet-v2/tensorFlow2/100-224-feature-vector/2"
        )
    framework = KAGGLE_FRAMEWORKS[parts[2].lower()]
    if framework != "tensorFlow2" and framework != "tensorFlow1":
        raise HubError(
            f"{text} is the {framework} variation of the model, which cannot be loaded as a SavedModel.\n"
            "  Choose its tensorFlow2 variation on the model's page."
        )
    return "/".join([*parts[:2], framework, *parts[3:]])


def _not_found(text: str, path: Path) -> str:
    if re.match(r"[./~]", text) or len(path.parts) > 1:
        message = f"{text}: there is no such folder or file."
        parent = next(parent for parent in path.absolute().parents if parent.is_dir())
        names = [entry.name for entry in parent.iterdir() if not entry.name.startswith(".")]
        near = [str(parent / name) for name in _nearest(path.name, sorted(names))]
    else:
        message = f"{text!r} is neither a model known by name, nor a folder here."
        near = _nearest(text, [*known.names(), *known_text.names()])
    nearest = f"\n  The nearest: {', '.join(near)}." if near else ""
    return f"{message}{nearest}\n  python -m tfkit models lists what is known by name; a URL or a folder works too."


def _nearest(text: str, names: list[str]) -> list[str]:
    """The names most like `text`, up to three; of equals the first."""
    likeness = {name: difflib.SequenceMatcher(None, text.lower(), name.lower()).ratio() for name in names}
    return sorted((name for name in names if likeness[name] > 0.5), key=lambda name: -likeness[name])[:3]

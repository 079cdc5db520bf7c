"""What a file that is no archive of a SavedModel is, and how a SavedModel comes out of it."""

from __future__ import annotations

from pathlib import Path

_MAKE_SAVED_MODEL = (
    "Make a SavedModel of it: tf_keras.models.load_model('{path}').save('folder', save_format='tf'), "
    "with the classification layer cut off, and give that folder."
)
_KINDS = {
    "tflite": "is a TFLite model: its weights are fixed for one device's use. Give the SavedModel that it came from",
    "h5": f"is a Keras file in HDF5. {_MAKE_SAVED_MODEL}",
    "keras": f"is a Keras file, or another zip. {_MAKE_SAVED_MODEL}",
    "html": "is a web page, not a model: the address is that of a page about it, or wants you to log in",
    "pb": "is a part of a SavedModel. Give the folder that it is in",
    "torch": "is a PyTorch file. Give a SavedModel",
    "": "is neither a SavedModel folder nor a .tar.gz of one",
}
SUFFIXES = {
    ".tflite": "tflite",
    ".h5": "h5",
    ".hdf5": "h5",
    ".keras": "keras",
    ".pb": "pb",
    ".pth": "torch",
    ".pt": "torch",
}


def describe(path: Path) -> str:
    """A sentence on what the file is, by its first bytes, then by its name, and what to do with it."""
    with path.open("rb") as file:
        start = file.read(512)
    if start[4:8] == b"TFL3":
        kind = "tflite"
    elif start.startswith(b"\x89HDF\r\n\x1a\n"):
        kind = "h5"
    elif start.startswith(b"PK\x03\x04"):
        kind = "torch" if path.suffix in (".pt", ".pth") else "keras"
    elif start.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
        kind = "html"
    else:
        kind = SUFFIXES.get(path.suffix.lower(), "")
    return _KINDS[kind].format(path=path) + "."

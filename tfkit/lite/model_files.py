"""Models as files: Keras's own are loaded by the Keras that wrote them; of any other it is said what to do with it."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any, NoReturn

from tfkit import packages, stack
from tfkit.errors import DataError

KERAS = (".keras", ".h5", ".hdf5")
_HDF5, _ZIP = b"\x89HDF\r\n\x1a\n", b"PK\x03\x04"
_CHECKPOINT = (
    "a checkpoint: weights without the model\n"
    "  Build the model, load them (model.load_weights, or tf.train.Checkpoint), and give the model."
)
_FROZEN = (
    "a graph without signature: it does not say what it takes and gives\n  Load it, and give the function between two"
    " tensors: graph = tf.compat.v1.GraphDef.FromString(open(...).read()); tf.compat.v1.wrap_function(lambda:"
    " tf.graph_util.import_graph_def(graph, name=''), []).prune('input:0', 'output:0')"
)
_OTHERS = {
    ".onnx": "an ONNX model\n  Make a SavedModel of it (onnx2tf -i model.onnx -o folder), and give that folder.",
    **dict.fromkeys(
        (".pt", ".pth", ".ckpt.pt", ".safetensors"),
        "of PyTorch\n  Export it there: torch.onnx.export and onnx2tf make a SavedModel, litert-torch a .tflite.",
    ),
    **dict.fromkeys((".pb", ".pbtxt"), _FROZEN),
    **dict.fromkeys((".ckpt", ".index", ".weights.h5"), _CHECKPOINT),
    ".json": "a model's architecture without weights\n  keras.models.model_from_json and load_weights make the model.",
}


def read(path: Path) -> Any:
    """Load a Keras model from its file, without running code of its own.

    Args:
      path: .keras, or .h5 of a whole model; told by its content.

    Returns:
      A model of Keras 2 or 3, as the file says; None for what is no file or folder of a known kind.

    Raises:
      DataError: it is of another kind, damaged, has weights alone, or Lambda layers or layers of its author.
    """
    if path.is_dir():
        return _refuse_folder(path)
    with path.open("rb") as file:
        start = file.read(8)
    if start[4:8] == b"TFL3":
        _refuse(path, "converted already\n  tfkit.lite.inspect(open(..., 'rb').read()) looks into it.")
    if path.name == "saved_model.pb":
        _refuse(path, f"a part of a SavedModel\n  Give its folder: {path.parent}.")
    if start.startswith(_HDF5):
        return _loaded(path, *_of_hdf5(path))
    if start.startswith(_ZIP):
        return _loaded(path, *_of_zip(path))
    if path.suffix.lower() in KERAS:
        _refuse(
            path,
            f"no Keras model, whatever its name says: it begins with {start!r}\n  Save or copy it again.",
        )
    for ending, what in _OTHERS.items():
        if path.name.lower().endswith(ending):
            _refuse(path, what)
    if ".data-0" in path.name:
        _refuse(path, _CHECKPOINT)
    return None


def refuse_missing(path: Path) -> None:
    """Refuse what is plainly the name of a file, and no handle, where that file is not there."""
    if path.suffix.lower() in (*KERAS, ".tflite", ".pb", ".onnx", ".pt", ".pth", ".zip"):
        raise DataError(f"There is no file {path} (from {Path.cwd()}).")


def _refuse(path: Path, what: str) -> NoReturn:
    raise DataError(f"{path} is {what}")


def _refuse_folder(path: Path) -> None:
    """A folder without saved_model.pb, if it is of a kind that no handle can mean."""
    if inner := sorted(path.glob("*/saved_model.pb")):
        listed = ", ".join(str(one.parent) for one in inner[:3])
        _refuse(path, f"no SavedModel itself, and has {len(inner)} below it\n  Give one: {listed}.")
    if (path / "variables").is_dir():
        _refuse(path, "a SavedModel without its saved_model.pb: it was copied in part\n  Export it again.")
    if (path / "checkpoint").is_file() or list(path.glob("*.index")):
        _refuse(path, _CHECKPOINT)
    if models := sorted(
        one for one in path.iterdir() if one.suffix.lower() in (*KERAS, ".tflite", ".pb", ".onnx")
    ):
        _refuse(path, f"a folder and no SavedModel\n  Give the file: {models[0]}.")


def _of_hdf5(path: Path) -> tuple[str, str]:
    """Keras's version and the model's configuration, as text."""
    import h5py

    try:
        with h5py.File(path) as file:
            version, config = (file.attrs.get(name, "") for name in ("keras_version", "model_config"))
    except OSError as err:
        raise DataError(f"{path} is damaged: {packages.first_line(err)}\n  Save or copy it again.") from err
    if not config:
        _refuse(path, _CHECKPOINT)
    return tuple(one.decode() if isinstance(one, bytes) else str(one) for one in (version, config))  # type: ignore[return-value]


def _of_zip(path: Path) -> tuple[str, str]:
    try:
        with zipfile.ZipFile(path) as file:
            names = set(file.namelist())
            if {"config.json", "metadata.json"} <= names:
                return json.loads(file.read("metadata.json"))["keras_version"], file.read(
                    "config.json"
                ).decode()
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as err:
        raise DataError(f"{path} is damaged: {packages.first_line(err)}\n  Save or copy it again.") from err
    if any(name.endswith("data.pkl") for name in names):
        _refuse(path, _OTHERS[".pt"])
    inside = next(
        (name for name in sorted(names) if name.endswith(("saved_model.pb", ".h5", ".keras", ".tflite"))), ""
    )
    _refuse(path, f"an archive\n  Unpack it, and give what is in it{f': {inside}' if inside else ''}.")


def _loaded(path: Path, version: str, config: str) -> Any:
    if '"Lambda"' in config:
        raise DataError(
            f"{path} has Lambda layers: Python code, which would run here.\n"
            "  If you trust it, load it yourself, keras.models.load_model(path, safe_mode=False), and give the model."
        )
    library = (
        stack.keras_3 if version.split(".")[0].isdigit() and int(version.split(".")[0]) >= 3 else stack.keras
    )
    failure: Exception | None = None
    for compiled in (
        True,
        False,
    ):  # its loss says what its outputs are; one of its author's is not known here
        try:
            return library.models.load_model(path, compile=compiled, safe_mode=True)
        except Exception as err:  # whatever a stranger's file makes Keras raise
            failure = err
    assert failure is not None
    raise DataError(
        f"{path} (Keras {version or '2'}) does not load: {packages.first_line(failure)}\n"
        "  A model with layers of its author's needs their code: load it yourself, keras.models.load_model(path,"
        " custom_objects={...}), and give the model."
    ) from failure

"""Whether a SavedModel folder is whole, and where in a folder it is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tfkit.errors import HubError
from tfkit.hub import formats, saved_model

VARIABLES = "variables/variables"
_SHARD = re.compile(r"variables\.data-\d{5}-of-(\d{5})")


def locate(folder: Path, *, name: str) -> Path:
    """The SavedModel in `folder`: itself, or the only one among its subfolders.

    Raises:
      HubError: there is none, or more than one; the message says what is there in its place.
    """
    if (folder / "saved_model.pb").is_file():
        return folder
    inside = sorted(path.parent for path in folder.glob("*/saved_model.pb"))
    if len(inside) == 1:
        return inside[0]
    if inside:
        listed = ", ".join(path.name for path in inside)
        raise HubError(f"{name} holds several models: {listed}.\n  Give the folder of one of them.")
    others = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix.lower() in formats.SUFFIXES)
    if others:
        raise HubError(f"{name} has no saved_model.pb. Its {others[0].name} {formats.describe(others[0])}")
    found = ", ".join(sorted(path.name for path in folder.iterdir())[:5]) or "nothing"
    raise HubError(
        f"{name} has no saved_model.pb, neither at its root nor one level down (there is {found}).\n"
        "  So it is no SavedModel, or only a part of one."
    )


def verify(folder: Path, *, name: str) -> None:
    """Make sure that all that the SavedModel in `folder` needs is there, and that its weights are undamaged.

    Raises:
      HubError: a file is missing or cut short, or the checksum of a weight is wrong.
    """
    from tfkit.stack import tf

    proto = saved_model.load_proto(folder)
    missing = [path for path in _assets(proto) if not (folder / path).is_file()]
    missing += _missing_variables(folder) if _has_variables(proto) else []
    if missing:
        raise HubError(
            f"{name} is incomplete: {', '.join(missing[:5])} {'is' if len(missing) == 1 else 'are'} missing.\n"
            "  Fetch or export it again."
        )
    if (folder / f"{VARIABLES}.index").is_file():
        try:
            reader = tf.train.load_checkpoint(str(folder / VARIABLES))
            for variable in reader.get_variable_to_shape_map():
                reader.get_tensor(variable)  # which compares its checksum
        except (tf.errors.OpError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise HubError(
                f"{name}: its weights are damaged: {reason}\n  Fetch or export it again."
            ) from error


def _assets(proto: Any) -> list[str]:
    names = {asset.filename for graph in proto.meta_graphs for asset in graph.asset_file_def}
    return [f"assets/{name}" for name in sorted(names)]


def _has_variables(proto: Any) -> bool:
    """Whether any graph has variables to restore; a model can be all constants."""
    for graph in proto.meta_graphs:
        if any(node.WhichOneof("kind") == "variable" for node in graph.object_graph_def.nodes):
            return True
        if any(node.op in ("VarHandleOp", "VariableV2", "Variable") for node in graph.graph_def.node):
            return True
    return False


def _missing_variables(folder: Path) -> list[str]:
    missing = [] if (folder / f"{VARIABLES}.index").is_file() else [f"{VARIABLES}.index"]
    counts = {int(m[1]) for p in folder.glob("variables/*") if (m := _SHARD.fullmatch(p.name))} or {1}
    count = max(counts)
    shards = [f"{VARIABLES}.data-{i:05d}-of-{count:05d}" for i in range(count)]
    return missing + [shard for shard in shards if not (folder / shard).is_file()]

"""export_serving: a run's model as repositories for model servers, each with what starts it."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from tfkit.environment import files, packages, process, stack
from tfkit.errors import ConfigError
from tfkit.exporting import new_export, template
from tfkit.hub.saved_model import load_proto, verify
from tfkit.run import LABELS, SAVED_MODEL, Run
from tfkit.run_files import damaged

MLSERVER, KSERVE = "mlserver==1.7.1", "kserve==0.21.0"
"""Versions that were started with the files that are written here."""

DATATYPES = {"uint8": "UINT8", "uint16": "UINT16", "float32": "FP32", "string": "BYTES"}
"""The V2 protocol's words for what an exported model takes."""

SETTINGS = {
    "host": "127.0.0.1", "http_port": 8080, "grpc_port": 8081, "metrics_port": 8082, "debug": False,
    "parallel_workers": 0, "grpc_max_message_length": 16 * 2**20,
}  # fmt: skip

BATCHING = """\
max_batch_size { value: 16 }
batch_timeout_micros { value: 5000 }
num_batch_threads { value: 2 }
max_enqueued_batches { value: 64 }
"""


def export_serving(run: Run, folder: Path, *, name: str | None = None) -> Path:
    """Write a run's model for MLServer, KServe and TensorFlow Serving, and a README.txt that says how each is started.

    Each gets a folder that needs no other. The files of the model in them are hard links where the disk has those.

    Args:
      run: a finished run.
      folder: replaced whole, or left as it was.
      name: of the model in the servers' addresses; the run folder's when left out.

    Returns:
      `folder`.

    Raises:
      ConfigError: the name has characters that an address cannot have.
      HubError: the run's model is incomplete.
      RunError: it is no model that a run exports.
    """
    if name is None:
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", run.path.resolve().name).strip("-")[:64] or "model"
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
        raise ConfigError(
            f"--name {name!r} cannot stand in the address of a server."
            "\n  Take 1 to 64 letters, digits, - and _, such as --name photos"
        )
    process.say(f"Writing the model {name} for MLServer, KServe and TensorFlow Serving.")
    source = run.path / SAVED_MODEL
    verify(source, name=str(source))
    spec = _find_input(source)
    output = {
        "name": "probabilities",
        "datatype": "FP32",
        "shape": [-1, len(run.labels) if run.task.each else 2],
    }
    names = ["tensorflow", "pillow", *(["tensorflow-text"] if spec["datatype"] == "BYTES" else [])]
    pins = "".join(f"{package}=={packages.version(package)}\n" for package in names)
    labels = "".join(f"{label}\n" for label in run.labels)
    repository, versions = f"mlserver/{name}", f"tensorflow_serving/{name}"
    settings = {
        "name": name, "implementation": "runtime.Runtime", "platform": "tensorflow",
        "parameters": {"uri": f"./{SAVED_MODEL}"}, "inputs": [spec], "outputs": [output],
    }  # fmt: skip
    texts = {
        "README.txt": template("serving_readme").format(name=name, tensorflow=packages.version("tensorflow")),
        "mlserver/settings.json": json.dumps(SETTINGS, indent=2),
        "mlserver/requirements.txt": f"{MLSERVER}\n{pins}",
        f"{repository}/{LABELS}": labels,
        f"{repository}/model-settings.json": json.dumps(settings, indent=2),
        f"{repository}/runtime.py": template("serving_mlserver.py"),
        f"{repository}/classifier.py": template("serving_classifier.py"),
        "kserve/requirements.txt": f"{KSERVE}\n{pins}",
        f"kserve/{LABELS}": labels,
        "kserve/serve.py": template("serving_kserve.py").replace("MODEL_NAME", name),
        "kserve/classifier.py": template("serving_classifier.py"),
        "tensorflow_serving/batching.config": BATCHING,
        f"{versions}/{LABELS}": labels,
    }
    with new_export(folder) as target:
        for path in (f"{repository}/{SAVED_MODEL}", f"kserve/{SAVED_MODEL}", f"{versions}/1"):
            shutil.copytree(source, target / path, copy_function=_link)
        for path, text in texts.items():
            files.write_text(target / path, text)
        _write_warmup(target / versions / "1/assets.extra/tf_serving_warmup_requests", name, spec)
    return folder


def _link(source: str, target: str) -> None:
    """Link a file, or copy it: from another disk, or where links to others' files are forbidden."""
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copyfile(source, target)


def _find_input(folder: Path) -> dict[str, Any]:
    """Return the one input of `serving_default` as the V2 protocol describes it: name, datatype, shape.

    Raises:
      RunError: there is none, or it is none that a run exports.
    """
    inputs = load_proto(folder).meta_graphs[0].signature_def["serving_default"].inputs
    for key, info in inputs.items() if len(inputs) == 1 else ():
        datatype = DATATYPES.get(stack.tf.dtypes.as_dtype(info.dtype).name)
        shape = [dim.size for dim in info.tensor_shape.dim]
        if datatype and shape and math.prod(map(abs, shape)) < 2**20:
            return {"name": key, "datatype": datatype, "shape": shape}
    raise damaged(
        folder, f"what serving_default takes is not the one input of a run's model, but {sorted(inputs)}"
    )


def _write_warmup(path: Path, name: str, spec: dict[str, Any]) -> None:
    """Write the requests by which TensorFlow Serving gets ready: empty examples, one and a batch.

    The file is a TFRecord of PredictionLog messages, whose classes are in tensorflow-serving-api; what is written of
    them are nested fields, by their numbers.
    """
    tf = stack.tf
    (kind,) = (kind for kind, word in DATATYPES.items() if word == spec["datatype"])
    example = [64, 64, 3] if len(spec["shape"]) == 4 else [max(size, 1) for size in spec["shape"][1:]]
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for count in (1, 16):
            batch = np.zeros([count, *example], "S1" if kind == "string" else kind)
            tensor = tf.make_tensor_proto(batch).SerializeToString()
            entry = _encode(1, spec["name"].encode()) + _encode(2, tensor)  # of the map `inputs`
            request = _encode(1, _encode(1, name.encode())) + _encode(2, entry)  # model_spec.name, inputs
            writer.write(_encode(6, _encode(1, request)))  # predict_log.request


def _encode(number: int, content: bytes) -> bytes:
    """Return a field of a protocol buffer that holds bytes, a string or a message."""
    length, size = bytearray(), len(content)
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    return bytes([number << 3 | 2, *length, size]) + content

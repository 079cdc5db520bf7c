"""export_serving: a run's model as repositories for model servers, each with what starts it."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from tfkit.environment import files, packages, process, stack
from tfkit.errors import ConfigError
from tfkit.hub.saved_model import load_proto, verify
from tfkit.run import LABELS, SAVED_MODEL, Run

ENGINES = {"mlserver": "mlserver==1.7.1", "kserve": "kserve==0.21.0"}
"""What was started with the files that are written here."""

DATATYPES = {"uint8": "UINT8", "uint16": "UINT16", "float32": "FP32", "string": "BYTES"}
"""The V2 protocol's words for what an exported model takes."""

MOST_BYTES = 16 * 2**20
SETTINGS = {
    "host": "127.0.0.1", "http_port": 8080, "grpc_port": 8081, "metrics_port": 8082, "debug": False,
    "parallel_workers": 0, "grpc_max_message_length": MOST_BYTES,
}  # fmt: skip

BATCHING = """\
max_batch_size { value: 16 }
batch_timeout_micros { value: 5000 }
num_batch_threads { value: 2 }
max_enqueued_batches { value: 64 }
"""
WARMUP = "assets.extra/tf_serving_warmup_requests"


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
      HubError: the run's model is incomplete or damaged.
    """
    chosen = name or re.sub(r"[^A-Za-z0-9_-]+", "-", run.path.resolve().name).strip("-")[:64] or "model"
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", chosen):
        raise ConfigError(
            f"--name {chosen!r} cannot stand in the address of a server."
            "\n  Take 1 to 64 letters, digits, - and _, such as --name photos"
        )
    process.say(f"Writing the model {chosen} for MLServer, KServe and TensorFlow Serving.")
    source = run.path / SAVED_MODEL
    verify(source, name=str(source))
    takes = _input(source)
    texts = takes["datatype"] == "BYTES"
    needs = [f"{package}=={packages.version(package)}" for package in ("tensorflow", "pillow")]
    needs += [f"tensorflow-text=={packages.version('tensorflow-text')}"] if texts else []
    gives = {"name": "probabilities", "datatype": "FP32", "shape": [-1, len(run.labels)]}
    with files.new_folder(folder) as new:
        for engine, requirement in ENGINES.items():
            place = new / engine / chosen if engine == "mlserver" else new / engine
            shutil.copytree(source, place / SAVED_MODEL, copy_function=_link)
            files.write_text(place / "classifier.py", _template("classifier.py"))
            files.write_text(new / engine / "requirements.txt", "\n".join([requirement, *needs, ""]))
            files.write_text(new / engine / LABELS, "".join(f"{label}\n" for label in run.labels))
        files.write_json(new / "mlserver/settings.json", SETTINGS)
        files.write_text(new / "mlserver" / chosen / "runtime.py", _template("mlserver.py"))
        settings = {
            "name": chosen, "implementation": "runtime.Runtime", "platform": "tensorflow",
            "parameters": {"uri": f"./{SAVED_MODEL}"}, "inputs": [takes], "outputs": [gives],
        }  # fmt: skip
        files.write_json(new / "mlserver" / chosen / "model-settings.json", settings)
        files.write_text(new / "kserve/serve.py", _template("kserve.py").replace("MODEL_NAME", chosen))
        versions = new / "tensorflow_serving" / chosen
        shutil.copytree(source, versions / "1", copy_function=_link)
        files.write_text(versions / LABELS, "".join(f"{label}\n" for label in run.labels))
        files.write_text(versions.parent / "batching.config", BATCHING)
        _write_warmup(versions / "1" / WARMUP, chosen, takes, side=int(run.config.get("image_size") or 224))
        words = _template("readme").format(name=chosen, tensorflow=packages.version("tensorflow"))
        files.write_text(new / "README.txt", words)
    return folder


def _template(name: str) -> str:
    return Path(__file__).with_name(f"serving_{name}.txt").read_text()


def _link(source: str, target: str) -> None:
    """Link a file, or copy it: from another disk, or where links to others' files are forbidden."""
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copyfile(source, target)


def _input(folder: Path) -> dict[str, Any]:
    """Return the one input of `serving_default` as the V2 protocol describes it: name, datatype, shape."""
    ((key, info),) = load_proto(folder).meta_graphs[0].signature_def["serving_default"].inputs.items()
    dtype = stack.tf.dtypes.as_dtype(info.dtype).name
    return {"name": key, "datatype": DATATYPES[dtype], "shape": [dim.size for dim in info.tensor_shape.dim]}


def _write_warmup(path: Path, name: str, takes: dict[str, Any], *, side: int) -> None:
    """Write the requests by which TensorFlow Serving gets ready: empty examples, alone and as a batch.

    The file is a TFRecord of PredictionLog messages, whose classes are in tensorflow-serving-api; what is written of
    them are four nested fields, by their numbers.
    """
    tf = stack.tf
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for count in (1, 16):
            shape = [count, side, side, 3] if len(takes["shape"]) == 4 else [count, *takes["shape"][1:]]
            kind = next(kind for kind, word in DATATYPES.items() if word == takes["datatype"])
            example = np.full(shape, "") if kind == "string" else np.zeros(shape, kind)
            tensor = tf.make_tensor_proto(example).SerializeToString()
            entry = _field(1, takes["name"].encode()) + _field(2, tensor)  # of the map `inputs`
            request = _field(1, _field(1, name.encode())) + _field(2, entry)  # model_spec.name, inputs
            writer.write(_field(6, _field(1, request)))  # predict_log.request


def _field(number: int, content: bytes) -> bytes:
    """Return a field of a protocol buffer that holds bytes, a string or a message."""
    length, size = bytearray(), len(content)
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    return bytes([number << 3 | 2, *length, size]) + content

"""A graph model of TensorFlow.js, converted by tensorflowjs in a process of its own, and checked in Node."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tfkit.compression.compare import predict_original
from tfkit.environment import files, process
from tfkit.errors import CheckError, ConfigError
from tfkit.exporting import browser, new_export
from tfkit.metrics import largest_difference
from tfkit.run import Run

VERSION = "4.22.0"
TOLERANCE = {"float32": 1e-4, "float16": 2e-2}
"""Of a probability, by the type of the weights."""

_PACKAGES = [
    f"@tensorflow/tfjs-{part}@{VERSION}" for part in ("core", "converter", "backend-wasm", "backend-cpu")
]

# Its own __init__ files import its command line, Keras and jax; decision forests are looked for and not used.
_CONVERT = """
import sys, types
wheel, source, target, dtype = sys.argv[1:]
sys.path.append(wheel)
sys.modules["tensorflow_decision_forests"] = types.ModuleType("tensorflow_decision_forests")
for name in ("tensorflowjs", "tensorflowjs.converters"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [f"{wheel}/{name.replace('.', '/')}"]
from tensorflowjs.converters.tf_saved_model_conversion_v2 import convert_tf_saved_model
convert_tf_saved_model(source, target, signature_def="serving_default",
                       quantization_dtype_map={"float16": "*"} if dtype == "float16" else {})
"""


def export_tfjs(run: Run, folder: Path, *, dtype: str = "float32") -> Path:
    """Write a graph model for TensorFlow.js, and the JavaScript that prepares what it takes.

    It takes pixels, float32 [1, s, s, 3] in 0..255: prepare.js makes them.

    Args:
      run: finished, of images.
      folder: where it goes.
      dtype: of the weights, "float32" or "float16".

    Returns:
      The folder: model.json, its weights, labels.txt, prepare.js.

    Raises:
      ConfigError: the run cannot be exported so, or there is no such dtype.
      StackError: the converter cannot be had, or does not run.
      CheckError: the converted model is not equal to the run's.
    """
    if dtype not in TOLERANCE:
        note = " It gave another class on 4 of 20 images when it was measured." if dtype == "uint8" else ""
        raise ConfigError(f"--dtype {dtype} is not offered.{note} There are float32 and float16.")
    shape = browser.shape_of(run)
    if not shape:
        # Its converter knows no Erfc, of which gelu is made; with that replaced its layer normalization is another.
        raise ConfigError(
            f"TensorFlow.js does not compute a model of texts rightly: python -m tfkit export {run.path} browser"
        )
    process.say(f"Converting to TensorFlow.js, {dtype} ...")
    wheel = files.Cache("tensorflowjs").get(VERSION, _install_converter).path
    with browser.source_of(run, shape) as source, new_export(folder) as target:
        # -B: what is compiled would change the cache's entry.
        words = [sys.executable, "-B", "-c", _CONVERT, str(wheel), str(source.folder), str(target), dtype]
        browser.call(words, "tensorflowjs does not convert the model")
        browser.write_inputs(run, target, shape)
        inputs = browser.random_inputs(source)
        if shutil.which("node") and shutil.which("npm"):
            outputs, milliseconds = _run_in_node(target, inputs)
            difference = largest_difference(outputs, predict_original(source, inputs))
            if difference > TOLERANCE[dtype]:
                raise CheckError(f"In TensorFlow.js the model gives other outputs (by {difference:.3g}).")
            process.say(
                f"In Node (wasm) no output differs by over {difference:.2g}; one takes {milliseconds:.1f} ms."
            )
        else:
            process.say("It was NOT run: there is no Node with npm here to check it in.")
    return folder


def _install_converter(folder: Path) -> dict[str, Any]:
    """Unpack tensorflowjs, none of whose pins fit TensorFlow 2.21, where nothing else finds it."""
    package, python = f"tensorflowjs=={VERSION}", sys.executable
    uv = ["uv", "pip", "install", "--python", python]
    words = uv if shutil.which("uv") else [python, "-m", "pip", "install"]
    browser.call([*words, "--no-deps", "--target", str(folder), package], f"{package} cannot be had")
    return {}


def _run_in_node(folder: Path, inputs: Mapping[str, np.ndarray]) -> tuple[np.ndarray, float]:
    """Return what the model gives in Node, float32 [n, classes], and the milliseconds of one example."""

    def install(modules: Path) -> dict[str, Any]:
        process.say("Getting TensorFlow.js by npm, to check the model ...")
        browser.npm_install(_PACKAGES, modules)
        return {}

    modules = files.Cache("tfjs").get(VERSION, install).path
    examples = [
        {
            name: [[1, *array.shape], str(array.dtype), array.ravel().tolist()]
            for name, array in zip(inputs, row, strict=True)
        }
        for row in zip(*inputs.values(), strict=True)
    ]
    with tempfile.TemporaryDirectory(prefix="tfkit-") as scratch:
        input_path, output_path = Path(scratch, "in.json"), Path(scratch, "out.json")
        input_path.write_text(json.dumps(examples))
        words = ["node", *map(str, (browser.PAGE / "tfjs.mjs", modules, folder, input_path, output_path))]
        browser.call(words, "Node does not run the model")
        content = json.loads(output_path.read_text())
        return np.asarray(content["rows"], np.float32), float(content["milliseconds"])
